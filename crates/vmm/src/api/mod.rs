//! The machine's interface for programs: HTTP over a Unix socket, in the manner of Cloud Hypervisor
//! and Firecracker. `openapi.yaml` describes it.
//!
//! In the order in which a request passes them: `socket` takes the connection, `server` gives it a
//! thread, `connection` reads requests within their limits, `head` makes sense of them, `routes` finds who answers, `info`, `inject` and
//! `events` are the answers that are more than one call, `response` writes them.
//! `client` is the other end.

mod client;
mod connection;
mod events;
mod head;
mod info;
mod inject;
mod refusal;
mod response;
mod routes;
mod server;
mod socket;

pub use client::{Client, ClientError};
pub use info::INFO_SCHEMA;
pub use inject::{INJECTION_SCHEMA, Kind, Method, UnknownName};
pub use routes::routes;
pub use server::{Api, ApiError};
pub use socket::{ApiSocket, SocketError};

/// Bytes that a request's line and headers may have.
pub const MAX_HEAD: usize = 8 << 10;
/// Headers that a request may have.
pub const MAX_HEADERS: usize = 64;
/// Bytes that a request's body may have.
pub const MAX_BODY: usize = 64 << 10;
/// Connections that are served at a time; more are turned away with 503.
pub const MAX_CONNECTIONS: usize = 16;
