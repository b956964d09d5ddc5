//! A request's line and headers, from bytes that anybody may have sent.

use httparse::{EMPTY_HEADER, Header, Status};

use super::refusal::Refusal;
use super::{MAX_BODY, MAX_HEAD, MAX_HEADERS};

/// What a request's line and headers say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// Without what follows a question mark: no path has parameters.
    pub(super) path: String,
    /// Bytes of body.
    pub(super) length: usize,
    /// Whether the sender waits for leave to send the body.
    pub(super) asks_leave: bool,
    /// Whether the sender may send another request on this connection.
    pub(super) keeps: bool,
    /// Whether an answer may come in chunks: HTTP/1.1 and later.
    pub(super) chunks: bool,
}

/// The head at the start of `bytes`, with its own length; none where it is not complete yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(error) => return Err(Refusal::NotHttp(error)),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::Malformed("its first line lacks something".into()));
    };
    let chunks = version >= 1;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let mut head = Head {
        method: method.to_owned(),
        path: path.to_owned(),
        length: 0,
        asks_leave: false,
        keeps: chunks,
        chunks,
    };
    head.read(request.headers)?;
    Ok(Some((head, len)))
}

impl Head {
    fn read(&mut self, headers: &[Header<'_>]) -> Result<(), Refusal> {
        let mut length = None;
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let value = header.value.trim_ascii();
            if is("content-length") {
                let this = number(value)?;
                // Two that differ are how one request is made to look like two.
                if length.is_some_and(|other| other != this) {
                    return Err(Refusal::Malformed("it has two lengths".into()));
                }
                length = Some(this);
            } else if is("transfer-encoding") {
                return Err(Refusal::NoLength);
            } else if is("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.asks_leave = self.chunks;
            } else if is("connection") {
                let has = |word: &[u8]| {
                    let mut words = value.split(|byte| *byte == b',');
                    words.any(|other| other.trim_ascii().eq_ignore_ascii_case(word))
                };
                self.keeps = (self.keeps || has(b"keep-alive")) && !has(b"close");
            }
        }
        let length = length.unwrap_or(0);
        self.length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_BODY)
            .ok_or(Refusal::BodyTooLarge(length))?;
        Ok(())
    }
}

fn number(digits: &[u8]) -> Result<u64, Refusal> {
    // Digits alone: a sign would pass the parser.
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Refusal::Malformed("its Content-Length is no number of bytes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "PUT /api/v1/memory.inject?x=1 HTTP/1.1\r\nHost: vm\r\n\
                         content-length: 31\r\nExpect: 100-continue\r\n\r\n";

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    fn refusal(text: &str) -> u16 {
        parse(text.as_bytes()).unwrap_err().status()
    }

    #[test]
    fn a_head_is_read_when_it_is_complete_and_not_before() {
        for len in 0..WHOLE.len() {
            assert!(parse(&WHOLE.as_bytes()[..len]).unwrap().is_none(), "{len}");
        }
        let (head, len) = parse(WHOLE.as_bytes()).unwrap().unwrap();
        assert_eq!(len, WHOLE.len());
        assert_eq!(
            (&*head.method, &*head.path),
            ("PUT", "/api/v1/memory.inject")
        );
        assert_eq!(head.length, 31);
        assert!(head.keeps && head.chunks && head.asks_leave);
    }

    #[test]
    fn a_connection_is_kept_as_the_versions_say() {
        for (version, connection, keeps) in [
            ("1.1", "Host: vm", true),
            ("1.1", "Connection: foo, Close", false),
            ("1.0", "Host: vm", false),
            ("1.0", "connection: Keep-Alive", true),
        ] {
            let text = format!("GET / HTTP/{version}\r\n{connection}\r\n\r\n");
            assert_eq!(head(&text).keeps, keeps, "{text}");
        }
    }

    #[test]
    fn what_a_head_must_not_say_is_refused_by_its_own_status() {
        let with = |header: &str| refusal(&format!("PUT / HTTP/1.1\r\n{header}\r\n\r\n"));
        assert_eq!(with("Content-Length: 1\r\nContent-Length: 2"), 400);
        assert_eq!(with("Content-Length: -1"), 400);
        assert_eq!(with("Content-Length: +1"), 400);
        assert_eq!(with("Content-Length: 99999999999999999999"), 400);
        assert_eq!(with("Content-Length: 65537"), 413);
        assert_eq!(with("Transfer-Encoding: chunked"), 411);
        assert_eq!(with("Expect: the-unexpected"), 417);
        assert_eq!(with(&"a: b\r\n".repeat(MAX_HEADERS + 1)), 431);
        assert_eq!(with(&format!("a: {}", "b".repeat(MAX_HEAD))), 431);
        assert_eq!(refusal("\0\0\0\0"), 400);
        assert_eq!(refusal(&"x".repeat(MAX_HEAD)), 431);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_more_than_there_is(
            mut bytes in prop::collection::vec(any::<u8>(), 0..2 * MAX_HEAD),
            valid in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            if valid {
                // A valid head with some bytes changed comes further than noise does.
                bytes = WHOLE.as_bytes().to_vec();
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            match parse(&bytes) {
                Ok(Some((head, len))) => {
                    prop_assert!(len <= bytes.len() && len <= MAX_HEAD);
                    prop_assert!(head.length <= MAX_BODY);
                }
                Ok(None) => prop_assert!(bytes.len() < MAX_HEAD),
                Err(refusal) => prop_assert!((400..500).contains(&refusal.status())),
            }
        }
    }
}
