//! The bytes of a log segment: its header and its groups, both ways.
//!
//! All integers are little-endian. A segment is a header, then groups back to back, each starting
//! at a multiple of 4, then zeros, or in a recycled segment whatever stood there before, or
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
//! group: 32 bytes of header, the bodies, padding
//!   0  4  tag: the low half of the segment's salt, xor a quarter of the group's offset
//!   4  4  length of the whole group in bytes: a multiple of 4, from 32 to 2^30
//!   8  8  first sequence number; above the last group's (a closing group repeats the last)
//!  16  1  kind: 0 closes the log, the others are the caller's
//!  17  2  } up to here the log was known durable when this group was written: so many segments
//!  19  5  } back, a quarter of the offset there; never beyond the group's own start.
//!         } 65,535 and 0: nothing is said, or it is further back than these can say
//!  24  8  header checksum: checksum64 over bytes 0..24, the segment's id (8) and the group's
//!         offset in it (8), xor the salt
//!  32     for each body, from index 0 on: its length (varint), its checksum (8), its bytes
//!         the checksum is checksum64 over the bytes, xor the sum of header checksum and index
//!         zeros up to the next multiple of 4
//! ```
//!
//! Where a group stands is not in it but mixed into tag and checksums. What was written for
//! another segment, another offset or an earlier use of the file has another tag or fails its checksum,
//! and a body counts only behind its own header, in its own turn: a block of a group that never
//! reached a recycled file leaves older bodies there, which are whole and yet not this group's.
//! A torn header still shows by its tag and a length that can be that a group began there.
//! The salt keeps what a user stores from passing for a group: the search for later groups looks
//! at every multiple of 4, inside bodies too, and nobody can foretell the salt. Where the segment's
//! header is lost a group's header gives the salt back (its checksum, xor what it should be
//! without), and the tag tells whether it is one.
//!
//! No checksum stands over the lengths of the bodies. The header says where the group ends, the bodies
//! must fill it but for the padding, and a wrong length is either beyond that end, which is looked
//! at before the length is used, or ends the body elsewhere, where its checksum does not hold.

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
pub(crate) const GROUP_HEADER_LEN: usize = 32;
pub(crate) const GROUP_ALIGNMENT: usize = 4;
pub(crate) const BODY_CHECKSUM_LEN: usize = 8;
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNLOG";
const FLAG_RECYCLED: u32 = 1;
/// So many segments back stands for: nothing is said of what was durable.
const NO_CLAIM: u16 = u16::MAX;
/// What a group without a claim says: before this there is nothing.
const NOTHING: Position = Position { segment: 0, offset: 0 };
/// The bits of a quarter of an offset in a claim: up to 4 TiB.
const CLAIM_OFFSET_BITS: u32 = 40;

// A group's length is a u32, and offsets that a search visits start at the first group's.
const _: () = assert!(GROUP_BYTES_MAX <= u32::MAX as u64);
const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(GROUP_ALIGNMENT));
// Every body is longer than the padding: the end of the group tells how many there are.
const _: () = assert!(BODY_CHECKSUM_LEN >= GROUP_ALIGNMENT);

/// What is wrong with bytes that should be a segment header or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file ends within it.
    FileEnds,
    /// Only zeros.
    Blank,
    /// The bytes do not start as they must, here: they may be a group of another place or an
    /// earlier use of the file.
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
    /// A segment's header that was written for another segment.
    Elsewhere {
        /// The segment it names.
        segment: u64,
    },
    /// Its sequence number does not follow the group before.
    Sequence {
        /// The last group's first sequence number.
        last: u64,
        /// This one's.
        found: u64,
    },
    /// The lengths of the bodies do not fill the group.
    Lengths,
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
            Damage::Elsewhere { segment } => write!(f, "it is the header of segment {segment}"),
            Damage::Sequence { last, found } => write!(f, "sequence number {found} after {last}"),
            Damage::Lengths => f.write_str("the lengths of its bodies are damaged"),
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
    /// Drawn at random when it began; every group in it is bound to it.
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

/// A group's header, without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupStart {
    pub(crate) kind: u8,
    pub(crate) position: Position,
    pub(crate) salt: u64,
    pub(crate) first_seq: u64,
    /// Where it cannot be said (so far back, or beyond 4 TiB of a segment) it reads back as 0:0.
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
        let length_bytes = u64::from((len | 1).ilog2() / 7 + 1);
        bytes += length_bytes + BODY_CHECKSUM_LEN as u64 + len;
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
    let front = u64::from(tag(start.position.offset, start.salt)) | bytes << 32;
    let words = [front, start.first_seq, u64::from(start.kind) | claim(start.synced, start.position)];
    let checksum = header_checksum(words, start.position) ^ start.salt;
    let [a, b, c] = words;
    for word in [a, b, c, checksum] {
        out.put_u64(word);
    }
    for (index, body) in (0..).zip(bodies) {
        out.put_varint(body.bytes.len() as u64);
        out.put_u64(body.checksum ^ body_key(checksum, index));
        out.extend_from_slice(body.bytes);
    }
    debug_assert!(out.len() <= total && total - out.len() < GROUP_ALIGNMENT);
    out.resize(total, 0);
    Ok(())
}

pub(crate) fn tag(offset: u64, salt: u64) -> u32 {
    low_half(salt ^ (offset / GROUP_ALIGNMENT as u64))
}

/// Over the words before it and the place, which is not stored. To be xored with the salt.
pub(crate) fn header_checksum(words: [u64; 3], position: Position) -> u64 {
    let [a, b, c] = words;
    let mut summed = [0; 40];
    for (to, word) in summed.as_chunks_mut::<8>().0.iter_mut().zip([a, b, c, position.segment, position.offset]) {
        *to = word.to_le_bytes();
    }
    checksum64(&summed)
}

/// What the checksum of a body is xored with.
pub(crate) fn body_key(header_checksum: u64, index: u64) -> u64 {
    header_checksum.wrapping_add(index)
}

/// Bytes 17 to 24 of a header, in their place within the word from 16 on.
fn claim(synced: Position, position: Position) -> u64 {
    let quarter = synced.offset / GROUP_ALIGNMENT as u64;
    let back = position.segment.checked_sub(synced.segment).filter(|back| *back < u64::from(NO_CLAIM));
    let can_be_said = synced.offset >= SEGMENT_HEADER_BYTES
        && synced.offset.is_multiple_of(GROUP_ALIGNMENT as u64)
        && quarter >> CLAIM_OFFSET_BITS == 0;
    match back.filter(|_| can_be_said) {
        Some(back) => back << 8 | quarter << 24,
        None => u64::from(NO_CLAIM) << 8,
    }
}

/// What a group at `position` says was durable; none if nobody writes such a thing.
fn claimed(word: u64, position: Position) -> Option<Position> {
    let (back, quarter) = (word >> 8 & u64::from(u16::MAX), word >> 24);
    if back == u64::from(NO_CLAIM) {
        return (quarter == 0).then_some(NOTHING);
    }
    let segment = position.segment.checked_sub(back)?;
    let synced = Position { segment, offset: quarter * GROUP_ALIGNMENT as u64 };
    (synced.offset >= SEGMENT_HEADER_BYTES && synced <= position).then_some(synced)
}

/// A group's header that matched its checksum and stands where it was written. Its bodies are not
/// yet looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) start: GroupStart,
    /// Length of the whole group.
    pub(crate) bytes: u32,
    checksum: u64,
}

impl GroupHeader {
    /// Decodes the front of `bytes`, which may be shorter than a header where the file is.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> std::result::Result<GroupHeader, Damage> {
        let Place { position, salt } = place;
        let mut reader = Reader::new(bytes);
        let words = [reader.u64()?, reader.u64()?, reader.u64()?];
        let checksum = reader.u64()?;
        let unsalted = header_checksum(words, position);
        let salt = match salt {
            Some(salt) if !cairn_env::mutant("salt-of-segment-skipped") => salt,
            _ => checksum ^ unsalted,
        };
        let [front, first_seq, kind_and_claim] = words;
        if low_half(front) != tag(position.offset, salt) {
            return Err(if words == [0; 3] && checksum == 0 { Damage::Blank } else { Damage::Magic });
        }
        if checksum != unsalted ^ salt {
            return Err(Damage::HeaderChecksum);
        }
        let bytes = low_half(front >> 32);
        let synced = claimed(kind_and_claim, position).filter(|_| is_group_length(bytes));
        let Some(synced) = synced else { return Err(Damage::HeaderFields) };
        let [kind, ..] = kind_and_claim.to_le_bytes();
        Ok(GroupHeader { start: GroupStart { kind, position, salt, first_seq, synced }, bytes, checksum })
    }

    /// Whether `bytes` begin as a group written for `place` would, damaged or not. Without a salt
    /// only a whole header can be told.
    pub(crate) fn begins(bytes: &[u8], place: Place) -> bool {
        let begin = |salt| -> std::result::Result<bool, DecodeError> {
            let mut reader = Reader::new(bytes);
            Ok(reader.u32()? == tag(place.position.offset, salt) && is_group_length(reader.u32()?))
        };
        match place.salt {
            Some(salt) => begin(salt).unwrap_or(false),
            None => GroupHeader::decode(bytes, place).is_ok(),
        }
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
    /// How far the log was known durable when it was written; 0:0 if it does not say.
    pub synced: Position,
    bodies: Bodies<'a>,
}

impl<'a> Group<'a> {
    /// Decodes what follows a header; `bytes` are the whole group, or shorter where the file is.
    pub(crate) fn decode(header: &GroupHeader, bytes: &'a [u8]) -> std::result::Result<Group<'a>, Damage> {
        let total = usize::try_from(header.bytes).map_err(|_| Damage::FileEnds)?;
        let mut reader = Reader::new(bytes.get(..total).ok_or(Damage::FileEnds)?);
        reader.bytes(GROUP_HEADER_LEN)?;
        let mut bodies = Bodies { reader: reader.clone(), left: 0 };
        let mut index = 0u32;
        while reader.remaining() >= GROUP_ALIGNMENT {
            let (checksum, body) = next_body(&mut reader).map_err(|_| Damage::Lengths)?;
            let expected = checksum64(body) ^ body_key(header.checksum, u64::from(index));
            if checksum != expected && !cairn_env::mutant("log-checksum-skipped") {
                return Err(Damage::Body { index });
            }
            index += 1;
            bodies.left += 1;
        }
        if reader.rest().iter().any(|b| *b != 0) {
            return Err(Damage::Padding);
        }
        Ok(Group {
            position: header.start.position,
            end: header.end(),
            kind: header.start.kind,
            first_seq: header.start.first_seq,
            synced: header.start.synced,
            bodies,
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
    reader: Reader<'a>,
    left: usize,
}

/// A body and the checksum before it, which is not looked at.
fn next_body<'a>(reader: &mut Reader<'a>) -> std::result::Result<(u64, &'a [u8]), DecodeError> {
    let len = reader.varint_len(reader.remaining())?;
    Ok((reader.u64()?, reader.bytes(len)?))
}

impl<'a> Iterator for Bodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        next_body(&mut self.reader).ok().map(|(_, body)| body)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Bodies<'_> {}

fn is_group_length(bytes: u32) -> bool {
    (GROUP_HEADER_LEN as u64..=GROUP_BYTES_MAX).contains(&u64::from(bytes))
        && bytes.is_multiple_of(GROUP_ALIGNMENT as u32)
}

pub(crate) fn low_half(checksum: u64) -> u32 {
    let [a, b, c, d, ..] = checksum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
