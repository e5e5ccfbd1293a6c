//! What a power cut leaves of a disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::{DirNode, FileNode, FileOp, Ino, Node, Pending, ROOT, Tree};
use crate::image::Image;
use crate::rng::{Rng, mix};

/// What a disk writes whole, if it writes it.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Where the sector begins that holds this byte.
pub(super) fn sector_of(offset: u64) -> u64 {
    offset - offset % SECTOR_BYTES
}

/// Which of the changes that were not yet durable a crash keeps.
///
/// Changes are numbered over the whole disk in the order of the calls that made them; see
/// [`SimDisk::pending`](super::SimDisk::pending).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPolicy {
    /// None.
    DropAll,
    /// All.
    KeepAll,
    /// All but this one.
    DropOne(usize),
    /// Only this one.
    KeepOne(usize),
    /// As the seed says: each file keeps all, none, a beginning, or any selection; a write kept in
    /// part is torn at sectors of 512 bytes, and the file may have grown with zeros where data
    /// was lost. Each directory keeps a beginning of its changes, independent of all others, so
    /// that names and content may disagree.
    Random(u64),
    /// As [`CrashPolicy::Random`], and a sector may be torn: new at its beginning and old from somewhere
    /// on, or neither old nor new.
    Garbage(u64),
}

/// The same choice, ready to be asked about each change.
enum Choice {
    All(bool),
    /// Whether the change of this number is kept, and all others are not.
    One {
        seq: Option<u64>,
        kept: bool,
    },
    Seeded {
        seed: u64,
        garbage: bool,
    },
}

/// How one file fares in a seeded crash.
enum Fate {
    All,
    Beginning(usize),
    Any,
}

/// The pending changes' numbers, in order.
pub(super) fn pending_in_order(tree: &Tree) -> Vec<(u64, Ino)> {
    let mut all = Vec::new();
    for (ino, node) in &tree.nodes {
        match node.as_ref() {
            Node::File(file) => all.extend(file.pending.iter().map(|pending| (pending.seq, *ino))),
            Node::Dir(dir) => all.extend(dir.pending.iter().map(|pending| (pending.seq, *ino))),
        }
    }
    all.sort_unstable();
    all
}

/// The disk as the next boot finds it: everything durable, nothing pending, no handles.
pub(super) fn after_power_cut(tree: &Tree, policy: CrashPolicy) -> Tree {
    let one = |index: usize| pending_in_order(tree).get(index).map(|(seq, _)| *seq);
    let choice = match policy {
        CrashPolicy::DropAll => Choice::All(false),
        CrashPolicy::KeepAll => Choice::All(true),
        CrashPolicy::DropOne(index) => Choice::One { seq: one(index), kept: false },
        CrashPolicy::KeepOne(index) => Choice::One { seq: one(index), kept: true },
        CrashPolicy::Random(seed) => Choice::Seeded { seed, garbage: false },
        CrashPolicy::Garbage(seed) => Choice::Seeded { seed, garbage: true },
    };
    let survivor = |(ino, node): (&Ino, &Arc<Node>)| {
        let after = match node.as_ref() {
            Node::File(file) if file.is_at_rest() => return (*ino, node.clone()),
            Node::File(file) => Node::File(file_after(file, *ino, &choice)),
            Node::Dir(dir) if dir.is_at_rest() => return (*ino, node.clone()),
            Node::Dir(dir) => Node::Dir(dir_after(dir, *ino, &choice)),
        };
        (*ino, Arc::new(after))
    };
    let mut after =
        Tree { nodes: tree.nodes.iter().map(survivor).collect(), next_ino: tree.next_ino, next_seq: tree.next_seq };
    drop_unnamed(&mut after);
    after
}

impl Choice {
    fn keeps(&self, seq: u64) -> bool {
        match self {
            Choice::All(kept) => *kept,
            Choice::One { seq: one, kept } => (*one == Some(seq)) == *kept,
            Choice::Seeded { .. } => false,
        }
    }
}

fn file_after(file: &FileNode, ino: Ino, choice: &Choice) -> FileNode {
    let mut image = file.durable.clone();
    match choice {
        Choice::Seeded { seed, garbage } => seeded_file(&mut image, &file.pending, &mut rng_of(*seed, ino), *garbage),
        _ => {
            let kept = file.pending.iter().filter(|pending| choice.keeps(pending.seq));
            kept.for_each(|pending| pending.op.apply(&mut image));
        }
    }
    FileNode { live: image.clone(), durable: image, before: file.before.clone(), ..FileNode::default() }
}

fn dir_after(dir: &DirNode, ino: Ino, choice: &Choice) -> DirNode {
    let mut names = dir.durable.clone();
    let beginning = match choice {
        Choice::Seeded { seed, .. } => Some(rng_of(*seed, ino).index(dir.pending.len() + 1)),
        _ => None,
    };
    for (index, pending) in dir.pending.iter().enumerate() {
        if beginning.map_or_else(|| choice.keeps(pending.seq), |kept| index < kept) {
            pending.op.apply(&mut names);
        }
    }
    DirNode { live: names.clone(), durable: names, pending: Vec::new() }
}

/// Every node draws from its own stream, so that one node's changes do not move another's luck.
fn rng_of(seed: u64, ino: Ino) -> Rng {
    Rng::new(mix(seed) ^ mix(ino.wrapping_add(1)))
}

fn seeded_file(image: &mut Image, pending: &[Pending<FileOp>], rng: &mut Rng, garbage: bool) {
    let fate = match rng.below(6) {
        0 => return,
        1 => Fate::All,
        2 | 3 => Fate::Beginning(rng.index(pending.len() + 1)),
        _ => Fate::Any,
    };
    for (index, pending) in pending.iter().enumerate() {
        match fate {
            Fate::All => pending.op.apply(image),
            Fate::Beginning(kept) if index < kept => pending.op.apply(image),
            // The first write beyond is the one the power cut interrupted.
            Fate::Beginning(kept) if index == kept => partly(image, &pending.op, rng, garbage),
            Fate::Beginning(_) => return,
            Fate::Any => match rng.below(4) {
                0 => {}
                1 | 2 => pending.op.apply(image),
                _ => partly(image, &pending.op, rng, garbage),
            },
        }
    }
}

/// Applies some sectors of a write, or only the growth it brought.
fn partly(image: &mut Image, op: &FileOp, rng: &mut Rng, garbage: bool) {
    let FileOp::Write { offset, data } = op else { return };
    let grown = rng.one_in(2);
    // All lost in a quarter of the cases: zeros where the data should be, if the length was kept.
    let lost = rng.one_in(4);
    let data = data.to_vec();
    let mut at = *offset;
    let mut rest: &[u8] = &data;
    while !rest.is_empty() && !lost {
        let in_sector = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(rest.len());
        let (part, tail) = rest.split_at(in_sector.min(rest.len()));
        if rng.one_in(2) {
            put(image, part, at);
        } else if garbage && rng.one_in(2) {
            if rng.one_in(2) {
                put(image, &part[..rng.index(part.len())], at);
            } else {
                let noise: Vec<u8> = part.iter().map(|byte| byte ^ rng.next_u64().to_le_bytes()[0]).collect();
                put(image, &noise, at);
            }
        }
        at += part.len() as u64;
        rest = tail;
    }
    let end = *offset + data.len() as u64;
    if grown && image.len() < end {
        FileOp::SetLen(end).apply(image);
    }
}

fn put(image: &mut Image, data: &[u8], offset: u64) {
    let done = image.write(data, offset);
    debug_assert!(done.is_ok(), "the live image took more at the same place");
}

/// Removes what no name leads to, and marks the rest.
fn drop_unnamed(tree: &mut Tree) {
    let mut named = BTreeSet::from([ROOT]);
    let mut ahead = vec![ROOT];
    while let Some(ino) = ahead.pop() {
        if let Some(Node::Dir(dir)) = tree.nodes.get(&ino).map(Arc::as_ref) {
            ahead.extend(dir.durable.values().copied().filter(|child| named.insert(*child)));
        }
    }
    tree.nodes.retain(|ino, _| named.contains(ino));
    for node in tree.nodes.values_mut() {
        if matches!(node.as_ref(), Node::File(file) if !file.linked)
            && let Node::File(file) = Arc::make_mut(node)
        {
            file.linked = true;
        }
    }
}
