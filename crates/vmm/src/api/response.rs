//! Answers as they go over the wire.

use std::io::{self, Write};

use serde::Serialize;

use super::refusal::Refusal;

/// An answer that is complete.
pub(super) struct Response {
    status: u16,
    /// JSON; none with 204.
    body: Option<Vec<u8>>,
    allowed: Option<&'static str>,
}

impl Response {
    /// It is done, and there is nothing to say.
    pub(super) fn done() -> Self {
        Self {
            status: 204,
            body: None,
            allowed: None,
        }
    }

    /// What was asked for.
    pub(super) fn json(value: &impl Serialize) -> Self {
        Self::with(200, value)
    }

    fn with(status: u16, value: &impl Serialize) -> Self {
        // Only a map with keys that are no strings, or a failing writer, could make it fail.
        let body = serde_json::to_vec(value).expect("our answers are plain JSON");
        Self {
            status,
            body: Some(body),
            allowed: None,
        }
    }

    /// Writes it, and whether the connection ends with it.
    pub(super) fn write(&self, mut to: impl Write, ends: bool) -> io::Result<()> {
        let mut head = start(self.status);
        if let Some(methods) = self.allowed {
            head.push_str(&format!("Allow: {methods}\r\n"));
        }
        if ends {
            head.push_str("Connection: close\r\n");
        }
        if let Some(body) = &self.body {
            let len = body.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {len}\r\n"
            ));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body.iter().flatten());
        to.write_all(&bytes)
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        Self {
            allowed: refusal.allowed(),
            ..Self::with(refusal.status(), &refusal.body())
        }
    }
}

/// The head of an answer that comes line by line, in chunks or, for HTTP/1.0, until the
/// connection ends.
pub(super) fn start_lines(mut to: impl Write, chunks: bool) -> io::Result<()> {
    let how = match chunks {
        true => "Transfer-Encoding: chunked",
        false => "Connection: close",
    };
    let head = start(200);
    write!(
        to,
        "{head}Content-Type: application/x-ndjson\r\n{how}\r\n\r\n"
    )
}

/// One line of it.
pub(super) fn write_line(mut to: impl Write, line: &str, chunks: bool) -> io::Result<()> {
    let text = match chunks {
        true => format!("{:x}\r\n{line}\n\r\n", line.len() + 1),
        false => format!("{line}\n"),
    };
    to.write_all(text.as_bytes())
}

/// Its end.
pub(super) fn end_lines(mut to: impl Write, chunks: bool) -> io::Result<()> {
    match chunks {
        true => to.write_all(b"0\r\n\r\n"),
        false => Ok(()),
    }
}

fn start(status: u16) -> String {
    // RFC 9110, section 15.
    let reason = match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    format!("HTTP/1.1 {status} {reason}\r\n")
}
