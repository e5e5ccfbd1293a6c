//! The one error of the binary: a message for a person. What can be acted on by type has been, before.

use std::fmt;
use std::io;

use cairn_api::ErrorBody;
use cairn_client::{Error, ErrorKind};

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What went wrong, where, and what to do.
    Message(String),
    /// Whoever read the output closed it.
    OutputClosed,
}

impl Failure {
    /// A failure with this text.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::Message(message.into())
    }

    /// A failed write to standard output.
    pub(crate) fn output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::new(format!("cannot write the output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Message(message) => f.write_str(message),
            Failure::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

impl From<cairn_env::Error> for Failure {
    fn from(error: cairn_env::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<cairn::Error> for Failure {
    fn from(error: cairn::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

/// A refusal among other results reads like one that is the whole answer.
impl From<ErrorBody> for Failure {
    fn from(error: ErrorBody) -> Failure {
        let (message, field) = (error.message().to_owned(), error.field().map(str::to_owned));
        match error.kind() {
            Some(kind) => {
                Error::Http { status: kind.status(), kind, message, key: None, field, retry_after: None }.into()
            }
            None => Failure::new(message),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error.kind() {
            Some(ErrorKind::Unauthorized) => Failure::new(format!("{error}; name its file with --token-file")),
            _ => Failure::new(error.to_string()),
        }
    }
}

impl From<cairn_bench::Error> for Failure {
    fn from(error: cairn_bench::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<cairn_server::Error> for Failure {
    fn from(error: cairn_server::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
