//! What a request gets that is not done: a status and a sentence.

use std::io::ErrorKind;

use pagemend::InjectError;
use serde::Serialize;

use super::{MAX_BODY, MAX_HEAD, MAX_HEADERS};
use crate::VmError;

/// A request that is not done, with the sentence that its sender reads.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request is no HTTP: {0}")]
    NotHttp(httparse::Error),
    #[error("the request cannot be understood: {0}")]
    Malformed(String),
    #[error("there is no {0}: openapi.yaml has what there is")]
    NoSuchPath(String),
    #[error("{path} is asked for with {allowed}")]
    WrongMethod { path: String, allowed: &'static str },
    #[error("the request was not complete in time")]
    TooSlow,
    #[error("a body needs a Content-Length: it is not taken in chunks")]
    NoLength,
    #[error("a body may have {MAX_BODY} bytes, and this one has {0}")]
    BodyTooLarge(u64),
    #[error("nothing is expected of this server but 100-continue")]
    Expectation,
    #[error("a request's line and headers may have {MAX_HEAD} bytes in {MAX_HEADERS} headers")]
    HeadTooLarge,
    #[error("too many connections are open: close one, or wait until one is closed")]
    TooMany,
    #[error("{0}")]
    CannotBe(String),
    #[error("every frame of guest memory is lost already")]
    NothingLeft,
    #[error("{}", chain(.0))]
    Vm(#[from] VmError),
    #[error("{}", chain(.0))]
    Inject(#[from] InjectError),
}

impl Refusal {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::NotHttp(_) | Self::Malformed(_) => 400,
            Self::Inject(InjectError::NotPermitted { .. }) => 403,
            Self::Inject(InjectError::NoHwpoisonInject { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                403
            }
            Self::NoSuchPath(_) => 404,
            Self::WrongMethod { .. } => 405,
            Self::TooSlow => 408,
            Self::Vm(VmError::Ended)
            | Self::NothingLeft
            | Self::Inject(InjectError::Lost { .. } | InjectError::NoMemory { .. }) => 409,
            Self::NoLength => 411,
            Self::BodyTooLarge(_) => 413,
            Self::Expectation => 417,
            Self::CannotBe(_)
            | Self::Inject(InjectError::Unknown { .. } | InjectError::OtherCause { .. }) => 422,
            Self::HeadTooLarge => 431,
            Self::Inject(InjectError::NoMemoryFailure | InjectError::NoHwpoisonInject { .. }) => {
                501
            }
            Self::TooMany => 503,
            Self::Vm(_) | Self::Inject(_) => 500,
        }
    }

    /// The methods that would have been right, where the wrong one was the fault.
    pub(super) fn allowed(&self) -> Option<&'static str> {
        match self {
            Self::WrongMethod { allowed, .. } => Some(allowed),
            _ => None,
        }
    }

    pub(super) fn body(&self) -> Sentence {
        Sentence {
            error: self.to_string(),
        }
    }
}

/// The body of every refusal.
#[derive(Serialize)]
pub(super) struct Sentence {
    error: String,
}

/// The error with all that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
