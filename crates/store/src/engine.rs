//! The contract, kept by the engine: a space is a keyspace, a version a sequence number.

use std::future::Future;
use std::ops::{Bound, ControlFlow};
use std::pin::Pin;
use std::task::{Context, Poll};

use cairn::{Db, Durability, Keyspace, SeqNo, Ticket, Visibility};

use crate::{Batch, Result, Store, Version};

impl Store for Db {
    type Space = Keyspace;
    type Batch = cairn::Batch;
    type Durable = Durable;

    fn space(&self, name: &str) -> Result<Keyspace> {
        self.keyspace(name)
    }

    fn spaces(&self) -> Vec<String> {
        self.keyspaces()
    }

    fn drop_space(&self, name: &str) -> Result<bool> {
        self.drop_keyspace(name)
    }

    fn get<R>(&self, space: &Keyspace, key: &[u8], look: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        space.latest(Visibility::Applied).get_with(key, look)
    }

    fn scan(
        &self,
        space: &Keyspace,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut cursor = space.latest(Visibility::Applied).cursor_range::<&[u8]>(range(start, end))?;
        cursor.seek_to_first()?;
        while let Some((key, value)) = cursor.entry() {
            if visit(key, value).is_break() {
                break;
            }
            cursor.next()?;
        }
        Ok(())
    }

    fn scan_back(
        &self,
        space: &Keyspace,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut cursor = space.latest(Visibility::Applied).cursor_range::<&[u8]>(range(start, end))?;
        cursor.seek_to_last()?;
        while let Some((key, value)) = cursor.entry() {
            if visit(key, value).is_break() {
                break;
            }
            cursor.prev()?;
        }
        Ok(())
    }

    fn batch(&self) -> cairn::Batch {
        Db::batch(self)
    }

    fn write(&self, batch: cairn::Batch) -> Result<Version> {
        Ok(Version(Db::write(self, batch, Durability::Buffered)?.seq.0))
    }

    fn durable(&self, version: Version) -> Result<Durable> {
        Db::durable(self, SeqNo(version.0)).map(Durable)
    }

    fn help(durable: &Durable) {
        durable.0.help();
    }

    fn version(&self) -> Version {
        Version(self.default_keyspace().latest(Visibility::Applied).seq().0)
    }
}

fn range<'a>(start: &'a [u8], end: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// A ticket of the engine.
#[derive(Debug)]
pub struct Durable(Ticket);

impl Future for Durable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.map(drop))
    }
}

impl Batch<Keyspace> for cairn::Batch {
    fn put(&mut self, space: &Keyspace, key: &[u8], value: &[u8]) {
        cairn::Batch::put(self, space, key, value);
    }

    fn delete(&mut self, space: &Keyspace, key: &[u8]) {
        cairn::Batch::delete(self, space, key);
    }

    fn require_absent(&mut self, space: &Keyspace, key: &[u8]) {
        cairn::Batch::require_absent(self, space, key);
    }

    fn require_unchanged(&mut self, space: &Keyspace, key: &[u8], since: Version) {
        cairn::Batch::require_unchanged(self, space, key, SeqNo(since.0));
    }
}
