//! The bytes of a log segment: its header and its groups, both ways.
//!
//! All integers are little-endian. A segment is a header, then groups back to back, each starting
//! at a multiple of 8, then zeros, or in a recycled segment whatever stood there before, or
//! nothing.
//!
//! ```text
//! segment header, 72 bytes
//!   0  8  magic "CAIRNLOG"
//!   8  4  format version (0)
//!  12  4  the low half of checksum64 over bytes 0..12; up to here every version is the same
//!  16  4  flags: bit 0, recycled; the others are zero
//!  20  4  zero
//!  24  8  id of this segment
//!  32  8  origin: id of the first segment of its chain; its own id if it is that one
//!  40  8  previous segment's id      } zero for the first of a chain; otherwise
//!  48  8  where that segment ended   } origin <= previous id < id
//!  56  8  salt, drawn at random when the segment began
//!  64  8  checksum64 over bytes 0..64
//!
//! group: 80 bytes of header, the table, the bodies, padding
//!   0  4  magic "CGRP"
//!   4  1  kind: 0 closes the log, the others are the caller's
//!   5  3  zero
//!   8  4  length of the whole group in bytes, a multiple of 8
//!  12  4  number of bodies
//!  16  8  id of the segment    } where the group stands: elsewhere it is not valid
//!  24  8  offset in it         }
//!  32  8  salt of the segment
//!  40  8  first sequence number; above the last group's (a closing group repeats the last)
//!  48  8  segment  } up to here the log was known durable when this group was written;
//!  56  8  offset   } never beyond the group's own start
//!  64  8  checksum64 over the table
//!  72  8  checksum64 over bytes 0..72
//!  80     table: for each body its length (4) and its checksum64 (8)
//!         the bodies, back to back
//!         zeros up to the next multiple of 8
//! ```
//!
//! The salt keeps what a user stores from passing for a group: the search for later groups looks
//! at every multiple of 8, inside bodies too, and nobody can foretell the salt.

use std::fmt;

use cairn_codec::{DecodeError, Reader, Write, checksum64};

use crate::Position;
use crate::error::{Error, Result};

/// The format this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 0;
/// Length of a segment's header; its first group starts here.
pub const SEGMENT_HEADER_BYTES: u64 = 72;
/// The most one body may hold: a batch of 64 MiB and what its encoding adds.
pub const BODY_BYTES_MAX: u64 = 128 << 20;
/// The most one group may hold, all told.
pub const GROUP_BYTES_MAX: u64 = 1 << 30;
/// The kind of the groups that [`crate::LogWriter::close`] writes. The caller's kinds are above.
pub const KIND_CLOSING: u8 = 0;

pub(crate) const SEGMENT_HEADER_LEN: usize = SEGMENT_HEADER_BYTES as usize;
pub(crate) const GROUP_HEADER_LEN: usize = 80;
pub(crate) const GROUP_ALIGNMENT: usize = 8;
pub(crate) const TABLE_ENTRY_LEN: usize = 12;
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNLOG";
pub(crate) const GROUP_MAGIC: &[u8; 4] = b"CGRP";
const FLAG_RECYCLED: u32 = 1;

// A group's length is a u32, and offsets that a search visits start at the first group's.
const _: () = assert!(GROUP_BYTES_MAX <= u32::MAX as u64);
const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(GROUP_ALIGNMENT));

/// What is wrong with bytes that should be a segment header or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file ends within it.
    FileEnds,
    /// Only zeros.
    Blank,
    /// The bytes do not start as they must.
    Magic,
    /// A segment header of a newer format.
    Newer {
        /// Its format version.
        version: u32,
    },
    /// The header does not match its checksum.
    HeaderChecksum,
    /// The header matches its checksum and yet makes no sense.
    HeaderFields,
    /// It was written for another place: another segment, offset or use of the file.
    Elsewhere {
        /// The place it names.
        named: Position,
    },
    /// Its sequence number does not follow the group before.
    Sequence {
        /// The last group's first sequence number.
        last: u64,
        /// This one's.
        found: u64,
    },
    /// The table of bodies does not match its checksum, or not the group's length.
    Table,
    /// A body does not match its checksum.
    Body {
        /// Which one, counted from 0.
        index: u32,
    },
    /// Bytes after the last body are not zero.
    Padding,
    /// It reaches beyond the point where the next segment says this one ended.
    Overrun {
        /// That point.
        end: u64,
    },
    /// The segment is missing, or its header is not its own.
    MissingSegment {
        /// Its id.
        id: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::FileEnds => f.write_str("the file ends early"),
            Damage::Blank => f.write_str("only zeros where more was written"),
            Damage::Magic => f.write_str("no group or header starts here"),
            Damage::Newer { version } => write!(f, "written by a newer version (format {version})"),
            Damage::HeaderChecksum => f.write_str("the header does not match its checksum"),
            Damage::HeaderFields => f.write_str("the header contradicts itself"),
            Damage::Elsewhere { named } => write!(f, "it belongs to another place ({named}) or an earlier use"),
            Damage::Sequence { last, found } => write!(f, "sequence number {found} after {last}"),
            Damage::Table => f.write_str("the table of bodies is damaged"),
            Damage::Body { index } => write!(f, "body {index} does not match its checksum"),
            Damage::Padding => f.write_str("the padding is not zero"),
            Damage::Overrun { end } => write!(f, "it reaches beyond {end}, where the next segment begins"),
            Damage::MissingSegment { id } => write!(f, "segment {id} is missing"),
        }
    }
}

impl From<DecodeError> for Damage {
    fn from(_: DecodeError) -> Damage {
        Damage::FileEnds
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its id.
    pub id: u64,
    /// The first segment of its chain.
    pub origin: u64,
    /// Where the segment before it in the chain ended; none for the first.
    pub previous: Option<Position>,
    /// The file held another segment before.
    pub recycled: bool,
    /// Drawn at random when it began; every group in it repeats it.
    pub salt: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let previous = self.previous.unwrap_or(Position { segment: 0, offset: 0 });
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.put_u32(FORMAT_VERSION);
        out.put_u32(low_half(checksum64(&out)));
        out.put_u32(if self.recycled { FLAG_RECYCLED } else { 0 });
        out.put_u32(0);
        for word in [self.id, self.origin, previous.segment, previous.offset, self.salt] {
            out.put_u64(word);
        }
        out.put_u64(checksum64(&out));
        assert_eq!(out.len(), SEGMENT_HEADER_LEN);
        out
    }

    /// Decodes the front of `bytes`, which may be shorter than a header where the file is.
    pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<SegmentHeader, Damage> {
        let mut reader = Reader::new(bytes);
        let same_in_all = reader.clone().bytes(12)?;
        if reader.bytes(8)? != SEGMENT_MAGIC {
            return Err(if bytes.iter().all(|b| *b == 0) { Damage::Blank } else { Damage::Magic });
        }
        let version = reader.u32()?;
        if reader.u32()? != low_half(checksum64(same_in_all)) {
            return Err(Damage::HeaderChecksum);
        }
        if version > FORMAT_VERSION {
            return Err(Damage::Newer { version });
        }
        let summed = Reader::new(bytes).bytes(SEGMENT_HEADER_LEN - 8)?;
        let (flags, zero) = (reader.u32()?, reader.u32()?);
        let (id, origin) = (reader.u64()?, reader.u64()?);
        let previous = Position { segment: reader.u64()?, offset: reader.u64()? };
        let salt = reader.u64()?;
        if reader.u64()? != checksum64(summed) {
            return Err(Damage::HeaderChecksum);
        }
        let first = origin == id && previous == Position { segment: 0, offset: 0 };
        let follows = origin <= previous.segment
            && previous.segment < id
            && previous.offset >= SEGMENT_HEADER_BYTES
            && previous.offset.is_multiple_of(GROUP_ALIGNMENT as u64);
        if flags & !FLAG_RECYCLED != 0 || zero != 0 || first == follows {
            return Err(Damage::HeaderFields);
        }
        Ok(SegmentHeader {
            id,
            origin,
            previous: follows.then_some(previous),
            recycled: flags & FLAG_RECYCLED != 0,
            salt,
        })
    }

    /// The place of a group at `offset` in this segment.
    pub(crate) fn place(&self, offset: u64) -> Place {
        Place { position: Position { segment: self.id, offset }, salt: Some(self.salt) }
    }
}

/// What the caller wants logged: bytes whose checksum was taken outside any lock.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    bytes: &'a [u8],
    checksum: u64,
}

impl<'a> Body<'a> {
    /// Takes the checksum of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Body<'a> {
        Body { bytes, checksum: checksum64(bytes) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A [`Body`] that owns its bytes, to be queued.
#[derive(Clone, Debug)]
pub struct EncodedBody {
    bytes: Vec<u8>,
    checksum: u64,
}

impl EncodedBody {
    /// Takes the checksum of `bytes`.
    pub fn new(bytes: Vec<u8>) -> EncodedBody {
        let checksum = checksum64(&bytes);
        EncodedBody { bytes, checksum }
    }

    /// The body to append.
    pub fn body(&self) -> Body<'_> {
        Body { bytes: &self.bytes, checksum: self.checksum }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Where a group stands. Without a salt (the segment's header is lost) any salt will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) salt: Option<u64>,
}

/// A group's header, without its lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupStart {
    pub(crate) kind: u8,
    pub(crate) position: Position,
    pub(crate) salt: u64,
    pub(crate) first_seq: u64,
    pub(crate) synced: Position,
}

/// The length of the group that would hold `bodies`.
pub(crate) fn group_bytes(bodies: &[Body<'_>]) -> Result<u64> {
    let mut bytes = GROUP_HEADER_LEN as u64;
    for body in bodies {
        let len = body.bytes.len() as u64;
        if len > BODY_BYTES_MAX {
            return Err(Error::TooLarge { bytes: len, bytes_max: BODY_BYTES_MAX });
        }
        bytes += TABLE_ENTRY_LEN as u64 + len;
    }
    let bytes = bytes.next_multiple_of(GROUP_ALIGNMENT as u64);
    if bytes > GROUP_BYTES_MAX {
        return Err(Error::TooLarge { bytes, bytes_max: GROUP_BYTES_MAX });
    }
    Ok(bytes)
}

/// Replaces `out` by the group.
pub(crate) fn encode_group(out: &mut Vec<u8>, start: &GroupStart, bodies: &[Body<'_>]) -> Result<()> {
    let too_large = |bytes: u64| move |_| Error::TooLarge { bytes, bytes_max: GROUP_BYTES_MAX };
    let bytes = group_bytes(bodies)?;
    let total = usize::try_from(bytes).map_err(too_large(bytes))?;
    out.clear();
    out.reserve(total);
    out.resize(GROUP_HEADER_LEN, 0);
    for body in bodies {
        out.put_u32(u32::try_from(body.bytes.len()).map_err(too_large(bytes))?);
        out.put_u64(body.checksum);
    }
    let table_checksum = checksum64(out.get(GROUP_HEADER_LEN..).unwrap_or_default());
    for body in bodies {
        out.extend_from_slice(body.bytes);
    }
    out.resize(total, 0);

    let [a, b, c, d] = *GROUP_MAGIC;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let body_count = u32::try_from(bodies.len()).map_err(too_large(bytes))?;
    let words = [
        pair(u32::from_le_bytes([a, b, c, d]), u32::from(start.kind)),
        pair(u32::try_from(bytes).map_err(too_large(bytes))?, body_count),
        start.position.segment,
        start.position.offset,
        start.salt,
        start.first_seq,
        start.synced.segment,
        start.synced.offset,
        table_checksum,
    ];
    if let Some((front, _)) = out.split_first_chunk_mut::<GROUP_HEADER_LEN>() {
        let (summed, sum) = front.split_at_mut(GROUP_HEADER_LEN - 8);
        for (to, word) in summed.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        sum.copy_from_slice(&checksum64(summed).to_le_bytes());
    }
    Ok(())
}

/// A group's header that matched its checksum and stands where it says. Its bodies are not yet
/// looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) start: GroupStart,
    /// Length of the whole group.
    pub(crate) bytes: u32,
    body_count: u32,
    table_checksum: u64,
}

impl GroupHeader {
    /// Decodes the front of `bytes`, which may be shorter than a header where the file is.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> std::result::Result<GroupHeader, Damage> {
        let mut reader = Reader::new(bytes);
        let summed = reader.clone().bytes(GROUP_HEADER_LEN - 8)?;
        if reader.bytes(4)? != GROUP_MAGIC {
            let header = Reader::new(bytes).bytes(GROUP_HEADER_LEN)?;
            return Err(if header.iter().all(|b| *b == 0) { Damage::Blank } else { Damage::Magic });
        }
        let (kind, zeros) = (reader.u8()?, reader.bytes(3)?);
        let (bytes, body_count) = (reader.u32()?, reader.u32()?);
        let position = Position { segment: reader.u64()?, offset: reader.u64()? };
        let (salt, first_seq) = (reader.u64()?, reader.u64()?);
        let synced = Position { segment: reader.u64()?, offset: reader.u64()? };
        let table_checksum = reader.u64()?;
        if reader.u64()? != checksum64(summed) {
            return Err(Damage::HeaderChecksum);
        }
        let other_use =
            place.salt.is_some_and(|expected| expected != salt) && !cairn_env::mutant("salt-of-segment-skipped");
        if position != place.position || other_use {
            return Err(Damage::Elsewhere { named: position });
        }
        let least = GROUP_HEADER_LEN as u64 + u64::from(body_count) * TABLE_ENTRY_LEN as u64;
        if zeros != [0; 3]
            || u64::from(bytes) < least
            || !bytes.is_multiple_of(GROUP_ALIGNMENT as u32)
            || synced > position
        {
            return Err(Damage::HeaderFields);
        }
        let start = GroupStart { kind, position, salt, first_seq, synced };
        Ok(GroupHeader { start, bytes, body_count, table_checksum })
    }

    /// Whether `bytes` begin as a group written for `place` would, damaged or not.
    pub(crate) fn begins(bytes: &[u8], place: Place) -> bool {
        let begin = |bytes| -> std::result::Result<bool, DecodeError> {
            let mut reader = Reader::new(bytes);
            if reader.bytes(4)? != GROUP_MAGIC {
                return Ok(false);
            }
            reader.bytes(12)?;
            let position = Position { segment: reader.u64()?, offset: reader.u64()? };
            let salt = reader.u64()?;
            Ok(position == place.position && place.salt.is_none_or(|expected| expected == salt))
        };
        begin(bytes).unwrap_or(false)
    }

    pub(crate) fn end(&self) -> Position {
        let Position { segment, offset } = self.start.position;
        Position { segment, offset: offset.saturating_add(u64::from(self.bytes)) }
    }
}

/// A group read back, every checksum of it verified.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Where it starts.
    pub position: Position,
    /// Where it ends.
    pub end: Position,
    /// The caller's kind, or [`KIND_CLOSING`].
    pub kind: u8,
    /// Its first sequence number.
    pub first_seq: u64,
    /// How far the log was known durable when it was written.
    pub synced: Position,
    bodies: Bodies<'a>,
}

impl<'a> Group<'a> {
    /// Decodes what follows a header; `bytes` are the whole group, or shorter where the file is.
    pub(crate) fn decode(header: &GroupHeader, bytes: &'a [u8]) -> std::result::Result<Group<'a>, Damage> {
        let total = usize::try_from(header.bytes).map_err(|_| Damage::FileEnds)?;
        let body_count = usize::try_from(header.body_count).map_err(|_| Damage::FileEnds)?;
        let mut reader = Reader::new(bytes.get(..total).ok_or(Damage::FileEnds)?);
        reader.bytes(GROUP_HEADER_LEN)?;
        // The header's decoding made sure that the table fits the group.
        let table = reader.bytes(body_count.saturating_mul(TABLE_ENTRY_LEN))?;
        if checksum64(table) != header.table_checksum {
            return Err(Damage::Table);
        }
        let data = reader.rest();
        let mut entries = Reader::new(table);
        let mut rest = Reader::new(data);
        for index in 0..header.body_count {
            let (len, checksum) = (entries.u32()?, entries.u64()?);
            let len = usize::try_from(len).map_err(|_| Damage::Table)?;
            let body = rest.bytes(len).map_err(|_| Damage::Table)?;
            if checksum64(body) != checksum && !cairn_env::mutant("log-checksum-skipped") {
                return Err(Damage::Body { index });
            }
        }
        let padding = rest.rest();
        if padding.len() >= GROUP_ALIGNMENT {
            return Err(Damage::Table);
        }
        if padding.iter().any(|b| *b != 0) {
            return Err(Damage::Padding);
        }
        Ok(Group {
            position: header.start.position,
            end: header.end(),
            kind: header.start.kind,
            first_seq: header.start.first_seq,
            synced: header.start.synced,
            bodies: Bodies { table: Reader::new(table), data: Reader::new(data) },
        })
    }

    /// The bodies, in the order they were appended.
    pub fn bodies(&self) -> Bodies<'a> {
        self.bodies.clone()
    }
}

/// The bodies of a [`Group`].
#[derive(Clone, Debug)]
pub struct Bodies<'a> {
    table: Reader<'a>,
    data: Reader<'a>,
}

impl<'a> Iterator for Bodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = self.table.u32().ok()?;
        self.table.u64().ok()?;
        self.data.bytes(usize::try_from(len).ok()?).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.table.remaining() / TABLE_ENTRY_LEN;
        (count, Some(count))
    }
}

impl ExactSizeIterator for Bodies<'_> {}

pub(crate) fn low_half(checksum: u64) -> u32 {
    let [a, b, c, d, ..] = checksum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
