//! A path: a place between the keys of the trie that can be moved to the next or the one before.
//!
//! Owns the stack of nodes from the root to a leaf, each with the position taken. Never recurses;
//! every node takes up at least one byte of the key, so the stack has at most 65,536 frames of
//! eight bytes. Knows nothing of versions.
//!
//! Why it stays right while the writer goes on. A frame names a node as it was when the path came
//! by; the writer may have replaced that node since.
//! 1. Whatever can be reached through a node can be reached through it for ever: slots are filled
//!    or get a replacement that reaches at least as much, and are never emptied.
//! 2. When a node was reached from the root it reached every key published before that seek began
//!    and belonging under it, because it was part of the trie then. By 1 it still does, replaced or not.
//! 3. Leaves are never copied: whoever finds the leaf finds all versions, those of now included.
//! 4. Positions within a node only grow (forward) or shrink (backward), and all keys below a
//!    position are smaller than all below the next: no key comes twice, none out of order.
//!
//! Hence: everything published before the seek is met; what is published later may be.

use std::cmp::Ordering;

use super::node::{POSITION_END, position};
use super::publish::At;
use super::record::{Entry, Head, Leaf};
use super::trie::Trie;

/// See the module's head.
#[derive(Default)]
pub(super) struct Path {
    frames: Vec<Frame>,
    leaf: Option<At<Leaf>>,
}

#[derive(Clone, Copy)]
struct Frame {
    node: At<Head>,
    position: u16,
}

impl Path {
    /// The leaf the path leads to.
    #[inline]
    pub(super) fn leaf(&self) -> Option<At<Leaf>> {
        self.leaf
    }

    /// To the smallest key.
    pub(super) fn first(&mut self, trie: &Trie) {
        self.frames.clear();
        self.leaf = None;
        if let Some(root) = trie.root.load() {
            self.descend_first(trie, root);
        }
    }

    /// To the largest key.
    pub(super) fn last(&mut self, trie: &Trie) {
        self.frames.clear();
        self.leaf = None;
        if let Some(root) = trie.root.load() {
            self.descend_last(trie, root);
        }
    }

    /// To the smallest key that is not less than `key`; says whether it is `key` itself.
    pub(super) fn seek(&mut self, trie: &Trie, key: &[u8]) -> bool {
        match self.descend(trie, key) {
            Stop::Empty => {}
            Stop::Leaf(leaf) if trie.arena.tail(leaf) >= key => self.leaf = Some(leaf),
            Stop::Leaf(_) | Stop::AllLess(_) | Stop::Absent => self.next(trie),
            Stop::NoneLess(at) => self.descend_first(trie, at),
        }
        self.leaf.is_some_and(|leaf| trie.arena.tail(leaf) == key)
    }

    /// To the largest key that is less than `key`.
    pub(super) fn seek_before(&mut self, trie: &Trie, key: &[u8]) {
        match self.descend(trie, key) {
            Stop::Empty => {}
            Stop::Leaf(leaf) if trie.arena.tail(leaf) < key => self.leaf = Some(leaf),
            Stop::Leaf(_) | Stop::NoneLess(_) | Stop::Absent => self.prev(trie),
            Stop::AllLess(at) => self.descend_last(trie, at),
        }
    }

    /// To the next larger key, or to none.
    pub(super) fn next(&mut self, trie: &Trie) {
        self.leaf = None;
        while let Some(frame) = self.frames.last_mut() {
            if let Entry::Node(node) = trie.arena.entry(frame.node)
                && let Some((position, child)) = node.at_or_after(frame.position + 1)
            {
                frame.position = position;
                return self.descend_first(trie, child);
            }
            self.frames.pop();
        }
    }

    /// To the next smaller key, or to none.
    pub(super) fn prev(&mut self, trie: &Trie) {
        self.leaf = None;
        while let Some(frame) = self.frames.last_mut() {
            if frame.position > 0
                && let Entry::Node(node) = trie.arena.entry(frame.node)
                && let Some((position, child)) = node.before(frame.position)
            {
                frame.position = position;
                return self.descend_last(trie, child);
            }
            self.frames.pop();
        }
    }

    /// From the root as far as `key` leads; the frames say how it came there.
    fn descend(&mut self, trie: &Trie, key: &[u8]) -> Stop {
        self.frames.clear();
        self.leaf = None;
        let Some(mut at) = trie.root.load() else { return Stop::Empty };
        let mut depth = 0;
        loop {
            let node = match trie.arena.entry(at) {
                Entry::Leaf(leaf) => return Stop::Leaf(leaf),
                Entry::Node(node) => node,
            };
            let edge = node.head().edge(&trie.arena, depth);
            let rest = key.get(depth..).unwrap_or(&[]);
            let Some((along, rest)) = rest.split_at_checked(edge.len()) else {
                return if edge < rest { Stop::AllLess(at) } else { Stop::NoneLess(at) };
            };
            match edge.cmp(along) {
                Ordering::Less => return Stop::AllLess(at),
                Ordering::Greater => return Stop::NoneLess(at),
                Ordering::Equal => {}
            }
            let Some(byte) = rest.first() else { return Stop::NoneLess(at) };
            self.frames.push(Frame { node: at, position: position(*byte) });
            depth += edge.len() + 1;
            match node.child(*byte) {
                Some(child) => at = child,
                None => return Stop::Absent,
            }
        }
    }

    fn descend_first(&mut self, trie: &Trie, mut at: At<Head>) {
        loop {
            let node = match trie.arena.entry(at) {
                Entry::Leaf(leaf) => return self.leaf = Some(leaf),
                Entry::Node(node) => node,
            };
            let Some((position, child)) = node.at_or_after(0) else { return };
            self.frames.push(Frame { node: at, position });
            at = child;
        }
    }

    fn descend_last(&mut self, trie: &Trie, mut at: At<Head>) {
        loop {
            let node = match trie.arena.entry(at) {
                Entry::Leaf(leaf) => return self.leaf = Some(leaf),
                Entry::Node(node) => node,
            };
            let Some((position, child)) = node.before(POSITION_END) else { return };
            self.frames.push(Frame { node: at, position });
            at = child;
        }
    }
}

/// Where a descent along a key ends.
enum Stop {
    /// The trie is empty.
    Empty,
    /// At a leaf; its key is still to be compared.
    Leaf(At<Leaf>),
    /// Every key from here down is less.
    AllLess(At<Head>),
    /// No key from here down is less.
    NoneLess(At<Head>),
    /// At the last frame: its node has no child under the key's byte.
    Absent,
}
