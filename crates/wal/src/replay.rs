//! Reading a log back: which segments belong to it, every group in order, and what to make of the
//! first that cannot be read.
//!
//! The chain is found from its newest segment backwards, each naming the one before it, until the
//! start; so a segment that was prepared and never came to be used changes nothing. Segments of
//! another origin (the unfinished start of a rewrite, or what a rewrite replaced) and segments
//! before the start are orphans.
//!
//! A segment ends where the next one says that it ended; the last one ends where no group starts.
//! When a group is bad, or missing where the next segment says there was more, the rest of that
//! segment and all later ones are searched for group headers. If one of them says that the log
//! was durable beyond the bad point, bytes that were durable are lost: [`Error::Corrupt`].
//! Otherwise nothing from there on was ever acknowledged as durable, and all of it is cut, whole
//! groups included: what follows a lost group must not be seen without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_env::Env;

use crate::error::{Claim, Error, ReplayError, Result};
use crate::format::{Damage, Group, KIND_CLOSING, Place, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::Segment;
use crate::{Naming, Position, SegmentInfo};

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Where the last group that was visited, or closed the log, ends.
    pub end: Position,
    /// The log was closed by [`crate::LogWriter::close`], and nothing follows.
    pub clean_close: bool,
    /// The closing groups that were found at its end: two after a whole close. One is enough to
    /// know that nothing before it is missing.
    pub closing_groups: u32,
    /// What was given up, if anything was there to give up.
    pub cut: Option<Cut>,
    /// The segments that were replayed, oldest first; the last one is where `end` lies.
    pub segments: Vec<SegmentInfo>,
    /// Segments that are not part of the log, ascending: older than its start, of a rewrite that
    /// never became current, or cut. They may be removed once nothing refers to this log.
    pub orphans: Vec<u64>,
    /// The first sequence number of the last group; none if there was no group.
    pub last_seq: Option<u64>,
    /// An id above those of all segments there are, orphans included.
    pub next_id: u64,
}

/// The end of a log was torn: from `position` on nothing counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the first group that cannot be read starts.
    pub position: Position,
    /// What is wrong with it.
    pub reason: Damage,
    /// Bytes from there to the last that is not zero, in this segment and later ones. In a
    /// recycled segment they may include some of its earlier use.
    pub bytes_cut: u64,
    /// Whole group headers found from there on; the bad group's own may be one of them.
    pub groups_cut: u64,
}

/// Reads the log that begins in segment `start` and hands every group to `visit`, in order.
///
/// Reads only. Keeps one window of 1 MiB, or one group, in memory.
///
/// # Errors
/// [`Error::Missing`] if `start` does not exist, [`Error::Corrupt`] if bytes that were durable
/// cannot be read, [`Error::Newer`] for a newer format, [`Error::Io`] if reading fails;
/// [`ReplayError::Visit`] as soon as `visit` refuses a group.
pub fn replay<E>(
    env: &Env,
    dir: &Path,
    naming: Naming,
    start: u64,
    mut visit: impl FnMut(Group<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<Replay, ReplayError<E>> {
    let chain = Chain::find(env, dir, naming, start)?;
    let mut done = Replay {
        end: Position { segment: start, offset: SEGMENT_HEADER_BYTES },
        clean_close: false,
        closing_groups: 0,
        cut: None,
        segments: Vec::new(),
        orphans: chain.orphans.clone(),
        last_seq: None,
        next_id: chain.next_id,
    };
    for (index, header) in chain.segments.iter().enumerate() {
        let next = chain.segments.get(index + 1);
        let ends_at = next.and_then(|next| next.previous).map(|previous| previous.offset);
        let mut segment = Segment::open(env, &chain.path(header.id))?;
        let mut info = SegmentInfo { id: header.id, bytes: SEGMENT_HEADER_BYTES, first_seq: None };
        let stop = loop {
            if ends_at == Some(info.bytes) {
                break None;
            }
            let group = match next_group(&mut segment, header.place(info.bytes), done.last_seq)? {
                Ok(group) => group,
                Err(damage) => break Some(damage),
            };
            if let Some(end) = ends_at.filter(|end| group.end.offset > *end) {
                break Some(Damage::Overrun { end });
            }
            info.bytes = group.end.offset;
            info.first_seq = info.first_seq.or(Some(group.first_seq));
            done.last_seq = Some(group.first_seq);
            done.closing_groups = if group.kind == KIND_CLOSING { done.closing_groups.saturating_add(1) } else { 0 };
            let skipped = ends_at == Some(info.bytes) && cairn_env::mutant("last-group-of-segment-skipped");
            if group.kind != KIND_CLOSING && !skipped {
                visit(group).map_err(ReplayError::Visit)?;
            }
        };
        done.end = Position { segment: header.id, offset: info.bytes };
        done.segments.push(info);
        if let Some(damage) = stop {
            let later = chain.segments.get(index + 1..).unwrap_or_default();
            done.cut = chain.judge(env, &mut segment, header, done.end, damage, later)?;
            done.orphans.extend(later.iter().chain(&chain.stranded).map(|header| header.id));
            done.orphans.sort_unstable();
            break;
        }
    }
    done.clean_close = done.closing_groups >= 2 && done.cut.is_none();
    Ok(done)
}

/// Reads the group at `place`, which must follow the one that began with `last_seq`.
fn next_group(
    segment: &mut Segment,
    place: Place,
    last_seq: Option<u64>,
) -> Result<std::result::Result<Group<'_>, Damage>> {
    let header = match segment.group_header(place)? {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    if let Some(last) = last_seq {
        let found = header.start.first_seq;
        let follows = if header.start.kind == KIND_CLOSING { found == last } else { found > last };
        if !follows {
            return Ok(Err(Damage::Sequence { last, found }));
        }
    }
    segment.group(&header)
}

/// The segments of one log, found by their headers.
struct Chain<'a> {
    dir: &'a Path,
    naming: Naming,
    /// From the start on, each following the one before.
    segments: Vec<SegmentHeader>,
    /// Later ones that cannot be reached, because `missing` is not there.
    stranded: Vec<SegmentHeader>,
    missing: Option<u64>,
    orphans: Vec<u64>,
    next_id: u64,
}

impl<'a> Chain<'a> {
    fn find(env: &Env, dir: &'a Path, naming: Naming, start: u64) -> Result<Chain<'a>> {
        let ids = naming.ids(env, dir)?;
        let path = naming.path(dir, start);
        if ids.binary_search(&start).is_err() {
            return Err(Error::Missing { path });
        }
        let next_id = ids.last().map_or(start, |last| last.saturating_add(1));
        let origin = match read_header(env, &path, start)? {
            Ok(header) => header.origin,
            Err(what) => return Err(Error::Corrupt { path, offset: 0, what, claim: None }),
        };
        let mut found = BTreeMap::new();
        let mut orphans = Vec::new();
        for id in ids {
            let header = if id < start { None } else { read_header(env, &naming.path(dir, id), id)?.ok() };
            match header.filter(|header| header.origin == origin) {
                Some(header) => {
                    found.insert(id, header);
                }
                None => orphans.push(id),
            }
        }
        // Backwards from the newest. Ids only fall on the way, as every header was checked to say.
        let mut segments = Vec::new();
        let mut stranded = Vec::new();
        let mut missing = None;
        while let Some((_, newest)) = found.pop_last() {
            segments.push(newest);
            if newest.id == start {
                break;
            }
            let before = newest.previous.map_or(start, |previous| previous.segment);
            if !found.contains_key(&before) {
                // A gap: what was collected is beyond it. Look for the chain below.
                missing = Some(before);
                stranded.append(&mut segments);
            }
            // Whatever lies between follows nobody and is followed by nobody.
            let keep = before.max(start).saturating_add(1);
            orphans.extend(found.split_off(&keep).into_keys());
        }
        orphans.sort_unstable();
        segments.reverse();
        Ok(Chain { dir, naming, segments, stranded, missing, orphans, next_id })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.naming.path(self.dir, id)
    }

    /// No group could be read at `end`: is that the end of the log, a torn end, or corruption?
    fn judge(
        &self,
        env: &Env,
        segment: &mut Segment,
        header: &SegmentHeader,
        end: Position,
        damage: Damage,
        later: &[SegmentHeader],
    ) -> Result<Option<Cut>> {
        let here = segment.remains(header.place(end.offset))?;
        let mut claim = here.claim;
        let mut cut = Cut { position: end, reason: damage, bytes_cut: here.bytes, groups_cut: here.groups };
        for header in later.iter().chain(&self.stranded) {
            let mut segment = Segment::open(env, &self.path(header.id))?;
            let there = segment.remains(header.place(SEGMENT_HEADER_BYTES))?;
            claim = claim.max(there.claim);
            cut.bytes_cut = cut.bytes_cut.saturating_add(there.bytes);
            cut.groups_cut += there.groups;
        }
        // In a fresh segment zeros follow the last group; in a recycled one, its earlier use.
        let nothing_here = if header.recycled { !here.begun } else { here.bytes == 0 };
        let missing = self.missing.filter(|_| nothing_here && later.is_empty());
        if let Some(id) = missing {
            cut.reason = Damage::MissingSegment { id };
        }
        let lost = |claim: &Claim| claim.synced > end && !cairn_env::mutant("damaged-middle-cut");
        if let Some(claim) = claim.filter(lost) {
            let (path, offset) = match missing {
                Some(id) => (self.path(id), 0),
                None => (self.path(end.segment), end.offset),
            };
            return Err(Error::Corrupt { path, offset, what: cut.reason, claim: Some(claim) });
        }
        let ended = nothing_here && later.is_empty() && self.stranded.is_empty();
        Ok(if ended { None } else { Some(cut) })
    }
}

/// Reads and checks the header of segment `id`. A header that is not this segment's own is fine as
/// long as the segment holds no group: then it was never used. If it does, the header was durable
/// before and is damaged now.
fn read_header(env: &Env, path: &Path, id: u64) -> Result<std::result::Result<SegmentHeader, Damage>> {
    let mut segment = Segment::open(env, path)?;
    let damage = match segment.header()? {
        Ok(header) if header.id == id => return Ok(Ok(header)),
        Ok(header) => Damage::Elsewhere { segment: header.id },
        Err(Damage::Newer { version }) => return Err(Error::Newer { path: path.to_path_buf(), version }),
        Err(damage) => damage,
    };
    let first = Position { segment: id, offset: SEGMENT_HEADER_BYTES };
    let remains = segment.remains(Place { position: first, salt: None })?;
    match remains.claim {
        Some(claim) => Err(Error::Corrupt { path: path.to_path_buf(), offset: 0, what: damage, claim: Some(claim) }),
        None => Ok(Err(damage)),
    }
}

#[cfg(test)]
mod tests;
