//! What can go wrong with a log, and where.

use std::fmt;
use std::path::PathBuf;

use crate::Position;
use crate::format::Damage;

/// The result of a call into this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call on a log.
#[derive(Debug)]
pub enum Error {
    /// A file or directory failed. From an append: the writer takes no more.
    Io(cairn_env::Error),
    /// No space for what was to be appended; the log is as it was before, and a later append may
    /// succeed.
    NoSpace(cairn_env::Error),
    /// Bytes that were durable cannot be read.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it the damage begins.
        offset: u64,
        /// What is wrong there.
        what: Damage,
        /// The later group that says these bytes were durable; none where no group is needed to
        /// know it.
        claim: Option<Claim>,
    },
    /// A file in a format that a newer version wrote.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// The log's first segment does not exist.
    Missing {
        /// The path it should have.
        path: PathBuf,
    },
    /// An earlier write or sync failed; the log takes nothing until it is opened anew.
    Poisoned {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A body or group beyond the format's limits; nothing was written.
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The most that is possible.
        bytes_max: u64,
    },
    /// The caller broke a rule of the log; nothing was written.
    Invalid(&'static str),
}

/// A later group that says how far the log was durable when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// How far the log was durable.
    pub synced: Position,
    /// Where that group stands.
    pub by: Position,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(e) => e.fmt(f),
            Error::NoSpace(e) => write!(f, "no space left: {e}"),
            Error::Corrupt { path, offset, what, claim } => {
                write!(f, "{} is damaged at offset {offset}: {what}", path.display())?;
                match claim {
                    Some(claim) => {
                        write!(f, "; the group at {} says that the log was durable up to {}", claim.by, claim.synced)
                    }
                    None => Ok(()),
                }
            }
            Error::Newer { path, version } => {
                write!(f, "{} was written by a newer version (format {version})", path.display())
            }
            Error::Missing { path } => write!(f, "the log's first segment {} does not exist", path.display()),
            Error::Poisoned { dir } => {
                write!(f, "the log in {} takes nothing more after an earlier failure", dir.display())
            }
            Error::TooLarge { bytes, bytes_max } => write!(f, "{bytes} bytes; at most {bytes_max} are possible"),
            Error::Invalid(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) | Error::NoSpace(e) => Some(e),
            Error::Corrupt { .. }
            | Error::Newer { .. }
            | Error::Missing { .. }
            | Error::Poisoned { .. }
            | Error::TooLarge { .. }
            | Error::Invalid(_) => None,
        }
    }
}

impl From<cairn_env::Error> for Error {
    fn from(e: cairn_env::Error) -> Error {
        Error::Io(e)
    }
}

/// Why a replay stopped short.
#[derive(Debug)]
pub enum ReplayError<E> {
    /// The log could not be read.
    Log(Error),
    /// The visitor refused a group.
    Visit(E),
}

impl<E> From<Error> for ReplayError<E> {
    fn from(e: Error) -> ReplayError<E> {
        ReplayError::Log(e)
    }
}

impl<E: fmt::Display> fmt::Display for ReplayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Log(e) => e.fmt(f),
            ReplayError::Visit(e) => e.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ReplayError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReplayError::Log(e) => Some(e),
            ReplayError::Visit(e) => Some(e),
        }
    }
}
