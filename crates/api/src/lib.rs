//! The HTTP surface as data: targets, request and response bodies, and the table of errors.
//!
//! Owns: the URL scheme ([`target`]), the JSON of `/v1` ([`batch`], [`scan`], [`stats`]) and the
//! mapping between an error's kind and its status ([`error`]). Server and client both stand on it,
//! so neither can drift from the other.
//! Refuses: sockets, the engine, and any rule about what a request does. This is the only crate
//! that derives wire serialisation.
//!
//! Invariants
//! 1. Whatever the builders here write, the parsers here read back unchanged; any bytes work as a key.
//! 2. An unknown field or parameter is refused, never ignored: a misspelt condition must not pass.
//! 3. Parsing allocates no more than a small multiple of its input.

pub mod batch;
pub mod error;
pub mod route;
pub mod scan;
pub mod stats;
pub mod target;
pub mod tasks;
mod text;

pub use batch::{BatchRequest, BatchResponse, Condition, Op, WriteDurability};
pub use error::{ErrorBody, ErrorKind};
pub use route::{EventListing, Listing, Paging, Route};
pub use scan::{ScanLine, ScanQuery};
pub use stats::{Health, Level, Maintained, Stats};
pub use target::{Target, TargetError, V1};

/// Response header: a sequence number up to which a read saw every write, or that a write was given.
///
/// Handed back as `since` of a condition, it says "nothing newer than what I read". It is taken just
/// before reading: a write in between may be seen and yet conflict, but none goes unnoticed.
pub const SEQ_HEADER: &str = "cairn-seq";

/// Media type of JSON bodies.
pub const JSON: &str = "application/json";

/// Media type of scans with one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// Media type of values: any bytes.
pub const BYTES: &str = "application/octet-stream";
