//! Why a server does not start, or does not end well. What clients are told is in [`crate::reply`].

use std::fmt;
use std::io;

/// The result of starting or running a server.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed start or end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    Listen {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The address can be reached from other machines, and there is no token.
    TokenRequired {
        /// As configured.
        address: String,
    },
    /// A setting makes no sense.
    Config {
        /// Which, and why.
        message: String,
    },
    /// The database did not close cleanly. What was acknowledged is safe; the next open replays the log.
    Close {
        /// What the engine said.
        source: cairn::Error,
    },
    /// The tasks could not be read.
    Tasks {
        /// What is wrong.
        source: cairn_durable::Error,
    },
    /// A part of the server panicked: a defect.
    Panicked {
        /// Which part.
        part: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(
                        "; another process (perhaps another cairn) listens there: stop it, or choose another port",
                    ),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; ports below 1024 need a privilege: choose a higher one")
                    }
                    io::ErrorKind::AddrNotAvailable => f.write_str("; this machine has no such address"),
                    io::ErrorKind::InvalidInput => f.write_str("; write it as HOST:PORT, such as 127.0.0.1:8080"),
                    _ => Ok(()),
                }
            }
            Error::TokenRequired { address } => write!(
                f,
                "refusing to listen on {address} without a token: it can be reached from other machines; \
                 give a token, or listen on 127.0.0.1"
            ),
            Error::Config { message } => f.write_str(message),
            Error::Close { source } => write!(f, "the database did not close cleanly: {source}"),
            Error::Tasks { source } => write!(f, "the tasks cannot be read: {source}"),
            Error::Panicked { part } => write!(f, "{part} panicked: a defect of the server"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Listen { source, .. } => Some(source),
            Error::Close { source } => Some(source),
            Error::Tasks { source } => Some(source),
            Error::TokenRequired { .. } | Error::Config { .. } | Error::Panicked { .. } => None,
        }
    }
}
