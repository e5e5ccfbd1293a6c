//! What the simulated disk can be told to do wrong, and the tables that say what was tried.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Op;

/// A way in which a disk goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The call fails with an I/O error and does nothing.
    Eio,
    /// The call fails for lack of space and does nothing.
    Enospc,
    /// The power goes: this call and every later one fail, and nothing more reaches the disk.
    Crash,
    /// A write stores only a part of the bytes, and says so.
    ShortWrite,
    /// A read delivers only a part of the bytes, and says so.
    ShortRead,
    /// A sync fails and forgets what it should have written: the next sync has nothing to do and
    /// succeeds, reads still see the data, and the disk does not hold it.
    SyncDrops,
    /// As [`FaultKind::SyncDrops`], and reads see the old content from now on.
    SyncDropsEvicted,
    /// A sync says that all is well and does nothing.
    SyncLies,
    /// A read delivers one wrong bit.
    FlipBit,
    /// A read delivers bytes from elsewhere in the file.
    Misdirect,
    /// A read delivers what stood there before the last change.
    Stale,
    /// A write says that all is well and stores nothing; the file has grown all the same.
    LoseWrite,
    /// A write says that all is well and has hit another sector of the file.
    MisdirectWrite,
}

impl FaultKind {
    /// Every kind, for fault tables.
    pub const ALL: [FaultKind; 13] = [
        FaultKind::Eio,
        FaultKind::Enospc,
        FaultKind::Crash,
        FaultKind::ShortWrite,
        FaultKind::ShortRead,
        FaultKind::SyncDrops,
        FaultKind::SyncDropsEvicted,
        FaultKind::SyncLies,
        FaultKind::FlipBit,
        FaultKind::Misdirect,
        FaultKind::Stale,
        FaultKind::LoseWrite,
        FaultKind::MisdirectWrite,
    ];

    /// Whether a call of this kind can go wrong in this way.
    pub fn applies_to(self, op: Op) -> bool {
        match self {
            FaultKind::Eio | FaultKind::Crash => true,
            // Removing too, where names are kept in a tree that is copied on write.
            FaultKind::Enospc => !matches!(op, Op::Open | Op::Read | Op::Stat | Op::List),
            FaultKind::ShortWrite | FaultKind::LoseWrite | FaultKind::MisdirectWrite => op == Op::Write,
            FaultKind::SyncDrops | FaultKind::SyncDropsEvicted | FaultKind::SyncLies => {
                matches!(op, Op::Sync | Op::SyncDir)
            }
            FaultKind::ShortRead | FaultKind::FlipBit | FaultKind::Misdirect | FaultKind::Stale => op == Op::Read,
        }
    }

    fn name(self) -> &'static str {
        match self {
            FaultKind::Eio => "eio",
            FaultKind::Enospc => "enospc",
            FaultKind::Crash => "crash",
            FaultKind::ShortWrite => "short-write",
            FaultKind::ShortRead => "short-read",
            FaultKind::SyncDrops => "sync-drops",
            FaultKind::SyncDropsEvicted => "sync-drops-evicted",
            FaultKind::SyncLies => "sync-lies",
            FaultKind::FlipBit => "flip-bit",
            FaultKind::Misdirect => "misdirect",
            FaultKind::Stale => "stale",
            FaultKind::LoseWrite => "lose-write",
            FaultKind::MisdirectWrite => "misdirect-write",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A planned fault: what goes wrong, and at which of the calls from now on.
///
/// ```
/// use cairn_env::{Fault, FaultKind, Op, SimDisk};
/// let disk = SimDisk::new();
/// // The second sync of a log segment fails, and all later ones.
/// disk.inject(Fault::new(FaultKind::Eio).on(Op::Sync).file(".wal").nth(2).forever());
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    kind: FaultKind,
    op: Option<Op>,
    file: Option<String>,
    site: Option<Site>,
    nth: u64,
    forever: bool,
    seen: u64,
}

impl Fault {
    /// This fault at the next call it applies to, once.
    pub fn new(kind: FaultKind) -> Fault {
        Fault { kind, op: None, file: None, site: None, nth: 1, forever: false, seen: 0 }
    }

    /// Only at calls of this kind; other calls are not counted either.
    pub fn on(self, op: Op) -> Fault {
        Fault { op: Some(op), ..self }
    }

    /// Only at files (or directories) whose name contains `text`; others are not counted either.
    pub fn file(self, text: &str) -> Fault {
        Fault { file: Some(text.to_owned()), ..self }
    }

    /// Only at calls from this place; others are not counted either.
    pub fn at(self, site: &Site) -> Fault {
        Fault { site: Some(site.clone()), ..self }
    }

    /// At the `nth` call that fits, counted from 1 and from the injection on.
    pub fn nth(self, nth: u64) -> Fault {
        Fault { nth: nth.max(1), ..self }
    }

    /// At every later call too.
    pub fn forever(self) -> Fault {
        Fault { forever: true, ..self }
    }

    /// Counts a call; says whether this one goes wrong.
    pub(super) fn fires(&mut self, op: Op, path: &Path) -> Option<FaultKind> {
        let named = |text: &String| path.file_name().is_some_and(|name| name.to_string_lossy().contains(text));
        let fits = self.kind.applies_to(op)
            && self.op.is_none_or(|wanted| wanted == op)
            && self.file.as_ref().is_none_or(named)
            && self.site.as_ref().is_none_or(|site| *site == Site::new(op, path));
        if !fits {
            return None;
        }
        self.seen += 1;
        let due = self.seen == self.nth || (self.forever && self.seen > self.nth);
        due.then_some(self.kind)
    }

    /// Will never fire again.
    pub(super) fn is_spent(&self) -> bool {
        !self.forever && self.seen >= self.nth
    }
}

/// One call that reached the simulated disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The how manieth call it was, from 1.
    pub number: u64,
    /// What was asked.
    pub op: Op,
    /// Of which file or directory; for a rename, the old name.
    pub path: PathBuf,
    /// Where in the file, for reads and writes; the length, for [`Op::SetLen`].
    pub offset: u64,
    /// How many bytes, for reads and writes.
    pub len: u64,
    /// The fault that was injected.
    pub fault: Option<FaultKind>,
    /// How it failed, injected or not.
    pub error: Option<io::ErrorKind>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.number, self.op, self.path.display())?;
        match self.op {
            Op::Read | Op::Write => write!(f, " {}+{}", self.offset, self.len)?,
            Op::SetLen => write!(f, " to {}", self.offset)?,
            _ => {}
        }
        if let Some(fault) = self.fault {
            write!(f, " [{fault}]")?;
        }
        match self.error {
            Some(error) => write!(f, " -> {error}"),
            None => Ok(()),
        }
    }
}

/// A place from where a program calls the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// What it asks.
    pub op: Op,
    /// The kind of file: the extension, or the name without its number; `/` for a directory.
    pub file: String,
    /// What the thread was doing; see [`crate::testing::set_stage`].
    pub stage: String,
}

impl Site {
    fn new(op: Op, path: &Path) -> Site {
        Site { op, file: file_kind(op, path), stage: stage() }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = format!("{:?}", self.op);
        write!(f, "{op:<10} {:<12} {:<14}", self.file, self.stage)
    }
}

thread_local! {
    static STAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn stage() -> String {
    // While a thread's locals are being destroyed it does nothing that has a name.
    STAGE.try_with(|stage| stage.borrow().clone()).unwrap_or_default()
}

/// Says what this thread does from now on.
pub(crate) fn set_stage(name: &str) {
    STAGE.with(|stage| name.clone_into(&mut stage.borrow_mut()));
}

/// How many calls there were, and how many went wrong in which way, by [`Site`].
/// A disk and all its copies count into the same table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    calls: BTreeMap<Site, u64>,
    faults: BTreeMap<(FaultKind, Site), u64>,
}

impl Coverage {
    pub(super) fn call(&mut self, op: Op, path: &Path, fault: Option<FaultKind>) {
        let site = Site::new(op, path);
        if let Some(kind) = fault {
            *self.faults.entry((kind, site.clone())).or_default() += 1;
        }
        *self.calls.entry(site).or_default() += 1;
    }

    /// Counts another table's entries into this one.
    pub fn add(&mut self, other: &Coverage) {
        for (key, count) in &other.calls {
            *self.calls.entry(key.clone()).or_default() += count;
        }
        for (key, count) in &other.faults {
            *self.faults.entry(key.clone()).or_default() += count;
        }
    }

    /// From where the disk was called, and how often.
    pub fn sites(&self) -> impl Iterator<Item = (&Site, u64)> {
        self.calls.iter().map(|(site, calls)| (site, *calls))
    }

    /// How many calls went wrong.
    pub fn injections(&self) -> u64 {
        self.faults.values().sum()
    }

    /// How often `kind` was injected into `op`, over all files and stages.
    pub fn count(&self, kind: FaultKind, op: Op) -> u64 {
        self.faults.iter().filter(|((k, site), _)| (*k, site.op) == (kind, op)).map(|(_, count)| count).sum()
    }

    /// How often `kind` was injected at this site.
    pub fn count_at(&self, kind: FaultKind, site: &Site) -> u64 {
        self.faults.get(&(kind, site.clone())).copied().unwrap_or(0)
    }

    /// The sites that `kind`, which applies to them, never hit.
    pub fn missed(&self, kind: FaultKind) -> Vec<Site> {
        let missed = |site: &&Site| kind.applies_to(site.op) && self.count_at(kind, site) == 0;
        self.calls.keys().filter(missed).cloned().collect()
    }
}

impl fmt::Display for Coverage {
    /// One line for each site: the calls, then the faults injected there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (site, calls) in &self.calls {
            write!(f, "{site} {calls:>10} calls")?;
            for kind in FaultKind::ALL {
                if let Some(count) = self.faults.get(&(kind, site.clone())) {
                    write!(f, "  {kind} {count}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The kind of file behind a name: its extension, or else the name up to its number
/// (`000012.wal` is `wal`, `MANIFEST-000003` is `MANIFEST`).
fn file_kind(op: Op, path: &Path) -> String {
    if matches!(op, Op::SyncDir | Op::CreateDir | Op::List) {
        return "/".to_owned();
    }
    match (path.extension(), path.file_name()) {
        (Some(extension), _) => extension.to_string_lossy().into_owned(),
        (None, Some(name)) => {
            name.to_string_lossy().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-').to_owned()
        }
        (None, None) => "/".to_owned(),
    }
}
