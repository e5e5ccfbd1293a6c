//! The HTTP surface as data: targets, JSON bodies, percent-encoding.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use cairn_api::target::{decode, encode, key_target};
use cairn_api::{BatchRequest, ErrorBody, ScanLine, ScanQuery, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request's target, a query, and any bytes as a key.
pub(crate) fn target(input: &[u8]) {
    assert_eq!(decode(&encode(input)).as_deref(), Ok(input));
    if !input.is_empty() {
        assert_eq!(Target::parse(&key_target(input), None), Ok(Target::Key(input.to_vec())));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    match Target::parse(path, query) {
        Ok(Target::Key(key)) => assert_eq!(Target::parse(&key_target(&key), None), Ok(Target::Key(key))),
        Ok(Target::Scan(scan)) => {
            let again = scan.target();
            let (_, query) = again.split_once('?').expect("a scan has parameters");
            let start = Some(scan.start.clone().unwrap_or_default());
            assert_eq!(ScanQuery::parse(query), Ok(ScanQuery { start, ..scan }));
        }
        Ok(Target::V1(route)) => assert_eq!((route.target(), query.unwrap_or("")), (path, "")),
        Ok(Target::Tasks(_)) => assert!(path.starts_with("/v1/")),
        Err(error) => assert!(!error.message.is_empty()),
    }
}

/// What is accepted is written as something that reads as the same.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let text = serde_json::to_vec(&value).expect("these types serialise");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("just written"), value);
    }
}

/// The body of `POST /v1/batch`.
pub(crate) fn batch(input: &[u8]) {
    survives::<BatchRequest>(input);
}

/// A line of a scan, and the body of an error.
pub(crate) fn lines(input: &[u8]) {
    survives::<ScanLine>(input);
    if let Ok(error) = serde_json::from_slice::<ErrorBody>(input) {
        let _ = (error.kind(), error.key());
        assert!(error.message().len() <= input.len() * 3);
    }
}

pub(crate) fn target_seeds() -> Vec<Vec<u8>> {
    let targets = [
        "/scan?start=a&end=b%2F&limit=10",
        "/scan?limit=18446744073709551615",
        "/v1/batch",
        "/%00%ff",
        "/a%2Fb",
        "/v1/nothing",
    ];
    targets.iter().map(|target| target.as_bytes().to_vec()).collect()
}

pub(crate) fn batch_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"ops":[{"put":{"key":"a","value":"1"}},{"put":{"key_base64":"/w==","value_base64":"AAE=","keyspace":"j"}},{"delete":{"key":"b"}}]}"#,
        r#"{"ops":[],"conditions":[{"absent":{"key":"a"}},{"unchanged":{"key":"b","since":17}},{"range_unchanged":{"start":"c","end":"d","since":17}}],"durability":"commit"}"#,
    ];
    bodies.iter().map(|body| body.as_bytes().to_vec()).collect()
}

pub(crate) fn lines_seeds() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"key":"a","value_base64":"AAE="}"#,
        r#"{"key_base64":"/w==","value":"\u00e9\n"}"#,
        r#"{"error":{"kind":"conflict","message":"it exists","key_base64":"/w=="}}"#,
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}
