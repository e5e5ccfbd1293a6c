//! The check of the write-ahead log: against the manifest, or a segment by itself.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;

use cairn_wal::{Group, Item, KIND_CLOSING, Replay, ReplayError, Scan, replay};

use crate::batch::Ops;
use crate::commit::GROUP_KIND;
use crate::edit::State;
use crate::error::Result;
use crate::files::{FileKind, LOG, classify};
use crate::manifest::wal_error;
use crate::recovery::LOST_END;
use crate::types::NUMBER_MAX;

use super::{Check, Report, Severity};

/// How much is read at once when only zeros are expected.
const WINDOW_BYTES: usize = 64 << 10;

/// What the manifest's side of the check wants to know of the log.
pub(super) struct Found {
    /// The log was closed by the database.
    pub(super) closed: bool,
    /// The segments that a replay needs.
    pub(super) segments: BTreeSet<u64>,
}

impl Check<'_> {
    /// Checks the log from where the manifest says that it starts.
    pub(super) fn log(&mut self, state: &State, manifest_closed: bool) -> Found {
        let (env, dir) = (self.env, self.dir);
        let before = self.bytes_done;
        let mut last_seq = 0;
        let mut bytes = 0;
        let mut complained = BTreeSet::new();
        let replayed = replay(env, dir, LOG, state.log_start, |group| {
            let segment = group.position.segment;
            let path = LOG.path(dir, segment);
            let wrong = judge(&group, Some(state), &mut last_seq, &mut self.report);
            // One for each file: what follows may follow from it.
            if let Some(what) = wrong.filter(|_| complained.insert(segment)) {
                self.damage(&path, Some(group.position.offset), what);
            }
            bytes += group.end.offset - group.position.offset;
            self.reach(&path, before.saturating_add(bytes));
            Ok::<(), Infallible>(())
        });
        match replayed {
            Ok(replayed) => {
                self.report.log_segments += replayed.segments.len() as u64;
                self.log_end(&replayed, manifest_closed);
                Found {
                    closed: replayed.closing_groups > 0,
                    segments: replayed.segments.iter().map(|segment| segment.id).collect(),
                }
            }
            Err(ReplayError::Visit(never)) => match never {},
            Err(ReplayError::Log(e)) => {
                let e = wal_error(e);
                self.failed(dir, &e);
                let reported = e.damage().map(|(path, _)| path.to_path_buf());
                self.rest_of_log(state.log_start, reported.as_deref())
            }
        }
    }

    /// The log could not be replayed: looks at its segments one by one.
    fn rest_of_log(&mut self, log_start: u64, reported: Option<&Path>) -> Found {
        let mut segments = BTreeSet::new();
        for entry in self.entries.clone() {
            if let FileKind::Log(id) = classify(&entry.name)
                && id >= log_start
            {
                segments.insert(id);
                let path = LOG.path(self.dir, id);
                if reported != Some(path.as_path()) {
                    self.lone_segment(&path);
                }
            }
        }
        Found { closed: false, segments }
    }

    fn log_end(&mut self, replayed: &Replay, manifest_closed: bool) {
        let closed = manifest_closed || replayed.closing_groups > 0;
        let path = LOG.path(self.dir, replayed.end.segment);
        let offset = Some(replayed.end.offset);
        match replayed.cut {
            Some(cut) if closed => {
                let what = format!("the log was closed, yet {} bytes here are no group: {}", cut.bytes_cut, cut.reason);
                self.damage(&path, offset, what);
            }
            Some(cut) => {
                let what = match cut.groups_cut {
                    // The bad group's own header may be one of them.
                    0 | 1 => format!("the log ends in an unfinished write of {} bytes: {}", cut.bytes_cut, cut.reason),
                    groups => format!(
                        "an opening cuts {} bytes here, not known to be durable, with the headers of {groups} groups: {}; \
                         a repair saves what can be read of them",
                        cut.bytes_cut, cut.reason
                    ),
                };
                self.found(Severity::Note, &path, offset, what);
            }
            None if manifest_closed && replayed.closing_groups == 0 => self.damage(&path, offset, LOST_END),
            None if manifest_closed && !replayed.clean_close => {
                self.damage(&path, offset, "the second of the two closing records is missing; all before it is there");
            }
            None if replayed.closing_groups == 0 => {
                let what = "the log was not closed: the database was not shut down in order; nothing is lost by that";
                self.found(Severity::Note, &path, offset, what.to_owned());
            }
            None => {}
        }
        // Behind the end of the last segment a replay has looked itself.
        for segment in replayed.segments.iter().rev().skip(1) {
            let path = LOG.path(self.dir, segment.id);
            match self.first_used(&path, segment.bytes) {
                Ok(None) => {}
                Ok(Some(at)) => self.damage(&path, Some(at), "bytes stand behind the end of the segment"),
                Err(e) => self.failed(&path, &e),
            }
        }
    }

    /// The first byte from `offset` on that is not zero, in a segment that was not recycled.
    fn first_used(&self, path: &Path, offset: u64) -> Result<Option<u64>> {
        let scan = Scan::open(self.env, path, LOG).map_err(wal_error)?;
        if scan.header().is_ok_and(|header| header.recycled) {
            return Ok(None);
        }
        let file = self.env.open(path)?;
        let mut window = vec![0; WINDOW_BYTES];
        let mut at = offset;
        loop {
            let got = file.read_at(&mut window, at)?;
            let read = window.get(..got).unwrap_or_default();
            if let Some(used) = read.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + used as u64));
            }
            if got < window.len() {
                return Ok(None);
            }
            at += got as u64;
        }
    }

    /// Checks a segment by itself; tells the first damage in it.
    pub(super) fn lone_segment(&mut self, path: &Path) {
        if let Err(e) = self.try_lone_segment(path) {
            self.failed(path, &e);
        }
    }

    fn try_lone_segment(&mut self, path: &Path) -> Result<()> {
        let before = self.bytes_done;
        let mut scan = Scan::open(self.env, path, LOG).map_err(wal_error)?;
        let mut wrong = scan.header().err().map(|damage| (0, damage.to_string()));
        self.report.log_segments += 1;
        let mut last_seq = 0;
        while let Some(item) = scan.next().map_err(wal_error)? {
            let (offset, what) = match &item {
                Item::Group(group) if group.kind == KIND_CLOSING => continue,
                Item::Group(group) => {
                    let offset = group.position.offset;
                    (offset, judge(group, None, &mut last_seq, &mut self.report))
                }
                Item::Damage { offset, what, .. } => (*offset, Some(what.to_string())),
                Item::Rest { offset, used: 0, .. } => (*offset, None),
                Item::Rest { offset, used, what, .. } => {
                    let what = format!("its last {used} bytes are an unfinished write, or of an earlier use: {what}");
                    self.found(Severity::Note, path, Some(*offset), what);
                    continue;
                }
            };
            if let Some(what) = what {
                wrong.get_or_insert((offset, what));
            }
            self.reach(path, before.saturating_add(offset));
        }
        if let Some((offset, what)) = wrong {
            self.damage(path, Some(offset), what);
        }
        Ok(())
    }
}

/// Counts a group of batches and says what is wrong with it. `last_seq` is the number of the last
/// operation before it, then of its own last.
fn judge(group: &Group<'_>, state: Option<&State>, last_seq: &mut u64, report: &mut Report) -> Option<String> {
    report.log_groups += 1;
    if group.kind != GROUP_KIND {
        return Some(format!("a group of kind {} that this build does not know", group.kind));
    }
    if group.first_seq <= *last_seq {
        return Some(format!("it begins with sequence number {}, and {last_seq} is before it", group.first_seq));
    }
    if group.first_seq > NUMBER_MAX {
        return Some(format!("sequence number {} leaves no room for others", group.first_seq));
    }
    let undecoded = |e| format!("a batch does not decode: {e}");
    let mut next = group.first_seq;
    for body in group.bodies() {
        let mut ops = Ops::new(body);
        loop {
            let op = match ops.next() {
                Ok(Some(op)) => op,
                Ok(None) => break,
                Err(e) => return Some(undecoded(e)),
            };
            if let Some(Err(what)) = state.map(|state| state.keyspace_of(op.keyspace, next)) {
                return Some(what);
            }
            report.log_entries += 1;
            *last_seq = next;
            next += 1;
        }
    }
    if next == group.first_seq {
        return Some("a group without an operation".to_owned());
    }
    None
}
