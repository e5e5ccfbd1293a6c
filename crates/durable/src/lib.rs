//! Durable execution: tasks of steps that survive crashes, deploys and long sleeps.
//!
//! A task is an ordinary function cut into steps. A finished step is recorded; after a crash the function
//! runs again, and what was recorded is returned instead of done again. Workers pull; this crate decides.
//!
//! Owns the records ([`task`], [`step`], [`wait`]), the decisions ([`machine`]) and their place in a store.
//! Refuses networks and JSON; of the world it knows the clock, randomness and one thread, through `env`, its decisions
//! not even those.

mod aside;
pub mod call;
mod delete;
mod desk;
mod error;
pub mod id;
pub mod key;
mod list;
pub mod machine;
mod owner;
pub mod queue;
mod retention;
pub mod retry;
pub mod rows;
mod shelf;
pub mod step;
pub mod task;
mod tasks;
mod trust;
pub mod wait;
mod window;
pub mod worker;

pub use error::{Error, ErrorKind, Result};
pub use list::{Filter, Page};
pub use tasks::{Answer, Ended, Tasks, View, Watch};
