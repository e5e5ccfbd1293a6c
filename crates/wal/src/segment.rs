//! Reading one segment's file through a window of bounded size.

use std::path::Path;

use cairn_env::{Env, File};

use crate::Position;
use crate::error::{Claim, Result};
use crate::format::{
    Damage, GROUP_ALIGNMENT, GROUP_HEADER_LEN, Group, GroupHeader, Place, SEGMENT_HEADER_LEN, SegmentHeader,
};

/// How much is read at once, unless a group needs more.
const WINDOW_BYTES: u64 = 1 << 20;

/// An open segment and the part of it that is in memory: at most [`WINDOW_BYTES`], or one group
/// whose header matched its checksum and whose length the file really has.
pub(crate) struct Segment {
    file: File,
    len: u64,
    window: Vec<u8>,
    window_start: u64,
}

/// What stands in a segment from some point on, read without trusting any length in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remains {
    /// Of all group headers found, the one that says most.
    pub(crate) claim: Option<Claim>,
    /// How many group headers were found.
    pub(crate) groups: u64,
    /// A group began somewhere, whole or not.
    pub(crate) begun: bool,
    /// The number of bytes up to the last that is not zero.
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn open(env: &Env, path: &Path) -> Result<Segment> {
        let file = env.open(path)?;
        let len = file.len()?;
        Ok(Segment { file, len, window: Vec::new(), window_start: 0 })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Brings `[offset, offset + len)` into the window, or what the file has of it.
    fn load(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.len);
        let window_end = self.window_start + self.window.len() as u64;
        if offset >= self.window_start && end <= window_end {
            return Ok(());
        }
        let wanted = len.max(WINDOW_BYTES).min(self.len.saturating_sub(offset));
        self.window.clear();
        self.window.shrink_to(usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX));
        self.window.resize(usize::try_from(wanted).unwrap_or(usize::MAX), 0);
        self.window_start = offset;
        let got = self.file.read_at(&mut self.window, offset)?;
        self.window.truncate(got);
        Ok(())
    }

    /// What the window has of `[offset, offset + len)`.
    fn view(&self, offset: u64, len: u64) -> &[u8] {
        let from = usize::try_from(offset.saturating_sub(self.window_start)).unwrap_or(usize::MAX);
        let rest = self.window.get(from..).unwrap_or_default();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        rest.get(..len).unwrap_or(rest)
    }

    pub(crate) fn header(&self) -> Result<std::result::Result<SegmentHeader, Damage>> {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        let got = self.file.read_at(&mut bytes, 0)?;
        Ok(SegmentHeader::decode(bytes.get(..got).unwrap_or_default()))
    }

    /// Reads the header of the group at `place`; a group that the file cannot hold is damaged.
    pub(crate) fn group_header(&mut self, place: Place) -> Result<std::result::Result<GroupHeader, Damage>> {
        let offset = place.position.offset;
        self.load(offset, GROUP_HEADER_LEN as u64)?;
        let header = GroupHeader::decode(self.view(offset, GROUP_HEADER_LEN as u64), place);
        let rest = self.len.saturating_sub(offset);
        Ok(header.and_then(|header| if u64::from(header.bytes) > rest { Err(Damage::FileEnds) } else { Ok(header) }))
    }

    /// Reads what follows a header that [`Segment::group_header`] found.
    pub(crate) fn group(&mut self, header: &GroupHeader) -> Result<std::result::Result<Group<'_>, Damage>> {
        let (offset, bytes) = (header.start.position.offset, u64::from(header.bytes));
        self.load(offset, bytes)?;
        Ok(Group::decode(header, self.view(offset, bytes)))
    }

    /// Looks at every multiple of 4 from `place` on for the header of a group of this segment.
    ///
    /// A header that matches its checksum is believed although its bodies may be torn: it was
    /// written by this log, here, and what it says of the past is true.
    pub(crate) fn remains(&mut self, place: Place) -> Result<Remains> {
        let from = place.position.offset;
        let mut found = Remains::default();
        let mut offset = from;
        while offset < self.len {
            self.load(offset, WINDOW_BYTES)?;
            let window = self.view(offset, WINDOW_BYTES);
            if window.is_empty() {
                break;
            }
            let used = window.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            if used > 0 {
                found.bytes = offset + used as u64 - from;
            }
            // A header across the window's end is seen whole by the next window.
            let whole = window.len() >= GROUP_HEADER_LEN && offset + (window.len() as u64) < self.len;
            let step = if whole { window.len() - (GROUP_HEADER_LEN - 1) } else { window.len() };
            let step = step.next_multiple_of(GROUP_ALIGNMENT);
            // Nothing begins with zeros.
            for at in (0..step.min(used)).step_by(GROUP_ALIGNMENT) {
                let candidate = window.get(at..).unwrap_or_default();
                let here = Position { segment: place.position.segment, offset: offset + at as u64 };
                let here = Place { position: here, salt: place.salt };
                if !GroupHeader::begins(candidate, here) {
                    continue;
                }
                found.begun = true;
                if let Ok(header) = GroupHeader::decode(candidate, here) {
                    found.groups += 1;
                    let claim = Claim { synced: header.start.synced, by: here.position };
                    found.claim = found.claim.max(Some(claim));
                }
            }
            offset += step as u64;
        }
        Ok(found)
    }

    /// The first multiple of 4 from `place` on where a whole header of this segment stands.
    pub(crate) fn next_header(&mut self, place: Place) -> Result<Option<u64>> {
        let mut offset = place.position.offset.next_multiple_of(GROUP_ALIGNMENT as u64);
        while offset < self.len {
            self.load(offset, GROUP_HEADER_LEN as u64)?;
            let here = Place { position: Position { segment: place.position.segment, offset }, salt: place.salt };
            let candidate = self.view(offset, GROUP_HEADER_LEN as u64);
            if GroupHeader::begins(candidate, here) && GroupHeader::decode(candidate, here).is_ok() {
                return Ok(Some(offset));
            }
            offset += GROUP_ALIGNMENT as u64;
        }
        Ok(None)
    }
}
