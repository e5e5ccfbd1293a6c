//! What a call is refused with: a kind to act on and a text for people.

use std::fmt;

use cairn_api::{ErrorBody, ErrorKind};

/// A refusal, in the words of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// The one field of the request that is at fault, where it is known, as `tasks[3].name`.
    pub field: Option<String>,
}

impl Refused {
    /// A refusal of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Refused {
        Refused { kind, message: message.into(), field: None }
    }

    /// The same, for this field of the request.
    #[must_use]
    pub fn at(self, field: impl Into<String>) -> Refused {
        Refused { field: Some(field.into()), ..self }
    }

    /// The same, where the field is one of a part of the request, as `tasks[3]`.
    #[must_use]
    pub fn under(mut self, part: &str) -> Refused {
        self.field = self.field.map(|field| format!("{part}.{field}"));
        self
    }

    /// As it stands among other results.
    pub fn into_body(self) -> ErrorBody {
        ErrorBody::new(self.kind, self.message).with_field(self.field)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl From<cairn_durable::Error> for Refused {
    fn from(error: cairn_durable::Error) -> Refused {
        use cairn_durable::ErrorKind as Kind;
        let kind = match error.kind() {
            Kind::Invalid => ErrorKind::Invalid,
            Kind::NotFound => ErrorKind::NotFound,
            Kind::Conflict => ErrorKind::Conflict,
            Kind::TooLarge => ErrorKind::TooLarge,
            Kind::StaleFence => ErrorKind::StaleFence,
            Kind::Cancelled => ErrorKind::Cancelled,
            Kind::Gone => ErrorKind::Gone,
            Kind::Busy => ErrorKind::Busy,
            Kind::Full => ErrorKind::Full,
            Kind::Closed => ErrorKind::Closed,
            Kind::Unknown => ErrorKind::Unknown,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::Io => ErrorKind::Io,
        };
        Refused { kind, message: error.to_string(), field: error.field().map(str::to_owned) }
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(ErrorKind::Invalid, message)
}

/// The answer to what is still to come.
pub fn not_built(what: &str) -> Refused {
    Refused::new(ErrorKind::NotBuilt, format!("this build has no {what} yet"))
}
