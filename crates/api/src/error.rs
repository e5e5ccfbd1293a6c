//! What can go wrong over HTTP: the kinds, their names, their statuses, and the JSON that carries them.
//!
//! ```text
//! {"error":{"kind":"conflict","message":"...","key":"...","field":"..."}}
//! ```
//!
//! `kind` is what a program acts on, `message` what a person reads; `key` (`key_base64` where it is
//! not UTF-8) names the key of a conflict; `field` the one field of the request that is at fault, where
//! that is known, as `tasks[3].name`. Kinds are ordered by who must act. A kind a client does not know is
//! judged by its status ([`ErrorKind::from_status`]).

use serde::{Deserialize, Serialize};

use crate::text;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense: change it.
    Invalid,
    /// No token, or not the right one.
    Unauthorized,
    /// The request is understood and refused.
    Forbidden,
    /// No such key, or no such route.
    NotFound,
    /// The route exists, the method does not apply to it.
    MethodNotAllowed,
    /// The request did not arrive in time.
    Timeout,
    /// A condition of the batch does not hold: read again and retry. Nothing was written.
    Conflict,
    /// Body, value or batch over the limit.
    TooLarge,
    /// The target is over the limit: such keys go by `POST /v1/batch`.
    TargetTooLong,
    /// A bound is reached: wait a little and retry. Nothing was written.
    Busy,
    /// A failed sync or a lost answer: the write may or may not exist. Look again after reopening.
    Unknown,
    /// Damaged files: the message names file and offset.
    Corrupt,
    /// The system failed a read or write.
    Io,
    /// A defect of the server.
    Internal,
    /// Closed to writes, shutting down, or out of connections.
    Closed,
    /// The hand-out of a task is over: stop working on it.
    StaleFence,
    /// The task was cancelled: stop working on it.
    Cancelled,
    /// Not kept any more, or a session that is not known: say hello again.
    Gone,
    /// Another version of the protocol.
    UnsupportedProtocol,
    /// A part of the protocol that this build does not have yet.
    NotBuilt,
    /// No space: free some, then retry. Nothing was written.
    Full,
}

impl ErrorKind {
    /// Every kind, in order.
    pub const ALL: [ErrorKind; 21] = [
        ErrorKind::Invalid,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::NotFound,
        ErrorKind::MethodNotAllowed,
        ErrorKind::Timeout,
        ErrorKind::Conflict,
        ErrorKind::TooLarge,
        ErrorKind::TargetTooLong,
        ErrorKind::Busy,
        ErrorKind::Unknown,
        ErrorKind::Corrupt,
        ErrorKind::Io,
        ErrorKind::Internal,
        ErrorKind::Closed,
        ErrorKind::StaleFence,
        ErrorKind::Cancelled,
        ErrorKind::Gone,
        ErrorKind::UnsupportedProtocol,
        ErrorKind::NotBuilt,
        ErrorKind::Full,
    ];

    /// The HTTP status that carries this kind.
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::Invalid => 400,
            ErrorKind::Unauthorized => 401,
            ErrorKind::Forbidden => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::Timeout => 408,
            ErrorKind::Conflict => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::TargetTooLong => 414,
            ErrorKind::Busy => 429,
            ErrorKind::Unknown | ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Internal => 500,
            ErrorKind::Closed => 503,
            ErrorKind::StaleFence | ErrorKind::Cancelled => 409,
            ErrorKind::Gone => 410,
            ErrorKind::UnsupportedProtocol => 400,
            ErrorKind::NotBuilt => 501,
            ErrorKind::Full => 507,
        }
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::NotFound => "not_found",
            ErrorKind::MethodNotAllowed => "method_not_allowed",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Conflict => "conflict",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::TargetTooLong => "target_too_long",
            ErrorKind::Busy => "busy",
            ErrorKind::Unknown => "unknown",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Io => "io",
            ErrorKind::Internal => "internal",
            ErrorKind::Closed => "closed",
            ErrorKind::StaleFence => "stale_fence",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Gone => "gone",
            ErrorKind::UnsupportedProtocol => "unsupported_protocol",
            ErrorKind::NotBuilt => "not_built",
            ErrorKind::Full => "full",
        }
    }

    /// The kind a status stands for when its body says none: the most cautious of those that share
    /// the status, and `Invalid` for a 4xx of no kind's own.
    pub fn from_status(status: u16) -> ErrorKind {
        let fallback = if status < 500 { ErrorKind::Invalid } else { ErrorKind::Unknown };
        ErrorKind::ALL.into_iter().find(|kind| kind.status() == status).unwrap_or(fallback)
    }
}

/// The body of every response that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    error: ErrorDetail,
}

/// What is in it, also where an error stands among other results.
/// Unknown fields are let through here and only here: a newer server may say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl From<ErrorBody> for ErrorDetail {
    fn from(body: ErrorBody) -> ErrorDetail {
        body.error
    }
}

impl ErrorDetail {
    /// The kind, or `None` if this build does not know it.
    pub fn kind(&self) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == self.kind)
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl ErrorBody {
    /// An error of this kind, with a text for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ErrorBody {
        let (kind, message) = (kind.name().to_owned(), message.into());
        ErrorBody { error: ErrorDetail { kind, message, key: None, key_base64: None, field: None } }
    }

    /// Names the field of the request that is at fault.
    pub fn with_field(mut self, field: Option<String>) -> ErrorBody {
        self.error.field = field;
        self
    }

    /// Names the key that a conflict is about.
    pub fn with_key(mut self, key: &[u8]) -> ErrorBody {
        (self.error.key, self.error.key_base64) = text::split(key);
        self
    }

    /// The kind, or `None` if this build does not know it.
    pub fn kind(&self) -> Option<ErrorKind> {
        self.error.kind()
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.error.message
    }

    /// The field of the request that is at fault, if the server named one.
    pub fn field(&self) -> Option<&str> {
        self.error.field.as_deref()
    }

    /// The key of a conflict, if the server named one.
    pub fn key(&self) -> Option<Vec<u8>> {
        text::join("key", self.error.key.clone(), self.error.key_base64.clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_the_name_serde_gives_it() {
        for (i, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(kind).unwrap(), serde_json::json!(kind.name()));
            assert_eq!(kind as usize, i, "ALL is in declaration order");
        }
    }

    #[test]
    fn a_status_alone_is_judged_cautiously() {
        for (status, kind) in [
            (400, ErrorKind::Invalid),
            (404, ErrorKind::NotFound),
            (418, ErrorKind::Invalid),
            (500, ErrorKind::Unknown),
            (502, ErrorKind::Unknown),
            (503, ErrorKind::Closed),
        ] {
            assert_eq!(ErrorKind::from_status(status), kind, "{status}");
        }
    }

    #[test]
    fn bytes_on_the_wire() {
        let plain = ErrorBody::new(ErrorKind::Busy, "too many scans");
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"error":{"kind":"busy","message":"too many scans"}}"#);
        let wrong = ErrorBody::new(ErrorKind::Invalid, "empty").with_field(Some("tasks[3].name".to_owned()));
        assert_eq!(
            serde_json::to_string(&wrong).unwrap(),
            r#"{"error":{"kind":"invalid","message":"empty","field":"tasks[3].name"}}"#
        );
        let conflict = ErrorBody::new(ErrorKind::Conflict, "changed");
        assert_eq!(
            serde_json::to_string(&conflict.clone().with_key(b"a/b")).unwrap(),
            r#"{"error":{"kind":"conflict","message":"changed","key":"a/b"}}"#
        );
        assert_eq!(
            serde_json::to_string(&conflict.with_key(b"\xff\x00")).unwrap(),
            r#"{"error":{"kind":"conflict","message":"changed","key_base64":"/wA="}}"#
        );
    }

    #[test]
    fn a_newer_servers_error_still_reads() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"error":{"kind":"melted","message":"m","key_base64":"/wA=","hint":1}}"#).unwrap();
        assert_eq!((body.kind(), body.message(), body.key()), (None, "m", Some(b"\xff\x00".to_vec())));
    }
}
