//! What the simulated disk can be told to do wrong, and the tables that say what was tried.

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
}

impl FaultKind {
    /// Every kind, for fault tables.
    pub const ALL: [FaultKind; 11] = [
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
    ];

    /// Whether a call of this kind can go wrong in this way.
    pub fn applies_to(self, op: Op) -> bool {
        match self {
            FaultKind::Eio | FaultKind::Enospc | FaultKind::Crash => true,
            FaultKind::ShortWrite => op == Op::Write,
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
    nth: u64,
    forever: bool,
    seen: u64,
}

impl Fault {
    /// This fault at the next call it applies to, once.
    pub fn new(kind: FaultKind) -> Fault {
        Fault { kind, op: None, file: None, nth: 1, forever: false, seen: 0 }
    }

    /// Only at calls of this kind; other calls are not counted either.
    pub fn on(self, op: Op) -> Fault {
        Fault { op: Some(op), ..self }
    }

    /// Only at files (or directories) whose name contains `text`; others are not counted either.
    pub fn file(self, text: &str) -> Fault {
        Fault { file: Some(text.to_owned()), ..self }
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
            && self.file.as_ref().is_none_or(named);
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

/// How many calls there were, and how many went wrong in which way, by operation and kind of file.
/// A disk and all its copies count into the same table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    calls: BTreeMap<(Op, String), u64>,
    faults: BTreeMap<(FaultKind, Op, String), u64>,
}

impl Coverage {
    pub(super) fn call(&mut self, op: Op, path: &Path) {
        *self.calls.entry((op, file_kind(op, path))).or_default() += 1;
    }

    pub(super) fn fault(&mut self, kind: FaultKind, op: Op, path: &Path) {
        *self.faults.entry((kind, op, file_kind(op, path))).or_default() += 1;
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

    /// How often `kind` was injected into `op`, over all files.
    pub fn count(&self, kind: FaultKind, op: Op) -> u64 {
        self.faults.iter().filter(|((k, o, _), _)| (*k, *o) == (kind, op)).map(|(_, count)| count).sum()
    }

    /// The operations and kinds of file that were called and that `kind`, which applies to them,
    /// never hit.
    pub fn missed(&self, kind: FaultKind) -> Vec<(Op, String)> {
        let hit = |(op, file): &(Op, String)| self.faults.contains_key(&(kind, *op, file.clone()));
        self.calls.keys().filter(|call| kind.applies_to(call.0) && !hit(call)).cloned().collect()
    }
}

impl fmt::Display for Coverage {
    /// One line for each operation and kind of file: the calls, then the faults injected there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((op, file), calls) in &self.calls {
            let name = format!("{op:?}");
            write!(f, "{name:<10} {file:<12} {calls:>10} calls")?;
            for kind in FaultKind::ALL {
                if let Some(count) = self.faults.get(&(kind, *op, file.clone())) {
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
