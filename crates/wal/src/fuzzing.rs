//! Hostile logs: whatever bytes the segments hold, replay and scan agree and refuse in order.
//!
//! For the fuzz targets, behind the feature `fuzzing`. Checksums are put right before the bytes are
//! read, so that what lies behind them is reached; the code under test is the product's, unchanged.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use std::convert::Infallible;
use std::path::Path;

use cairn_codec::{Reader, checksum64};
use cairn_env::Env;

use crate::format::{
    BODY_CHECKSUM_LEN, Body, GROUP_ALIGNMENT, GROUP_HEADER_LEN, GroupStart, KIND_CLOSING, SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_LEN, SEGMENT_MAGIC, SegmentHeader, body_key, encode_group, header_checksum, low_half, tag,
};
use crate::{Item, LogOptions, LogWriter, Naming, Position, Scan, replay};

const NAMING: Naming = Naming { prefix: "log-", suffix: ".wal" };
const DIR: &str = "/log";
/// The magic number, ids and tags are put right too.
const MEND_PLACES: u8 = 1;

/// ```text
/// input := flags:u8 split:u16 segment 1 (split bytes) segment 2 (the rest, if any)
/// ```
///
/// # Panics
/// If a promise is broken.
pub fn log(input: &[u8]) {
    let Some(([flags, low, high], bytes)) = input.split_first_chunk() else { return };
    let split = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    let (first, second) = bytes.split_at(split);
    let mut segments = vec![first.to_vec()];
    if !second.is_empty() {
        segments.push(second.to_vec());
    }
    let (env, dir) = (Env::memory(), Path::new(DIR));
    env.create_dir_all(dir).expect("memory");
    let mut whole = Vec::new();
    for (id, segment) in (1..).zip(&mut segments) {
        mend(segment, id, flags & MEND_PLACES != 0);
        env.create(&NAMING.path(dir, id)).and_then(|file| file.write_all_at(segment, 0)).expect("memory");
        scan(&env, id, segment.len() as u64, &mut whole);
    }

    let mut last = Position { segment: 0, offset: 0 };
    let done = replay::<Infallible>(&env, dir, NAMING, 1, |group| {
        assert!(whole.contains(&group.position), "replayed and not whole: {group:?}");
        assert!(last < group.position && group.position < group.end && group.kind != KIND_CLOSING);
        last = group.position;
        let index = usize::try_from(group.position.segment - 1).expect("one of two");
        let segment = segments.get(index).expect("one of two");
        let bodies: Vec<Body<'_>> = group.bodies().map(Body::new).collect();
        let Position { offset, .. } = group.position;
        let start = GroupStart {
            kind: group.kind,
            position: group.position,
            salt: SegmentHeader::decode(segment).expect("it was replayed").salt,
            first_seq: group.first_seq,
            synced: group.synced,
        };
        let mut again = Vec::new();
        encode_group(&mut again, &start, &bodies).expect("it fitted once");
        let range = usize::try_from(offset).expect("in memory")..usize::try_from(group.end.offset).expect("in memory");
        assert_eq!(segment.get(range), Some(again.as_slice()), "a group has one encoding");
        Ok(())
    });
    if let Ok(done) = done {
        assert!(done.end >= last && (done.cut.is_none() || !done.clean_close));
    }
}

/// Walks a file; what it tells of touches, and reaches the end. Adds the places of whole groups.
fn scan(env: &Env, id: u64, len: u64, whole: &mut Vec<Position>) {
    let mut scan = Scan::open(env, &NAMING.path(Path::new(DIR), id), NAMING).expect("memory");
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(item) = scan.next().expect("memory") {
        let (offset, end) = match &item {
            Item::Group(group) => {
                whole.push(Position { segment: id, offset: group.position.offset });
                (group.position.offset, group.end.offset)
            }
            Item::Damage { offset, bytes, .. } | Item::Rest { offset, bytes, .. } => (*offset, offset + bytes),
        };
        assert!(offset == at && end > at, "{item:?} stands at {at}");
        assert!(!item.to_string().is_empty());
        at = end;
    }
    assert!(at >= len);
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + what.len()) {
        to.copy_from_slice(what);
    }
}

fn sum(bytes: &[u8], range: std::ops::Range<usize>) -> u64 {
    checksum64(bytes.get(range).unwrap_or_default())
}

/// Puts the checksums of a segment right, group after group as their lengths lead.
fn mend(bytes: &mut [u8], id: u64, places: bool) {
    if places {
        put(bytes, 0, SEGMENT_MAGIC);
        put(bytes, 24, &id.to_le_bytes());
        put(bytes, 32, &1u64.to_le_bytes());
    }
    let same_in_all = low_half(sum(bytes, 0..12));
    put(bytes, 12, &same_in_all.to_le_bytes());
    let header = sum(bytes, 0..SEGMENT_HEADER_LEN - 8);
    put(bytes, SEGMENT_HEADER_LEN - 8, &header.to_le_bytes());
    let salt = Reader::new(bytes.get(56..).unwrap_or_default()).u64().unwrap_or_default();
    let mut at = SEGMENT_HEADER_LEN;
    while let Some(group) = bytes.get_mut(at..).filter(|group| group.len() >= GROUP_HEADER_LEN) {
        let position = Position { segment: id, offset: at as u64 };
        if places && group.iter().take(GROUP_HEADER_LEN).any(|b| *b != 0) {
            put(group, 0, &tag(position.offset, salt).to_le_bytes());
        }
        let len = mend_group(group, position, salt);
        if len < GROUP_HEADER_LEN {
            return;
        }
        at += len;
    }
}

/// Says how long it is.
fn mend_group(group: &mut [u8], position: Position, salt: u64) -> usize {
    let word = |group: &[u8], at: usize| Reader::new(group.get(at..).unwrap_or_default()).u64().unwrap_or_default();
    let words = [word(group, 0), word(group, 8), word(group, 16)];
    let checksum = header_checksum(words, position) ^ salt;
    put(group, GROUP_HEADER_LEN - 8, &checksum.to_le_bytes());
    let len = usize::try_from(low_half(words[0] >> 32)).unwrap_or(usize::MAX);
    if len <= group.len() {
        let (mut at, mut index) = (GROUP_HEADER_LEN, 0);
        while at + GROUP_ALIGNMENT <= len {
            let mut reader = Reader::new(group.get(at..len).unwrap_or_default());
            let Ok(body_len) = reader.varint_len(len) else { break };
            let checksum_at = at + reader.offset();
            let body_at = checksum_at + BODY_CHECKSUM_LEN;
            let Some(body_end) = body_at.checked_add(body_len).filter(|end| *end <= len) else { break };
            let checksum = sum(group, body_at..body_end) ^ body_key(checksum, index);
            put(group, checksum_at, &checksum.to_le_bytes());
            (at, index) = (body_end, index + 1);
        }
    }
    if len.is_multiple_of(GROUP_ALIGNMENT) { len } else { 0 }
}

/// Real logs: one segment and two, closed and not, torn and not.
///
/// # Panics
/// Never: the files are in memory.
pub fn log_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (segment_bytes, close, cut) in [(1 << 16, true, 0), (1 << 16, false, 5), (200, true, 0), (200, false, 30)] {
        let (env, dir) = (Env::memory(), Path::new(DIR));
        env.create_dir_all(dir).expect("memory");
        let options = LogOptions { segment_bytes, allocate: false };
        let (mut writer, syncer) = LogWriter::create(&env, dir, NAMING, 1, options).expect("memory");
        for seq in 1..4 {
            let bodies = [Body::new(b"first body"), Body::new(b"")];
            writer.append(1, seq * 10, bodies.get(..usize::from(seq > 1) + 1).expect("two")).expect("memory");
            if seq == 2 {
                syncer.sync().expect("memory");
            }
        }
        if close {
            writer.close().expect("memory");
        }
        let read = |id| env.read_file(&NAMING.path(dir, id), 1 << 20).unwrap_or_default();
        let (first, mut second) = (read(1), read(2));
        second.truncate(second.len().saturating_sub(cut));
        let split = u16::try_from(first.len()).expect("small");
        for flags in [0, MEND_PLACES] {
            seeds.push([&[flags][..], &split.to_le_bytes(), &first, &second].concat());
        }
    }
    seeds
}
