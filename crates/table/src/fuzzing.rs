//! Hostile tables: whatever a file or a part of one holds, it is refused or read consistently.
//!
//! For the fuzz targets, behind the feature `fuzzing`. Checksums are put right before the bytes are
//! read, so that what lies behind them is reached; the code under test is the product's, unchanged.
//! Where bytes are accepted they are compared with a second, plainer reading of the same grammar.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use cairn_codec::{Reader, Write, checksum64, hash64};
use cairn_env::Env;

use crate::block::{BlockBuilder, DataBlock, Layout};
use crate::footer::{FOOTER_BYTES, Footer, Handle};
use crate::index::Index;
use crate::partition;
use crate::properties::Properties;
use crate::seal::{Seal, Sealer, TRAILER_BYTES};
use crate::{Compression, Load, Lookup, Read, Table, TableBuilder, TableOptions};

const SEED: u64 = 0xca1e;
const ID: u64 = 7;
/// Moves of a cursor over a table that is not sound: a few bytes may stand for millions of entries.
const STEPS_MAX: u64 = 10_000;
/// Entries of a sound table that are compared one by one.
const COMPARED_MAX: u64 = 2_000;

/// An entry as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    key: Vec<u8>,
    seq: u64,
    kind: u8,
    value: Vec<u8>,
}

fn order(a: &Owned, b: &Owned) -> Ordering {
    a.key.cmp(&b.key).then(b.seq.cmp(&a.seq))
}

/// A whole file.
///
/// # Panics
/// If a promise is broken.
pub fn file(input: &[u8]) {
    let mut bytes = input.to_vec();
    mend(&mut bytes);
    let (env, path) = (Env::memory(), Path::new("/table"));
    env.create(path).and_then(|file| file.write_all_at(&bytes, 0)).expect("memory");
    let open = |load| {
        let file = env.open(path).expect("memory");
        let told = Table::identify(&file)?;
        Table::open(file, told.id, told.file_bytes, None, told.hash_seed, load)
    };
    let (resident, on_demand) = (open(Load::Resident), open(Load::OnDemand));
    assert!(resident.is_err() || on_demand.is_ok(), "what loads whole loads in parts");
    let Ok(table) = on_demand else { return };
    let sound = table.verify(&mut |_| {}).is_ok();
    let _ = table.describe();
    if sound {
        let resident = resident.expect("it is sound");
        agree(&table, &resident);
    } else {
        for table in resident.iter().chain([&table]) {
            wander(table);
        }
    }
}

/// A table that is not sound: everything may fail, nothing may panic or go back.
fn wander(table: &Arc<Table>) {
    let mut cursor = table.cursor(false, 4096);
    let mut outcome = cursor.seek_to_first();
    for _ in 0..STEPS_MAX {
        if outcome.is_err() || !cursor.valid() {
            break;
        }
        let (key, seq) = (cursor.key().to_vec(), cursor.seq());
        let _ = table.get(&key, hash64(&key, table.options().hash_seed), seq, Read::Any);
        outcome = cursor.next();
    }
    let mut outcome = cursor.seek_to_last();
    for _ in 0..STEPS_MAX / 10 {
        if outcome.is_err() || !cursor.valid() {
            break;
        }
        outcome = cursor.prev();
    }
    let middle = table.summary().smallest_key.clone();
    let _ = cursor.seek(&middle, u64::MAX);
    let _ = cursor.seek_for_prev(&middle);
}

/// A sound table: what cursors show, lookups find, and the summary counts.
fn agree(table: &Arc<Table>, resident: &Arc<Table>) {
    let summary = table.summary();
    if summary.entries > COMPARED_MAX || summary.data_bytes > 1 << 20 {
        return;
    }
    let here = |cursor: &crate::TableCursor| Owned {
        key: cursor.key().to_vec(),
        seq: cursor.seq(),
        kind: cursor.kind(),
        value: cursor.value().to_vec(),
    };
    let mut forward: Vec<Owned> = Vec::new();
    let mut cursor = table.cursor(false, 4096);
    cursor.seek_to_first().expect("sound");
    while cursor.valid() {
        forward.push(here(&cursor));
        cursor.next().expect("sound");
    }
    assert_eq!(forward.len() as u64, summary.entries);
    assert!(forward.is_sorted_by(|a, b| order(a, b).is_lt()), "out of order");
    let mut backward = Vec::new();
    cursor.seek_to_last().expect("sound");
    while cursor.valid() {
        backward.push(here(&cursor));
        cursor.prev().expect("sound");
    }
    backward.reverse();
    assert_eq!(forward, backward);
    for table in [table, resident] {
        for entry in &forward {
            let hash = hash64(&entry.key, table.options().hash_seed);
            match table.get(&entry.key, hash, entry.seq, Read::Any).expect("sound") {
                Lookup::Found { seq, kind, value } => {
                    assert_eq!((seq, kind, &*value), (entry.seq, entry.kind, &entry.value[..]));
                }
                other => assert!(matches!(other, Lookup::Found { .. }), "{entry:?}: {other:?}"),
            }
            cursor.seek(&entry.key, entry.seq).expect("sound");
            assert_eq!(here(&cursor), *entry);
        }
    }
    let (whole, seed) = (table.load_filter().expect("sound"), table.options().hash_seed);
    for entry in &forward {
        let hash = hash64(&[&entry.key[..], b"~"].concat(), seed);
        let passes = whole.as_ref().is_none_or(|filter| filter.may_contain(hash));
        assert_eq!(table.ask_on_demand(hash, Read::Any).expect("sound"), Some(passes), "in pieces and whole");
    }
}

/// Puts the checksums of a table right, as far as its footer, filter, index and partitions lead.
pub fn mend(bytes: &mut [u8]) {
    let Some(footer_at) = bytes.len().checked_sub(FOOTER_BYTES) else { return };
    let file_bytes = bytes.len() as u64;
    if let Some(footer) = bytes.get_mut(footer_at..) {
        mend_footer(footer);
    }
    let decoded = Footer::decode(bytes.get(footer_at..).unwrap_or_default(), file_bytes);
    let Ok(footer) = decoded else { return };
    let seal = Seal::new(footer.table_id, footer.hash_seed);
    mend_block(bytes, footer.properties, seal);
    for handle in footer.filter.pieces() {
        mend_block(bytes, handle, seal);
    }
    let Some(contents) = mend_block(bytes, footer.index, seal) else { return };
    let Ok(index) = Index::decode(&mut Reader::new(&contents), footer.data_end) else { return };
    for handle in index.handles() {
        let Some(contents) = mend_block(bytes, handle, seal) else { continue };
        let Ok(partition) = partition::decode(&contents, footer.data_end) else { continue };
        for handle in partition.handles() {
            mend_block(bytes, handle, seal);
        }
    }
}

fn mend_footer(footer: &mut [u8]) {
    let mut reader = Reader::new(footer);
    let (Ok(id), Ok(seed)) = (reader.u64(), reader.u64()) else { return };
    let checksum = checksum64(footer.get(..80).unwrap_or_default()) ^ Seal::new(id, seed).place(0);
    if let Some(to) = footer.get_mut(80..88) {
        to.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Returns its contents.
fn mend_block(bytes: &mut [u8], handle: Handle, seal: Seal) -> Option<Vec<u8>> {
    let (start, end) = (usize::try_from(handle.offset).ok()?, usize::try_from(handle.end()?).ok()?);
    let block = bytes.get_mut(start..end)?;
    let (body, checksum) = block.split_at_mut(handle.len + TRAILER_BYTES - 8);
    checksum.copy_from_slice(&(checksum64(body) ^ seal.place(handle.offset)).to_le_bytes());
    seal.open(block.to_vec(), handle.offset).ok()
}

/// A data block's contents.
///
/// # Panics
/// If a promise is broken.
pub fn block(input: &[u8]) {
    let Ok(layout) = Layout::parse(input) else { return };
    let block = DataBlock { contents: input, layout: &layout };
    // Every lookup, whether the block is sound or not.
    for key in [&b""[..], b"cairn", b"\xff\xff"] {
        let _ = block.find(key, hash64(key, SEED), u64::MAX);
        assert!(block.at_or_after(key, 3) <= block.count());
    }
    if block.count() * (1 + block.prefix().len()) > 1 << 20 {
        // A long prefix may be said to belong to very many.
        return;
    }
    let entries = walk(&block);
    assert_eq!(plain_block(input).as_ref(), Some(&entries), "the walk and the grammar disagree");

    let mut sound = entries.is_sorted_by(|a, b| order(a, b).is_lt());
    let begins = |number: usize| {
        let before = number.checked_sub(1).and_then(|before| entries.get(before));
        before.is_none_or(|before| entries.get(number).is_some_and(|entry| entry.key != before.key))
    };
    let firsts: Vec<(usize, u64)> = (0..entries.len())
        .filter(|&number| begins(number))
        .filter_map(|number| Some((number, hash64(&entries.get(number)?.key, SEED))))
        .collect();
    sound &= block.hash_index_is(&firsts);
    for number in 0..entries.len() {
        assert_eq!(block.begins_key(number), number > 0 && begins(number));
    }
    if !sound {
        return;
    }
    for entry in entries.iter().take(300) {
        for max_seq in [entry.seq, entry.seq.saturating_sub(1), u64::MAX] {
            let wanted = entries.iter().find(|e| e.key == entry.key && e.seq <= max_seq);
            let found = block.find(&entry.key, hash64(&entry.key, SEED), max_seq);
            let found = found.map(|found| (found.seq, found.kind, block.value(found.number).to_vec()));
            assert_eq!(found, wanted.map(|e| (e.seq, e.kind, e.value.clone())), "{:?} at {max_seq}", entry.key);
            let after = entries.iter().position(|e| e.key > entry.key || (e.key == entry.key && e.seq <= max_seq));
            assert_eq!(block.at_or_after(&entry.key, max_seq), after.unwrap_or(entries.len()));
        }
    }
}

fn walk(block: &DataBlock<'_>) -> Vec<Owned> {
    let mut key = Vec::new();
    let owned = |number| {
        let entry = block.entry(number)?;
        block.set_key(&mut key, number);
        Some(Owned { key: key.clone(), seq: entry.seq, kind: entry.kind, value: block.value(entry.number).to_vec() })
    };
    (0..block.count()).filter_map(owned).collect()
}

/// The grammar at the head of `block`, read word for word.
fn plain_block(contents: &[u8]) -> Option<Vec<Owned>> {
    let mut reader = Reader::new(contents);
    let size = |n: u64| usize::try_from(n).ok();
    let flags = reader.u8().ok()?;
    let count = size(reader.varint().ok()?)?;
    let prefix = reader.prefixed().ok()?;
    let base = reader.varint().ok()?;
    let kind = if flags & 1 != 0 { Some(reader.u8().ok()?) } else { None };
    let key_len = if flags & 2 != 0 { Some(size(reader.varint().ok()?)?) } else { None };
    let value_len = if flags & 4 != 0 { Some(size(reader.varint().ok()?)?) } else { None };
    let buckets = size(reader.varint().ok()?)?;
    // The length of each string of a column.
    let mut lengths = |one: Option<usize>| -> Option<Vec<usize>> {
        let mut before = 0;
        let mut length = || {
            let Some(len) = one else {
                let end = if flags & 8 != 0 { reader.u32().ok()? } else { u32::from(reader.u16().ok()?) };
                let len = size(end.into())?.checked_sub(before)?;
                before += len;
                return Some(len);
            };
            Some(len)
        };
        (0..count).map(|_| length()).collect()
    };
    let (key_lens, value_lens) = (lengths(key_len)?, lengths(value_len)?);
    let mut seqs = Vec::new();
    for _ in 0..count {
        let delta = reader.bytes(usize::from(flags >> 4)).ok()?;
        let delta = delta.iter().rev().fold(0, |delta, byte| delta << 8 | u64::from(*byte));
        seqs.push(base.checked_add(delta)?);
    }
    let kinds = if kind.is_none() { reader.bytes(count).ok()? } else { &[] };
    reader.bytes(buckets).ok()?;
    let keys: Vec<&[u8]> = key_lens.iter().map(|len| reader.bytes(*len).ok()).collect::<Option<_>>()?;
    let values: Vec<&[u8]> = value_lens.iter().map(|len| reader.bytes(*len).ok()).collect::<Option<_>>()?;
    reader.finish().ok()?;
    let owned = |number: usize| {
        let key = [prefix, keys.get(number)?].concat();
        let kind = kind.or_else(|| kinds.get(number).copied())?;
        Some(Owned { key, seq: *seqs.get(number)?, kind, value: values.get(number)?.to_vec() })
    };
    (0..count).map(owned).collect()
}

/// A partition of a table: an index.
///
/// # Panics
/// If a promise is broken.
pub fn partition(input: &[u8]) {
    const DATA_END: u64 = 1 << 30;
    let Ok(index) = partition::decode(input, DATA_END) else { return };
    let mut end = index.start();
    for handle in index.handles() {
        assert_eq!(handle.offset, end, "blocks lie end to end");
        end = handle.end().expect("it was decoded");
    }
    assert!(end == index.end() && end <= DATA_END);
    let count = index.block_count();
    assert!(count > 0 && index.handle(count).is_none());
    let separators: Vec<(Vec<u8>, u64)> = (0..count.min(200)).map(|i| (index.separator(i), index.seq(i))).collect();
    let sorted = |a: &(Vec<u8>, u64), b: &(Vec<u8>, u64)| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).is_lt();
    assert!(separators.is_sorted_by(sorted));
    if separators.len() < count {
        return;
    }
    for (key, seq) in &separators {
        for key in [key.clone(), [&key[..], b"\0"].concat(), key.split_last().map_or(Vec::new(), |(_, k)| k.to_vec())] {
            for seq in [0, 1, seq.saturating_sub(1), *seq, seq.saturating_add(1), u64::MAX] {
                let wanted = separators.iter().position(|at| !sorted(at, &(key.clone(), seq)));
                assert_eq!(index.find(&key, seq), wanted, "{key:?} at {seq} among {separators:?}");
            }
        }
    }
}

/// The properties of a table.
///
/// # Panics
/// If a promise is broken.
pub fn properties(input: &[u8]) {
    if let Ok(properties) = Properties::decode(input, 1 << 20, SEED) {
        assert_eq!(properties.encode(), input, "properties have one encoding");
    }
}

/// A footer. The first four bytes are the length of the file.
///
/// # Panics
/// If a promise is broken.
pub fn footer(input: &[u8]) {
    let Some((len, bytes)) = input.split_first_chunk::<4>() else { return };
    let mut bytes = bytes.to_vec();
    mend_footer(&mut bytes);
    if let Ok(footer) = Footer::decode(&bytes, u64::from(u32::from_le_bytes(*len))) {
        assert_eq!(footer.encode(), bytes, "a footer has one encoding");
    }
}

/// The envelope of a block: payload and compression, to which the checksum is added.
///
/// # Panics
/// If a promise is broken.
pub fn seal(input: &[u8]) {
    let seal = Seal::new(ID, SEED);
    let mut stored = input.to_vec();
    stored.put_u64(checksum64(input) ^ seal.place(9));
    if let Ok(contents) = seal.open(stored, 9) {
        assert!(contents.len() <= input.len().saturating_mul(255));
        for how in [Compression::None, Compression::Lz4] {
            let mut again = Vec::new();
            Sealer::new(seal).append(&mut again, 9, &contents, how);
            assert_eq!(seal.open(again, 9).expect("just sealed"), contents);
        }
    }
}

fn entries() -> Vec<Owned> {
    let entry = |key: &[u8], seq, kind, value: &[u8]| Owned { key: key.to_vec(), seq, kind, value: value.to_vec() };
    let mut entries = vec![
        entry(b"cairn/a", 300, 1, b"one"),
        entry(b"cairn/a", 9, 0, b""),
        entry(b"cairn/ab", 8, 1, b"two"),
        entry(b"cairn/b\x00", 7, 1, b"three"),
        entry(b"cairn/stone", 5, 1, b"a value with thirty-two bytes ..."),
        entry(b"cairn/stone", 4, 1, b"older"),
        entry(b"cairn/way", 4, 1, b"\xff\x00"),
    ];
    for i in 0..12u8 {
        entries.push(entry(&[b'd', i / 4, i], u64::from(i) + 20, 1, &[i % 3; 40]));
    }
    entries
}

/// Real tables: small blocks and large, compressed and not, with and without filters.
///
/// # Panics
/// Never: the files are in memory.
pub fn file_seeds() -> Vec<Vec<u8>> {
    let (env, path) = (Env::memory(), Path::new("/table"));
    let mut seeds = Vec::new();
    for (block_bytes, compression, filter_bits_per_key) in [
        (64, Compression::None, 10),
        (200, Compression::Lz4, 0),
        (4096, Compression::Lz4, 10),
        (4096, Compression::None, 64),
    ] {
        let _ = env.remove(path);
        let options =
            TableOptions { block_bytes, compression, filter_bits_per_key, hash_seed: SEED, ..TableOptions::default() };
        let mut builder = TableBuilder::new(env.create(path).expect("memory"), ID, 0, options).expect("in bounds");
        for entry in entries() {
            builder.add(&entry.key, entry.seq, entry.kind, &entry.value).expect("in order");
        }
        builder.finish().expect("memory");
        seeds.push(env.read_file(path, 1 << 20).expect("memory"));
    }
    seeds
}

/// Real blocks.
pub fn block_seeds() -> Vec<Vec<u8>> {
    let block = |hash_index: bool, entries: &[Owned]| {
        let mut builder = BlockBuilder::new(hash_index);
        for entry in entries {
            builder.add(&entry.key, hash64(&entry.key, SEED), entry.seq, entry.kind, &entry.value);
        }
        builder.encode().to_vec()
    };
    // Of all lengths, and of one.
    let equal = |i: u8| Owned { key: vec![b'k', i], seq: 9, kind: 1, value: vec![i; 3] };
    let equal: Vec<Owned> = (0..40).map(equal).collect();
    vec![block(true, &entries()), block(false, &entries()), block(true, &equal)]
}

/// The parts of real tables that pass `part`.
fn parts(part: impl Fn(&[u8], &Footer, Seal) -> Option<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let of_file = |file: Vec<u8>| {
        let footer = Footer::decode(file.get(file.len() - FOOTER_BYTES..)?, file.len() as u64).ok()?;
        part(&file, &footer, Seal::new(footer.table_id, footer.hash_seed))
    };
    file_seeds().into_iter().filter_map(of_file).flatten().collect()
}

fn stored(file: &[u8], handle: Handle) -> Option<&[u8]> {
    file.get(usize::try_from(handle.offset).ok()?..usize::try_from(handle.end()?).ok()?)
}

/// Real partitions.
pub fn partition_seeds() -> Vec<Vec<u8>> {
    parts(|file, footer, seal| {
        let contents = seal.open(stored(file, footer.index)?.to_vec(), footer.index.offset).ok()?;
        let index = Index::decode(&mut Reader::new(&contents), footer.data_end).ok()?;
        let of = |handle: Handle| seal.open(stored(file, handle)?.to_vec(), handle.offset).ok();
        Some(index.handles().filter_map(of).take(2).collect())
    })
}

/// Real properties.
pub fn properties_seeds() -> Vec<Vec<u8>> {
    parts(|file, footer, seal| {
        let handle = footer.properties;
        Some(vec![seal.open(stored(file, handle)?.to_vec(), handle.offset).ok()?])
    })
}

/// Real footers.
pub fn footer_seeds() -> Vec<Vec<u8>> {
    parts(|file, _, _| {
        let len = u32::try_from(file.len()).ok()?;
        Some(vec![[&len.to_le_bytes()[..], file.get(file.len() - FOOTER_BYTES..)?].concat()])
    })
}

/// Real payloads, of both kinds.
pub fn seal_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for contents in block_seeds() {
        for how in [Compression::None, Compression::Lz4] {
            let mut sealed = Vec::new();
            Sealer::new(Seal::new(ID, SEED)).append(&mut sealed, 9, &contents, how);
            sealed.truncate(sealed.len() - 8);
            seeds.push(sealed);
        }
    }
    seeds
}
