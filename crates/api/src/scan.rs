//! `GET /scan`: its parameters, and the lines of its two answers.
//!
//! ```text
//! /scan?start=KEY&end=KEY&limit=N      every parameter optional, at least one present
//! ```
//!
//! Keys from `start` (from the first, if left out) up to but not including `end` (to the last, if
//! left out), ascending, at most `limit`. `start` at or after `end` is an empty answer.
//!
//! Plain answer: the keys on one line, comma-separated, encoded as in a target
//! ([`crate::target::encode`], which encodes commas), no line feed at the end.
//! With `Accept: application/x-ndjson`: one [`ScanLine`] and a line feed per entry.

use serde::{Deserialize, Serialize};

use crate::target::{TargetError, decode, encode_into};
use crate::text;

/// The parameters of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanQuery {
    /// First key of the answer; from the first key if `None`.
    pub start: Option<Vec<u8>>,
    /// First key beyond the answer; to the last key if `None`.
    pub end: Option<Vec<u8>>,
    /// At most this many entries.
    pub limit: Option<u64>,
}

impl ScanQuery {
    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> ScanQuery {
        // The first key beyond: the prefix without its trailing 0xFF, its last byte one up.
        let mut end = prefix.to_vec();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Some(end)
            }
            None => None,
        };
        ScanQuery { start: Some(prefix.to_vec()), end, limit: None }
    }

    /// The same scan, of at most `limit` entries.
    pub fn limit(mut self, limit: u64) -> ScanQuery {
        self.limit = Some(limit);
        self
    }

    /// The target to request. A scan of everything is written with an empty `start`.
    pub fn target(&self) -> String {
        let mut target = String::from("/scan?start=");
        encode_into(&mut target, self.start.as_deref().unwrap_or_default());
        if let Some(end) = &self.end {
            target.push_str("&end=");
            encode_into(&mut target, end);
        }
        if let Some(limit) = self.limit {
            target.push_str(&format!("&limit={limit}"));
        }
        target
    }

    /// Parses the part of a target after `?`, which is not empty.
    ///
    /// # Errors
    /// A parameter that is unknown, given twice, or not `name=value`; a raw `+`, which some clients
    /// mean as a space and others as itself; an empty `end`, which reads as "to the last key" but
    /// would mean "nothing"; a limit that is no number.
    pub fn parse(query: &str) -> Result<ScanQuery, TargetError> {
        let mut scan = ScanQuery::default();
        for parameter in query.split('&') {
            let Some((name, value)) = parameter.split_once('=') else {
                return Err(TargetError::scan(format!("`{parameter}` is not of the form name=value")));
            };
            if value.contains('+') {
                return Err(TargetError::scan("a raw `+` is ambiguous: write %2B for a plus, %20 for a space"));
            }
            let repeated = match name {
                "start" => scan.start.replace(decode(value)?).is_some(),
                "end" if value.is_empty() => {
                    return Err(TargetError::scan("`end` is empty: leave it out to scan to the last key"));
                }
                "end" => scan.end.replace(decode(value)?).is_some(),
                "limit" => scan.limit.replace(parse_limit(value)?).is_some(),
                _ => {
                    return Err(TargetError::scan(format!("unknown parameter `{name}`: there are start, end, limit")));
                }
            };
            if repeated {
                return Err(TargetError::scan(format!("`{name}` is given twice")));
            }
        }
        Ok(scan)
    }
}

fn parse_limit(value: &str) -> Result<u64, TargetError> {
    // `u64::from_str` would take a leading plus; the check keeps to digits.
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let limit = value.parse().ok().filter(|_| digits);
    limit.ok_or_else(|| TargetError::scan(format!("limit `{value}` is not a number from 0 to {}", u64::MAX)))
}

/// One entry of a scan as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireLine", into = "WireLine")]
pub struct ScanLine {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl TryFrom<WireLine> for ScanLine {
    type Error = String;
    fn try_from(line: WireLine) -> Result<ScanLine, String> {
        let key = text::join("key", line.key, line.key_base64)?;
        let value = text::join("value", line.value, line.value_base64)?;
        Ok(ScanLine { key, value })
    }
}

impl From<ScanLine> for WireLine {
    fn from(line: ScanLine) -> WireLine {
        let (key, key_base64) = text::split(&line.key);
        let (value, value_base64) = text::split(&line.value);
        WireLine { key, key_base64, value, value_base64 }
    }
}

impl ScanLine {
    /// Appends the line, line feed included.
    ///
    /// # Errors
    /// None in practice: these types always serialise.
    pub fn append_to(self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *out, &self)?;
        out.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(start: Option<&[u8]>, end: Option<&[u8]>, limit: Option<u64>) -> ScanQuery {
        ScanQuery { start: start.map(<[u8]>::to_vec), end: end.map(<[u8]>::to_vec), limit }
    }

    #[test]
    fn parameters() {
        for (query, expected) in [
            ("start=a&end=b", Ok(scan(Some(b"a"), Some(b"b"), None))),
            ("end=b&start=a&limit=7", Ok(scan(Some(b"a"), Some(b"b"), Some(7)))),
            ("limit=0", Ok(scan(None, None, Some(0)))),
            ("start=", Ok(scan(Some(b""), None, None))),
            ("start=%00%2f%FF=?", Ok(scan(Some(b"\x00/\xff=?"), None, None))),
            ("start", Err("not of the form")),
            ("start=a&", Err("not of the form")),
            ("start=a&start=a", Err("given twice")),
            ("limit=1&limit=1", Err("given twice")),
            ("end=", Err("leave it out")),
            ("start=a+b", Err("ambiguous")),
            ("start=%", Err("percent")),
            ("prefix=a", Err("unknown parameter `prefix`")),
            ("limit=", Err("not a number")),
            ("limit=-1", Err("not a number")),
            ("limit=18446744073709551615", Ok(scan(None, None, Some(u64::MAX)))),
            ("limit=18446744073709551616", Err("not a number")),
        ] {
            match (ScanQuery::parse(query), expected) {
                (Ok(parsed), Ok(expected)) => assert_eq!(parsed, expected, "{query}"),
                (Err(error), Err(part)) => assert!(error.message.contains(part), "{query}: {}", error.message),
                (parsed, _) => panic!("{query}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn a_built_target_reads_back() {
        for (query, target) in [
            (scan(Some(b""), None, None), "/scan?start="),
            (scan(Some(b"a,b"), Some(b"\xff&="), Some(3)), "/scan?start=a%2Cb&end=%FF%26%3D&limit=3"),
        ] {
            assert_eq!(query.target(), target);
            let (_, parameters) = target.split_once('?').unwrap();
            assert_eq!(ScanQuery::parse(parameters).unwrap(), query);
        }
    }

    #[test]
    fn prefixes() {
        for (prefix, end) in [
            (&b"ab"[..], Some(&b"ac"[..])),
            (b"a\xff", Some(b"b")),
            (b"a\xfe", Some(b"a\xff")),
            (b"\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(ScanQuery::prefix(prefix), scan(Some(prefix), end, None), "{prefix:?}");
        }
    }

    #[test]
    fn lines() {
        for (key, value, line) in [
            (&b"k"[..], &b"v\n"[..], "{\"key\":\"k\",\"value\":\"v\\n\"}\n"),
            (b"\xff", b"", "{\"key_base64\":\"/w==\",\"value\":\"\"}\n"),
            (b"k", b"\x80\x81", "{\"key\":\"k\",\"value_base64\":\"gIE=\"}\n"),
        ] {
            let entry = ScanLine { key: key.to_vec(), value: value.to_vec() };
            let mut out = Vec::new();
            entry.clone().append_to(&mut out).unwrap();
            assert_eq!(String::from_utf8(out.clone()).unwrap(), line);
            assert_eq!(serde_json::from_slice::<ScanLine>(&out).unwrap(), entry);
        }
        for bad in [
            r#"{"key":"k"}"#,
            r#"{"key":"k","key_base64":"aw==","value":""}"#,
            r#"{"key":"k","value_base64":"!"}"#,
            r#"{"key":"k","value":"v","more":1}"#,
        ] {
            assert!(serde_json::from_str::<ScanLine>(bad).is_err(), "{bad}");
        }
    }
}
