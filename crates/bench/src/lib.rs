//! Cairn's own workloads, measured: embedded, and over HTTP.
//!
//! Owns: what each workload asks ([`Workload`]), the data it asks it of ([`Data`]), and the counting
//! of operations and latencies ([`Measurement`], and [`Histogram`] for whoever counts by itself).
//! Every answer is checked: a fast wrong answer is an error, not a result. Refuses: to open
//! databases, start servers or print; its caller does.
//!
//! Invariants
//! 1. Data and requests follow from the seed; only their interleaving does not.
//! 2. A latency is that of one operation, from call to answer, in nanoseconds.
//! 3. A workload runs for the time asked, and at least one operation per caller.

mod data;
mod embedded;
mod histogram;
mod http;
mod machine;
mod measure;
pub mod random;
mod wire;

use std::fmt;
use std::time::Duration;

pub use data::{Data, Workload};
pub use embedded::{load_embedded, run_embedded};
pub use histogram::Histogram;
pub use http::{Peer, load_http, run_http};
pub use machine::machine;
pub use measure::Measurement;

/// What every workload of a run has in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys that exist before a workload starts.
    pub keys: u64,
    /// The length of every value, in bytes.
    pub value_bytes: usize,
    /// How long each workload runs.
    pub duration: Duration,
    /// Decides which keys are asked for and what the values hold.
    pub seed: u64,
}

/// Why a run stopped.
#[derive(Debug)]
pub enum Error {
    /// The database refused.
    Engine(cairn::Error),
    /// The server refused or was not there.
    Client(cairn_client::Error),
    /// A connection of the load could not be made, broke, or went silent.
    Connection(String),
    /// A thread could not be started.
    Env(cairn_env::Error),
    /// The server refused a request of the load.
    Refused(String),
    /// An answer that is not what was written.
    WrongAnswer(String),
    /// A caller panicked.
    Panicked,
}

/// The result of a run.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Engine(error) => error.fmt(f),
            Error::Client(error) => error.fmt(f),
            Error::Connection(what) => f.write_str(what),
            Error::Env(error) => error.fmt(f),
            Error::Refused(what) => f.write_str(what),
            Error::WrongAnswer(what) => write!(f, "wrong answer: {what}"),
            Error::Panicked => f.write_str("a caller of the workload panicked"),
        }
    }
}

impl std::error::Error for Error {}

impl From<cairn::Error> for Error {
    fn from(error: cairn::Error) -> Error {
        Error::Engine(error)
    }
}

impl From<cairn_client::Error> for Error {
    fn from(error: cairn_client::Error) -> Error {
        Error::Client(error)
    }
}

impl From<cairn_env::Error> for Error {
    fn from(error: cairn_env::Error) -> Error {
        Error::Env(error)
    }
}
