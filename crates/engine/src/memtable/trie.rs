//! The trie itself: descent, and the one change an insertion makes.
//!
//! Owns the shape: edges are compressed, a key that is alone below a byte is a leaf at once, and a
//! key that is a prefix of others ends in its node's own slot. Refuses counters, options, order of
//! sequence numbers: the memtable's.
//!
//! Every insertion prepares what it needs out of sight and then publishes exactly once:
//!
//! ```text
//! the key is there             a version into the leaf's head
//! the trie is empty            a leaf into the root
//! a leaf is in the way         a node of 4 with both, in its place
//! the key leaves within an edge   a node of 4 with the first part of the edge, a copy of the node with
//!                              the rest below it, and the new leaf: under its next byte, or as the
//!                              node's own if the key ends at the split
//! the key ends at a node       a leaf into the node's own slot
//! the byte has no child        a leaf among the children; a larger copy of the node, in its place,
//!                              where there is no room
//! ```
//!
//! so a failed reservation leaves the trie as it was, and a reader sees each insertion whole or not
//! at all. A replaced node stays as it was for the readers that are there: what it lacks was
//! published after they came (see `path`).
//!
//! Descent for a lookup skips edges unread and compares the whole key once, at the leaf.

use cairn_codec::common_prefix;

use super::arena::{Arena, ArenaFull, Bump};
use super::publish::{At, Slot};
use super::record::{Child, Edge, Entry, Head, Leaf, Node, Node4, VersionRecord};

/// The readers' side: the arena and where the trie begins.
pub(super) struct Trie {
    pub(super) arena: Arena,
    pub(super) root: Slot<Head>,
}

/// What an insertion did.
pub(super) struct Inserted {
    /// The key had no version before.
    pub(super) new_key: bool,
    /// Bytes of the node that was replaced.
    pub(super) garbage_bytes: usize,
}

impl Trie {
    /// The leaf of a key.
    pub(super) fn find(&self, key: &[u8]) -> Option<At<Leaf>> {
        let mut at = self.root.load()?;
        let mut depth = 0;
        loop {
            let node = match self.arena.entry(at) {
                Entry::Leaf(leaf) => return (self.arena.tail(leaf) == key).then_some(leaf),
                Entry::Node(node) => node,
            };
            depth += node.head().edge_len();
            if depth == key.len() {
                let leaf = node.head().here.load()?;
                return (self.arena.tail(leaf) == key).then_some(leaf);
            }
            at = node.child(*key.get(depth)?)?;
            depth += 1;
        }
    }

    /// Adds a version in front of the others of its key. Key and value have been checked for length.
    pub(super) fn insert(&self, bump: &mut Bump, key: &[u8], version: NewVersion<'_>) -> Result<Inserted, ArenaFull> {
        let mut insertion = Insertion { arena: &self.arena, bump, key, version };
        let mut slot = &self.root;
        let mut depth = 0;
        loop {
            let Some(at) = slot.load() else { return insertion.leaf_into(slot) };
            let node = match self.arena.entry(at) {
                Entry::Leaf(leaf) => return insertion.at_leaf(slot, leaf, depth),
                Entry::Node(node) => node,
            };
            let edge = node.head().edge(&self.arena, depth);
            let common = common_prefix(edge, key.get(depth..).unwrap_or(&[]));
            if common < edge.len() {
                return insertion.split(slot, node, depth, common);
            }
            depth += edge.len();
            let Some(byte) = key.get(depth) else { return insertion.here(node) };
            let Some(below) = node.slot(*byte) else { return insertion.child(slot, node, *byte) };
            slot = below;
            depth += 1;
        }
    }
}

/// What an insertion puts in front of a key's versions.
#[derive(Clone, Copy)]
pub(super) struct NewVersion<'a> {
    pub(super) seq: u64,
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
    pub(super) value_len: u32,
    pub(super) key_len: u16,
}

struct Insertion<'a> {
    arena: &'a Arena,
    bump: &'a mut Bump,
    key: &'a [u8],
    version: NewVersion<'a>,
}

impl Insertion<'_> {
    fn version(&mut self, older: Option<At<VersionRecord>>) -> Result<At<VersionRecord>, ArenaFull> {
        let NewVersion { seq, kind, value, value_len, .. } = self.version;
        self.arena.push(self.bump, VersionRecord::new(seq, kind, value_len, older), value)
    }

    /// Leaf first: the version then stands right behind the key, most often in the same cache line.
    fn leaf(&mut self) -> Result<At<Leaf>, ArenaFull> {
        let leaf = self.arena.push(self.bump, Leaf::new(self.version.key_len), self.key)?;
        let version = self.version(None)?;
        self.arena.get(leaf).newest.publish(version);
        Ok(leaf)
    }

    /// One more version of a key that is there.
    fn prepend(&mut self, leaf: At<Leaf>) -> Result<Inserted, ArenaFull> {
        let newest = &self.arena.get(leaf).newest;
        let version = self.version(newest.load())?;
        newest.publish(version);
        Ok(Inserted { new_key: false, garbage_bytes: 0 })
    }

    /// The slot is empty: the root's of an empty trie, or a child's in a node of 256.
    fn leaf_into(&mut self, slot: &Slot<Head>) -> Result<Inserted, ArenaFull> {
        slot.publish(self.leaf()?.child());
        Ok(Inserted { new_key: true, garbage_bytes: 0 })
    }

    /// The descent ends at a leaf, whose key has `depth` bytes in common with ours at least.
    fn at_leaf(&mut self, slot: &Slot<Head>, other: At<Leaf>, depth: usize) -> Result<Inserted, ArenaFull> {
        let (arena, key) = (self.arena, self.key);
        let other_key = arena.tail(other);
        let rest = key.get(depth..).unwrap_or(&[]);
        let common = common_prefix(rest, other_key.get(depth..).unwrap_or(&[]));
        let fork = depth + common;
        let edge = Edge::new(other, rest.get(..common).unwrap_or(rest));
        let node = match (key.get(fork), other_key.get(fork)) {
            (None, None) => return self.prepend(other),
            (None, Some(theirs)) => {
                let node = Node4::new(edge, Some(self.leaf()?));
                node.add(*theirs, other.child());
                node
            }
            (Some(ours), None) => {
                let node = Node4::new(edge, Some(other));
                node.add(*ours, self.leaf()?.child());
                node
            }
            (Some(ours), Some(theirs)) => {
                let node = Node4::new(edge, None);
                node.add(*theirs, other.child());
                node.add(*ours, self.leaf()?.child());
                node
            }
        };
        slot.publish(arena.push(self.bump, node, &[])?.child());
        Ok(Inserted { new_key: true, garbage_bytes: 0 })
    }

    /// The key leaves the edge of `node` after `common` bytes.
    fn split(&mut self, slot: &Slot<Head>, node: Node<'_>, depth: usize, common: usize) -> Result<Inserted, ArenaFull> {
        let (arena, head) = (self.arena, node.head());
        let edge = head.edge(arena, depth);
        let leaf = self.leaf()?;
        let below = head.shorter_edge(arena, depth, common + 1);
        let (below, garbage_bytes) = match node {
            Node::Of4(n) => (arena.push(self.bump, n.with_edge(below), &[])?.child(), size_of_val(n)),
            Node::Of16(n) => (arena.push(self.bump, n.with_edge(below), &[])?.child(), size_of_val(n)),
            Node::Of48(n) => (arena.push(self.bump, n.with_edge(below), &[])?.child(), size_of_val(n)),
            Node::Of256(n) => (arena.push(self.bump, n.with_edge(below), &[])?.child(), size_of_val(n)),
        };
        let above = Edge::new(leaf, edge.get(..common).unwrap_or(edge));
        let fork = match self.key.get(depth + common) {
            None => Node4::new(above, Some(leaf)),
            Some(ours) => {
                let fork = Node4::new(above, None);
                fork.add(*ours, leaf.child());
                fork
            }
        };
        if let Some(theirs) = edge.get(common) {
            fork.add(*theirs, below);
        }
        slot.publish(arena.push(self.bump, fork, &[])?.child());
        Ok(Inserted { new_key: true, garbage_bytes })
    }

    /// The key ends at a node.
    fn here(&mut self, node: Node<'_>) -> Result<Inserted, ArenaFull> {
        let here = &node.head().here;
        match here.load() {
            Some(leaf) => self.prepend(leaf),
            None => {
                here.publish(self.leaf()?);
                Ok(Inserted { new_key: true, garbage_bytes: 0 })
            }
        }
    }

    /// The node has no child under the key's next byte.
    fn child(&mut self, slot: &Slot<Head>, node: Node<'_>, byte: u8) -> Result<Inserted, ArenaFull> {
        let arena = self.arena;
        let leaf = self.leaf()?.child();
        let garbage_bytes = match node {
            Node::Of4(n) if !n.add(byte, leaf) => {
                let grown = n.grown();
                grown.add(byte, leaf);
                slot.publish(arena.push(self.bump, grown, &[])?.child());
                size_of_val(n)
            }
            Node::Of16(n) if !n.add(byte, leaf) => {
                let grown = n.grown();
                grown.add(byte, leaf);
                slot.publish(arena.push(self.bump, grown, &[])?.child());
                size_of_val(n)
            }
            Node::Of48(n) if !n.add(byte, leaf) => {
                let grown = n.grown();
                grown.add(byte, leaf);
                slot.publish(arena.push(self.bump, grown, &[])?.child());
                size_of_val(n)
            }
            Node::Of4(_) | Node::Of16(_) | Node::Of48(_) => 0,
            Node::Of256(n) => {
                n.add(byte, leaf);
                0
            }
        };
        Ok(Inserted { new_key: true, garbage_bytes })
    }
}
