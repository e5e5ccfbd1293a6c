//! The grammar of validation files: one request a line, each with the answer it expects.
//!
//! ```text
//! PUT key value
//! GET key value | GET key NOT_FOUND | GET key [v1 v2 ...] | GET key v1 v2 ...
//! DELETE key
//! SCAN from to k1,k2,...      keys only, ascending, from <= k < to; none: the line may end in the space;
//!                             `%XX` in the list is one byte, as in the server's answer
//! BARRIER                     everything above is answered before anything below is sent
//! ```
//!
//! Fields are parted by single spaces and are any bytes but space and newline; a GET with several
//! values, NOT_FOUND allowed among them, is right if any of them is the answer. Blank lines and
//! lines that start with `#` are skipped; verbs may be in lower case; a carriage return before the
//! newline is dropped.
//!
//! Invariants
//! 1. A parsed script has no line that cannot be checked: a GET has an expectation, a value is one field.
//! 2. Its blocks are in file order, none is empty, and together they are all requests.
//! 3. [`Request`] prints as the line it was parsed from (with lists in brackets).

use std::fmt;
use std::ops::Range;

use cairn_api::target;

use crate::text;

/// What a GET may not find, as files write it.
pub(crate) const NOT_FOUND: &str = "NOT_FOUND";
/// The line between two blocks.
pub(crate) const BARRIER: &str = "BARRIER";

/// A file to run: its requests, and which of them go out together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Every request, in file order.
    pub(crate) requests: Vec<Line>,
    /// What stands between barriers, as ranges of `requests`.
    pub(crate) blocks: Vec<Range<usize>>,
    /// Whether the file has a BARRIER: if not, its requests run one at a time.
    pub(crate) has_barriers: bool,
}

/// A request and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1, as editors do.
    pub(crate) number: usize,
    /// What it asks.
    pub(crate) request: Request,
}

/// One request and what it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Expects success and the value echoed.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Expects one of the answers.
    Get { key: Vec<u8>, accepted: Vec<Answer> },
    /// Expects success, whether the key exists or not.
    Delete { key: Vec<u8> },
    /// Expects exactly these keys, in this order.
    Scan { start: Vec<u8>, end: Vec<u8>, keys: Vec<Vec<u8>> },
}

/// What a GET may answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// No such key.
    NotFound,
    /// This value.
    Value(Vec<u8>),
}

/// Why a line is not of the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong, and what would be right.
    pub(crate) message: String,
}

impl Script {
    /// Parses a whole file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Script, ParseError> {
        let mut script = Script { requests: Vec::new(), blocks: Vec::new(), has_barriers: false };
        let mut block_start = 0;
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if line.eq_ignore_ascii_case(BARRIER.as_bytes()) {
                script.has_barriers = true;
                script.end_block(&mut block_start);
                continue;
            }
            let request = Request::parse(line).map_err(|message| ParseError { line: number, message })?;
            script.requests.push(Line { number, request });
        }
        script.end_block(&mut block_start);
        Ok(script)
    }

    fn end_block(&mut self, start: &mut usize) {
        let end = self.requests.len();
        if *start < end {
            self.blocks.push(*start..end);
        }
        *start = end;
    }

    /// How many requests can be in flight together: those of the largest block, or one.
    pub(crate) fn in_flight_max(&self) -> usize {
        if self.has_barriers { self.blocks.iter().map(Range::len).max().unwrap_or(1) } else { 1 }
    }
}

impl Request {
    /// Parses one line that is neither blank nor a comment nor a BARRIER.
    pub(crate) fn parse(line: &[u8]) -> Result<Request, String> {
        let mut fields = line.split(|&byte| byte == b' ');
        let verb = fields.next().unwrap_or_default();
        let fields: Vec<&[u8]> = fields.collect();
        match verb.to_ascii_uppercase().as_slice() {
            b"PUT" => match fields.as_slice() {
                [key, value] if !key.is_empty() && !value.is_empty() => {
                    Ok(Request::Put { key: key.to_vec(), value: value.to_vec() })
                }
                _ => Err("expected: PUT key value (single spaces, none in the value)".to_owned()),
            },
            b"GET" => match fields.split_first() {
                Some((key, answers)) if !key.is_empty() => {
                    Ok(Request::Get { key: key.to_vec(), accepted: parse_answers(answers)? })
                }
                _ => Err("expected: GET key value, GET key NOT_FOUND or GET key [v1 v2 ...]".to_owned()),
            },
            b"DELETE" => match fields.as_slice() {
                [key] if !key.is_empty() => Ok(Request::Delete { key: key.to_vec() }),
                _ => Err("expected: DELETE key".to_owned()),
            },
            b"SCAN" => match fields.as_slice() {
                [start, end] => Ok(Request::Scan { start: start.to_vec(), end: end.to_vec(), keys: Vec::new() }),
                [start, end, keys] => {
                    Ok(Request::Scan { start: start.to_vec(), end: end.to_vec(), keys: parse_keys(keys)? })
                }
                _ => Err("expected: SCAN from to k1,k2,...".to_owned()),
            },
            other => Err(format!(
                "`{}` is none of PUT, GET, DELETE, SCAN, {BARRIER}",
                text::shortened(other, VERB_SHOWN_BYTES_MAX)
            )),
        }
    }
}

/// How much of a word that is no verb an error shows.
const VERB_SHOWN_BYTES_MAX: usize = 40;

fn parse_answers(fields: &[&[u8]]) -> Result<Vec<Answer>, String> {
    // Brackets are those of a list only when they enclose it; a single value may hold them.
    let joined = fields.join(&b' ');
    let inner = joined.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    if inner.is_none() && fields.len() > 1 && joined.starts_with(b"[") {
        return Err("the list of accepted values has no closing bracket".to_owned());
    }
    let inner = inner.unwrap_or(&joined);
    let mut answers = Vec::new();
    for field in inner.split(|&byte| byte == b' ') {
        match field {
            b"" => return Err("an accepted value is missing, or two spaces stand together".to_owned()),
            field if field == NOT_FOUND.as_bytes() => answers.push(Answer::NotFound),
            field => answers.push(Answer::Value(field.to_vec())),
        }
    }
    Ok(answers)
}

/// Keys as a scan answers them: bytes outside `[A-Za-z0-9_-]` may be percent-encoded.
fn parse_keys(list: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let text = std::str::from_utf8(list).map_err(|_| "the list of keys is not text: encode its bytes as %XX")?;
    let keys = text.split(',').map(|key| target::decode(key).map_err(|error| error.message));
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    if keys.iter().any(Vec::is_empty) {
        return Err("a key of the list is empty".to_owned());
    }
    Ok(keys)
}

/// Keys as a scan answers them.
pub(crate) fn join_keys(keys: &[Vec<u8>]) -> String {
    keys.iter().map(|key| target::encode(key)).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Put { key, value } => write!(f, "PUT {} {}", text::escaped(key), text::escaped(value)),
            Request::Get { key, accepted } => match accepted.as_slice() {
                [answer] => write!(f, "GET {} {answer}", text::escaped(key)),
                answers => {
                    write!(f, "GET {} [", text::escaped(key))?;
                    for (index, answer) in answers.iter().enumerate() {
                        let space = if index == 0 { "" } else { " " };
                        write!(f, "{space}{answer}")?;
                    }
                    f.write_str("]")
                }
            },
            Request::Delete { key } => write!(f, "DELETE {}", text::escaped(key)),
            Request::Scan { start, end, keys } => {
                write!(f, "SCAN {} {} {}", text::escaped(start), text::escaped(end), join_keys(keys))
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::NotFound => f.write_str(NOT_FOUND),
            Answer::Value(value) => write!(f, "{}", text::escaped(value)),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

#[cfg(test)]
// The fuzz targets compile this file from elsewhere too.
#[path = "script/tests.rs"]
mod tests;
