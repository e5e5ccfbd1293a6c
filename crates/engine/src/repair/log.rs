//! The operations of the log, done again in order.
//!
//! A log that replays as the manifest says, to an end that is none of a write cut short, is taken as
//! an open would take it. Of any other every group that can be read is taken, segment by segment.
//! Operations are numbered without gaps, but that a log leaves out what was in tables, or of dropped
//! keyspaces, when it was written anew: where the numbers before and after damage follow one another, or
//! lead only to what is in tables, nothing is lost; else the numbers tell which operations are, also where no damage is
//! seen between them. Of a log that was not closed the last group may be damaged: so looks a write
//! that was cut short. Anything more is told.
//!
//! Without a manifest nobody says which log is in force, if there are several (`origins`).
//!
//! What is in tables (its number is not above `flushed`) is taken from the log only where a table
//! lost its keys, and no table has a newer version.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_codec::hash64;
use cairn_table::{Lookup, Read, Table};
use cairn_wal::{Group, Item, KIND_CLOSING, Position, ReplayError, SEGMENT_HEADER_BYTES, Scan, replay};

use crate::batch::{Op, Ops};
use crate::commit::GROUP_KIND;
use crate::error::{Error, Result};
use crate::files::{FileKind, LOG, classify};
use crate::manifest::wal_error;
use crate::recovery::{LOST_END, log_error};
use crate::types::{KEYSPACE_IDS_MAX, KeyspaceId, NUMBER_MAX, kind};

use super::origins::origins;
use super::{Lost, Part, Repair, Survey, Target};

/// Tables that are kept open to be looked up.
const OPEN_TABLES_MAX: usize = 128;

const MISSING: &str = "the segment is missing";

/// Open tables, by path.
#[derive(Default)]
struct OpenTables(BTreeMap<PathBuf, Arc<Table>>);

/// Damage behind the last group: whether operations are lost with it, the next one's number tells.
struct Pending {
    lost: Lost,
    /// At the end of a log that was not closed this may be a write that was cut short.
    torn: bool,
}

/// The walk over the log, and how far it has come.
struct Walk<'w, 'a> {
    repair: &'w mut Repair<'a>,
    survey: &'w mut Survey,
    target: &'w mut Target,
    open: OpenTables,
    /// From this number on a newer log is in force.
    until: u64,
    /// The number of the last operation.
    last_seq: Option<u64>,
    /// The number of the first operation of the last group in this log.
    last_first: Option<u64>,
    /// The log was closed here.
    closed: bool,
    pending: Vec<Pending>,
    /// Where the last group ended.
    end: Option<Position>,
}

impl Repair<'_> {
    /// Does the operations of the log again, where the tables do not hold what came of them.
    pub(super) fn log(&mut self, survey: &mut Survey, target: &mut Target) -> Result<()> {
        let (env, dir, start) = (self.env, self.dir, survey.log_start);
        let sound = survey.manifest.is_some() && self.replays(survey);
        let mut walk = Walk {
            repair: self,
            survey,
            target,
            open: OpenTables::default(),
            until: u64::MAX,
            last_seq: None,
            last_first: None,
            closed: false,
            pending: Vec::new(),
            end: None,
        };
        if !sound {
            return walk.segments();
        }
        replay(env, dir, LOG, start, |group| walk.group(&group, &LOG.path(dir, group.position.segment)))
            .map_err(log_error)?;
        walk.tell(None);
        Ok(())
    }

    /// Whether the log is sound from the manifest's start to its end.
    fn replays(&self, survey: &Survey) -> bool {
        match replay(self.env, self.dir, LOG, survey.log_start, |_| Ok::<(), Infallible>(())) {
            Ok(replayed) => replayed.cut.is_none() && (!survey.log_closed || replayed.closing_groups > 0),
            Err(ReplayError::Log(_)) => false,
            Err(ReplayError::Visit(never)) => match never {},
        }
    }

    /// The segments there are, ascending.
    fn log_segments(&self, survey: &Survey) -> Vec<u64> {
        let ids = self.entries.iter().filter_map(|entry| match classify(&entry.name) {
            FileKind::Log(id) if id >= survey.log_start => Some(id),
            _ => None,
        });
        let mut ids: Vec<u64> = ids.collect();
        ids.sort_unstable();
        ids
    }
}

impl Walk<'_, '_> {
    /// Takes what can be read of every segment.
    fn segments(&mut self) -> Result<()> {
        let ids = self.repair.log_segments(self.survey);
        let start = LOG.path(self.repair.dir, self.survey.log_start);
        let believed = self.survey.manifest.is_some();
        if believed && !ids.contains(&self.survey.log_start) {
            self.pending.push(Pending { lost: lost(start.clone(), None, MISSING.to_owned()), torn: false });
        }
        for origin in origins(self.repair.env, self.repair.dir, &ids, believed) {
            self.until = origin.until;
            self.last_first = None;
            self.closed &= believed;
            for id in origin.segments {
                self.segment(&LOG.path(self.repair.dir, id), &ids)?;
            }
            self.excuse_end();
        }
        if self.closed {
            return Ok(());
        }
        if self.survey.log_closed && self.pending.is_empty() {
            let (path, offset) = match self.end {
                Some(end) => (LOG.path(self.repair.dir, end.segment), Some(end.offset)),
                None => (start, None),
            };
            self.pending.push(Pending { lost: lost(path, offset, LOST_END.to_owned()), torn: false });
        }
        self.tell(None);
        Ok(())
    }

    /// Takes what can be read of one segment.
    fn segment(&mut self, path: &Path, ids: &[u64]) -> Result<()> {
        let mut scan = match Scan::open(self.repair.env, path, LOG) {
            Ok(scan) => scan,
            Err(e) => {
                self.damaged(path, None, wal_error(e).to_string(), false);
                return Ok(());
            }
        };
        // Without a header the groups say themselves where they belong.
        if let Ok(header) = scan.header() {
            self.before_segment(header.previous, ids);
        }
        loop {
            match scan.next() {
                Ok(None) => break,
                Ok(Some(Item::Group(group))) => self.group(&group, path)?,
                Ok(Some(Item::Damage { offset, what, .. })) => {
                    self.damaged(path, Some(offset), what.to_string(), true);
                }
                Ok(Some(Item::Rest { offset, what, used, .. })) => {
                    // Behind a closed log there is nothing.
                    if used > 0 && !self.closed {
                        self.damaged(path, Some(offset), what.to_string(), true);
                    }
                }
                Err(e) => {
                    self.damaged(path, None, wal_error(e).to_string(), false);
                    break;
                }
            }
        }
        Ok(())
    }

    fn damaged(&mut self, path: &Path, offset: Option<u64>, what: String, torn: bool) {
        self.pending.push(Pending { lost: lost(path.to_path_buf(), offset, what), torn });
    }

    /// Compares where a segment says that the one before it ended with what was found of that one.
    fn before_segment(&mut self, previous: Option<Position>, ids: &[u64]) {
        let Some(previous) = previous else { return };
        let path = LOG.path(self.repair.dir, previous.segment);
        if !ids.contains(&previous.segment) {
            if ids.first().is_some_and(|first| *first < previous.segment) {
                self.damaged(&path, None, MISSING.to_owned(), false);
            }
            return;
        }
        let end = self.end.filter(|end| end.segment == previous.segment);
        let end = end.map_or(SEGMENT_HEADER_BYTES, |end| end.offset);
        if end == previous.offset {
            // What stands behind the end is of an earlier use of the file.
            self.pending.retain(|pending| pending.lost.path != path || pending.lost.offset != Some(end));
        } else if end < previous.offset {
            if self.pending.is_empty() {
                self.damaged(&path, Some(end), format!("groups up to byte {} are missing", previous.offset), false);
            }
            self.pending.iter_mut().for_each(|pending| pending.torn = false);
        }
    }

    /// A log that was not closed may end in one write that was cut short.
    fn excuse_end(&mut self) {
        if let [last] = self.pending.as_slice()
            && last.torn
            && !self.survey.log_closed
        {
            self.pending.clear();
        }
    }

    /// Takes one group.
    fn group(&mut self, group: &Group<'_>, path: &Path) -> Result<()> {
        self.repair.reach(path, group.end.offset - group.position.offset);
        self.end = Some(group.end);
        if group.first_seq >= self.until {
            return Ok(());
        }
        if group.kind == KIND_CLOSING {
            // It repeats the number of the last group's first operation; how many that had it does not say.
            let follows = self.last_first.unwrap_or(0) == group.first_seq;
            self.judge(group, path, follows, None);
            self.closed = true;
            return Ok(());
        }
        if group.kind != GROUP_KIND {
            let what = format!("a group of kind {} that this build does not know: use a newer cairn", group.kind);
            return Err(Error::newer(path, what));
        }
        let ops = match operations(group) {
            Ok(ops) => ops,
            Err(what) => {
                self.damaged(path, Some(group.position.offset), what, false);
                return Ok(());
            }
        };
        self.last_first = Some(group.first_seq);
        if self.last_seq.is_some_and(|last| group.first_seq <= last) {
            // A copy: what an opening that was interrupted wrote anew.
            return Ok(());
        }
        let follows = group.first_seq == self.last_seq.map_or(1, |last| last + 1);
        self.judge(group, path, follows, Some(group.first_seq.saturating_sub(1)));
        self.closed = false;
        for (seq, op) in (group.first_seq..self.until).zip(ops) {
            self.last_seq = Some(seq);
            if self.survey.is_dropped(op.keyspace, seq) {
                continue;
            }
            self.make_keyspace(op.keyspace)?;
            if self.is_wanted(seq, &op) {
                let value = (op.kind == kind::PUT).then_some(op.value);
                self.target.write(op.keyspace, op.key, value)?;
                self.repair.done.log_operations += 1;
            }
        }
        Ok(())
    }

    /// Makes the keyspace that an operation names. One that a sound manifest does not name proves that
    /// the manifest has lost its end: nothing is written to a keyspace before its edit is durable.
    fn make_keyspace(&mut self, id: KeyspaceId) -> Result<()> {
        let known = self.survey.spaces.contains_key(&id);
        let name = self.survey.space(id).name.clone();
        self.target.keyspace(id, &name)?;
        if let Some(manifest) = self.survey.manifest.as_ref().filter(|_| !known) {
            let what = format!("its end is missing: it does not name keyspace {id}, which the log writes to");
            let (path, keyspace) = (manifest.clone(), Some(name));
            self.repair.done.lost.push(Lost { path, offset: None, what, blocks: 1, keyspace, range: None });
        }
        Ok(())
    }

    /// Decides whether operations are lost before a group; `follows` if its number proves that none
    /// are. `up_to` is the largest number that may be lost, if it is known.
    fn judge(&mut self, group: &Group<'_>, path: &Path, follows: bool, up_to: Option<u64>) {
        let believed = self.survey.manifest.is_some();
        let flushed = || self.survey.spaces.values().map(|space| space.flushed);
        let in_tables = believed && up_to.is_some_and(|up_to| up_to <= flushed().min().unwrap_or(0));
        if follows || in_tables {
            self.pending.clear();
            return;
        }
        // What was in tables or dropped when the log was written anew, or its start moved on, it need not have.
        let left_out = up_to.unwrap_or(group.first_seq) <= flushed().fold(self.survey.dropped.seq, u64::max);
        let from_the_start = !believed && self.last_seq.is_none();
        if self.pending.is_empty() && !left_out && !from_the_start {
            self.damaged(path, Some(group.position.offset), "groups before this one are missing".to_owned(), false);
        }
        self.tell(up_to);
    }

    /// Tells what is pending as lost, with the numbers of the operations.
    fn tell(&mut self, up_to: Option<u64>) {
        let from = self.last_seq.map(|last| last + 1);
        let operations = match (from, up_to) {
            (Some(from), Some(up_to)) => format!(" (operations {from} to {up_to})"),
            (Some(from), None) => format!(" (operations from {from} on)"),
            (None, Some(up_to)) => format!(" (operations up to {up_to})"),
            (None, None) => String::new(),
        };
        for mut pending in self.pending.drain(..) {
            pending.lost.what.push_str(&operations);
            self.repair.done.lost.push(pending.lost);
        }
    }

    /// Whether what came of an operation is not in the tables, and nothing newer is.
    fn is_wanted(&mut self, seq: u64, op: &Op<'_>) -> bool {
        let Some(space) = self.survey.spaces.get(&op.keyspace) else { return false };
        seq > space.flushed
            || (space.lost.contains(op.key) && !self.repair.holds_newer(&space.parts, op.key, seq, &mut self.open))
    }
}

impl Repair<'_> {
    /// Whether a table holds this version of a key or a newer one. One that cannot be read does not.
    fn holds_newer(&self, parts: &[Part], key: &[u8], seq: u64, open: &mut OpenTables) -> bool {
        let covers = |part: &&Part| part.smallest_key.as_slice() <= key && key <= part.largest_key.as_slice();
        parts.iter().filter(covers).any(|part| {
            if open.0.len() >= OPEN_TABLES_MAX && !open.0.contains_key(&part.path) {
                open.0.clear();
            }
            let table = match open.0.get(&part.path) {
                Some(table) => table,
                None => match self.open(part) {
                    Ok(table) => open.0.entry(part.path.clone()).or_insert(table),
                    Err(_) => return false,
                },
            };
            let found = table.get(key, hash64(key, part.hash_seed), u64::MAX, Read::Any);
            matches!(found, Ok(Lookup::Found { seq: found, .. }) if found >= seq)
        })
    }
}

/// Something of the log that is lost: of which keys, nobody knows.
fn lost(path: PathBuf, offset: Option<u64>, what: String) -> Lost {
    Lost { path, offset, what, blocks: 1, keyspace: None, range: None }
}

/// The operations of a group, all of them, or what is wrong with it.
pub(super) fn operations<'a>(group: &Group<'a>) -> std::result::Result<Vec<Op<'a>>, String> {
    if group.first_seq > NUMBER_MAX {
        return Err(format!("sequence number {} leaves no room for others", group.first_seq));
    }
    let undecoded = |e| format!("a batch does not decode: {e}");
    let mut all = Vec::new();
    for body in group.bodies() {
        let mut ops = Ops::new(body);
        while let Some(op) = ops.next().map_err(undecoded)? {
            if op.keyspace >= KEYSPACE_IDS_MAX {
                return Err(format!("keyspace {} is beyond all there can be", op.keyspace));
            }
            all.push(op);
        }
    }
    if all.is_empty() {
        return Err("a group without an operation".to_owned());
    }
    Ok(all)
}
