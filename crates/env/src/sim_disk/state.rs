//! What a disk holds: for each file and directory the durable state and, in order, the changes
//! that are not durable yet.
//!
//! Invariants
//! 1. `live` is what programs see: everything applied. `durable` is what certainly survives.
//! 2. `durable` with `pending` applied in order is `live`, unless a failed sync threw changes
//!    away; a file is `diverged` then.
//! 3. Making a file durable says nothing about its name; making a directory durable says nothing
//!    about the content of its files, nor about the directory's own name.
//! 4. A node is kept while a name (live, durable or pending) or a handle leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::DirEntry;
use crate::image::{Image, is_zero};
use crate::memory::{absolute, not_found, steps};
use crate::rng::mix;

pub(super) type Ino = u64;
pub(super) const ROOT: Ino = 0;

/// What a write brings. Files are often made of zeros first: they are counted, not kept.
#[derive(Clone)]
pub(super) enum Data {
    Bytes(Arc<[u8]>),
    Zeros(usize),
}

#[derive(Clone)]
pub(super) enum FileOp {
    Write { offset: u64, data: Data },
    SetLen(u64),
}

#[derive(Clone)]
pub(super) enum DirOp {
    Link {
        name: OsString,
        ino: Ino,
    },
    Unlink {
        name: OsString,
        ino: Ino,
    },
    /// Within one directory a rename is one change, as on every journalling file system.
    Rename {
        from: OsString,
        to: OsString,
        ino: Ino,
    },
}

/// A change not yet durable; `seq` orders those of the whole disk.
#[derive(Clone)]
pub(super) struct Pending<T> {
    pub(super) seq: u64,
    pub(super) op: T,
}

pub(super) type Names = BTreeMap<OsString, Ino>;

#[derive(Clone, Default)]
pub(super) struct FileNode {
    pub(super) live: Image,
    pub(super) durable: Image,
    /// What was durable before the last sync that changed something: the bytes of a lost write.
    pub(super) before: Image,
    pub(super) pending: Vec<Pending<FileOp>>,
    /// A failed sync threw changes away that `live` still shows.
    pub(super) diverged: bool,
    pub(super) linked: bool,
    pub(super) handles: usize,
    pub(super) locked: bool,
}

#[derive(Clone, Default)]
pub(super) struct DirNode {
    pub(super) live: Names,
    pub(super) durable: Names,
    pub(super) pending: Vec<Pending<DirOp>>,
}

#[derive(Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A copy shares its nodes with the original until one of them changes.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Ino, Arc<Node>>,
    pub(super) next_ino: Ino,
    pub(super) next_seq: u64,
}

impl Data {
    fn of(bytes: &[u8]) -> Data {
        if is_zero(bytes) { Data::Zeros(bytes.len()) } else { Data::Bytes(Arc::from(bytes)) }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Data::Bytes(bytes) => bytes.len(),
            Data::Zeros(len) => *len,
        }
    }

    /// A copy of all of it.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        match self {
            Data::Bytes(bytes) => bytes.to_vec(),
            Data::Zeros(len) => vec![0; *len],
        }
    }
}

impl FileOp {
    fn try_apply(&self, image: &mut Image) -> io::Result<()> {
        match self {
            FileOp::Write { offset, data: Data::Bytes(bytes) } => image.write(bytes, *offset),
            FileOp::Write { offset, data: Data::Zeros(len) } => image.write_zeros(*len, *offset),
            FileOp::SetLen(len) => image.set_len(*len),
        }
    }

    pub(super) fn apply(&self, image: &mut Image) {
        let done = self.try_apply(image);
        debug_assert!(done.is_ok(), "the live image took the same change");
    }
}

impl DirOp {
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            DirOp::Link { name, ino } => {
                names.insert(name.clone(), *ino);
            }
            DirOp::Unlink { name, ino } => unlink(names, name, *ino),
            DirOp::Rename { from, to, ino } => {
                unlink(names, from, *ino);
                names.insert(to.clone(), *ino);
            }
        }
    }

    fn ino(&self) -> Ino {
        match self {
            DirOp::Link { ino, .. } | DirOp::Unlink { ino, .. } | DirOp::Rename { ino, .. } => *ino,
        }
    }
}

/// A name may lead elsewhere by now, when the change that brought `ino` there was lost.
fn unlink(names: &mut Names, name: &OsStr, ino: Ino) {
    if names.get(name) == Some(&ino) {
        names.remove(name);
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl FileNode {
    /// Remembers a change, after showing it.
    fn change(&mut self, seq: u64, op: FileOp) -> io::Result<()> {
        op.try_apply(&mut self.live)?;
        self.pending.push(Pending { seq, op });
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.before = self.durable.clone();
        if self.diverged {
            self.pending.drain(..).for_each(|pending| pending.op.apply(&mut self.durable));
        } else {
            self.pending.clear();
            self.durable = self.live.clone();
        }
    }

    /// A failed sync: what was pending is forgotten.
    pub(super) fn drop_pending(&mut self, evict: bool) {
        self.diverged |= !self.pending.is_empty();
        self.pending.clear();
        if evict {
            self.evict();
        }
    }

    /// Reads go to the disk from now on.
    pub(super) fn evict(&mut self) {
        if self.diverged {
            self.live = self.durable.clone();
            self.pending.iter().for_each(|pending| pending.op.apply(&mut self.live));
            self.diverged = false;
        }
    }

    /// Whether a power cut leaves it as it is.
    pub(super) fn is_at_rest(&self) -> bool {
        self.pending.is_empty() && !self.diverged && self.handles == 0 && !self.locked
    }

    /// What a disk that lost its last write would still deliver.
    pub(super) fn stale(&self) -> &Image {
        if self.pending.is_empty() { &self.before } else { &self.durable }
    }
}

impl DirNode {
    /// Whether a power cut leaves it as it is.
    pub(super) fn is_at_rest(&self) -> bool {
        // After a failed sync nothing may be pending and the disk not hold what is shown.
        self.pending.is_empty() && self.live == self.durable
    }

    fn change(&mut self, seq: u64, op: DirOp) {
        op.apply(&mut self.live);
        self.pending.push(Pending { seq, op });
    }

    pub(super) fn sync(&mut self) {
        self.pending.drain(..).for_each(|pending| pending.op.apply(&mut self.durable));
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            nodes: BTreeMap::from([(ROOT, Arc::new(Node::Dir(DirNode::default())))]),
            next_ino: ROOT + 1,
            next_seq: 0,
        }
    }
}

impl Tree {
    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn add(&mut self, node: Node) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.nodes.insert(ino, Arc::new(node));
        ino
    }

    /// A node about to change.
    fn node(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino).map(Arc::make_mut)
    }

    pub(super) fn dir(&mut self, ino: Ino) -> io::Result<&mut DirNode> {
        match self.node(ino) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(error(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    pub(super) fn file(&mut self, ino: Ino) -> io::Result<&mut FileNode> {
        match self.node(ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(error(io::ErrorKind::IsADirectory)),
            None => Err(not_found()),
        }
    }

    fn names(&self, ino: Ino) -> io::Result<&Names> {
        match self.nodes.get(&ino).map(Arc::as_ref) {
            Some(Node::Dir(dir)) => Ok(&dir.live),
            Some(Node::File(_)) => Err(error(io::ErrorKind::NotADirectory)),
            None => Err(not_found()),
        }
    }

    /// A file as it is.
    pub(super) fn file_at(&self, ino: Ino) -> io::Result<&FileNode> {
        match self.nodes.get(&ino).map(Arc::as_ref) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(error(io::ErrorKind::IsADirectory)),
            None => Err(not_found()),
        }
    }

    fn walk(&self, steps: &[&OsStr]) -> io::Result<Ino> {
        let mut at = ROOT;
        for step in steps {
            at = *self.names(at)?.get(*step).ok_or_else(not_found)?;
        }
        Ok(at)
    }

    pub(super) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let steps = steps(path)?;
        self.walk(&steps)?;
        Ok(absolute(&steps))
    }

    /// The directory `path` names.
    pub(super) fn dir_at(&self, path: &Path) -> io::Result<Ino> {
        let ino = self.walk(&steps(path)?)?;
        self.names(ino)?;
        Ok(ino)
    }

    /// The directory that `path` is in, its last name, and what that leads to.
    fn place(&self, path: &Path) -> io::Result<(Ino, OsString, Option<Ino>)> {
        let steps = steps(path)?;
        let (name, above) = steps.split_last().ok_or_else(|| error(io::ErrorKind::IsADirectory))?;
        let dir = self.walk(above)?;
        let found = self.names(dir)?.get(*name).copied();
        Ok((dir, (*name).to_owned(), found))
    }

    fn link(&mut self, dir: Ino, name: OsString, node: Node) -> io::Result<Ino> {
        let ino = self.add(node);
        let seq = self.seq();
        self.dir(dir)?.change(seq, DirOp::Link { name, ino });
        Ok(ino)
    }

    fn new_file() -> Node {
        Node::File(FileNode { linked: true, ..FileNode::default() })
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        match self.place(path)? {
            (_, _, Some(_)) => Err(error(io::ErrorKind::AlreadyExists)),
            (dir, name, None) => self.link(dir, name, Tree::new_file()),
        }
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<Ino> {
        let (_, _, found) = self.place(path)?;
        let ino = found.ok_or_else(not_found)?;
        self.file_at(ino)?;
        Ok(ino)
    }

    pub(super) fn lock(&mut self, path: &Path) -> io::Result<Ino> {
        let ino = match self.place(path)? {
            (_, _, Some(ino)) => ino,
            (dir, name, None) => self.link(dir, name, Tree::new_file())?,
        };
        let file = self.file(ino)?;
        if file.locked {
            return Err(error(io::ErrorKind::WouldBlock));
        }
        file.locked = true;
        Ok(ino)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name, found) = self.place(path)?;
        let ino = found.ok_or_else(not_found)?;
        self.file(ino)?.linked = false;
        let seq = self.seq();
        self.dir(dir)?.change(seq, DirOp::Unlink { name, ino });
        self.forget_unreachable();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name, found) = self.place(from)?;
        let ino = found.ok_or_else(not_found)?;
        if steps(from)? == steps(to)? {
            return Ok(());
        }
        let is_dir = self.names(ino).is_ok();
        if is_dir && steps(to)?.starts_with(&steps(from)?) {
            return Err(error(io::ErrorKind::InvalidInput));
        }
        let (to_dir, to_name, replaced) = self.place(to)?;
        match replaced.and_then(|replaced| self.node(replaced)) {
            Some(Node::Dir(_)) if !is_dir => return Err(error(io::ErrorKind::IsADirectory)),
            Some(Node::File(_)) if is_dir => return Err(error(io::ErrorKind::NotADirectory)),
            Some(Node::Dir(dir)) if !dir.live.is_empty() => {
                return Err(error(io::ErrorKind::DirectoryNotEmpty));
            }
            Some(Node::File(file)) => file.linked = false,
            Some(Node::Dir(_)) | None => {}
        }
        let seq = self.seq();
        if from_dir == to_dir {
            self.dir(to_dir)?.change(seq, DirOp::Rename { from: from_name, to: to_name, ino });
        } else {
            // Two directories, two changes: a crash may keep either without the other.
            self.dir(to_dir)?.change(seq, DirOp::Link { name: to_name, ino });
            let seq = self.seq();
            self.dir(from_dir)?.change(seq, DirOp::Unlink { name: from_name, ino });
        }
        self.forget_unreachable();
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for step in steps(path)? {
            at = match self.names(at)?.get(step).copied() {
                Some(found) => found,
                None => self.link(at, step.to_owned(), Node::Dir(DirNode::default()))?,
            };
        }
        self.names(at)?;
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let ino = self.dir_at(path)?;
        let entry = |(name, ino): (&OsString, &Ino)| {
            let (len, is_dir) = match self.file_at(*ino) {
                Ok(file) => (file.live.len(), false),
                Err(_) => (0, true),
            };
            DirEntry { name: name.to_string_lossy().into_owned(), len, is_dir }
        };
        Ok(self.names(ino)?.iter().map(entry).collect())
    }

    /// Equal for disks that show the same names and contents.
    pub(super) fn digest(&self, ino: Ino) -> u64 {
        let fold = |digest: u64, value: u64| mix(digest ^ value).wrapping_add(1);
        match self.nodes.get(&ino).map(Arc::as_ref) {
            Some(Node::File(file)) => file.live.digest(),
            Some(Node::Dir(dir)) => dir.live.iter().fold(1, |digest, (name, child)| {
                let name = name.as_encoded_bytes();
                let digest = name.iter().fold(digest, |digest, byte| fold(digest, u64::from(*byte)));
                fold(fold(digest, name.len() as u64), self.digest(*child))
            }),
            None => 0,
        }
    }

    pub(super) fn write(&mut self, ino: Ino, data: &[u8], offset: u64) -> io::Result<()> {
        let seq = self.seq();
        self.file(ino)?.change(seq, FileOp::Write { offset, data: Data::of(data) })
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: u64) -> io::Result<()> {
        let seq = self.seq();
        self.file(ino)?.change(seq, FileOp::SetLen(len))
    }

    pub(super) fn close(&mut self, ino: Ino) {
        if let Ok(file) = self.file(ino) {
            file.handles = file.handles.saturating_sub(1);
            if !file.linked {
                self.forget_unreachable();
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn settle(&mut self) {
        for node in self.nodes.values_mut() {
            match Arc::make_mut(node) {
                Node::File(file) => file.sync(),
                Node::Dir(dir) => dir.sync(),
            }
        }
        self.forget_unreachable();
    }

    /// As the next process finds it: the handles and locks of this one are gone.
    pub(super) fn after_kill(&self) -> Tree {
        let mut tree = self.clone();
        for node in tree.nodes.values_mut() {
            if matches!(node.as_ref(), Node::File(file) if file.handles > 0 || file.locked)
                && let Node::File(file) = Arc::make_mut(node)
            {
                (file.handles, file.locked) = (0, false);
            }
        }
        tree.forget_unreachable();
        tree
    }

    /// Bytes in files that have a name or an open handle.
    pub(super) fn used_bytes(&self) -> u64 {
        let used = |node: &Node| match node {
            Node::File(file) if file.linked || file.handles > 0 => file.live.len(),
            Node::File(_) | Node::Dir(_) => 0,
        };
        self.nodes.values().map(|node| used(node)).sum()
    }

    /// Lets go of removed files that no crash can bring back.
    pub(super) fn forget_unreachable(&mut self) {
        let gone = |node: &Node| matches!(node, Node::File(file) if !file.linked && file.handles == 0);
        if !self.nodes.values().any(|node| gone(node)) {
            return;
        }
        let mut named = BTreeSet::new();
        for node in self.nodes.values() {
            if let Node::Dir(dir) = node.as_ref() {
                named.extend(dir.durable.values().copied());
                named.extend(dir.pending.iter().map(|pending| pending.op.ino()));
            }
        }
        self.nodes.retain(|ino, node| !gone(node) || named.contains(ino));
    }
}
