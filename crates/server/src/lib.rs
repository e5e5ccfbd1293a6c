//! The HTTP server over the storage engine.
//!
//! Owns: listening, connections, limits, the token, the routes and their answers, shutdown.
//! Refuses: rules about data. What a write means, when it is durable and what a read may see is the
//! engine's to decide; here requests become its calls and its errors become statuses.
//!
//! Invariants
//! 1. No runtime thread waits on a sync, a stall or a file: writes are tickets that are awaited, reads
//!    ask for what is resident and send the rest to a bounded pool of blocking threads.
//! 2. Every resource a client can ask for has a stated maximum and a stated answer beyond it
//!    ([`Limits`]); a slow client holds its own connection and nothing others wait for.
//! 3. Every answer but a success is JSON of [`cairn_api::ErrorBody`], except for what the HTTP library
//!    refuses before there is a request (400, 414, 431, with an empty body).
//! 4. Under durability commit, a read sees only what is on stable storage.
//!
//! The life of a request: `connection` guards the socket's patience, `dispatch` checks token and
//! route, `keys`, `scan`, `batch` or `admin` answer, small puts by way of `gather`, `reply` holds what is sent.

mod admin;
mod auth;
mod batch;
mod blocking;
mod body;
mod config;
mod connection;
mod dispatch;
mod error;
mod gather;
mod keys;
mod metrics;
mod reply;
mod scan;
mod server;
mod tasks;

pub use config::{Limits, ServerConfig};
pub use error::{Error, Result};
pub use server::Server;
