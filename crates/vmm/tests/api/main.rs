//! The API of a real machine with a flat guest, over its socket. Every answer that a test gets is
//! held against `openapi.yaml`.
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod answers;
mod document;
mod hostile;
mod injection;
mod machine;
