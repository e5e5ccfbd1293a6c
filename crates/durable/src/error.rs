//! What can be wrong with a call, sorted by what its caller does about it.

use std::fmt;

/// The kinds of errors, as the protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The call is wrong: mend it.
    Invalid,
    /// There is none.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// Over a limit.
    TooLarge,
    /// The hand-out is over: stop working on the task.
    StaleFence,
    /// The task was cancelled: stop working on it.
    Cancelled,
    /// It is no longer kept, or the session is not known any more: say hello again.
    Gone,
    /// Back off and come again.
    Busy,
    /// The disk is full.
    Full,
    /// The database takes no more writes, or is closed.
    Closed,
    /// It may or may not have happened; look after the database is opened again.
    Unknown,
    /// A stored record is damaged.
    Corrupt,
    /// The system refused a read or a write.
    Io,
}

/// An error, with a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    field: Option<String>,
}

/// What a call returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), field: None }
    }

    /// The same, with the one field of the call that is at fault, as "tags".
    #[must_use]
    pub fn at(self, field: impl Into<String>) -> Error {
        Error { field: Some(field.into()), ..self }
    }

    /// The same, where the field is one of a part of the call, as `tasks[3]`.
    #[must_use]
    pub fn under(mut self, part: &str) -> Error {
        self.field = self.field.map(|field| format!("{part}.{field}"));
        self
    }

    /// The field at fault, where it is one and known.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether it is about what was read, and not about the store: it concerns nothing else.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.kind, ErrorKind::Corrupt | ErrorKind::NotFound)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<cairn_store::Error> for Error {
    fn from(e: cairn_store::Error) -> Error {
        use cairn_store::ErrorKind as Store;
        let kind = match e.kind() {
            Store::Invalid => ErrorKind::Invalid,
            Store::NotFound => ErrorKind::NotFound,
            Store::Conflict => ErrorKind::Conflict,
            Store::Busy => ErrorKind::Busy,
            Store::Full => ErrorKind::Full,
            Store::Unknown => ErrorKind::Unknown,
            Store::Corrupt => ErrorKind::Corrupt,
            Store::Io => ErrorKind::Io,
            Store::Closed => ErrorKind::Closed,
        };
        Error::new(kind, e.to_string())
    }
}
