//! The document: whether it is one, and whether an answer is as it says.

use std::collections::BTreeSet;

use pagemend_vmm::api::routes;
use serde_json::{Value, json};

/// Methods that a client could try.
pub(crate) const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"];

const TEXT: &str = include_str!("../../openapi.yaml");

pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn read() -> Self {
        Self(yaml_serde::from_str(TEXT).unwrap())
    }

    /// The paths with what they say of each method.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (String, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods
                .map(move |(method, operation)| (method.to_uppercase(), path.as_str(), operation))
        })
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(to) => self.0.pointer(to.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    /// Panics where `value` is not as `schema` wants it.
    fn check(&self, schema: &Value, value: &Value, what: &str) {
        // Next to the reference stands what it refers to.
        let schema = json!({ "allOf": [schema], "components": self.0["components"] });
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {value:#}: {errors:#?}");
    }

    /// Panics where an answer is not one of those that the document has for the request.
    pub(crate) fn check_answer(
        &self,
        method: &str,
        path: &str,
        status: u16,
        content_type: Option<&str>,
        body: Option<&Value>,
    ) {
        let what = format!("{method} {path} gave {status}");
        let operation = self
            .operations()
            .find(|(m, p, _)| m == method && *p == path);
        let responses = operation.map(|(.., operation)| &operation["responses"]);
        let response = match responses {
            Some(responses) => match &responses[status.to_string()] {
                Value::Null if status >= 400 => &responses["default"],
                response => response,
            },
            None => {
                assert!(
                    matches!(status, 404 | 405),
                    "{what}, of which nothing is said"
                );
                &self.0["components"]["responses"]["Refusal"]
            }
        };
        assert!(!response.is_null(), "{what}, of which nothing is said");
        let response = self.resolve(response);
        match (content_type, body) {
            (Some(content_type), Some(body)) => {
                let schema = &response["content"][content_type]["schema"];
                assert!(!schema.is_null(), "{what} as {content_type}");
                self.check(schema, body, &what);
            }
            (None, None) => assert!(response["content"].is_null(), "{what} without a body"),
            other => panic!("{what} with half a body: {other:?}"),
        }
    }

    /// Panics where `value` is not what the component of this name is.
    pub(crate) fn check_component(&self, name: &str, value: &Value) {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.check(&schema, value, name);
    }
}

#[test]
fn it_is_an_openapi_document_whose_schemas_are_schemas() {
    let spec = oas3::from_yaml(TEXT).unwrap();
    assert_eq!(spec.validate_version().unwrap().major, 3);
    let document = Document::read();
    for (method, path, operation) in document.operations() {
        assert!(operation["summary"].is_string(), "{method} {path}");
        assert!(operation["operationId"].is_string(), "{method} {path}");
    }
    let components = document.0["components"]["schemas"].as_object().unwrap();
    for schema in components.values() {
        jsonschema::meta::validate(schema).unwrap();
    }
}

#[test]
fn it_has_every_path_and_method_that_is_answered_and_no_other() {
    let document = Document::read();
    let described: BTreeSet<_> = document
        .operations()
        .map(|(method, path, _)| (method, path.to_owned()))
        .collect();
    let answered: BTreeSet<_> = routes()
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    assert_eq!(described, answered);
}

#[test]
fn it_has_every_step_of_a_mend_and_no_other() {
    // Tests of the engine hold these sections against all that it emits.
    let text = include_str!("../../../../docs/events.md");
    let (_, fields) = text.split_once("\n## Fields\n").unwrap();
    let (fields, _) = fields.split_once("\n## ").unwrap();
    let sections = fields.lines().filter_map(|line| line.strip_prefix("### "));
    let emitted: BTreeSet<_> = sections.filter(|name| *name != "Every event").collect();

    let document = Document::read();
    let step = &document.0["components"]["schemas"]["MenderEvent"]["properties"]["step"];
    let described = step["enum"].as_array().unwrap().iter();
    let described: BTreeSet<_> = described.map(|name| name.as_str().unwrap()).collect();
    assert_eq!(described, emitted);
}

#[test]
fn its_schemas_refuse_what_is_not_so() {
    let document = Document::read();
    let refuses = |name: &str, value: Value| {
        let check = || document.check_component(name, &value);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_err();
    };
    refuses("Pong", json!({ "version": "1" }));
    refuses("Frame", json!(4097));
    refuses("Error", json!({ "error": "" }));
    refuses(
        "InjectionWish",
        json!({ "kind": "ar", "method": "emulated", "extra": 1 }),
    );
    let event = json!({ "schema": "pagemend.vm-event/1", "time": 1, "event": "MEMORY_FAILURE" });
    refuses("VmEvent", event);
    let frames = |withheld: u64| {
        json!({
            "schema": "pagemend.vm-event/1", "time": 1, "event": "frames-withheld",
            "gpa": 1 << 30, "size": 1 << 30, "told": 512, "withheld": withheld,
        })
    };
    document.check_component("VmEvent", &frames(1));
    refuses("VmEvent", frames(0));
}
