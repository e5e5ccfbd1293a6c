//! The errors of this crate.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use cairn_codec::DecodeError;

/// The result of a call on a table.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a table.
#[derive(Debug)]
pub enum Error {
    /// The system refused a read, a write or a sync.
    Io(cairn_env::Error),
    /// The file does not hold what its checksums, or the format, say it must.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it: the start of the block or record that is damaged.
        offset: u64,
        /// What is wrong there.
        what: Cow<'static, str>,
    },
    /// The file is sound, and written in a format that only a newer build reads.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// An entry was added that does not sort after the one before: a mistake of the caller.
    Order {
        /// The file being written.
        path: PathBuf,
        /// Sequence number of the refused entry.
        seq: u64,
        /// Sequence number of the entry before it.
        previous_seq: u64,
    },
    /// An argument outside its bounds.
    Invalid {
        /// Which, and why.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<Cow<'static, str>>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), offset, what: what.into() }
    }

    /// Damage found while decoding the block at `offset`.
    pub(crate) fn decode(path: &Path, offset: u64, error: DecodeError) -> Error {
        Error::corrupt(path, offset, format!("{} (byte {} of the block)", error.what, error.offset))
    }
}

impl From<cairn_env::Error> for Error {
    fn from(error: cairn_env::Error) -> Error {
        Error::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(f),
            Error::Corrupt { path, offset, what } => {
                write!(f, "table {} is damaged at offset {offset}: {what}", path.display())
            }
            Error::Newer { path, version } => write!(
                f,
                "table {} has format version {version}; this build reads up to version {}",
                path.display(),
                crate::FORMAT_VERSION
            ),
            Error::Order { path, seq, previous_seq } => write!(
                f,
                "entry with sequence number {seq} added out of order after one with {previous_seq} to table {}",
                path.display()
            ),
            Error::Invalid { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}
