//! A command's JSON, held against the document that describes it.

use std::collections::BTreeMap;

use serde_json::Value;

/// The rows of the table whose head starts with `head`: first and second cell, quotes off.
fn table<'a>(document: &'a str, head: &str) -> BTreeMap<&'a str, &'a str> {
    let mut lines = document.lines();
    lines.find(|line| line.starts_with(head)).unwrap();
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let field = cells.next().unwrap().trim_matches('`');
            (field, cells.next().unwrap())
        })
        .collect()
}

/// Every field of `value` and what it is, arrays as `[]`; a trial is one field.
fn fields(path: &str, value: &Value, seen: &mut Vec<(String, &'static str)>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(fields)
            if fields.len() == 2
                && ["error", "works"]
                    .iter()
                    .all(|name| fields.contains_key(*name)) =>
        {
            "trial"
        }
        Value::Object(_) => "object",
    };
    if !path.is_empty() {
        seen.push((path.to_owned(), kind));
    }
    match value {
        Value::Array(elements) => {
            for element in elements {
                fields(&format!("{path}[]"), element, seen);
            }
        }
        Value::Object(members) if kind == "object" => {
            for (name, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                fields(&format!("{path}{dot}{name}"), member, seen);
            }
        }
        _ => {}
    }
}

/// Panics where `report` has a field that `document` does not have, or of another type, or lacks
/// one.
pub(crate) fn check_documented(document: &str, report: &Value) {
    let documented = table(document, "| field |");
    let mut seen = Vec::new();
    fields("", report, &mut seen);

    for (field, kind) in &seen {
        let types = documented.get(field.as_str());
        let types = types.unwrap_or_else(|| panic!("{field} is not documented"));
        assert!(
            types.split(" or ").any(|documented| documented == *kind),
            "{field} is documented as {types}, not {kind}"
        );
    }
    // What stands inside a null or an empty array has nowhere to be.
    for field in documented.keys().filter(|field| !field.ends_with("[]")) {
        let parent = field.rsplit_once('.').map(|(parent, _)| parent);
        let has_place = parent.is_none_or(|parent| seen.contains(&(parent.to_owned(), "object")));
        let present = seen.iter().any(|(seen, _)| seen == field);
        assert!(present || !has_place, "{field} is missing");
    }
}
