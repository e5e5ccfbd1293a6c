//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod delete;
pub(crate) mod event;
pub(crate) mod generate;
pub(crate) mod get;
pub(crate) mod inspect;
pub(crate) mod put;
pub(crate) mod queue;
pub(crate) mod repair;
pub(crate) mod scan;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod task;
pub(crate) mod validate;
pub(crate) mod worker;
