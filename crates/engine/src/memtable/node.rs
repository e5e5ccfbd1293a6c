//! Children of a node: finding one, stepping through them in order, adding one, growing.
//!
//! Owns the search within the four node sizes. Refuses to touch edges or keys, and to change a
//! child that is there (the caller publishes into its slot).
//!
//! Nodes of 4 and 16 keep their children in the order of arrival, so that adding one never moves
//! another: child, then key byte, then count are stored, and a reader loads the count first. A
//! step in key order looks for the smallest larger byte instead; with at most sixteen bytes that
//! is as fast as keeping them sorted, and it stays right while children are being added.
//!
//! A position numbers what hangs on a node in key order: 0 is the leaf that ends at the node,
//! 1 + b the child under byte b.

use super::publish::{At, KeyWord, Slot};
use super::record::{Child, Edge, Head, Node, Node4, Node16, Node48, Node256, NodeHead};

/// One past the last position.
pub(super) const POSITION_END: u16 = 257;

/// The position of the child under a byte.
pub(super) fn position(byte: u8) -> u16 {
    u16::from(byte) + 1
}

impl<'a> Node<'a> {
    #[inline]
    pub(super) fn head(self) -> &'a NodeHead {
        match self {
            Node::Of4(n) => &n.node,
            Node::Of16(n) => &n.node,
            Node::Of48(n) => &n.node,
            Node::Of256(n) => &n.node,
        }
    }

    /// The slot of the child under `byte`.
    #[inline]
    pub(super) fn slot(self, byte: u8) -> Option<&'a Slot<Head>> {
        match self {
            Node::Of4(n) => {
                let count = usize::from(n.node.head.count.load());
                n.children.get(..count)?.get(find(n.keys.load().into(), byte))
            }
            Node::Of16(n) => {
                let count = usize::from(n.node.head.count.load());
                n.children.get(..count)?.get(find(join(&n.keys), byte))
            }
            Node::Of48(n) => {
                let number = n.index[usize::from(byte)].load();
                n.children.get(usize::from(number.checked_sub(1)?))
            }
            Node::Of256(n) => Some(&n.children[usize::from(byte)]),
        }
    }

    /// The child under `byte`.
    #[inline]
    pub(super) fn child(self, byte: u8) -> Option<At<Head>> {
        self.slot(byte)?.load()
    }

    /// What hangs at the smallest occupied position from `from` on.
    #[inline]
    pub(super) fn at_or_after(self, from: u16) -> Option<(u16, At<Head>)> {
        if from == 0
            && let Some(leaf) = self.head().here.load()
        {
            return Some((0, leaf.child()));
        }
        let from = usize::from(from.max(1)) - 1;
        let (byte, child) = match self {
            Node::Of4(n) => {
                let count = n.node.head.count.load();
                let (byte, i) = smallest(&n.keys.load().to_le_bytes(), count, from)?;
                (byte, n.children.get(i)?.load()?)
            }
            Node::Of16(n) => {
                let count = n.node.head.count.load();
                let (byte, i) = smallest(&join(&n.keys).to_le_bytes(), count, from)?;
                (byte, n.children.get(i)?.load()?)
            }
            Node::Of48(n) => n.index.iter().enumerate().skip(from).find_map(|(byte, number)| {
                let i = usize::from(number.load().checked_sub(1)?);
                Some((byte, n.children.get(i)?.load()?))
            })?,
            Node::Of256(n) => {
                n.children.iter().enumerate().skip(from).find_map(|(byte, child)| Some((byte, child.load()?)))?
            }
        };
        Some((u16::try_from(byte).ok()? + 1, child))
    }

    /// What hangs at the largest occupied position below `below`.
    pub(super) fn before(self, below: u16) -> Option<(u16, At<Head>)> {
        let below = usize::from(below.max(1)) - 1;
        let found = match self {
            Node::Of4(n) => {
                let count = n.node.head.count.load();
                largest(&n.keys.load().to_le_bytes(), count, below)
                    .and_then(|(byte, i)| Some((byte, n.children.get(i)?.load()?)))
            }
            Node::Of16(n) => {
                let count = n.node.head.count.load();
                largest(&join(&n.keys).to_le_bytes(), count, below)
                    .and_then(|(byte, i)| Some((byte, n.children.get(i)?.load()?)))
            }
            Node::Of48(n) => n.index.iter().enumerate().take(below).rev().find_map(|(byte, number)| {
                let i = usize::from(number.load().checked_sub(1)?);
                Some((byte, n.children.get(i)?.load()?))
            }),
            Node::Of256(n) => {
                n.children.iter().enumerate().take(below).rev().find_map(|(byte, child)| Some((byte, child.load()?)))
            }
        };
        match found {
            Some((byte, child)) => Some((u16::try_from(byte).ok()? + 1, child)),
            None => self.head().here.load().map(|leaf| (0, leaf.child())),
        }
    }
}

/// The number of the first byte of `keys` equal to `byte`; the number of bytes, or more, if none is.
///
/// Bytes of the difference that are zero are where it is; the lowest marked one is exact (a borrow
/// can only disturb those above it).
#[inline]
fn find(keys: u128, byte: u8) -> usize {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    let difference = keys ^ (ONES * u128::from(byte));
    let zeros = difference.wrapping_sub(ONES) & !difference & (ONES << 7);
    (zeros.trailing_zeros() / 8) as usize
}

#[inline]
fn join(keys: &[KeyWord; 4]) -> u128 {
    let [a, b, c, d] = keys;
    u128::from(a.load()) | u128::from(b.load()) << 32 | u128::from(c.load()) << 64 | u128::from(d.load()) << 96
}

/// The smallest of the first `count` bytes that is at least `from`, and its number.
#[inline]
fn smallest(keys: &[u8], count: u8, from: usize) -> Option<(usize, usize)> {
    let valid = keys.iter().take(usize::from(count)).enumerate();
    valid.map(|(i, byte)| (usize::from(*byte), i)).filter(|(byte, _)| *byte >= from).min()
}

/// The largest of the first `count` bytes that is below `below`, and its number.
fn largest(keys: &[u8], count: u8, below: usize) -> Option<(usize, usize)> {
    let valid = keys.iter().take(usize::from(count)).enumerate();
    valid.map(|(i, byte)| (usize::from(*byte), i)).filter(|(byte, _)| *byte < below).max()
}

/// Stores a key byte; visible once the count is published.
fn store_key(word: &KeyWord, i: usize, byte: u8) {
    let shift = i % 4 * 8;
    word.store(word.load() | u32::from(byte) << shift);
}

// Each `add` is the writer's: `byte` has no child yet. False means that the node is full.

impl Node4 {
    pub(super) fn add(&self, byte: u8, child: At<Head>) -> bool {
        let count = self.node.head.count.load();
        let Some(slot) = self.children.get(usize::from(count)) else { return false };
        slot.publish(child);
        store_key(&self.keys, usize::from(count), byte);
        self.node.head.count.publish(count + 1);
        true
    }

    fn each(&self, mut to: impl FnMut(u8, At<Head>)) {
        for (byte, child) in self.keys.load().to_le_bytes().iter().zip(&self.children) {
            if let Some(child) = child.load() {
                to(*byte, child);
            }
        }
    }

    /// A copy with another edge.
    pub(super) fn with_edge(&self, edge: Edge) -> Node4 {
        let copy = Node4::new(edge, self.node.here.load());
        self.each(|byte, child| _ = copy.add(byte, child));
        copy
    }

    /// A larger copy.
    pub(super) fn grown(&self) -> Node16 {
        let copy = Node16::new(self.node.same_edge(), self.node.here.load());
        self.each(|byte, child| _ = copy.add(byte, child));
        copy
    }
}

impl Node16 {
    pub(super) fn add(&self, byte: u8, child: At<Head>) -> bool {
        let count = self.node.head.count.load();
        let i = usize::from(count);
        let (Some(slot), Some(word)) = (self.children.get(i), self.keys.get(i / 4)) else { return false };
        slot.publish(child);
        store_key(word, i, byte);
        self.node.head.count.publish(count + 1);
        true
    }

    fn each(&self, mut to: impl FnMut(u8, At<Head>)) {
        for (byte, child) in join(&self.keys).to_le_bytes().iter().zip(&self.children) {
            if let Some(child) = child.load() {
                to(*byte, child);
            }
        }
    }

    /// A copy with another edge.
    pub(super) fn with_edge(&self, edge: Edge) -> Node16 {
        let copy = Node16::new(edge, self.node.here.load());
        self.each(|byte, child| _ = copy.add(byte, child));
        copy
    }

    /// A larger copy.
    pub(super) fn grown(&self) -> Node48 {
        let copy = Node48::new(self.node.same_edge(), self.node.here.load());
        self.each(|byte, child| _ = copy.add(byte, child));
        copy
    }
}

impl Node48 {
    pub(super) fn add(&self, byte: u8, child: At<Head>) -> bool {
        let count = self.node.head.count.load();
        let Some(slot) = self.children.get(usize::from(count)) else { return false };
        slot.publish(child);
        self.node.head.count.publish(count + 1);
        self.index[usize::from(byte)].publish(count + 1);
        true
    }

    fn each(&self, mut to: impl FnMut(u8, At<Head>)) {
        for (byte, number) in (0..=u8::MAX).zip(&self.index) {
            let number = number.load().checked_sub(1).map(usize::from);
            if let Some(child) = number.and_then(|i| self.children.get(i)).and_then(Slot::load) {
                to(byte, child);
            }
        }
    }

    /// A copy with another edge.
    pub(super) fn with_edge(&self, edge: Edge) -> Node48 {
        let copy = Node48::new(edge, self.node.here.load());
        self.each(|byte, child| _ = copy.add(byte, child));
        copy
    }

    /// A larger copy.
    pub(super) fn grown(&self) -> Node256 {
        let copy = Node256::new(self.node.same_edge(), self.node.here.load());
        self.each(|byte, child| copy.add(byte, child));
        copy
    }
}

impl Node256 {
    /// Has room for every byte.
    pub(super) fn add(&self, byte: u8, child: At<Head>) {
        self.children[usize::from(byte)].publish(child);
    }

    /// A copy with another edge.
    pub(super) fn with_edge(&self, edge: Edge) -> Node256 {
        let copy = Node256::new(edge, self.node.here.load());
        for (to, from) in copy.children.iter().zip(&self.children) {
            if let Some(child) = from.load() {
                to.publish(child);
            }
        }
        copy
    }
}
