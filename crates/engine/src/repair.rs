//! Repair: what can still be read of a damaged database, written to a new one.
//!
//! Owns the judgement of what is believed and what is lost. A sound manifest is believed: its tables,
//! and the log from where it says. Without one (`survey`) every table in the directory is taken, to
//! the keyspace that its properties name, and every segment of the log; names of keyspaces come from
//! what can be read of the manifests' edits. Of each keyspace the newest readable version of a key
//! wins (`tables`); then the operations of the log that are newer are done again, in order (`log`).
//! What is known to be dropped stays so: by a sound manifest, or by any edit that can be read and says
//! it. Without one a dropped keyspace may come back, as far as its files are still there.
//! The new database takes its name when all of it is durable (`target`).
//! Refuses to change the damaged database, to repair an open one, and to guess: what is written was
//! once written under its key, and whatever may be missing is told with its file and range of keys.
//!
//! Memory is bounded: tables are merged one block each, read one at a time where they do not overlap;
//! looked up through a cache; the log is read group by group. What grows is a line for each table
//! and for each thing lost; neighbouring damaged blocks are one.

mod log;
mod origins;
mod ranges;
mod survey;
mod tables;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_env::{DirEntry, Env};
use cairn_table::{BlockCache, Load, Table};

use crate::cache::Cache;
use crate::check::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Memory;
use crate::output::table_error;
use crate::recovery;
use crate::stats::Counters;
use crate::types::{KeyspaceId, shown};

use ranges::Ranges;
use target::{Destination, Target};

/// For the blocks of damaged tables; the new database has its own default budget.
const MEMORY_BYTES: u64 = 64 << 20;

/// Something that a repair could not save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The damaged or missing file.
    pub path: PathBuf,
    /// Where in it: the start of the block or record; none if it is about the whole file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// How many damaged blocks of a table, one after the other, this is about; otherwise 1.
    pub blocks: u64,
    /// The keyspace of the keys; none if it may be any.
    pub keyspace: Option<String>,
    /// The first and the last key that may be concerned; none if it may be any.
    pub range: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.what)?;
        if self.blocks > 1 {
            write!(f, ", and {} blocks after it", self.blocks - 1)?;
        }
        match &self.range {
            Some((from, to)) => write!(f, "; keys {} .. {}", shown(from), shown(to))?,
            None => f.write_str("; any keys")?,
        }
        match &self.keyspace {
            Some(name) => write!(f, " of keyspace \"{}\"", name.escape_debug())?,
            None => f.write_str(" of any keyspace")?,
        }
        f.write_str(" may be missing, older than they were, or back after a delete")
    }
}

/// What a repair saved, and what it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Keyspaces of the new database.
    pub keyspaces: u64,
    /// Tables that were read, in whole or in part.
    pub tables: u64,
    /// Keys with their values that came from tables.
    pub table_entries: u64,
    /// Puts and deletes that came from the log, after that.
    pub log_operations: u64,
    /// Bytes of the keys and values of both.
    pub bytes: u64,
    /// What could not be read.
    pub lost: Vec<Lost>,
    /// The database says that it was closed, and so where its log ends. One that was not, or lost that
    /// record, looks the same whether its last writes never were, or were cut off later.
    pub closed: bool,
}

/// Reads what can be read of the database in `dir`, which nobody has open, and writes it to a new
/// database in `to`, which must be empty or not exist. Changes nothing in `dir`. Until all of it is
/// durable the new database stands beside `to`, under its name with `.unfinished` behind it; `to` is
/// there only as a whole.
///
/// Of a sound database the new one is equal, and nothing is lost. Snapshots, and versions that only
/// they could see, are not kept; nor are the options, which no database stores.
///
/// ```
/// # let env = cairn::Env::memory();
/// let db = cairn::Db::open_in(&env, "data", cairn::Options::default())?;
/// db.put(b"k", b"v")?;
/// db.close()?;
/// # env.remove("data/CURRENT".as_ref())?;
/// // CURRENT is gone: the database does not open any more.
/// let repaired = cairn::repair(&env, "data".as_ref(), "saved".as_ref(), &mut |_| ())?;
/// assert!(repaired.lost[0].path.ends_with("CURRENT"));
/// let db = cairn::Db::open_in(&env, "saved", cairn::Options::default())?;
/// assert_eq!(db.get(b"k")?.as_deref(), Some(&b"v"[..]));
/// # Ok::<(), cairn::Error>(())
/// ```
///
/// # Errors
/// `Busy` if the database is open, `NotFound` if `dir` holds none, `Invalid` if `to` is not empty,
/// lies within `dir` (by whatever path), or has an unfinished repair beside it, `Full` if there is no
/// space for the new one, `Corrupt` if a file is of a format that only a newer build reads; `Io`.
/// After an error the unfinished database may be left. Damage is no error but what the result tells.
pub fn repair(env: &Env, dir: &Path, to: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Repaired> {
    // Held to the end. Where it cannot be taken, on a read-only disk say, nobody writes either.
    let at_rest = recovery::at_rest(env, dir)?;
    let destination = Destination::check(env, dir, to)?;
    let mut repair = Repair::new(env, dir, &at_rest.entries, progress);
    let mut survey = repair.survey()?;
    repair.write(&mut survey, &destination).map_err(|e| match e.kind() {
        ErrorKind::Full => Error::full(format!(
            "{e}; {} holds an unfinished repair: remove it, and repair to where there is more space",
            destination.unfinished.display()
        )),
        _ => e,
    })
}

/// A table that can be read, at least in part.
#[derive(Clone, Debug)]
struct Part {
    path: PathBuf,
    id: u64,
    hash_seed: u64,
    file_bytes: u64,
    smallest_key: Vec<u8>,
    largest_key: Vec<u8>,
}

/// What is there of a keyspace.
#[derive(Debug, Default)]
struct Space {
    name: String,
    /// No table holds a newer number.
    flushed: u64,
    parts: Vec<Part>,
    /// What is lost of its tables.
    lost: Ranges,
}

/// What is there of the database.
#[derive(Debug, Default)]
struct Survey {
    spaces: BTreeMap<KeyspaceId, Space>,
    /// The manifest, if it is believed: whatever belongs to the database is known.
    manifest: Option<PathBuf>,
    /// The first segment of the log.
    log_start: u64,
    /// The log was closed: it must have its end.
    log_closed: bool,
    dropped: Dropped,
}

/// What is known of keyspaces that were dropped.
#[derive(Debug, Default)]
struct Dropped {
    /// An edit dropped them.
    ids: BTreeSet<KeyspaceId>,
    /// Whoever names all keyspaces up to an id says so of those left out.
    rolls: Vec<Roll>,
    /// They have no greater number.
    seq: u64,
}

/// All keyspaces with an id below `next`.
#[derive(Debug)]
struct Roll {
    next: KeyspaceId,
    ids: BTreeSet<KeyspaceId>,
}

impl Dropped {
    fn holds(&self, id: KeyspaceId) -> bool {
        self.ids.contains(&id) || self.rolls.iter().any(|roll| id < roll.next && !roll.ids.contains(&id))
    }
}

impl Survey {
    /// Whether an operation is about a keyspace that is known to be dropped.
    fn is_dropped(&self, id: KeyspaceId, seq: u64) -> bool {
        seq <= self.dropped.seq && self.dropped.holds(id)
    }

    /// The keyspace with this id. One that was only heard of gets a name.
    fn space(&mut self, id: KeyspaceId) -> &mut Space {
        let mut name = format!("keyspace-{id}");
        while !self.spaces.contains_key(&id) && self.spaces.values().any(|space| space.name == name) {
            name.push('\'');
        }
        self.spaces.entry(id).or_insert_with(|| {
            let lost = Ranges::all();
            Space { name, lost, ..Space::default() }
        })
    }
}

/// One repair under way.
struct Repair<'a> {
    env: &'a Env,
    dir: &'a Path,
    entries: &'a [DirEntry],
    progress: &'a mut dyn FnMut(Progress<'_>),
    bytes_done: u64,
    bytes_total: u64,
    cache: Arc<Cache>,
    done: Repaired,
}

impl<'a> Repair<'a> {
    fn new(
        env: &'a Env,
        dir: &'a Path,
        entries: &'a [DirEntry],
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Repair<'a> {
        let cache = Arc::new(Cache::new(Memory::new(MEMORY_BYTES, None), Arc::new(Counters::default())));
        Repair { env, dir, entries, progress, bytes_done: 0, bytes_total: 0, cache, done: Repaired::default() }
    }

    fn reach(&mut self, path: &Path, bytes: u64) {
        self.bytes_done = self.bytes_done.saturating_add(bytes).min(self.bytes_total);
        (self.progress)(Progress { path, bytes_done: self.bytes_done, bytes_total: self.bytes_total });
    }

    /// Notes that a file, or a place in one, cannot be read.
    fn lose(&mut self, path: &Path, e: &Error, keyspace: Option<&str>, range: Option<(Vec<u8>, Vec<u8>)>) {
        let (path, offset, what) = match e.corrupt_parts() {
            Some((path, offset, what)) => (path, offset, what.to_owned()),
            None => (path, None, e.to_string()),
        };
        let (path, keyspace) = (path.to_path_buf(), keyspace.map(str::to_owned));
        self.done.lost.push(Lost { path, offset, what, blocks: 1, keyspace, range });
    }

    fn open(&self, part: &Part) -> Result<Arc<Table>> {
        let file = self.env.open(&part.path).map_err(|e| match e.is_not_found() {
            true => Error::corrupt(&part.path, None, recovery::TABLE_MISSING),
            false => e.into(),
        })?;
        let blocks: Arc<dyn BlockCache> = self.cache.clone();
        Table::open(file, part.id, part.file_bytes, Some(blocks), part.hash_seed, Load::OnDemand).map_err(table_error)
    }

    /// Writes what there is to a new database in `to`.
    fn write(mut self, survey: &mut Survey, destination: &Destination) -> Result<Repaired> {
        let mut target = Target::create(self.env, destination)?;
        for (&id, space) in &survey.spaces {
            target.keyspace(id, &space.name)?;
        }
        for (&id, space) in &mut survey.spaces {
            self.tables(id, space, &mut target)?;
        }
        self.log(survey, &mut target)?;
        self.done.closed = survey.log_closed;
        self.done.keyspaces = survey.spaces.len() as u64;
        self.done.bytes = target.bytes;
        target.finish(self.env, destination)?;
        let rest = self.bytes_total - self.bytes_done;
        self.reach(&destination.to, rest);
        Ok(self.done)
    }
}
