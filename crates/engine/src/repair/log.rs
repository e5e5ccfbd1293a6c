//! The operations of the log, done again in order.
//!
//! A log that replays as the manifest says is taken as an open would take it. Of any other every
//! group that can be read is taken, segment by segment. Operations are numbered without gaps: where
//! the numbers before and after damage follow one another, or lead only to what is in tables, nothing
//! is lost; else the numbers tell which operations are.
//!
//! What is in tables (its number is not above `flushed`) is taken from the log only where a table
//! lost its keys, and no table has a newer version.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_codec::hash64;
use cairn_table::{Lookup, Read, Table};
use cairn_wal::{Group, Item, KIND_CLOSING, Position, ReplayError, Scan, replay};

use crate::batch::{Op, Ops};
use crate::commit::GROUP_KIND;
use crate::error::{Error, Result};
use crate::files::{FileKind, LOG, classify};
use crate::manifest::wal_error;
use crate::recovery::{LOST_END, log_error};
use crate::types::{KEYSPACE_IDS_MAX, NUMBER_MAX};

use super::{Lost, Part, Repair, Survey, Target};

/// Tables that are kept open to be looked up.
const OPEN_TABLES_MAX: usize = 128;

/// How far the walk over the log has come.
#[derive(Default)]
struct Walk {
    /// The number of the last operation, and of the first one of its group.
    last_seq: Option<u64>,
    last_first: Option<u64>,
    /// The log was closed here.
    closed: bool,
    /// Damage behind the last group: whether operations are lost with it, the next one's number tells.
    pending: Vec<Lost>,
    /// Where the last group ended.
    end: Option<Position>,
}

/// Open tables, by path.
#[derive(Default)]
struct OpenTables(BTreeMap<PathBuf, Arc<Table>>);

impl Repair<'_> {
    /// Does the operations of the log again, where the tables do not hold what came of them.
    pub(super) fn log(&mut self, survey: &mut Survey, target: &mut Target) -> Result<()> {
        let mut walk = Walk::default();
        let mut open = OpenTables::default();
        if survey.manifest && self.replays(survey) {
            let (env, dir) = (self.env, self.dir);
            replay(env, dir, LOG, survey.log_start, |group| {
                let path = LOG.path(dir, group.position.segment);
                self.group(&group, &path, &mut walk, survey, &mut open, target)
            })
            .map_err(log_error)?;
            return Ok(());
        }
        let mut ids: Vec<u64> = self
            .entries
            .iter()
            .filter_map(|entry| match classify(&entry.name) {
                FileKind::Log(id) if id >= survey.log_start => Some(id),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        if survey.manifest && !ids.contains(&survey.log_start) {
            let path = LOG.path(self.dir, survey.log_start);
            walk.pending.push(lost(path, None, "the segment is missing".to_owned()));
        }
        for (index, id) in ids.iter().enumerate() {
            let torn_end = index + 1 == ids.len() && !survey.log_closed;
            self.segment(&LOG.path(self.dir, *id), &ids, torn_end, &mut walk, survey, &mut open, target)?;
        }
        if walk.closed {
            return Ok(());
        }
        self.done.lost.append(&mut walk.pending);
        if survey.log_closed {
            let end = walk.end.unwrap_or(Position { segment: survey.log_start, offset: 0 });
            let path = LOG.path(self.dir, end.segment);
            self.done.lost.push(lost(path, Some(end.offset), LOST_END.to_owned()));
        }
        Ok(())
    }

    /// Whether the log is sound from the manifest's start to its end.
    fn replays(&self, survey: &Survey) -> bool {
        match replay(self.env, self.dir, LOG, survey.log_start, |_| Ok::<(), Infallible>(())) {
            Ok(replayed) => !survey.log_closed || replayed.closing_groups > 0,
            Err(ReplayError::Log(_)) => false,
            Err(ReplayError::Visit(never)) => match never {},
        }
    }

    /// Takes what can be read of one segment.
    #[expect(clippy::too_many_arguments, reason = "the walk's state, which borrows from different owners")]
    fn segment(
        &mut self,
        path: &Path,
        ids: &[u64],
        torn_end: bool,
        walk: &mut Walk,
        survey: &mut Survey,
        open: &mut OpenTables,
        target: &mut Target,
    ) -> Result<()> {
        let mut scan = match Scan::open(self.env, path, LOG) {
            Ok(scan) => scan,
            Err(e) => {
                walk.pending.push(lost(path.to_path_buf(), None, wal_error(e).to_string()));
                return Ok(());
            }
        };
        // Without a header the groups say themselves where they belong.
        if let Ok(header) = scan.header() {
            self.before_segment(header.previous, ids, walk);
        }
        loop {
            match scan.next() {
                Ok(None) => break,
                Ok(Some(Item::Group(group))) => self.group(&group, path, walk, survey, open, target)?,
                Ok(Some(Item::Damage { offset, what, .. })) => {
                    walk.pending.push(lost(path.to_path_buf(), Some(offset), what.to_string()));
                }
                Ok(Some(Item::Rest { offset, what, used, .. })) => {
                    // A torn end was never acknowledged, and behind a closed log there is nothing.
                    if used > 0 && !torn_end && !walk.closed {
                        walk.pending.push(lost(path.to_path_buf(), Some(offset), what.to_string()));
                    }
                }
                Err(e) => {
                    walk.pending.push(lost(path.to_path_buf(), None, wal_error(e).to_string()));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Compares where a segment says that the one before it ended with what was found of that one.
    fn before_segment(&self, previous: Option<Position>, ids: &[u64], walk: &mut Walk) {
        let Some(previous) = previous else { return };
        let path = LOG.path(self.dir, previous.segment);
        let found = walk.end.filter(|end| end.segment == previous.segment);
        if ids.contains(&previous.segment) {
            if let Some(end) = found.filter(|end| end.offset < previous.offset && walk.pending.is_empty()) {
                let what = format!("groups up to byte {} are missing", previous.offset);
                walk.pending.push(lost(path, Some(end.offset), what));
            }
        } else if ids.first().is_some_and(|first| *first < previous.segment) {
            walk.pending.push(lost(path, None, "the segment is missing".to_owned()));
        }
    }

    /// Takes one group.
    fn group(
        &mut self,
        group: &Group<'_>,
        path: &Path,
        walk: &mut Walk,
        survey: &mut Survey,
        open: &mut OpenTables,
        target: &mut Target,
    ) -> Result<()> {
        self.reach(path, group.end.offset - group.position.offset);
        walk.end = Some(group.end);
        if group.kind == KIND_CLOSING {
            // It repeats the number of the last group's first operation; how many that had it does not say.
            let follows = walk.last_first.unwrap_or(0) == group.first_seq;
            self.judge(walk, survey, follows, None);
            walk.closed = true;
            return Ok(());
        }
        if group.kind != GROUP_KIND {
            let what = format!("a group of kind {} that this build does not know: use a newer cairn", group.kind);
            return Err(Error::newer(path, what));
        }
        if walk.last_seq.is_some_and(|last| group.first_seq <= last) {
            // A copy: what an opening that was interrupted wrote anew.
            return Ok(());
        }
        let follows = walk.last_seq.is_some_and(|last| group.first_seq == last + 1);
        self.judge(walk, survey, follows, Some(group.first_seq.saturating_sub(1)));
        walk.closed = false;
        walk.last_first = Some(group.first_seq);
        walk.last_seq = Some(group.first_seq);
        let refused = |what: String| lost(path.to_path_buf(), Some(group.position.offset), what);
        let ops = match operations(group) {
            Ok(ops) => ops,
            Err(what) => {
                self.done.lost.push(refused(what));
                return Ok(());
            }
        };
        for (seq, op) in (group.first_seq..).zip(ops) {
            walk.last_seq = Some(seq);
            match survey.space(op.keyspace) {
                Some(space) => target.keyspace(op.keyspace, &space.name)?,
                None => {
                    self.done.lost.push(refused(format!("keyspace {} does not exist", op.keyspace)));
                    continue;
                }
            }
            if self.is_wanted(seq, &op, survey, open) {
                let value = (op.kind == crate::types::kind::PUT).then_some(op.value);
                target.write(op.keyspace, op.key, value)?;
                self.done.log_operations += 1;
            }
        }
        Ok(())
    }

    /// Decides whether operations are lost with the damage before a group; `follows` if its number
    /// proves that none are. `up_to` is the largest number that may be lost, if it is known.
    fn judge(&mut self, walk: &mut Walk, survey: &Survey, follows: bool, up_to: Option<u64>) {
        let flushed = survey.spaces.values().map(|space| space.flushed).min().unwrap_or(0);
        let in_tables = survey.manifest && up_to.is_some_and(|up_to| up_to <= flushed);
        let pending = std::mem::take(&mut walk.pending);
        if follows || in_tables {
            return;
        }
        let from = walk.last_seq.map(|last| last + 1);
        let operations = match (from, up_to) {
            (Some(from), Some(up_to)) => format!(" (operations {from} to {up_to})"),
            (Some(from), None) => format!(" (operations from {from} on)"),
            (None, Some(up_to)) => format!(" (operations up to {up_to})"),
            (None, None) => String::new(),
        };
        for mut loss in pending {
            loss.what.push_str(&operations);
            self.done.lost.push(loss);
        }
    }

    /// Whether what came of an operation is not in the tables, and nothing newer is.
    fn is_wanted(&self, seq: u64, op: &Op<'_>, survey: &Survey, open: &mut OpenTables) -> bool {
        let Some(space) = survey.spaces.get(&op.keyspace) else { return false };
        seq > space.flushed || (space.lost.contains(op.key) && !self.holds_newer(&space.parts, op.key, seq, open))
    }

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
fn operations<'a>(group: &Group<'a>) -> std::result::Result<Vec<Op<'a>>, String> {
    if group.first_seq > NUMBER_MAX {
        return Err(format!("sequence number {} leaves no room for others", group.first_seq));
    }
    let undecoded = |e| format!("a batch does not decode: {e}");
    let mut all = Vec::new();
    for body in group.bodies() {
        let mut ops = Ops::new(body).map_err(undecoded)?;
        while let Some(op) = ops.next().map_err(undecoded)? {
            if op.keyspace >= KEYSPACE_IDS_MAX {
                return Err(format!("keyspace {} is beyond all there can be", op.keyspace));
            }
            all.push(op);
        }
    }
    Ok(all)
}
