//! Which path is answered by what.

use pagemend::Healed;

use super::head::Head;
use super::info::{Info, Pong};
use super::inject;
use super::refusal::Refusal;
use super::response::Response;
use crate::{Vm, VmError};

/// What a request gets.
pub(super) enum Answer {
    /// All of it at once.
    Whole(Response),
    /// Events, as they happen.
    Events,
}

type Handler = fn(&Vm, &[u8]) -> Result<Answer, Refusal>;

struct Route {
    path: &'static str,
    method: &'static str,
    handler: Handler,
}

const ROUTES: &[Route] = &[
    get("/api/v1/ping", |_, _| json(&Pong::new())),
    get("/api/v1/vm.info", |vm, _| json(&Info::of(vm))),
    put("/api/v1/vm.pause", |vm, _| {
        vm.pause()?;
        done()
    }),
    put("/api/v1/vm.resume", |vm, _| {
        vm.resume()?;
        done()
    }),
    put("/api/v1/vm.reset", |vm, _| {
        vm.reset()?;
        done()
    }),
    put("/api/v1/vm.shutdown", |vm, _| {
        vm.shut_down();
        done()
    }),
    get("/api/v1/memory.ledger", |vm, _| {
        vm.pagemend().with_ledger(json)
    }),
    put("/api/v1/memory.heal", |vm, _| json(&heal(vm)?)),
    put("/api/v1/memory.inject", |vm, body| {
        json(&inject::inject(vm, body)?)
    }),
    get("/api/v1/events", |_, _| Ok(Answer::Events)),
];

const fn get(path: &'static str, handler: Handler) -> Route {
    Route {
        path,
        method: "GET",
        handler,
    }
}

const fn put(path: &'static str, handler: Handler) -> Route {
    Route {
        path,
        method: "PUT",
        handler,
    }
}

/// Heals all that can be healed.
fn heal(vm: &Vm) -> Result<Healed, VmError> {
    let mut all = Healed::default();
    for range in vm.ram().ranges() {
        let healed = vm.pagemend().heal(range).map_err(|_| VmError::Ended)?;
        all.healed.extend(healed.healed);
        all.entrusted.extend(healed.entrusted);
        all.failed.extend(healed.failed);
    }
    Ok(all)
}

fn json(value: &impl serde::Serialize) -> Result<Answer, Refusal> {
    Ok(Answer::Whole(Response::json(value)))
}

fn done() -> Result<Answer, Refusal> {
    Ok(Answer::Whole(Response::done()))
}

/// Every method and path that is answered.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (route.method, route.path))
}

/// Does what a request asks for.
pub(super) fn answer(head: &Head, body: &[u8], vm: &Vm) -> Answer {
    let done = find(head).and_then(|route| (route.handler)(vm, body));
    done.unwrap_or_else(|refusal| Answer::Whole(refusal.into()))
}

fn find(head: &Head) -> Result<&'static Route, Refusal> {
    let route = ROUTES.iter().find(|route| route.path == head.path);
    let route = route.ok_or_else(|| Refusal::NoSuchPath(head.path.clone()))?;
    match route.method == head.method {
        true => Ok(route),
        false => Err(Refusal::WrongMethod {
            path: head.path.clone(),
            allowed: route.method,
        }),
    }
}
