//! The API of a real machine with a flat guest, over its socket. Every answer that a test gets is
//! held against `openapi.yaml`.

mod answers;
mod document;
mod hostile;
mod injection;
mod machine;
