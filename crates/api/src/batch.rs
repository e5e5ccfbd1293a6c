//! `POST /v1/batch`: puts, deletes and conditions, applied as one or not at all.
//!
//! ```text
//! {"ops": [{"put":    {"key": "a", "value": "1"}},
//!          {"put":    {"key_base64": "/w==", "value_base64": "AAE=", "keyspace": "jobs"}},
//!          {"delete": {"key": "b"}}],
//!  "conditions": [{"absent":          {"key": "a"}},
//!                 {"unchanged":       {"key": "b", "since": 17}},
//!                 {"range_unchanged": {"start": "c", "end": "d", "since": 17}}],
//!  "durability": "commit"}
//! -> 200 {"seq": 18}  |  409 and the key whose condition does not hold
//! ```
//!
//! `since` is the `cairn-seq` of the read that the decision rests on. `keyspace` is "default" if left
//! out; one that does not exist is made. `conditions` and `durability` may be left out: the
//! durability is then the server's. Ranges are half-open; left out, `start` is the first key and `end`
//! the one after the last. Of several writes that broke a range condition, none is singled out: the
//! conflict names the range's start.
//!
//! Invariant: no more than [`OPS_MAX`] ops and as many conditions are ever held, however the body
//! is written; the parser stops at the first one over.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text;

/// Most ops, and most conditions, of one batch.
///
/// An op of a few bytes of JSON costs some 150 in memory until it is in the batch; this bounds that
/// to 15 MB, where a body of 64 MiB could ask for half a gigabyte.
pub const OPS_MAX: usize = 100_000;

/// The request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// What to write, in order: of two ops on one key the later wins.
    #[serde(deserialize_with = "bounded")]
    pub ops: Vec<Op>,
    /// What must hold for anything to be written.
    #[serde(default, deserialize_with = "bounded", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When to answer; the server's own durability if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<WriteDurability>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResponse {
    /// The sequence number of the batch.
    pub seq: u64,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteDurability {
    /// Once it is on stable storage.
    Commit,
    /// Once the server's system has it: it survives the server's process, not its machine.
    Buffered,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireOp", into = "WireOp")]
pub enum Op {
    /// Sets a key's value.
    Put {
        /// The default one if `None`.
        keyspace: Option<String>,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes a key, whether it exists or not.
    Delete {
        /// The default one if `None`.
        keyspace: Option<String>,
        /// The key.
        key: Vec<u8>,
    },
}

/// What must hold when the batch is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireCondition", into = "WireCondition")]
pub enum Condition {
    /// The key does not exist.
    Absent {
        /// The default one if `None`.
        keyspace: Option<String>,
        /// The key.
        key: Vec<u8>,
    },
    /// Nothing newer than `since` was written to the key.
    Unchanged {
        /// The default one if `None`.
        keyspace: Option<String>,
        /// The key.
        key: Vec<u8>,
        /// The sequence number of the read.
        since: u64,
    },
    /// Nothing newer than `since` was written to any key from `start` up to but not including `end`.
    /// A conflict names `start`.
    RangeUnchanged {
        /// The default one if `None`.
        keyspace: Option<String>,
        /// First key of the range; empty for the first there is.
        start: Vec<u8>,
        /// First key beyond it; to the last key if `None`.
        end: Option<Vec<u8>>,
        /// The sequence number of the read.
        since: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireOp {
    Put(WirePut),
    Delete(WireKey),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireCondition {
    Absent(WireKey),
    Unchanged(WireUnchanged),
    RangeUnchanged(WireRange),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePut {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireUnchanged {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    since: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_base64: Option<String>,
    since: u64,
}

impl TryFrom<WireOp> for Op {
    type Error = String;
    fn try_from(op: WireOp) -> Result<Op, String> {
        Ok(match op {
            WireOp::Put(put) => Op::Put {
                keyspace: put.keyspace,
                key: text::join("key", put.key, put.key_base64)?,
                value: text::join("value", put.value, put.value_base64)?,
            },
            WireOp::Delete(delete) => {
                Op::Delete { keyspace: delete.keyspace, key: text::join("key", delete.key, delete.key_base64)? }
            }
        })
    }
}

impl From<Op> for WireOp {
    fn from(op: Op) -> WireOp {
        match op {
            Op::Put { keyspace, key, value } => {
                let (key, key_base64) = text::split(&key);
                let (value, value_base64) = text::split(&value);
                WireOp::Put(WirePut { keyspace, key, key_base64, value, value_base64 })
            }
            Op::Delete { keyspace, key } => WireOp::Delete(WireKey::new(keyspace, &key)),
        }
    }
}

impl WireKey {
    fn new(keyspace: Option<String>, key: &[u8]) -> WireKey {
        let (key, key_base64) = text::split(key);
        WireKey { keyspace, key, key_base64 }
    }
}

impl TryFrom<WireCondition> for Condition {
    type Error = String;
    fn try_from(condition: WireCondition) -> Result<Condition, String> {
        Ok(match condition {
            WireCondition::Absent(absent) => {
                Condition::Absent { keyspace: absent.keyspace, key: text::join("key", absent.key, absent.key_base64)? }
            }
            WireCondition::Unchanged(unchanged) => Condition::Unchanged {
                keyspace: unchanged.keyspace,
                key: text::join("key", unchanged.key, unchanged.key_base64)?,
                since: unchanged.since,
            },
            WireCondition::RangeUnchanged(range) => Condition::RangeUnchanged {
                keyspace: range.keyspace,
                start: match (range.start, range.start_base64) {
                    (None, None) => Vec::new(),
                    (text, base64) => text::join("start", text, base64)?,
                },
                end: match (range.end, range.end_base64) {
                    (None, None) => None,
                    (text, base64) => Some(text::join("end", text, base64)?),
                },
                since: range.since,
            },
        })
    }
}

impl From<Condition> for WireCondition {
    fn from(condition: Condition) -> WireCondition {
        match condition {
            Condition::Absent { keyspace, key } => WireCondition::Absent(WireKey::new(keyspace, &key)),
            Condition::Unchanged { keyspace, key, since } => {
                let (key, key_base64) = text::split(&key);
                WireCondition::Unchanged(WireUnchanged { keyspace, key, key_base64, since })
            }
            Condition::RangeUnchanged { keyspace, start, end, since } => {
                let (start, start_base64) = text::split(&start);
                let (end, end_base64) = end.map_or((None, None), |end| text::split(&end));
                WireCondition::RangeUnchanged(WireRange { keyspace, start, start_base64, end, end_base64, since })
            }
        }
    }
}

/// A list of at most [`OPS_MAX`] items.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {OPS_MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == OPS_MAX {
                    return Err(serde::de::Error::invalid_length(OPS_MAX + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Bounded(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Op {
        Op::Put { keyspace: None, key: key.to_vec(), value: value.to_vec() }
    }

    #[test]
    fn bytes_on_the_wire() {
        let request = BatchRequest {
            ops: vec![
                put(b"a", b"1"),
                Op::Put { keyspace: Some("jobs".into()), key: b"\xff".to_vec(), value: b"\x00\x80".to_vec() },
                Op::Delete { keyspace: None, key: b"b".to_vec() },
            ],
            conditions: vec![
                Condition::Absent { keyspace: None, key: b"a".to_vec() },
                Condition::Unchanged { keyspace: None, key: b"b".to_vec(), since: 17 },
                Condition::RangeUnchanged {
                    keyspace: None,
                    start: b"c".to_vec(),
                    end: Some(b"d".to_vec()),
                    since: u64::MAX,
                },
            ],
            durability: Some(WriteDurability::Commit),
        };
        let json = concat!(
            r#"{"ops":[{"put":{"key":"a","value":"1"}},"#,
            r#"{"put":{"keyspace":"jobs","key_base64":"/w==","value_base64":"AIA="}},{"delete":{"key":"b"}}],"#,
            r#""conditions":[{"absent":{"key":"a"}},{"unchanged":{"key":"b","since":17}},"#,
            r#"{"range_unchanged":{"start":"c","end":"d","since":18446744073709551615}}],"durability":"commit"}"#,
        );
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<BatchRequest>(json).unwrap(), request);
    }

    #[test]
    fn what_may_be_left_out() {
        for (range, start, end) in [
            (r#"{"end":"d","since":0}"#, &b""[..], Some(b"d".to_vec())),
            (r#"{"start_base64":"/w==","since":0}"#, b"\xff", None),
            (r#"{"since":0}"#, b"", None),
        ] {
            let json = format!(r#"{{"ops":[],"conditions":[{{"range_unchanged":{range}}}]}}"#);
            let condition = Condition::RangeUnchanged { keyspace: None, start: start.to_vec(), end, since: 0 };
            let expected = BatchRequest { ops: vec![], conditions: vec![condition], durability: None };
            assert_eq!(serde_json::from_str::<BatchRequest>(&json).unwrap(), expected, "{range}");
            let again = serde_json::to_string(&expected).unwrap();
            assert_eq!(serde_json::from_str::<BatchRequest>(&again).unwrap(), expected, "{again}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (json, part) in [
            (r#"{}"#, "missing field `ops`"),
            (r#"{"ops":[],"condition":[]}"#, "unknown field `condition`"),
            (r#"{"ops":[{"put":{"key":"a"}}]}"#, "`value` (or `value_base64`) is missing"),
            (r#"{"ops":[{"put":{"value":"a"}}]}"#, "`key` (or `key_base64`) is missing"),
            (r#"{"ops":[{"put":{"key":"a","value":"1","ttl":3}}]}"#, "unknown field `ttl`"),
            (r#"{"ops":[{"put":{"key":"a","key_base64":"YQ==","value":""}}]}"#, "not both"),
            (r#"{"ops":[{"delete":{"key_base64":"YQ"}}]}"#, "`key_base64` is not base64"),
            (r#"{"ops":[{"merge":{"key":"a"}}]}"#, "unknown variant `merge`"),
            (r#"{"ops":[{"put":{"key":"a","value":1}}]}"#, "expected a string"),
            (r#"{"ops":[],"conditions":[{"unchanged":{"key":"a"}}]}"#, "missing field `since`"),
            (r#"{"ops":[],"conditions":[{"unchanged":{"key":"a","since":-1}}]}"#, "expected u64"),
            (r#"{"ops":[],"conditions":[{"range_unchanged":{"end":"a","end_base64":"YQ==","since":1}}]}"#, "not both"),
            (r#"{"ops":[],"durability":"fast"}"#, "unknown variant `fast`"),
            (r#"{"ops":[]} x"#, "trailing characters"),
            (r#"[]"#, ""),
            ("", "EOF"),
            ("\u{feff}{}", "expected value"),
        ] {
            let error = serde_json::from_str::<BatchRequest>(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn the_number_of_ops_is_bounded() {
        let body = |count: usize| format!(r#"{{"ops":[{}]}}"#, vec![r#"{"delete":{"key":"a"}}"#; count].join(","));
        assert_eq!(serde_json::from_str::<BatchRequest>(&body(OPS_MAX)).unwrap().ops.len(), OPS_MAX);
        let error = serde_json::from_str::<BatchRequest>(&body(OPS_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("at most 100000 items"), "{error}");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let error = serde_json::from_str::<BatchRequest>(&"[".repeat(1 << 20)).unwrap_err();
        assert!(error.is_data() || error.is_syntax() || error.is_eof(), "{error}");
    }
}
