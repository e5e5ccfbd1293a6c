//! The check of a whole database directory: every file, block, checksum and invariant.
//!
//! Owns what "sound" means for files at rest: `CURRENT` names a manifest; its edits apply and agree
//! with one another; every table it lists is there, whole, and is what the manifest says; versions
//! lie in the levels as reads expect (`order`); the log replays, its batches decode and its end is
//! the end (`log`). Refuses to change, create or repair anything, and to check an open database.
//!
//! A check goes on after damage, file by file, so that one run tells the extent of it. Without a
//! manifest to compare with, each file is checked by itself. What is no damage but a person may
//! want to know (an unclean end, files that nothing names) is a note.
//!
//! Memory is bounded: tables are opened as a database of [`MEMORY_BYTES`] opens them, the log is
//! read through a window.

mod log;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_env::{DirEntry, Env};
use cairn_table::{Load, Table};

use crate::cache::Cache;
use crate::edit::{KeyspaceState, State};
use crate::error::{Error, Result};
use crate::files::{self, CURRENT, FileKind, LOCK, MANIFEST, RESERVE, classify, table_path};
use crate::levels::{RemovalQueue, TableMeta, TableRef};
use crate::manifest::{self, Contents};
use crate::memory::Memory;
use crate::output::table_error;
use crate::recovery;
use crate::stats::Counters;
use crate::types::KeyspaceId;

/// Filters and indexes beyond a quarter of this are read when needed instead of held.
const MEMORY_BYTES: u64 = 64 << 20;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something durable is not what was written, or contradicts something else.
    Damage,
    /// Nothing is lost.
    Note,
}

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where in it: the start of the block or record; none if it is about the whole file.
    pub offset: Option<u64>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong or remarkable.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file at hand.
    pub path: &'a Path,
    /// Bytes read so far, about.
    pub bytes_done: u64,
    /// Bytes to read in all; tables are read twice.
    pub bytes_total: u64,
}

/// What a check found and how much it looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Damage and notes, in the order they were found.
    pub findings: Vec<Finding>,
    /// Files of the database.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keyspaces.
    pub keyspaces: u64,
    /// Edits of the manifest in force.
    pub manifest_edits: u64,
    /// Tables read whole.
    pub tables: u64,
    /// Entries in them, all versions and tombstones counted.
    pub table_entries: u64,
    /// Segments of the log that were read.
    pub log_segments: u64,
    /// Groups in them.
    pub log_groups: u64,
    /// Puts and deletes in those.
    pub log_entries: u64,
}

impl Report {
    /// Whether there is no damage. Notes do not count.
    pub fn is_sound(&self) -> bool {
        self.damages().next().is_none()
    }

    /// The findings that are damage.
    pub fn damages(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Damage)
    }
}

/// Checks the database in `dir`, which nobody has open, and changes nothing.
///
/// ```
/// # let env = cairn::Env::memory();
/// let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
/// db.put(b"k", b"v")?;
/// db.close()?;
/// let report = cairn::check(&env, "data".as_ref(), &mut |_| ())?;
/// assert!(report.is_sound() && report.log_entries == 1);
/// # Ok::<(), cairn::Error>(())
/// ```
///
/// # Errors
/// `Busy` if the database is open, `NotFound` if the directory holds none, `Io` if it cannot be
/// listed. Damage, and files that cannot be read, are no errors but what the report tells.
pub fn check(env: &Env, dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    let at_rest = recovery::at_rest(env, dir)?;
    let mut check = Check::new(env, dir, progress);
    if let Some(Err(e)) = &at_rest.lock {
        check.note(&dir.join(LOCK), format!("whether the database is in use is not known: {e}"));
    }
    check.entries.clone_from(&at_rest.entries);
    check.run();
    Ok(check.report)
}

/// One check under way.
struct Check<'a> {
    env: &'a Env,
    dir: &'a Path,
    entries: Vec<DirEntry>,
    report: Report,
    progress: &'a mut dyn FnMut(Progress<'_>),
    bytes_done: u64,
    bytes_total: u64,
    cache: Arc<Cache>,
}

impl<'a> Check<'a> {
    fn new(env: &'a Env, dir: &'a Path, progress: &'a mut dyn FnMut(Progress<'_>)) -> Check<'a> {
        let cache = Arc::new(Cache::new(Memory::new(MEMORY_BYTES, None), Arc::new(Counters::default())));
        Check {
            env,
            dir,
            entries: Vec::new(),
            report: Report::default(),
            progress,
            bytes_done: 0,
            bytes_total: 0,
            cache,
        }
    }

    fn found(&mut self, severity: Severity, path: &Path, offset: Option<u64>, what: String) {
        self.report.findings.push(Finding { path: path.to_path_buf(), offset, severity, what });
    }

    fn damage(&mut self, path: &Path, offset: Option<u64>, what: impl Into<String>) {
        self.found(Severity::Damage, path, offset, what.into());
    }

    fn note(&mut self, path: &Path, what: impl Into<String>) {
        self.found(Severity::Note, path, None, what.into());
    }

    /// Damage as an error tells it. A file that cannot be read is as good as damaged.
    fn failed(&mut self, path: &Path, e: &Error) {
        match e.corrupt_parts() {
            Some((path, offset, what)) => self.damage(path, offset, what),
            None => self.damage(path, None, e.to_string()),
        }
    }

    /// Says that the file at hand is done up to `bytes_done` of the whole.
    fn reach(&mut self, path: &Path, bytes_done: u64) {
        self.bytes_done = bytes_done.min(self.bytes_total);
        (self.progress)(Progress { path, bytes_done: self.bytes_done, bytes_total: self.bytes_total });
    }

    fn run(&mut self) {
        for entry in self.entries.iter().filter(|entry| !entry.is_dir) {
            let kind = classify(&entry.name);
            if kind != FileKind::Foreign {
                self.report.files += 1;
                self.report.bytes += entry.len;
            }
            self.bytes_total += match kind {
                FileKind::Table(_) => entry.len.saturating_mul(2),
                FileKind::Manifest(_) | FileKind::Log(_) => entry.len,
                _ => 0,
            };
        }
        let current = self.dir.join(CURRENT);
        match files::read_current(self.env, self.dir) {
            Ok(Some(id)) => match manifest::read(self.env, self.dir, id) {
                Ok(contents) => self.all_together(id, &contents),
                Err(e) => {
                    self.failed(&MANIFEST.path(self.dir, id), &e);
                    self.one_by_one(Some(id));
                }
            },
            Ok(None) => match recovery::check_half_created(self.dir, &self.entries) {
                Ok(()) => self.note(&current, "it is missing: the creation of this database was never finished"),
                Err(e) => {
                    self.failed(&current, &e);
                    self.one_by_one(None);
                }
            },
            Err(e) => {
                self.failed(&current, &e);
                self.one_by_one(None);
            }
        }
        self.reach(&current, self.bytes_total);
    }

    /// Compares every file with what the manifest `id` says.
    fn all_together(&mut self, id: u64, manifest: &Contents) {
        let path = MANIFEST.path(self.dir, id);
        let state = &manifest.state;
        self.report.keyspaces = state.keyspaces.len() as u64;
        self.report.manifest_edits = manifest.edits;
        for what in contradictions(state) {
            self.damage(&path, None, what);
        }
        for (&id, keyspace) in &state.keyspaces {
            let mut sound = Vec::new();
            for (level, meta) in keyspace.tables.values() {
                if let Some(table) = self.listed_table(id, keyspace, meta, state.hash_seed) {
                    sound.push((*level, table));
                }
            }
            self.order(&keyspace.name, sound);
        }
        // A database that is closed ends its log, then its manifest.
        let manifest_closed = manifest.replayed.closing_groups > 0;
        let log = self.log(state, manifest_closed);
        self.manifest_end(&path, manifest, log.closed);
        self.files_beside(id, state, &log.segments);
    }

    fn manifest_end(&mut self, path: &Path, manifest: &Contents, log_closed: bool) {
        let replayed = &manifest.replayed;
        match replayed.cut {
            Some(cut) if replayed.closing_groups > 0 => {
                let what = format!("{} bytes follow its closing record: {}", cut.bytes_cut, cut.reason);
                self.damage(path, Some(cut.position.offset), what);
            }
            Some(cut) => {
                let what = format!("its last {} bytes are an unfinished edit: {}", cut.bytes_cut, cut.reason);
                self.found(Severity::Note, path, Some(cut.position.offset), what);
            }
            None if log_closed && !replayed.clean_close => {
                let what = "it was not closed, though the log was: the process ended in between";
                self.found(Severity::Note, path, Some(replayed.end.offset), what.to_owned());
            }
            // If the log was not closed either, a note at its end says so.
            None => {}
        }
    }

    /// Checks a table that the manifest lists; returns it if it is sound.
    fn listed_table(
        &mut self,
        id: KeyspaceId,
        keyspace: &KeyspaceState,
        meta: &TableMeta,
        hash_seed: u64,
    ) -> Option<TableRef> {
        let path = table_path(self.dir, meta.id);
        let removals = Arc::new(RemovalQueue::default());
        let opened = recovery::open_table(self.env, self.dir, id, meta.clone(), hash_seed, &self.cache, removals);
        let table = match opened {
            Ok(table) => table,
            Err(e) => {
                self.failed(&path, &e);
                return None;
            }
        };
        if !self.verify(&table.table) {
            return None;
        }
        if meta.largest_seq > keyspace.flushed {
            let (largest, flushed) = (meta.largest_seq, keyspace.flushed);
            let what = format!(
                "it holds sequence number {largest}, but the manifest says that its keyspace is flushed up to {flushed}"
            );
            self.damage(&path, None, what);
        }
        Some(table)
    }

    /// Reads a table whole; false if it is damaged.
    fn verify(&mut self, table: &Table) -> bool {
        let path = table.path().to_path_buf();
        let before = self.bytes_done;
        let verified = table.verify(&mut |bytes| self.reach(&path, before.saturating_add(bytes)));
        if let Err(e) = verified.map_err(table_error) {
            self.failed(&path, &e);
            return false;
        }
        self.report.tables += 1;
        self.report.table_entries += table.summary().entries;
        true
    }

    /// Checks every file by itself, except the manifest `skip`.
    fn one_by_one(&mut self, skip: Option<u64>) {
        for entry in self.entries.clone() {
            let path = self.dir.join(&entry.name);
            match classify(&entry.name) {
                FileKind::Table(id) => self.lone_table(&path, id),
                FileKind::Log(_) => self.lone_segment(&path),
                FileKind::Manifest(id) if Some(id) != skip => match manifest::read(self.env, self.dir, id) {
                    Ok(manifest) => self.manifest_end(&path, &manifest, false),
                    Err(e) => self.failed(&path, &e),
                },
                FileKind::Manifest(_) | FileKind::Current | FileKind::Lock | FileKind::Reserve => {}
                FileKind::LogSpare | FileKind::Temporary | FileKind::Foreign => self.not_in_force(&entry),
            }
        }
    }

    fn lone_table(&mut self, path: &Path, id: u64) {
        let opened = self.env.open(path).map_err(Error::from).and_then(|file| {
            let says = Table::identify(&file).map_err(table_error)?;
            Table::open(file, id, says.file_bytes, None, says.hash_seed, Load::OnDemand).map_err(table_error)
        });
        match opened {
            Ok(table) => {
                self.verify(&table);
            }
            Err(e) => self.failed(path, &e),
        }
    }

    /// Notes what stands beside the files in force.
    fn files_beside(&mut self, manifest: u64, state: &State, segments: &BTreeSet<u64>) {
        let tables: BTreeSet<u64> = state.keyspaces.values().flat_map(|k| k.tables.keys().copied()).collect();
        for entry in self.entries.clone() {
            let in_force = match classify(&entry.name) {
                FileKind::Table(id) => tables.contains(&id),
                FileKind::Manifest(id) => id == manifest,
                FileKind::Log(id) => segments.contains(&id),
                FileKind::Current | FileKind::Lock | FileKind::Reserve => true,
                FileKind::LogSpare | FileKind::Temporary | FileKind::Foreign => false,
            };
            if !in_force {
                self.not_in_force(&entry);
            }
        }
        for name in [LOCK, RESERVE] {
            if !self.entries.iter().any(|entry| entry.name == name) {
                self.note(&self.dir.join(name), "it is missing; the next open makes it");
            }
        }
    }

    fn not_in_force(&mut self, entry: &DirEntry) {
        let what = if entry.is_dir || classify(&entry.name) == FileKind::Foreign {
            "it is no file of a cairn database"
        } else {
            "nothing names it any more; the next open removes it"
        };
        self.note(&self.dir.join(&entry.name), what);
    }
}

/// What no single edit shows and [`State::check`] does not look at.
pub(crate) fn contradictions(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    let mut tables = BTreeMap::new();
    for keyspace in state.keyspaces.values() {
        if !names.insert(&keyspace.name) {
            found.push(format!("two keyspaces are called \"{}\"", keyspace.name.escape_debug()));
        }
        for id in keyspace.tables.keys() {
            if let Some(other) = tables.insert(*id, &keyspace.name) {
                let (a, b) = (other.escape_debug(), keyspace.name.escape_debug());
                found.push(format!("table {id} is in the keyspaces \"{a}\" and \"{b}\""));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
