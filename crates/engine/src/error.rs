//! The engine's error, sorted by what the caller does next.
//!
//! One value may be handed to many waiters (every ticket of a failed sync), so it is cheap to clone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`]. Adding a kind is a design decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The call is wrong (empty key, oversized value, bad option): fix it.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// A condition did not hold, or can no longer be decided: read again and retry.
    Conflict,
    /// Too much is waiting (back-pressure, or another process holds the database): back off.
    Busy,
    /// The disk is full: free space; deletes and compaction still work.
    Full,
    /// The write may or may not exist: look again after reopening.
    Unknown,
    /// A file is damaged, or of a format that only a newer build reads: restore it from a backup, or
    /// save what is left of it with [`crate::repair()`].
    Corrupt,
    /// The operating system failed a call.
    Io,
    /// The database is closed, or closed to writes until it is reopened.
    Closed,
}

impl ErrorKind {
    /// The kind as a lower-case word, as the wire and the command line show it.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Busy => "busy",
            ErrorKind::Full => "full",
            ErrorKind::Unknown => "unknown",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Io => "io",
            ErrorKind::Closed => "closed",
        }
    }
}

/// A failed engine call. [`Error::kind`] says what to do about it; the text says what, where and why.
#[derive(Clone)]
pub struct Error {
    repr: Arc<Repr>,
}

#[derive(Debug)]
pub(crate) enum Repr {
    Invalid(String),
    NotFound(String),
    Conflict {
        key: Vec<u8>,
        why: &'static str,
    },
    Busy(String),
    Full(String),
    Unknown(String),
    Corrupt {
        path: PathBuf,
        offset: Option<u64>,
        what: String,
    },
    /// Sound, as far as this build can tell, and in a format that it does not read.
    Newer {
        path: PathBuf,
        what: String,
    },
    Env(cairn_env::Error),
    Closed(String),
}

impl From<Repr> for Error {
    fn from(repr: Repr) -> Error {
        Error { repr: Arc::new(repr) }
    }
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Repr::Invalid(what.into()).into()
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Error {
        Repr::NotFound(what.into()).into()
    }

    /// A keyspace that was dropped, to whoever still holds a handle of it.
    pub(crate) fn no_keyspace(name: &str) -> Error {
        Error::not_found(format!("keyspace \"{name}\" does not exist: it was dropped"))
    }

    pub(crate) fn busy(what: impl Into<String>) -> Error {
        Repr::Busy(what.into()).into()
    }

    pub(crate) fn full(what: impl Into<String>) -> Error {
        Repr::Full(what.into()).into()
    }

    pub(crate) fn unknown(what: impl Into<String>) -> Error {
        Repr::Unknown(what.into()).into()
    }

    pub(crate) fn closed(what: impl Into<String>) -> Error {
        Repr::Closed(what.into()).into()
    }

    pub(crate) fn conflict(key: &[u8], why: &'static str) -> Error {
        Repr::Conflict { key: key.to_vec(), why }.into()
    }

    pub(crate) fn corrupt(path: impl Into<PathBuf>, offset: Option<u64>, what: impl Into<String>) -> Error {
        Repr::Corrupt { path: path.into(), offset, what: what.into() }.into()
    }

    pub(crate) fn newer(path: impl Into<PathBuf>, what: impl Into<String>) -> Error {
        Repr::Newer { path: path.into(), what: what.into() }.into()
    }

    /// Whether it is no damage, but what a newer build wrote.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(&*self.repr, Repr::Newer { .. })
    }

    /// The parts of a [`ErrorKind::Corrupt`].
    pub(crate) fn corrupt_parts(&self) -> Option<(&Path, Option<u64>, &str)> {
        match &*self.repr {
            Repr::Corrupt { path, offset, what } => Some((path, *offset, what)),
            Repr::Newer { path, what } => Some((path, None, what)),
            _ => None,
        }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match &*self.repr {
            Repr::Invalid(_) => ErrorKind::Invalid,
            Repr::NotFound(_) => ErrorKind::NotFound,
            Repr::Conflict { .. } => ErrorKind::Conflict,
            Repr::Busy(_) => ErrorKind::Busy,
            Repr::Full(_) => ErrorKind::Full,
            Repr::Unknown(_) => ErrorKind::Unknown,
            Repr::Corrupt { .. } | Repr::Newer { .. } => ErrorKind::Corrupt,
            Repr::Env(e) if e.is_no_space() => ErrorKind::Full,
            Repr::Env(_) => ErrorKind::Io,
            Repr::Closed(_) => ErrorKind::Closed,
        }
    }

    /// The key whose condition failed, for [`ErrorKind::Conflict`].
    pub fn conflicting_key(&self) -> Option<&[u8]> {
        match &*self.repr {
            Repr::Conflict { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The damaged file and the offset in it, for [`ErrorKind::Corrupt`].
    pub fn damage(&self) -> Option<(&Path, Option<u64>)> {
        self.corrupt_parts().map(|(path, offset, _)| (path, offset))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.repr {
            Repr::Invalid(what) | Repr::NotFound(what) | Repr::Busy(what) | Repr::Full(what) => f.write_str(what),
            Repr::Unknown(what) | Repr::Closed(what) => f.write_str(what),
            Repr::Conflict { key, why } => write!(f, "condition on key \"{}\" failed: {why}", key.escape_ascii()),
            Repr::Corrupt { path, offset: Some(offset), what } => {
                write!(f, "{} is damaged at byte {offset}: {what}", path.display())
            }
            Repr::Corrupt { path, offset: None, what } => write!(f, "{} is damaged: {what}", path.display()),
            Repr::Newer { path, what } => write!(f, "{} cannot be read: {what}", path.display()),
            Repr::Env(e) => e.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.repr {
            Repr::Env(e) => Some(e),
            _ => None,
        }
    }
}

impl From<cairn_env::Error> for Error {
    fn from(e: cairn_env::Error) -> Error {
        Repr::Env(e).into()
    }
}
