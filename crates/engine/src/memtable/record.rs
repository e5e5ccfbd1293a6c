//! The records of the trie as they stand in the arena.
//!
//! ```text
//! every node and leaf   tag u8 | count u8 | len u16                            (the head)
//! leaf      head: len of key | newest version u32 | key bytes
//! version   seq u64 | older version u32 | len of value u32 | kind u8 | value bytes
//! node      head: len of edge | any leaf below u32 | first 8 edge bytes | leaf that ends here u32
//!   of 4      then 4 key bytes in a word | 4 children
//!   of 16     then 16 key bytes in four words | 16 children
//!   of 48     then for each byte its child's number plus one | 48 children
//!   of 256    then 256 children
//! ```
//!
//! An edge of more than eight bytes is not stored a second time: it is read from the key of a leaf
//! below. Splitting or growing a node under a long edge thus costs the node alone, whatever the
//! length of the keys. Native byte order: these bytes never leave the process.
//!
//! Invariants
//! 1. Node and leaf types begin with a [`Head`] whose tag names the type and never changes.
//! 2. All but slots, marks and key words is immutable from `push` on.

// A tag tells the type of what follows it; `Arena::entry` is the one place that believes it.
#![allow(unsafe_code)]

use std::array::from_fn;
use std::mem::offset_of;

use super::arena::{Arena, Record};
use super::publish::{At, KeyWord, Mark, Slot};

/// Edge bytes that stand in the node itself.
pub(super) const EDGE_INLINE: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Leaf,
    Node4,
    Node16,
    Node48,
    Node256,
}

/// What every child begins with.
#[repr(C)]
pub(super) struct Head {
    tag: Tag,
    /// Children of a node of 4, 16 or 48.
    pub(super) count: Mark,
    /// Bytes of the key (leaf) or of the edge (node).
    pub(super) len: u16,
}

/// A key and its versions, newest first.
#[repr(C)]
pub(super) struct Leaf {
    head: Head,
    pub(super) newest: Slot<VersionRecord>,
}

/// One version of a key.
#[repr(C)]
pub(super) struct VersionRecord {
    pub(super) seq: u64,
    pub(super) older: Option<At<VersionRecord>>,
    len: u32,
    pub(super) kind: u8,
}

/// What nodes of all sizes have in common.
#[repr(C)]
pub(super) struct NodeHead {
    pub(super) head: Head,
    edge_leaf: At<Leaf>,
    edge: [u8; EDGE_INLINE],
    pub(super) here: Slot<Leaf>,
}

#[repr(C)]
pub(super) struct Node4 {
    pub(super) node: NodeHead,
    pub(super) keys: KeyWord,
    pub(super) children: [Slot<Head>; 4],
}

#[repr(C)]
pub(super) struct Node16 {
    pub(super) node: NodeHead,
    pub(super) keys: [KeyWord; 4],
    pub(super) children: [Slot<Head>; 16],
}

#[repr(C)]
pub(super) struct Node48 {
    pub(super) node: NodeHead,
    pub(super) index: [Mark; 256],
    pub(super) children: [Slot<Head>; 48],
}

#[repr(C)]
pub(super) struct Node256 {
    pub(super) node: NodeHead,
    pub(super) children: [Slot<Head>; 256],
}

/// The edge of a node that is being made: `len` bytes of `leaf`'s key, of which `bytes` are the first.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    leaf: At<Leaf>,
    len: u16,
    bytes: [u8; EDGE_INLINE],
}

// SAFETY (all of these): `repr(C)`, integers and 32- or 64-bit atomics only, so aligned to eight at
// most and shareable; immutable but for the atomics; no tail unless said.
unsafe impl Record for Head {}
unsafe impl Record for Node4 {}
unsafe impl Record for Node16 {}
unsafe impl Record for Node48 {}
unsafe impl Record for Node256 {}

// SAFETY: as above; the tail is the key, its length is the immutable `head.len`.
unsafe impl Record for Leaf {
    fn tail_len(&self) -> usize {
        usize::from(self.head.len)
    }
}

// SAFETY: as above; the tail is the value, its length is the immutable `len`; it begins right behind
// the last field, in what would be padding.
unsafe impl Record for VersionRecord {
    const TAIL_AT: usize = offset_of!(VersionRecord, kind) + 1;

    fn tail_len(&self) -> usize {
        self.len as usize
    }
}

/// What a child turns out to be.
pub(super) enum Entry<'a> {
    Leaf(At<Leaf>),
    Node(Node<'a>),
}

/// A node of any size.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    Of4(&'a Node4),
    Of16(&'a Node16),
    Of48(&'a Node48),
    Of256(&'a Node256),
}

impl Arena {
    /// Looks at a child's tag.
    #[inline]
    pub(super) fn entry(&self, at: At<Head>) -> Entry<'_> {
        // SAFETY: an `At<Head>` is made by `Child::child` alone, from the `At` of a type whose head has
        // the tag by which it is turned back here (invariant 1).
        unsafe {
            match self.get(at).tag {
                Tag::Leaf => Entry::Leaf(At::new(at.unit())),
                Tag::Node4 => Entry::Node(Node::Of4(self.get(At::new(at.unit())))),
                Tag::Node16 => Entry::Node(Node::Of16(self.get(At::new(at.unit())))),
                Tag::Node48 => Entry::Node(Node::Of48(self.get(At::new(at.unit())))),
                Tag::Node256 => Entry::Node(Node::Of256(self.get(At::new(at.unit())))),
            }
        }
    }
}

/// Forgetting the type of a node or leaf: it can be had back from the tag.
pub(super) trait Child: Copy {
    fn child(self) -> At<Head>;
}

macro_rules! child {
    ($($record:ty),*) => {$(
        impl Child for At<$record> {
            #[inline]
            fn child(self) -> At<Head> {
                // SAFETY: the record is `repr(C)` and begins with a `Head`, directly or in its `NodeHead`.
                unsafe { At::new(self.unit()) }
            }
        }
    )*};
}
child!(Leaf, Node4, Node16, Node48, Node256);

impl Leaf {
    /// A leaf for a key of so many bytes, without a version yet.
    pub(super) fn new(key_len: u16) -> Leaf {
        Leaf { head: Head { tag: Tag::Leaf, count: Mark::new(0), len: key_len }, newest: Slot::empty() }
    }
}

impl VersionRecord {
    pub(super) fn new(seq: u64, kind: u8, value_len: u32, older: Option<At<VersionRecord>>) -> VersionRecord {
        VersionRecord { seq, older, len: value_len, kind }
    }
}

impl Edge {
    /// The edge `bytes`, which stands in the key of `leaf` at the depth of the node it will lead to.
    pub(super) fn new(leaf: At<Leaf>, bytes: &[u8]) -> Edge {
        let mut inline = [0; EDGE_INLINE];
        for (to, from) in inline.iter_mut().zip(bytes) {
            *to = *from;
        }
        // An edge is a part of a key, and keys have at most 65,535 bytes.
        Edge { leaf, len: u16::try_from(bytes.len()).unwrap_or(u16::MAX), bytes: inline }
    }
}

impl NodeHead {
    fn new(tag: Tag, count: u8, edge: Edge, here: Option<At<Leaf>>) -> NodeHead {
        NodeHead {
            head: Head { tag, count: Mark::new(count), len: edge.len },
            edge_leaf: edge.leaf,
            edge: edge.bytes,
            here: Slot::of(here),
        }
    }

    #[inline]
    pub(super) fn edge_len(&self) -> usize {
        usize::from(self.head.len)
    }

    /// The bytes of the edge; `depth` is how many bytes of the key lead to this node.
    #[inline]
    pub(super) fn edge<'a>(&'a self, arena: &'a Arena, depth: usize) -> &'a [u8] {
        let len = self.edge_len();
        self.edge.get(..len).or_else(|| arena.tail(self.edge_leaf).get(depth..depth + len)).unwrap_or(&[])
    }

    /// The same edge again, for a copy of the node.
    pub(super) fn same_edge(&self) -> Edge {
        Edge { leaf: self.edge_leaf, len: self.head.len, bytes: self.edge }
    }

    /// The edge without its first `skip` bytes, for a copy of the node further down.
    pub(super) fn shorter_edge(&self, arena: &Arena, depth: usize, skip: usize) -> Edge {
        Edge::new(self.edge_leaf, self.edge(arena, depth).get(skip..).unwrap_or(&[]))
    }
}

impl Node4 {
    pub(super) fn new(edge: Edge, here: Option<At<Leaf>>) -> Node4 {
        let node = NodeHead::new(Tag::Node4, 0, edge, here);
        Node4 { node, keys: KeyWord::new(0), children: from_fn(|_| Slot::empty()) }
    }
}

impl Node16 {
    pub(super) fn new(edge: Edge, here: Option<At<Leaf>>) -> Node16 {
        let node = NodeHead::new(Tag::Node16, 0, edge, here);
        Node16 { node, keys: from_fn(|_| KeyWord::new(0)), children: from_fn(|_| Slot::empty()) }
    }
}

impl Node48 {
    pub(super) fn new(edge: Edge, here: Option<At<Leaf>>) -> Node48 {
        let node = NodeHead::new(Tag::Node48, 0, edge, here);
        Node48 { node, index: from_fn(|_| Mark::new(0)), children: from_fn(|_| Slot::empty()) }
    }
}

impl Node256 {
    pub(super) fn new(edge: Edge, here: Option<At<Leaf>>) -> Node256 {
        let node = NodeHead::new(Tag::Node256, 0, edge, here);
        Node256 { node, children: from_fn(|_| Slot::empty()) }
    }
}
