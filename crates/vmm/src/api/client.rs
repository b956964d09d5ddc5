//! The other end of the API, for programs that steer a machine: one connection a request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use httparse::{EMPTY_HEADER, Status};
use serde::Deserialize;
use serde_json::Value;

use super::{MAX_HEAD, MAX_HEADERS};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no machine answers on {path}: was it started with --api?", path = .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the machine broke")]
    Broken(#[source] io::Error),
    /// It is no answer of ours.
    #[error("the answer cannot be understood: {0}")]
    Answer(String),
    /// The machine does not do it.
    #[error("{error}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The machine's own words.
        error: String,
    },
}

/// A machine's API as its socket shows it.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Sentence {
    error: String,
}

impl Client {
    /// The machine whose API is at `path`. Nothing is tried yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// What `path` says.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.whole("GET", path, b"")
    }

    /// Has `path` do what `body` says; null where there is nothing to say.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let body = match body {
            Value::Null => vec![],
            body => body.to_string().into_bytes(),
        };
        self.whole("PUT", path, &body)
    }

    /// Events from now on: when this returns, none is missed any more. They end with the machine.
    pub fn events(
        &self,
    ) -> Result<impl Iterator<Item = Result<Value, ClientError>> + use<>, ClientError> {
        let mut stream = self.ask("GET", "/api/v1/events", b"")?;
        let head = Head::read(&mut stream)?;
        head.check(&mut stream)?;
        let lines = BufReader::new(Chunks { stream, left: 0 }).lines();
        Ok(lines.map(|line| understand(line.map_err(ClientError::Broken)?.as_bytes())))
    }

    fn whole(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, ClientError> {
        let mut stream = self.ask(method, path, body)?;
        let head = Head::read(&mut stream)?;
        head.check(&mut stream)?;
        match head.length {
            0 => Ok(Value::Null),
            _ => understand(&head.body(&mut stream)?),
        }
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<BufReader<UnixStream>, ClientError> {
        let stream = UnixStream::connect(&self.path).map_err(|source| ClientError::Connect {
            path: self.path.clone(),
            source,
        })?;
        let len = body.len();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: vm\r\nContent-Length: {len}\r\n\r\n")
                .into_bytes();
        request.extend(body);
        (&stream).write_all(&request).map_err(ClientError::Broken)?;
        Ok(BufReader::new(stream))
    }
}

fn understand(json: &[u8]) -> Result<Value, ClientError> {
    serde_json::from_slice(json).map_err(|error| ClientError::Answer(error.to_string()))
}

/// An answer's status and length.
struct Head {
    status: u16,
    length: usize,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> Result<Self, ClientError> {
        let mut bytes = vec![];
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut line = stream.take((MAX_HEAD - bytes.len()) as u64);
            match line.read_until(b'\n', &mut bytes) {
                Ok(0) => return Err(ClientError::Answer("it ends in its head".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(ClientError::Broken(error)),
            }
        }
        let not_http = |error: httparse::Error| ClientError::Answer(error.to_string());
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&bytes).map_err(not_http)?;
        let (Status::Complete(_), Some(status)) = (parsed, response.code) else {
            return Err(ClientError::Answer("it has no status".to_owned()));
        };
        let length = response.headers.iter();
        let length = length
            .filter(|header| header.name.eq_ignore_ascii_case("content-length"))
            .find_map(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
        Ok(Self {
            status,
            length: length.unwrap_or(0),
        })
    }

    fn body(&self, stream: &mut impl Read) -> Result<Vec<u8>, ClientError> {
        let mut body = vec![];
        let read = stream.take(self.length as u64).read_to_end(&mut body);
        read.map_err(ClientError::Broken)?;
        Ok(body)
    }

    fn check(&self, stream: &mut impl Read) -> Result<(), ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(());
        }
        let body = self.body(stream)?;
        Err(match serde_json::from_slice(&body) {
            Ok(Sentence { error }) => ClientError::Refused {
                status: self.status,
                error,
            },
            Err(_) => ClientError::Answer(format!("status {}", self.status)),
        })
    }
}

/// A body in chunks, as its bytes (RFC 9112, section 7.1).
struct Chunks {
    stream: BufReader<UnixStream>,
    /// Bytes of the chunk that have not been read.
    left: u64,
}

impl Read for Chunks {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.left = self.next()?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let read = (&mut self.stream).take(self.left).read(bytes)?;
        if read == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        if self.left == 0 {
            self.line()?;
        }
        Ok(read)
    }
}

impl Chunks {
    fn next(&mut self) -> io::Result<u64> {
        let line = self.line()?;
        u64::from_str_radix(&line, 16).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn line(&mut self) -> io::Result<String> {
        /// Far more than sixteen digits and the end of a line.
        const LONGEST: u64 = 64;
        let mut line = String::new();
        (&mut self.stream).take(LONGEST).read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
