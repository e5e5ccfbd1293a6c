//! The URL scheme: what a raw request target names, and how a key is written into one.
//!
//! ```text
//! target = "/v1/" route | "/scan?" parameters | "/" key
//! key    = one segment: bytes, or "%" and two hexadecimal digits; never a raw "/"
//! ```
//!
//! The target is taken as it came: nothing is normalised, so `.`, `..`, `a%2Fb` and `%00` are keys
//! like any other. `/scan` without parameters is the key "scan", `/v1` the key "v1".
//!
//! Invariants
//! 1. `Target::parse(key_target(key))` is that key again, for any key that is not empty.
//! 2. A target that could be meant in two ways is refused with the way to write it clearly, never guessed.

use std::fmt;

use crate::error::ErrorKind;
use crate::route::Route;
use crate::scan::ScanQuery;

/// Longest target that is answered with anything but 414, in bytes. A limit of the HTTP library,
/// kept here because client and server must agree on it.
pub const TARGET_BYTES_MAX: usize = 65_534;

/// What a request target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A key.
    Key(Vec<u8>),
    /// A range of keys.
    Scan(ScanQuery),
    /// Everything else of the database.
    V1(V1),
    /// Tasks.
    Tasks(Route),
}

/// The routes under `/v1/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1 {
    /// `POST`: many puts, deletes and conditions, atomic.
    Batch,
    /// `GET`: does the server serve.
    Healthz,
    /// `GET`: counters, gauges and levels as JSON.
    Stats,
    /// `GET`: the same for Prometheus.
    Metrics,
    /// `POST`: compact everything; answers when done.
    Compact,
    /// `POST`: write the memtables to tables; answers when done.
    Flush,
}

impl V1 {
    /// Every route.
    pub const ALL: [V1; 6] = [V1::Batch, V1::Healthz, V1::Stats, V1::Metrics, V1::Compact, V1::Flush];

    /// The target of the route.
    pub const fn target(self) -> &'static str {
        match self {
            V1::Batch => "/v1/batch",
            V1::Healthz => "/v1/healthz",
            V1::Stats => "/v1/stats",
            V1::Metrics => "/v1/metrics",
            V1::Compact => "/v1/compact",
            V1::Flush => "/v1/flush",
        }
    }
}

/// Why a target names nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError {
    /// `Invalid`, or `NotFound` for an unknown route.
    pub kind: ErrorKind,
    /// What is wrong and how to write it.
    pub message: String,
}

impl TargetError {
    fn invalid(message: impl Into<String>) -> TargetError {
        TargetError { kind: ErrorKind::Invalid, message: message.into() }
    }

    pub(crate) fn scan(message: impl fmt::Display) -> TargetError {
        TargetError::invalid(format!("bad scan: {message}"))
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// Parses the raw path of a target and what follows its first `?`.
    ///
    /// # Errors
    /// Says what is wrong and how to write it.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Target, TargetError> {
        let query = query.filter(|query| !query.is_empty());
        let Some(segment) = path.strip_prefix('/') else {
            return Err(TargetError::invalid("the target must start with `/`"));
        };
        if segment.starts_with("v1/") {
            if let Some(route) = Route::parse(path, query)? {
                return Ok(Target::Tasks(route));
            }
            return match V1::ALL.into_iter().find(|route| route.target() == path) {
                Some(route) if query.is_none() => Ok(Target::V1(route)),
                Some(_) => Err(TargetError::invalid(format!("{path} takes no parameters"))),
                None => Err(TargetError {
                    kind: ErrorKind::NotFound,
                    message: format!("no route {path}; if it is a key, encode its `/` as %2F"),
                }),
            };
        }
        match query {
            Some(query) if segment == "scan" => ScanQuery::parse(query).map(Target::Scan),
            Some(_) => Err(TargetError::invalid("a key takes no parameters; encode a `?` of the key as %3F")),
            None => Target::key(segment),
        }
    }

    fn key(segment: &str) -> Result<Target, TargetError> {
        if segment.is_empty() {
            return Err(TargetError::invalid("the key is empty: write it as one path segment, as in /my-key"));
        }
        if segment.contains('/') {
            return Err(TargetError::invalid("a key is one path segment: encode its `/` as %2F"));
        }
        Ok(Target::Key(decode(segment)?))
    }
}

/// The target of a key.
pub fn key_target(key: &[u8]) -> String {
    let mut target = String::with_capacity(key.len() + 1);
    target.push('/');
    encode_into(&mut target, key);
    target
}

/// Bytes as text of `A-Z a-z 0-9 - _` and `%XX` for all others.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    encode_into(&mut out, bytes);
    out
}

/// Appends [`encode`]d bytes.
pub fn encode_into(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(hex_digit(byte >> 4));
            out.push(hex_digit(byte & 0xF));
        }
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

/// The bytes that text stands for: `%XX` is one byte, everything else itself.
///
/// # Errors
/// A `%` without two hexadecimal digits after it.
pub fn decode(text: &str) -> Result<Vec<u8>, TargetError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value)) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => {
                return Err(TargetError::invalid(
                    "a percent sign must be followed by two hexadecimal digits; write %25 for itself",
                ));
            }
        }
    }
    Ok(out)
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Target, TargetError> {
        match target.split_once('?') {
            Some((path, query)) => Target::parse(path, Some(query)),
            None => Target::parse(target, None),
        }
    }

    #[test]
    fn keys_are_taken_as_they_came() {
        for (target, key) in [
            ("/a", &b"a"[..]),
            ("/.", b"."),
            ("/..", b".."),
            ("/%2e%2E", b".."),
            ("/a%2Fb", b"a/b"),
            ("/%2F", b"/"),
            ("/v1%2Fbatch", b"v1/batch"),
            ("/%00", b"\0"),
            ("/%ff%FE", b"\xff\xfe"),
            ("/é", "é".as_bytes()),
            ("/a+b,c=d&e", b"a+b,c=d&e"),
            ("/%25", b"%"),
            ("/%2525", b"%25"),
            ("/scan", b"scan"),
            ("/scan?", b"scan"),
            ("/v1", b"v1"),
            ("/v1?", b"v1"),
            ("/V1%2f", b"V1/"),
        ] {
            assert_eq!(parse(target), Ok(Target::Key(key.to_vec())), "{target}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for (target, kind, part) in [
            ("/", ErrorKind::Invalid, "empty"),
            ("", ErrorKind::Invalid, "must start with"),
            ("*", ErrorKind::Invalid, "must start with"),
            ("/a/b", ErrorKind::Invalid, "%2F"),
            ("//a", ErrorKind::Invalid, "%2F"),
            ("/a/", ErrorKind::Invalid, "%2F"),
            ("/scan/", ErrorKind::Invalid, "%2F"),
            ("/a?b", ErrorKind::Invalid, "%3F"),
            ("/%73can?start=a", ErrorKind::Invalid, "%3F"),
            ("/%", ErrorKind::Invalid, "%25"),
            ("/%4", ErrorKind::Invalid, "%25"),
            ("/%4g", ErrorKind::Invalid, "%25"),
            ("/%+1", ErrorKind::Invalid, "%25"),
            ("/a%é", ErrorKind::Invalid, "%25"),
            ("/v1/", ErrorKind::NotFound, "no route"),
            ("/v1/nothing", ErrorKind::NotFound, "no route"),
            ("/v1/stats/", ErrorKind::NotFound, "no route"),
            ("/v1/stats?x=1", ErrorKind::Invalid, "no parameters"),
            ("/scan?x=1", ErrorKind::Invalid, "unknown parameter"),
        ] {
            let error = parse(target).unwrap_err();
            assert_eq!(error.kind, kind, "{target}");
            assert!(error.message.contains(part), "{target}: {}", error.message);
        }
    }

    #[test]
    fn routes_and_scans() {
        for route in V1::ALL {
            assert_eq!(parse(route.target()), Ok(Target::V1(route)));
        }
        let scan = ScanQuery { start: Some(b"a".to_vec()), end: None, limit: None };
        assert_eq!(parse("/scan?start=a"), Ok(Target::Scan(scan)));
    }

    #[test]
    fn any_key_survives_the_way_there_and_back() {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        for key in [&every_byte[..], b"scan", b"v1/batch", b"..", b"a,b", b"\xff"] {
            let target = key_target(key);
            assert_eq!(parse(&target), Ok(Target::Key(key.to_vec())), "{target}");
            assert!(target[1..].bytes().all(|b| b.is_ascii_alphanumeric() || b"-_%".contains(&b)), "{target}");
        }
        assert_eq!(encode(b"Az09-_ ~.,/%\x00\xff"), "Az09-_%20%7E%2E%2C%2F%25%00%FF");
    }
}
