//! Appending: groups into segments, segments one after the other.
//!
//! Invariants
//! 1. `end` is where the next group goes; the file holds every group before it whole.
//! 2. A segment is used only after its header, then its name, were synced. A segment that could
//!    not be prepared is gone, durably, before anything more is appended to the one before it;
//!    otherwise its header would say that the one before ended earlier than it does.
//! 3. After a failure that leaves the file in doubt the writer takes nothing more.

use std::path::{Path, PathBuf};

use cairn_env::{Env, File};

use crate::error::{Error, Result};
use crate::format::{self, Body, GroupStart, KIND_CLOSING, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::syncer::LogSyncer;
use crate::{Naming, Position, SegmentInfo};

/// The first stretch of zeros written ahead; each next one is twice as long.
const AHEAD_BYTES_MIN: u64 = 64 << 10;
/// The longest stretch of zeros written ahead.
const AHEAD_BYTES_MAX: u64 = 4 << 20;
/// Zeros are written this many at a time.
const ZEROS_LEN: usize = 64 << 10;
static ZEROS: [u8; ZEROS_LEN] = [0; ZEROS_LEN];
/// The buffer for encoding is given back after a group larger than this.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// The second closing group starts in another such block than the first.
const BLOCK_BYTES: u64 = 4096;

/// How a log lays out its segments.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A group that would pass this length starts a new segment; one longer than this has its own.
    pub segment_bytes: u64,
    /// Write zeros ahead once commits are synced (64 KiB, doubling to 4 MiB), so that a sync
    /// writes data only and not also the file's new length.
    pub allocate: bool,
}

/// The one that appends to a log.
#[derive(Debug)]
pub struct LogWriter {
    env: Env,
    dir: PathBuf,
    naming: Naming,
    options: LogOptions,
    file: File,
    header: SegmentHeader,
    end: Position,
    /// The file has this length, or more where it was recycled.
    allocated: u64,
    /// How much to write ahead the next time.
    ahead_bytes: u64,
    /// The syncer's count when zeros were last written ahead.
    ahead_at_sync: u64,
    last_seq: Option<u64>,
    segments: Vec<SegmentInfo>,
    has_spare: bool,
    failed: bool,
    buffer: Vec<u8>,
    syncer: LogSyncer,
}

impl LogWriter {
    /// Begins a new log with segment `id`, durable when this returns; a spare that an earlier log
    /// left is removed. Groups of an earlier log under the same naming are not part of this one:
    /// [`crate::replay`] from `id` sees them as orphans.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a segment with this or a higher id exists (take [`Naming::next_id`]);
    /// [`Error::NoSpace`] and [`Error::Io`] leave at most an orphan behind.
    pub fn create(
        env: &Env,
        dir: &Path,
        naming: Naming,
        id: u64,
        options: LogOptions,
    ) -> Result<(LogWriter, LogSyncer)> {
        if naming.ids(env, dir)?.last().is_some_and(|highest| *highest >= id) {
            return Err(Error::Invalid("a log begins with an id above those of all its segments"));
        }
        remove_if_exists(env, &naming.spare_path(dir))?;
        let header = SegmentHeader { id, origin: id, previous: None, recycled: false, salt: env.random_u64() };
        let file = create_segment(env, dir, naming, &header).map_err(classify)?;
        let end = Position { segment: id, offset: SEGMENT_HEADER_BYTES };
        let syncer = LogSyncer::new(env, dir, file.clone(), end);
        let writer = LogWriter {
            env: env.clone(),
            dir: dir.to_path_buf(),
            naming,
            options,
            file,
            header,
            end,
            allocated: end.offset,
            ahead_bytes: AHEAD_BYTES_MIN,
            ahead_at_sync: 0,
            last_seq: None,
            segments: vec![SegmentInfo { id, bytes: end.offset, first_seq: None }],
            has_spare: false,
            failed: false,
            buffer: Vec::new(),
            syncer: syncer.clone(),
        };
        Ok((writer, syncer))
    }

    /// Appends one group and returns its end. It is handed to the operating system, not synced;
    /// [`LogSyncer::sync`] makes it durable. `first_seq` must be above that of the group before.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Invalid`]: nothing was written. [`Error::NoSpace`]:
    /// nothing of the group is left, the log is as it was. [`Error::Io`]: whether the group will
    /// be replayed is unknown, and every later append is [`Error::Poisoned`].
    pub fn append(&mut self, kind: u8, first_seq: u64, bodies: &[Body<'_>]) -> Result<Position> {
        if kind == KIND_CLOSING {
            return Err(Error::Invalid("this kind closes the log"));
        }
        if self.last_seq.is_some_and(|last| first_seq <= last) {
            return Err(Error::Invalid("sequence numbers only grow"));
        }
        self.append_any(kind, first_seq, bodies)
    }

    /// Begins the next segment now, so that the ones before can be given up.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn begin_segment(&mut self) -> Result<()> {
        if self.failed {
            return Err(Error::Poisoned { dir: self.dir.clone() });
        }
        self.roll()
    }

    /// Where the next group goes: the end of all that is appended.
    pub fn position(&self) -> Position {
        self.end
    }

    /// The segments of this log, oldest first, since it began or since
    /// [`LogWriter::forget_before`].
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.segments
    }

    /// Takes the segments with ids below `id` off the list, except the one in use, and returns
    /// them: the caller removes their files, or offers one as a spare.
    pub fn forget_before(&mut self, id: u64) -> Vec<SegmentInfo> {
        let keep = id.min(self.end.segment);
        let (gone, kept) = self.segments.iter().partition(|segment| segment.id < keep);
        self.segments = kept;
        gone
    }

    /// Offers the file of a segment that no replay will need again (durably so). If it is taken,
    /// it waits under another name to become a later segment; if not, the file is still there.
    /// There is at most one spare, no longer than a segment should be.
    ///
    /// # Errors
    /// [`Error::Io`] if the file could not be looked at or renamed; the log is not affected.
    pub fn offer_spare(&mut self, id: u64) -> Result<bool> {
        if self.has_spare || id >= self.end.segment || self.syncer.needs(id) {
            return Ok(false);
        }
        let path = self.naming.path(&self.dir, id);
        if self.env.open(&path)?.len()? > self.options.segment_bytes {
            return Ok(false);
        }
        self.env.rename(&path, &self.naming.spare_path(&self.dir))?;
        self.has_spare = true;
        Ok(true)
    }

    /// Removes the spare, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if it could not be removed; the log is not affected.
    pub fn drop_spares(&mut self) -> Result<()> {
        if self.has_spare {
            remove_if_exists(&self.env, &self.naming.spare_path(&self.dir))?;
            self.has_spare = false;
        }
        Ok(())
    }

    /// Ends the log so that a later replay knows that it was ended: syncs, then appends and syncs
    /// two closing groups, one after the other. The first says that everything before it was
    /// durable, the second that the first was; so damage to any of it shows.
    ///
    /// # Errors
    /// As [`LogWriter::append`] and [`LogSyncer::sync`]; what was durable before stays so.
    pub fn close(mut self) -> Result<()> {
        self.drop_spares()?;
        self.syncer.sync()?;
        let seq = self.last_seq.unwrap_or(0);
        // The first fills its block, so that the loss of one block leaves one of the two.
        // The length of a filling takes two bytes; of a short one it takes one, and the padding another.
        let bare = format::group_bytes(&[])? + 2 + format::BODY_CHECKSUM_LEN as u64;
        let filling = BLOCK_BYTES - (self.end.offset + bare) % BLOCK_BYTES;
        let filling = vec![0; usize::try_from(filling).unwrap_or_default()];
        self.append_any(KIND_CLOSING, seq, &[Body::new(&filling)])?;
        self.syncer.sync()?;
        self.append_any(KIND_CLOSING, seq, &[])?;
        self.syncer.sync()?;
        Ok(())
    }

    fn append_any(&mut self, kind: u8, first_seq: u64, bodies: &[Body<'_>]) -> Result<Position> {
        let bytes = format::group_bytes(bodies)?;
        let (synced, sync_count) = self.syncer.check()?;
        if self.failed {
            return Err(Error::Poisoned { dir: self.dir.clone() });
        }
        let holds_groups = self.end.offset > SEGMENT_HEADER_BYTES;
        if holds_groups && self.end.offset.saturating_add(bytes) > self.options.segment_bytes {
            self.roll()?;
        }
        let start = GroupStart { kind, position: self.end, salt: self.header.salt, first_seq, synced };
        format::encode_group(&mut self.buffer, &start, bodies)?;
        let end = self.end.offset + bytes;
        self.write_ahead(end, sync_count)?;
        let written = self.file.write_all_at(&self.buffer, self.end.offset);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        if let Err(e) = written
            && !(e.is_no_space() && cairn_env::mutant("full-disk-taken-for-done"))
        {
            return Err(self.take_back(e));
        }
        self.allocated = self.allocated.max(end);
        self.end.offset = end;
        self.last_seq = Some(first_seq);
        if let Some(current) = self.segments.last_mut() {
            current.bytes = end;
            current.first_seq = current.first_seq.or(Some(first_seq));
        }
        self.syncer.advance(self.end);
        Ok(self.end)
    }

    /// Writes zeros behind the group to come, if it passes what is allocated.
    ///
    /// Only when something was synced since the last time: a log that nobody syncs gains nothing
    /// by it. A full disk is no failure here: then the file grows with each group.
    fn write_ahead(&mut self, group_end: u64, sync_count: u64) -> Result<()> {
        if !self.options.allocate || group_end <= self.allocated || sync_count == self.ahead_at_sync {
            return Ok(());
        }
        self.ahead_at_sync = sync_count;
        let wanted = self.allocated.saturating_add(self.ahead_bytes).min(self.options.segment_bytes);
        self.ahead_bytes = (self.ahead_bytes * 2).min(AHEAD_BYTES_MAX);
        let mut offset = group_end;
        while offset < wanted {
            let len = usize::try_from(wanted - offset).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..len).unwrap_or(&ZEROS);
            match self.file.write_all_at(zeros, offset) {
                Ok(()) => offset += zeros.len() as u64,
                Err(e) if e.is_no_space() => return self.cut_to_end().map_err(Error::Io),
                Err(e) => {
                    self.failed = true;
                    return Err(Error::Io(e));
                }
            }
        }
        self.allocated = self.allocated.max(wanted);
        Ok(())
    }

    /// A group could not be written. On a full disk nothing of it may stay: it was refused, so it
    /// must not come back when the cut is lost in a crash; hence the sync.
    fn take_back(&mut self, e: cairn_env::Error) -> Error {
        if !e.is_no_space() {
            self.failed = true;
            return Error::Io(e);
        }
        let cut = self.cut_to_end().and_then(|()| {
            // Whoever syncs a file takes its errors away from the next one who does.
            self.file.sync_all().inspect_err(|_| self.syncer.poison())
        });
        match cut {
            Ok(()) => Error::NoSpace(e),
            Err(_) => {
                self.failed = true;
                Error::Io(e)
            }
        }
    }

    fn cut_to_end(&mut self) -> cairn_env::Result<()> {
        self.allocated = self.end.offset;
        if cairn_env::mutant("refused-group-left-behind") {
            return Ok(());
        }
        self.file.set_len(self.end.offset).inspect_err(|_| self.failed = true)
    }

    fn roll(&mut self) -> Result<()> {
        let id = self.end.segment.checked_add(1).ok_or(Error::Invalid("no segment id is left"))?;
        let header = SegmentHeader {
            id,
            origin: self.header.origin,
            previous: Some(self.end),
            recycled: self.has_spare,
            salt: self.env.random_u64(),
        };
        let prepared = if self.has_spare {
            self.has_spare = false;
            recycle_segment(&self.env, &self.dir, self.naming, &header)
        } else {
            create_segment(&self.env, &self.dir, self.naming, &header)
        };
        let prepared = prepared.and_then(|file| {
            let len = if header.recycled { file.len()? } else { SEGMENT_HEADER_BYTES };
            Ok((file, len))
        });
        let (file, len) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => return Err(self.unroll(id, e)),
        };
        self.file = file;
        self.header = header;
        self.end = Position { segment: id, offset: SEGMENT_HEADER_BYTES };
        self.allocated = len;
        // A segment starts small, however long the one before grew: the log may stay as it is now.
        self.ahead_bytes = AHEAD_BYTES_MIN;
        self.segments.push(SegmentInfo { id, bytes: SEGMENT_HEADER_BYTES, first_seq: None });
        self.syncer.roll(self.file.clone(), self.end);
        Ok(())
    }

    /// A segment could not be prepared (invariant 2).
    fn unroll(&mut self, id: u64, e: cairn_env::Error) -> Error {
        let path = self.naming.path(&self.dir, id);
        let gone =
            e.is_no_space() && remove_if_exists(&self.env, &path).is_ok() && self.env.sync_dir(&self.dir).is_ok();
        self.failed = !gone;
        if gone { Error::NoSpace(e) } else { Error::Io(e) }
    }
}

fn create_segment(env: &Env, dir: &Path, naming: Naming, header: &SegmentHeader) -> cairn_env::Result<File> {
    let file = env.create(&naming.path(dir, header.id))?;
    begin_segment(env, dir, file, header)
}

fn recycle_segment(env: &Env, dir: &Path, naming: Naming, header: &SegmentHeader) -> cairn_env::Result<File> {
    let path = naming.path(dir, header.id);
    env.rename(&naming.spare_path(dir), &path)?;
    begin_segment(env, dir, env.open_writable(&path)?, header)
}

fn begin_segment(env: &Env, dir: &Path, file: File, header: &SegmentHeader) -> cairn_env::Result<File> {
    file.write_all_at(&header.encode(), 0)?;
    if !cairn_env::mutant("segment-header-not-synced") {
        file.sync_all()?;
    }
    if !cairn_env::mutant("segment-name-not-synced") {
        env.sync_dir(dir)?;
    }
    Ok(file)
}

fn remove_if_exists(env: &Env, path: &Path) -> cairn_env::Result<()> {
    match env.remove(path) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

fn classify(e: cairn_env::Error) -> Error {
    if e.is_no_space() { Error::NoSpace(e) } else { Error::Io(e) }
}

#[cfg(test)]
mod tests;
