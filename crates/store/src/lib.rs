//! The ordered key-value contract that the layers above the engine stand on.
//!
//! A store holds spaces of keys in order. Whatever a layer does is a read of some keys, a decision, and one
//! atomic batch; so this is all it may ask for, and a second implementation has little to get wrong. What each
//! call promises stands at the traits; [`conformance`] tests it, the same for every implementation.
//!
//! Owns the contract and its engine implementation (`engine.rs`). Refuses to know what keys and values mean.

pub mod conformance;
mod engine;

use std::future::Future;
use std::ops::ControlFlow;

pub use cairn::{Error, ErrorKind, Result};

/// Spaces of ordered keys, with atomic batches across them.
///
/// A handle is cheap to clone; all clones are one store.
pub trait Store: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// A space that was opened. Cheap to clone.
    type Space: Clone + std::fmt::Debug + Send + Sync + 'static;
    /// A batch on its way to be written.
    type Batch: Batch<Self::Space> + Send + 'static;
    /// Resolves when what it was made for is durable, or never will be.
    type Durable: Future<Output = Result<()>> + std::fmt::Debug + Unpin + Send + 'static;

    /// The space of this name, made if there is none.
    ///
    /// # Errors
    /// `Invalid` for a name that the store does not take; `Closed`, `Full`, `Io`.
    fn space(&self, name: &str) -> Result<Self::Space>;

    /// The names of all spaces, in any order.
    fn spaces(&self) -> Vec<String>;

    /// Drops the space of this name with all that is in it, for good, and gives its storage back; says whether
    /// there was one. Reads and writes through a handle of it are `NotFound` from then on, also of a space
    /// that is made under the same name later. Costs the same however much it holds.
    ///
    /// # Errors
    /// `Closed`, `Full`, `Io`.
    fn drop_space(&self, name: &str) -> Result<bool>;

    /// Lends the value under a key to `look`, as it is after all batches written until now, durable or
    /// not. `None` if there is none. Costs neither a copy nor an allocation.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Closed`.
    fn get<R>(&self, space: &Self::Space, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>>;

    /// Visits keys and values from `start` on, in order, up to and without `end`, until `visit` breaks. All as
    /// of one moment, not before the call.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Closed`. What was visited until then stays visited.
    fn scan(
        &self,
        space: &Self::Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// The same from behind: keys before `end`, the last first, down to and with `start`.
    ///
    /// # Errors
    /// As of [`Store::scan`].
    fn scan_back(
        &self,
        space: &Self::Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// An empty batch.
    fn batch(&self) -> Self::Batch;

    /// Writes a batch, whole or not at all. Afterwards every read sees it; a crash may still take it. The
    /// version is later than that of every batch before it.
    ///
    /// # Errors
    /// `Conflict`, naming a key, if a precondition does not hold: then nothing is written, and no other batch is
    /// concerned. `Invalid`, `Busy`, `Full`, `Closed`: nothing is written. `Unknown`: perhaps it is.
    fn write(&self, batch: Self::Batch) -> Result<Version>;

    /// Resolves when everything written up to a version is durable. Many may wait at once; one sync of the
    /// store serves them all.
    ///
    /// # Errors
    /// `Closed` at once, or `Unknown` later: the store takes no more writes, and whether this one exists shows
    /// after it is opened again.
    fn durable(&self, version: Version) -> Result<Self::Durable>;

    /// Does on this thread what a ticket waits for, if no other thread is at it; may block for one sync. A ticket
    /// resolves whether or not anybody helps.
    fn help(durable: &Self::Durable);

    /// The version of what a read would see now.
    fn version(&self) -> Version;
}

/// A moment of a store: what had been written when. Later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// Puts, deletes and preconditions. Preconditions are decided in the order in which batches are written, with
/// all earlier batches visible.
pub trait Batch<Space> {
    /// Sets a key. Of two writes of one key in a batch the later wins.
    fn put(&mut self, space: &Space, key: &[u8], value: &[u8]);

    /// Removes a key, whether it is there or not.
    fn delete(&mut self, space: &Space, key: &[u8]);

    /// The batch is written only if the key is not there.
    fn require_absent(&mut self, space: &Space, key: &[u8]);

    /// The batch is written only if the key has not been written since it was read at this version.
    fn require_unchanged(&mut self, space: &Space, key: &[u8], since: Version);
}
