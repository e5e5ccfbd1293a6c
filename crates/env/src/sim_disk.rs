//! A disk that can lose power, fail and lie, in memory and on command.
//!
//! Owns: for every file and directory what is durable and what is not yet (`state`), what a power
//! cut leaves of that (`crash`), the plan of faults, the count of calls and their log (`fault`).
//! Refuses: to decide anything by itself. The same calls under the same plan and seed do the same.
//!
//! Every call that reaches the disk is one step: reads, stats and opens too. A test of crashes
//! runs a workload once to learn the number of steps, and then again for each step:
//!
//! ```
//! use cairn_env::{CrashPolicy, Env, SimDisk};
//! use std::path::Path;
//!
//! let write = |disk: &SimDisk| -> cairn_env::Result<()> {
//!     let env = Env::on_disk(disk.clone());
//!     env.replace_file(Path::new("/a"), b"new")
//! };
//! let disk = SimDisk::new();
//! write(&disk).unwrap();
//! for k in 1..=disk.steps() {
//!     let disk = SimDisk::new();
//!     disk.crash_at(k);
//!     assert!(write(&disk).is_err());
//!     let found = Env::on_disk(disk.crash(CrashPolicy::Random(k))).read_file(Path::new("/a"), 10);
//!     // All of it, or none: never a part.
//!     assert!(found.is_err() || found.is_ok_and(|bytes| bytes == b"new"));
//! }
//! ```
//!
//! Assumed of the disk: a change of names inside one directory is kept or lost whole and in order;
//! directories are independent of each other and of the content of files; a sector of 512 bytes is
//! written whole (except under [`CrashPolicy::Garbage`]); bytes next to a write are not harmed by it.

mod crash;
mod fault;
mod state;
#[cfg(test)]
mod tests;

pub use crash::CrashPolicy;
pub(crate) use fault::set_stage;
pub use fault::{Coverage, Fault, FaultKind, Site, Step};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Op;
use crate::file::{DirEntry, RawFile, RawFileSystem};
use crate::memory::not_writable;
use crate::rng::{Rng, mix};
use state::{DirOp, FileNode, FileOp, Ino, Node, ROOT, Tree};

/// A simulated disk. Clones are the same disk; [`SimDisk::crash`] and [`SimDisk::kill`] copy it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    coverage: Arc<Mutex<Coverage>>,
}

struct State {
    tree: Tree,
    plan: Vec<Fault>,
    crashed: bool,
    space_bytes: Option<u64>,
    steps: u64,
    log: Option<Vec<Step>>,
    /// The number of the first step remembered, and what the disk held before it and each later one.
    history: Option<(u64, Vec<Tree>)>,
    hash: u64,
    rng: Rng,
}

/// What one call asks, for the log.
struct Call<'a> {
    op: Op,
    path: &'a Path,
    offset: u64,
    len: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({} steps)", self.steps())
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

/// The disk, its faults and its crashes.
impl SimDisk {
    /// An empty disk: the root directory alone.
    pub fn new() -> SimDisk {
        SimDisk::with_seed(0)
    }

    /// As [`SimDisk::new`]; the seed decides which bit flips and how short a short write is.
    pub fn with_seed(seed: u64) -> SimDisk {
        SimDisk::holding(Tree::default(), Rng::new(seed), Arc::default())
    }

    fn holding(tree: Tree, rng: Rng, coverage: Arc<Mutex<Coverage>>) -> SimDisk {
        let state = State {
            tree,
            plan: Vec::new(),
            crashed: false,
            space_bytes: None,
            steps: 0,
            log: None,
            history: None,
            hash: 0,
            rng,
        };
        SimDisk { state: Arc::new(Mutex::new(state)), coverage }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault. When several are due at one call the one planned first happens.
    pub fn inject(&self, fault: Fault) {
        self.state().plan.push(fault);
    }

    /// Forgets all planned faults. A crash that has happened stays.
    pub fn clear_faults(&self) {
        self.state().plan.clear();
    }

    /// Plans a crash at step `k` of this disk's life, counted from 1: that call and all later ones
    /// fail and change nothing. If `k` is past already, the next call is the one.
    pub fn crash_at(&self, k: u64) {
        let nth = k.saturating_sub(self.steps());
        self.inject(Fault::new(FaultKind::Crash).nth(nth));
    }

    /// Whether a planned crash has happened.
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Calls so far. Those that come after a crash do not count.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// A number that two runs share if they made the same calls with the same data and outcomes.
    pub fn trace_hash(&self) -> u64 {
        self.state().hash
    }

    /// A number that two disks share if they show the same names and contents, durable or not.
    pub fn digest(&self) -> u64 {
        self.state().tree.digest(ROOT)
    }

    /// Logs the steps from now on.
    pub fn start_trace(&self) {
        self.state().log = Some(Vec::new());
    }

    /// The steps logged since [`SimDisk::start_trace`].
    pub fn trace(&self) -> Vec<Step> {
        self.state().log.clone().unwrap_or_default()
    }

    /// Bounds the bytes in files, or lifts the bound. A write that does not fit stores what fits;
    /// the next one fails for lack of space. Removing and cutting files makes room.
    pub fn set_space_bytes(&self, bytes: Option<u64>) {
        self.state().space_bytes = bytes;
    }

    /// Bytes in files that have a name or are open.
    pub fn used_bytes(&self) -> u64 {
        self.state().tree.used_bytes()
    }

    /// Makes everything durable, without a step.
    pub fn settle(&self) {
        self.state().tree.settle();
    }

    /// Forgets cached content that the disk does not hold after [`FaultKind::SyncDrops`]: reads
    /// see the old content from now on.
    pub fn drop_caches(&self) {
        for node in self.state().tree.nodes.values_mut() {
            if let Node::File(file) = Arc::make_mut(node) {
                file.evict();
            }
        }
    }

    /// How many changes are not durable yet: the bound of [`CrashPolicy::DropOne`].
    pub fn pending_count(&self) -> usize {
        let count = |node: &Node| match node {
            Node::File(file) => file.pending.len(),
            Node::Dir(dir) => dir.pending.len(),
        };
        self.state().tree.nodes.values().map(|node| count(node)).sum()
    }

    /// The changes that are not durable yet, in order, as text for messages.
    pub fn pending(&self) -> Vec<String> {
        let state = self.state();
        let all = crash::pending_in_order(&state.tree);
        all.into_iter().map(|(seq, ino)| describe(&state.tree, seq, ino)).collect()
    }

    /// An independent copy as the machine finds it after a power cut now: what was not durable is
    /// kept or lost as the policy says. No faults, no bound on space, no steps, no locks; the coverage
    /// is shared.
    pub fn crash(&self, policy: CrashPolicy) -> SimDisk {
        let state = self.state();
        let tree = crash::after_power_cut(&state.tree, policy);
        SimDisk::holding(tree, state.rng.clone(), self.coverage.clone())
    }

    /// An independent copy as the next process finds it when this one is killed now: everything
    /// written is there, and what was not durable still is not.
    pub fn kill(&self) -> SimDisk {
        let state = self.state();
        SimDisk::holding(state.tree.after_kill(), state.rng.clone(), self.coverage.clone())
    }

    /// Remembers, from now on, what the disk holds before each step.
    pub fn start_history(&self) {
        let mut state = self.state();
        state.history = Some((state.steps + 1, Vec::new()));
    }

    /// An independent copy as [`SimDisk::kill`] would have made before step `k`. One run with a
    /// history and a crash of each copy does what one run for each [`SimDisk::crash_at`] does, as
    /// long as only one thread works. `None` outside the history; one past the last step is now.
    pub fn before_step(&self, k: u64) -> Option<SimDisk> {
        let state = self.state();
        let (first, trees) = state.history.as_ref()?;
        let index = usize::try_from(k.checked_sub(*first)?).ok()?;
        let tree = if k == state.steps + 1 { &state.tree } else { trees.get(index)? };
        Some(SimDisk::holding(tree.after_kill(), state.rng.clone(), self.coverage.clone()))
    }

    /// What was called and what went wrong, of this disk and all its copies.
    pub fn coverage(&self) -> Coverage {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One call: counts it, lets the plan decide, does it, logs it. `body` clears a fault that it
    /// could not make visible and sets one that arises from the disk's own state.
    fn step<R>(
        &self,
        call: Call<'_>,
        body: impl FnOnce(&mut State, &mut Option<FaultKind>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.state();
        if state.crashed {
            return Err(crash_error());
        }
        state.steps += 1;
        state.remember();
        let mut fault = state.planned(call.op, call.path);
        let result = match fault {
            Some(FaultKind::Eio) => Err(io::Error::from_raw_os_error(5)),
            Some(FaultKind::Enospc) => Err(no_space()),
            Some(FaultKind::Crash) => {
                state.crashed = true;
                Err(crash_error())
            }
            _ => body(&mut state, &mut fault),
        };
        let error = result.as_ref().err().map(io::Error::kind);
        state.record(&call, fault, error);
        drop(state);
        let mut coverage = self.coverage.lock().unwrap_or_else(PoisonError::into_inner);
        coverage.call(call.op, call.path, fault);
        result
    }

    fn handle(&self, state: &mut State, ino: Ino, path: &Path, writable: bool) -> io::Result<Handle> {
        state.tree.file(ino)?.handles += 1;
        Ok(Handle { disk: self.clone(), ino, path: path.to_path_buf(), writable })
    }
}

fn crash_error() -> io::Error {
    io::Error::other("simulated crash")
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn describe(tree: &Tree, seq: u64, ino: Ino) -> String {
    match tree.nodes.get(&ino).map(Arc::as_ref) {
        Some(Node::File(file)) => match file.pending.iter().find(|pending| pending.seq == seq).map(|p| &p.op) {
            Some(FileOp::Write { offset, data }) => format!("file {ino}: write {offset}+{}", data.len()),
            Some(FileOp::SetLen(len)) => format!("file {ino}: resize to {len}"),
            None => String::new(),
        },
        Some(Node::Dir(dir)) => match dir.pending.iter().find(|pending| pending.seq == seq).map(|p| &p.op) {
            Some(DirOp::Link { name, ino: child }) => format!("directory {ino}: {} is {child}", name.display()),
            Some(DirOp::Unlink { name, .. }) => format!("directory {ino}: no {}", name.display()),
            Some(DirOp::Rename { from, to, ino: child }) => {
                format!("directory {ino}: {} is {child}, no {}", to.display(), from.display())
            }
            None => String::new(),
        },
        None => String::new(),
    }
}

impl State {
    fn planned(&mut self, op: Op, path: &Path) -> Option<FaultKind> {
        // Every fault counts the call, also when an earlier one goes first.
        let mut first = None;
        for fault in &mut self.plan {
            first = first.or(fault.fires(op, path));
        }
        self.plan.retain(|fault| !fault.is_spent());
        first
    }

    fn remember(&mut self) {
        if let Some((_, trees)) = &mut self.history {
            trees.push(self.tree.clone());
        }
    }

    fn record(&mut self, call: &Call<'_>, fault: Option<FaultKind>, error: Option<io::ErrorKind>) {
        self.fold(call.op as u64);
        self.fold_bytes(call.path.as_os_str().as_encoded_bytes());
        self.fold(call.offset);
        self.fold(call.len);
        self.fold(fault.map_or(0, |kind| kind as u64 + 1) << 1 | u64::from(error.is_some()));
        if let Some(log) = &mut self.log {
            let path = call.path.to_path_buf();
            log.push(Step { number: self.steps, op: call.op, path, offset: call.offset, len: call.len, fault, error });
        }
    }

    fn fold(&mut self, value: u64) {
        self.hash = mix(self.hash ^ value).wrapping_add(1);
    }

    fn fold_bytes(&mut self, bytes: &[u8]) {
        // A megabyte of zeros is common, and says little.
        let zeros = crate::image::is_zero(bytes);
        for chunk in bytes.chunks(8).filter(|_| !zeros) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
        self.fold(bytes.len() as u64);
    }

    /// How many of `growth` more bytes find room.
    fn room(&self, growth: u64) -> u64 {
        match self.space_bytes {
            Some(bytes) => growth.min(bytes.saturating_sub(self.tree.used_bytes())),
            None => growth,
        }
    }

    fn write(&mut self, ino: Ino, data: &[u8], offset: u64, fault: &mut Option<FaultKind>) -> io::Result<usize> {
        let mut len = data.len();
        if *fault == Some(FaultKind::ShortWrite) {
            if len > 1 {
                len = 1 + self.rng.index(len - 1);
            } else {
                *fault = None;
            }
        }
        let end = if len == 0 { 0 } else { offset.saturating_add(len as u64) };
        let before = self.tree.file_at(ino)?.live.len();
        let growth = end.saturating_sub(before);
        let missing = growth - self.room(growth);
        if missing > 0 {
            len = len.saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX));
            *fault = Some(if len == 0 { FaultKind::Enospc } else { FaultKind::ShortWrite });
            if len == 0 {
                return Err(no_space());
            }
        }
        let (stored, _) = data.split_at(len);
        match *fault {
            Some(FaultKind::LoseWrite) => self.grow(ino, before, offset + len as u64)?,
            Some(FaultKind::MisdirectWrite) => {
                let end = before.max(offset + len as u64);
                let aim = crash::sector_of(offset);
                // Any sector but the right one.
                let others = [crash::sector_of(self.rng.below(end)), aim + crash::SECTOR_BYTES, 0];
                match others.into_iter().find(|other| *other != aim && *other < end) {
                    Some(other) => {
                        self.grow(ino, before, end)?;
                        let sector = stored.len().min(usize::try_from(crash::SECTOR_BYTES).unwrap_or(stored.len()));
                        self.tree.write(ino, &stored[..sector], other)?;
                    }
                    None => {
                        *fault = None;
                        self.tree.write(ino, stored, offset)?;
                    }
                }
            }
            _ => self.tree.write(ino, stored, offset)?,
        }
        self.fold_bytes(stored);
        Ok(len)
    }

    fn grow(&mut self, ino: Ino, before: u64, len: u64) -> io::Result<()> {
        if len > before { self.tree.set_len(ino, len) } else { Ok(()) }
    }

    fn read(&mut self, ino: Ino, buf: &mut [u8], offset: u64, fault: &mut Option<FaultKind>) -> io::Result<usize> {
        let file = self.tree.file_at(ino)?;
        let len = file.live.read(buf, offset);
        let (buf, _) = buf.split_at_mut(len);
        match *fault {
            Some(FaultKind::ShortRead) if len > 1 => return Ok(1 + self.rng.index(len - 1)),
            Some(FaultKind::FlipBit) if len > 0 => {
                let bit = self.rng.index(len * 8);
                if let Some(byte) = buf.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Some(FaultKind::Misdirect) => {
                let elsewhere = self.rng.below(file.live.len());
                if !fill_from(&file.live, elsewhere, buf) {
                    *fault = None;
                }
            }
            Some(FaultKind::Stale) => {
                if !fill_from(file.stale(), offset, buf) {
                    *fault = None;
                }
            }
            _ => *fault = None,
        }
        Ok(len)
    }

    /// What a sync of one node does under a fault; `sync` is what it does without.
    fn sync(
        &mut self,
        fault: &Option<FaultKind>,
        sync: impl FnOnce(&mut State) -> io::Result<()>,
        drop_pending: impl FnOnce(&mut State, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        match fault {
            Some(FaultKind::SyncLies) => Ok(()),
            Some(FaultKind::SyncDrops) | Some(FaultKind::SyncDropsEvicted) => {
                drop_pending(self, *fault == Some(FaultKind::SyncDropsEvicted))?;
                Err(io::Error::from_raw_os_error(5))
            }
            _ => sync(self),
        }
    }
}

/// Replaces `buf` by what `image` holds at `offset`, zeros beyond its end; says whether that
/// changed anything.
fn fill_from(image: &crate::image::Image, offset: u64, buf: &mut [u8]) -> bool {
    let mut other = vec![0; buf.len()];
    image.read(&mut other, offset);
    let changed = buf != other;
    buf.copy_from_slice(&other);
    changed
}

fn on(op: Op, path: &Path) -> Call<'_> {
    Call { op, path, offset: 0, len: 0 }
}

impl RawFileSystem for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn RawFile>> {
        let handle = self.step(on(Op::Create, path), |state, _| {
            let ino = state.tree.create(path)?;
            self.handle(state, ino, path, true)
        })?;
        Ok(Arc::new(handle))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn RawFile>> {
        let handle = self.step(on(Op::Open, path), |state, _| {
            let ino = state.tree.open(path)?;
            self.handle(state, ino, path, write)
        })?;
        Ok(Arc::new(handle))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.step(on(Op::Stat, path), |state, _| state.tree.resolve(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(on(Op::Rename, from), |state, _| {
            state.fold_bytes(to.as_os_str().as_encoded_bytes());
            state.tree.rename(from, to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(on(Op::Remove, path), |state, _| state.tree.remove(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step(on(Op::CreateDir, path), |state, _| state.tree.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.step(on(Op::List, path), |state, _| state.tree.list(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(on(Op::SyncDir, path), |state, fault| {
            let ino = state.tree.dir_at(path)?;
            let sync = |state: &mut State| {
                state.tree.dir(ino)?.sync();
                state.tree.forget_unreachable();
                Ok(())
            };
            // Programs see the names until the machine goes down.
            let drop_pending = |state: &mut State, _evict: bool| {
                state.tree.dir(ino)?.pending.clear();
                Ok(())
            };
            state.sync(fault, sync, drop_pending)
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let handle = self.step(on(Op::Lock, path), |state, _| {
            let ino = state.tree.lock(path)?;
            self.handle(state, ino, path, false)
        })?;
        Ok(Box::new(Held(handle)))
    }
}

struct Handle {
    disk: SimDisk,
    ino: Ino,
    path: PathBuf,
    writable: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.disk.state().tree.close(self.ino);
    }
}

/// The lock of a file, released before its handle closes.
struct Held(Handle);

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(file) = self.0.disk.state().tree.file(self.0.ino) {
            file.locked = false;
        }
    }
}

impl Handle {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(not_writable()) }
    }

    fn sync(&self) -> io::Result<()> {
        let file = |state: &mut State, change: &dyn Fn(&mut FileNode)| {
            change(state.tree.file(self.ino)?);
            Ok(())
        };
        self.disk.step(on(Op::Sync, &self.path), |state, fault| {
            let sync = |state: &mut State| file(state, &FileNode::sync);
            let drop_pending = |state: &mut State, evict| file(state, &|file| file.drop_pending(evict));
            state.sync(fault, sync, drop_pending)
        })
    }
}

impl RawFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = Call { op: Op::Read, path: &self.path, offset, len: buf.len() as u64 };
        self.disk.step(call, |state, fault| state.read(self.ino, buf, offset, fault))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let call = Call { op: Op::Write, path: &self.path, offset, len: data.len() as u64 };
        self.disk.step(call, |state, fault| {
            self.check_writable()?;
            state.write(self.ino, data, offset, fault)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let call = Call { op: Op::SetLen, path: &self.path, offset: len, len: 0 };
        self.disk.step(call, |state, fault| {
            self.check_writable()?;
            let growth = len.saturating_sub(state.tree.file_at(self.ino)?.live.len());
            if state.room(growth) < growth {
                *fault = Some(FaultKind::Enospc);
                return Err(no_space());
            }
            state.tree.set_len(self.ino, len)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.step(on(Op::Stat, &self.path), |state, _| Ok(state.tree.file_at(self.ino)?.live.len()))
    }
}
