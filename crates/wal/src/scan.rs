//! One log file by itself, for people: what it holds, damage included, in the order it stands.
//!
//! Unlike a replay it knows nothing of other segments and goes on after damage, at the next header
//! of a group that is whole.

use std::fmt;
use std::path::Path;

use cairn_env::Env;

use crate::error::Result;
use crate::format::{Damage, Group, KIND_CLOSING, Place, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::Segment;
use crate::{Naming, Position};

/// Walks over one segment's file.
pub struct Scan {
    segment: Segment,
    header: std::result::Result<SegmentHeader, Damage>,
    id: u64,
    offset: u64,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan({} at {})", self.id, self.offset)
    }
}

/// What stands at some place of a segment's file.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    /// A group, whole.
    Group(Group<'a>),
    /// Bytes that should be a group and are not, or not wholly; more follows.
    Damage {
        /// Where they start.
        offset: u64,
        /// How many there are.
        bytes: u64,
        /// What is wrong at their start.
        what: Damage,
    },
    /// The rest of the file, with no group in it.
    Rest {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        bytes: u64,
        /// Why no group starts here.
        what: Damage,
        /// The bytes up to the last that is not zero: a torn group, or a recycled file's past.
        /// None at an ordinary end.
        used: u64,
    },
}

impl Scan {
    /// Opens a segment's file. The id comes from the header, or if that is damaged from the name.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; damage of any kind is not an error but what [`Scan::header`] and
    /// [`Scan::next`] tell.
    pub fn open(env: &Env, path: &Path, naming: Naming) -> Result<Scan> {
        let segment = Segment::open(env, path)?;
        let header = segment.header()?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = header.as_ref().map_or_else(|_| naming.parse(name).unwrap_or_default(), |header| header.id);
        Ok(Scan { segment, header, id, offset: SEGMENT_HEADER_BYTES })
    }

    /// The segment's header, or what is wrong with it.
    pub fn header(&self) -> std::result::Result<SegmentHeader, Damage> {
        self.header
    }

    /// What stands next; none after the end of the file.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if reading fails.
    #[expect(clippy::should_implement_trait, reason = "an item borrows the scan, which Iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<Item<'_>>> {
        let offset = self.offset;
        let bytes = self.segment.len().saturating_sub(offset);
        if bytes == 0 {
            return Ok(None);
        }
        let place = self.place(offset);
        let what = match self.segment.group_header(place)? {
            Ok(header) => {
                // A header that matches its checksum is believed about its length, so that every
                // byte is looked at once, whatever stands in the bodies.
                self.offset = header.end().offset;
                let bytes = u64::from(header.bytes);
                return Ok(Some(match self.segment.group(&header)? {
                    Ok(group) => Item::Group(group),
                    Err(what) => Item::Damage { offset, bytes, what },
                }));
            }
            Err(what) => what,
        };
        let after = self.place(offset.saturating_add(1));
        if let Some(next) = self.segment.next_header(after)? {
            self.offset = next;
            return Ok(Some(Item::Damage { offset, bytes: next - offset, what }));
        }
        let used = self.segment.remains(place)?.bytes;
        self.offset = offset + bytes;
        Ok(Some(Item::Rest { offset, bytes, what, used }))
    }

    fn place(&self, offset: u64) -> Place {
        let salt = self.header.as_ref().ok().map(|header| header.salt);
        Place { position: Position { segment: self.id, offset }, salt }
    }
}

impl fmt::Display for SegmentHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} of the log that began with {}", self.id, self.origin)?;
        if let Some(previous) = self.previous {
            write!(f, ", after {previous}")?;
        }
        f.write_str(if self.recycled { ", recycled" } else { "" })
    }
}

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Group(group) if group.kind == KIND_CLOSING => {
                write!(f, "{} closing group, durable before it up to {}", group.position.offset, group.synced)
            }
            Item::Group(group) => write!(
                f,
                "{} group of kind {}: first sequence number {}, {} bodies, {} bytes, durable before it up to {}",
                group.position.offset,
                group.kind,
                group.first_seq,
                group.bodies().len(),
                group.end.offset - group.position.offset,
                group.synced
            ),
            Item::Damage { offset, bytes, what } => write!(f, "{offset} {bytes} damaged bytes: {what}"),
            Item::Rest { offset, bytes, used: 0, .. } => write!(f, "{offset} {bytes} bytes of zeros"),
            Item::Rest { offset, bytes, what, used } => {
                write!(f, "{offset} {bytes} bytes without a group, {used} of them used: {what}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, NAMING, append};

    fn lines(log: &Log, id: u64) -> Vec<String> {
        let mut scan = Scan::open(&log.env, &log.path(id), NAMING).unwrap();
        let mut lines = vec![match scan.header() {
            Ok(header) => header.to_string(),
            Err(damage) => damage.to_string(),
        }];
        while let Some(item) = scan.next().unwrap() {
            lines.push(item.to_string());
        }
        lines
    }

    #[test]
    fn a_file_is_told_with_its_damage() {
        let log = Log::in_memory();
        let (mut writer, syncer) = log.create(1, 200);
        for seq in 1..7 {
            append(&mut writer, seq * 10, b"a body");
            if seq == 5 {
                syncer.sync().unwrap();
            }
        }
        assert_eq!(writer.segments().len(), 3);
        writer.close().unwrap();
        let mut second = log.read(2);
        second[72 + 42] ^= 1;
        second.extend_from_slice(&[0; 100]);
        log.write(2, &second);
        let mut third = log.read(3);
        third[72] ^= 1;
        third.truncate(72 + 48 + 20);
        log.write(3, &third);
        assert_eq!(
            [lines(&log, 1), lines(&log, 2), lines(&log, 3)].concat(),
            [
                "segment 1 of the log that began with 1",
                "72 group of kind 1: first sequence number 10, 1 bodies, 48 bytes, durable before it up to 1:72",
                "120 group of kind 1: first sequence number 20, 1 bodies, 48 bytes, durable before it up to 1:72",
                "segment 2 of the log that began with 1, after 1:168",
                "72 48 damaged bytes: body 0 does not match its checksum",
                "120 group of kind 1: first sequence number 40, 1 bodies, 48 bytes, durable before it up to 1:72",
                "168 100 bytes of zeros",
                "segment 3 of the log that began with 1, after 2:168",
                "72 68 bytes without a group, 68 of them used: no group or header starts here",
            ]
        );
        // Without its header the name says which segment it is.
        let mut first = log.read(1);
        first[30] ^= 1;
        log.write(1, &first);
        assert_eq!(
            lines(&log, 1),
            [
                "the header does not match its checksum",
                "72 group of kind 1: first sequence number 10, 1 bodies, 48 bytes, durable before it up to 1:72",
                "120 group of kind 1: first sequence number 20, 1 bodies, 48 bytes, durable before it up to 1:72",
            ]
        );
    }
}
