//! The check of a whole table: every flipped bit, every cut, every broken promise.

use cairn_codec::{Write, checksum64};
use cairn_env::{Env, File};

use crate::footer::Handle;
use crate::table::tests::golden;
use crate::testing::{Dir, Model, Rng, expected, get};
use crate::{Compression, Error, Load, TableOptions};
use std::cmp::Reverse;

/// Whatever the damage: an error, or the right answer.
fn never_wrong(dir: &Dir, load: Load, model: &Model) -> Result<(), Error> {
    let table = dir.open(1, load, None)?;
    for (key, Reverse(seq)) in model.keys() {
        for max_seq in [*seq, u64::MAX] {
            if let Ok(found) = get(&table, key, max_seq) {
                assert_eq!(found, expected(model, key, max_seq));
            }
        }
        if let Ok(found) = get(&table, &[key.as_slice(), b"~"].concat(), u64::MAX) {
            assert_eq!(found, None);
        }
    }
    let mut cursor = table.cursor(false, 0);
    let mut wanted = model.iter();
    let mut outcome = cursor.seek_to_first();
    while outcome.is_ok() && cursor.valid() {
        let ((key, Reverse(seq)), (kind, value)) = wanted.next().expect("no more than was written");
        assert_eq!((cursor.key(), cursor.seq(), cursor.kind(), cursor.value()), (&key[..], *seq, *kind, &value[..]));
        outcome = cursor.next();
    }
    assert!(outcome.is_err() || wanted.next().is_none());
    assert!(!cursor.valid());
    table.verify(&mut |_| {})
}

fn small(dir: &Dir, compression: Compression) -> (Model, File, Vec<u8>) {
    let model = Rng(21).model(30);
    let options = TableOptions { block_bytes: 300, compression, ..TableOptions::default() };
    let summary = dir.build(1, &options, &model);
    assert!(summary.data_blocks >= 3);
    let file = Env::real().open_writable(&dir.path("1")).unwrap();
    let bytes = Env::real().read_file(&dir.path("1"), 1 << 20).unwrap();
    (model, file, bytes)
}

#[test]
fn every_flipped_bit_is_found_and_none_gives_a_wrong_answer() {
    let dir = Dir::new();
    for (compression, load) in [(Compression::None, Load::OnDemand), (Compression::Lz4, Load::Resident)] {
        let (model, file, bytes) = small(&dir, compression);
        never_wrong(&dir, load, &model).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
                match never_wrong(&dir, load, &model) {
                    Err(Error::Corrupt { path, offset, .. }) => {
                        assert!(path == dir.path("1") && offset <= at as u64, "bit {bit} of byte {at}: {offset}");
                    }
                    other => panic!("bit {bit} of byte {at}: {other:?}"),
                }
            }
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
        never_wrong(&dir, load, &model).unwrap();
    }
}

#[test]
fn every_truncation_is_found() {
    let dir = Dir::new();
    let (model, file, bytes) = small(&dir, Compression::None);
    for len in (0..bytes.len()).rev() {
        file.set_len(len as u64).unwrap();
        assert!(matches!(never_wrong(&dir, Load::Resident, &model), Err(Error::Corrupt { .. })), "{len} bytes");
    }
}

/// The file shrinks or changes while a table has it open: found where it is touched.
#[test]
fn a_file_that_changes_under_an_open_table_is_found() {
    let dir = Dir::new();
    let (model, file, bytes) = small(&dir, Compression::None);
    let table = dir.open(1, Load::Resident, None).unwrap();
    table.verify(&mut |_| {}).unwrap();
    let (key, _) = model.keys().next_back().unwrap();
    file.set_len(10).unwrap();
    assert!(matches!(get(&table, key, u64::MAX), Err(Error::Corrupt { .. })));
    assert!(matches!(table.verify(&mut |_| {}), Err(Error::Corrupt { .. })));
    file.write_all_at(&bytes, 0).unwrap();
    table.verify(&mut |_| {}).unwrap();
}

/// A valid block of the same table in the wrong place has a right checksum, but not for this place.
#[test]
fn blocks_that_changed_places_are_found() {
    let dir = Dir::new();
    let model: Model = (0..40u8).map(|i| ((vec![i], Reverse(5)), (1, vec![i; 20]))).collect();
    let options = TableOptions { block_bytes: 290, compression: Compression::None, ..TableOptions::default() };
    assert_eq!(dir.build(1, &options, &model).data_blocks, 4);
    let table = dir.open(1, Load::Resident, None).unwrap();
    let file = Env::real().open_writable(&dir.path("1")).unwrap();
    let bytes = Env::real().read_file(&dir.path("1"), 1 << 20).unwrap();
    let block = bytes.len().min(table.footer().index.offset as usize / 4);
    file.write_all_at(&bytes[block..block * 2], 0).unwrap();
    file.write_all_at(&bytes[..block], block as u64).unwrap();
    assert!(matches!(get(&table, &[0], 9), Err(Error::Corrupt { offset: 0, .. })));
    assert!(matches!(table.verify(&mut |_| {}), Err(Error::Corrupt { offset: 0, .. })));
}

#[test]
fn progress_ends_at_the_length_of_the_file() {
    let dir = Dir::new();
    let (_, _, bytes) = small(&dir, Compression::None);
    let mut steps = Vec::new();
    dir.open(1, Load::OnDemand, None).unwrap().verify(&mut |done| steps.push(done)).unwrap();
    assert!(steps.is_sorted() && steps.len() > 3);
    assert_eq!(steps.last(), Some(&(bytes.len() as u64)));
}

/// Each promise of the format, broken alone under right checksums.
#[test]
fn every_broken_promise_has_its_name() {
    let dir = Dir::new();
    let (options, model) = golden();
    dir.build(1, &options, &model);
    let file = Env::real().open_writable(&dir.path("1")).unwrap();
    let bytes = Env::real().read_file(&dir.path("1"), 1 << 20).unwrap();
    let table = dir.open(1, Load::Resident, None).unwrap();
    let (seal, footer) = (table.seal(), *table.footer());
    let partitions: Vec<Handle> = table.index().handles().collect();
    assert_eq!(partitions.len(), 2);
    let first = table.load_partition(partitions[0]).unwrap();
    let block = |n| first.handle(n).unwrap();
    let piece = footer.filter.pieces().next().unwrap();
    let filter = &bytes[piece.offset as usize..][..piece.len];
    let zeros = vec![0; filter.len()];
    // Which part, what stands there, what is put in its place, what must be said.
    let buckets = b"\x00\xff\xff\x02\xff";
    let cases: [(Handle, &[u8], &[u8], &str); 16] = [
        (block(0), b"aaabb\0one", b"aa\x01bb\0one", "entries are out of order"),
        (block(0), b"aaabb\0one", b"aaazb\0one", "the filter denies a key of this block"),
        (block(0), buckets, b"\x02\xff\xff\x02\xff", "the hash index misplaces a key"),
        (block(0), buckets, b"\xff\xff\xff\x02\xff", "the hash index misplaces a key"),
        (block(0), buckets, b"\x04\xff\xff\x02\xff", "the hash index names an entry that does not exist"),
        (block(0), b"\x01\0\x02\0\x04\0\x06", b"\x01\0\x05\0\x04\0\x06", "ends out of order"),
        (block(0), b"\x06\0\x0b\0", b"\x06\0\x0a\0", "bytes behind the last value"),
        (partitions[0], b"\x01s\x00", b"\x01a\x00", "the block ends after its separator"),
        (partitions[0], b"moved\x05", b"moved\x04", "the block begins before the separator of the block before"),
        (partitions[1], b"\xd4\x01", b"\xd3\x01", "the partition does not begin where the one before ends"),
        (footer.index, b"\x07cairn/", b"\x07cairm/", "the partition does not end with its separator"),
        (piece, filter, &zeros, "the filter denies a key of this block"),
        (footer.properties, b"\x0b\x09\x01", b"\x0c\x09\x01", "properties and data disagree"),
        (footer.properties, b"\x40\x06\x01", b"\x00\x00\x01", "properties and footer disagree about a filter"),
        (footer.properties, b"cairn/wbz", b"cairn/wcz", "properties and data disagree"),
        (footer.properties, b"cairn/a", b"cairn/A", "properties and data disagree"),
    ];
    for (part, before, after, said) in cases {
        let at = part.offset as usize;
        let mut forged = bytes[at..=at + part.len].to_vec();
        let found = forged.windows(before.len()).position(|window| window == before).expect(said);
        forged[found..found + before.len()].copy_from_slice(after);
        let checksum = checksum64(&forged) ^ seal.place(part.offset);
        forged.put_u64(checksum);
        file.write_all_at(&forged, part.offset).unwrap();
        let error = dir.open(1, Load::OnDemand, None).and_then(|table| table.verify(&mut |_| {})).expect_err(said);
        assert!(error.to_string().contains(said), "{said}: {error}");
        file.write_all_at(&bytes[at..at + forged.len()], part.offset).unwrap();
    }
    table.verify(&mut |_| {}).unwrap();
}

/// Moves through all of a table that may be forged; errors are fine, and so are other entries.
fn exercise(dir: &Dir, model: &Model) -> Result<(), Error> {
    let table = dir.open(1, Load::OnDemand, None)?;
    let mut cursor = table.cursor(false, 1000);
    let mut outcome = Ok(());
    for (key, Reverse(seq)) in model.keys().step_by(3) {
        outcome = outcome.and(get(&table, key, *seq).map(|_| ()));
        outcome = outcome.and(cursor.seek(key, *seq)).and(cursor.prev()).and(cursor.next());
        outcome = outcome.and(cursor.seek_for_prev(key));
    }
    outcome = outcome.and(cursor.seek_to_first());
    let mut steps = 0;
    while cursor.valid() && cursor.next().is_ok() {
        steps += 1;
    }
    outcome = outcome.and(cursor.seek_to_last());
    while cursor.valid() && cursor.prev().is_ok() {
        steps += 1;
    }
    assert!(steps < 100_000, "{steps} steps in a file of few bytes");
    let _ = table.describe();
    outcome.and(table.verify(&mut |_| {}))
}

/// Checksums guard against chance. Against who forges them too, there is still no panic and no hang.
#[test]
fn forged_files_are_refused_or_read_but_never_panic() {
    let dir = Dir::new();
    let (model, file, bytes) = small(&dir, Compression::None);
    let table = dir.open(1, Load::Resident, None).unwrap();
    let (seal, footer) = (table.seal(), *table.footer());
    let mut parts: Vec<Handle> = table.index().handles().collect();
    for at in parts.clone() {
        parts.extend(table.load_partition(at).unwrap().handles());
    }
    parts.extend(footer.filter.pieces());
    parts.extend([footer.index, footer.index, footer.index, footer.properties, footer.properties]);
    let mut refused = 0;
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let part = parts[rng.below(parts.len())];
        let at = part.offset as usize;
        let mut forged = bytes[at..=at + part.len].to_vec();
        for _ in 0..1 + rng.below(3) {
            let i = rng.below(part.len);
            forged[i] = [rng.next() as u8, 0, 1, 0x7f, 0x80, 0xff][rng.below(6)];
        }
        let checksum = checksum64(&forged) ^ seal.place(part.offset);
        forged.put_u64(checksum);
        file.write_all_at(&forged, part.offset).unwrap();
        refused += usize::from(exercise(&dir, &model).is_err());
        file.write_all_at(&bytes[at..at + forged.len()], part.offset).unwrap();
    }
    assert!(refused > 2000, "{refused}");

    let footer_at = bytes.len() - 96;
    for seed in 0..2000 {
        let mut rng = Rng(seed);
        let mut forged = bytes[footer_at..].to_vec();
        forged[16 + rng.below(64)] ^= 1 << rng.below(8);
        let checksum = checksum64(&forged[..80]) ^ seal.place(0);
        forged[80..88].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&forged, footer_at as u64).unwrap();
        assert!(exercise(&dir, &model).is_err(), "seed {seed}");
    }
}
