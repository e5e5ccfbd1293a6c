//! What a check finds in a database directory, and that it finds nothing in a sound one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cairn::{Db, Durability, Env, ErrorKind, Options, Report, check, inspect};
use cairn_env::SimDisk;
use common::{Random, rounds, tiny};

const DIR: &str = "data";

/// Every file of the directory with its content.
fn files(env: &Env) -> BTreeMap<String, Vec<u8>> {
    let entries = env.list(Path::new(DIR)).unwrap();
    entries.into_iter().map(|entry| (entry.name.clone(), env.read_file(&path(&entry.name), 1 << 30).unwrap())).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A fresh world that holds these files.
fn world(files: &BTreeMap<String, Vec<u8>>) -> Env {
    let env = Env::memory();
    env.create_dir_all(Path::new(DIR)).unwrap();
    for (name, content) in files {
        env.create(&path(name)).unwrap().write_all_at(content, 0).unwrap();
    }
    env
}

fn report(env: &Env) -> Report {
    let mut done = 0;
    let report = check(env, Path::new(DIR), &mut |progress| {
        assert!(progress.bytes_done <= progress.bytes_total);
        done = progress.bytes_total - progress.bytes_done;
    });
    assert_eq!(done, 0, "the progress ends at the end");
    report.unwrap()
}

/// Where the groups of a segment of the log begin.
fn groups(env: &Env, name: &str) -> Vec<usize> {
    let naming = cairn_wal::Naming { prefix: "log-", suffix: ".wal" };
    let mut scan = cairn_wal::Scan::open(env, &Path::new(DIR).join(name), naming).unwrap();
    let mut groups = Vec::new();
    while let Some(item) = scan.next().unwrap() {
        if let cairn_wal::Item::Group(group) = item {
            groups.push(usize::try_from(group.position.offset).unwrap());
        }
    }
    groups
}

fn names(files: &BTreeMap<String, Vec<u8>>, prefix: &str) -> Vec<String> {
    files.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
}

/// Found in review of the close: the log's end says that it was closed, but nothing said so when
/// that end itself was lost, with its last segment or by a cut at the border of a group. Acknowledged
/// writes were gone and the open succeeded. The manifest, which is closed after the log, tells.
#[test]
fn a_database_whose_closed_log_lost_its_end_does_not_open() {
    let env = Env::memory();
    let db = Db::open_in(&env, DIR, Options { memtable_bytes_max: 4 << 20, ..tiny() }).unwrap();
    for i in 0..37_u32 {
        db.put(&i.to_be_bytes(), &[7; 1000]).unwrap();
    }
    db.close().unwrap();
    let whole = files(&env);
    let segments = names(&whole, "log-");
    assert!(segments.len() >= 2, "{segments:?}");
    let (last, content) = (segments.last().unwrap(), &whole[segments.last().unwrap()]);
    let mut spoiled = Vec::new();
    let mut without = whole.clone();
    without.remove(last);
    spoiled.push(without);
    // From the last group of writes on; the closing groups follow it.
    let groups = groups(&env, last);
    let [.., cut, group] = groups[..] else { panic!("{groups:?}") };
    for len in [72, cut] {
        let mut shorter = whole.clone();
        shorter.insert(last.clone(), content[..len].to_vec());
        spoiled.push(shorter);
    }
    for files in &spoiled {
        let env = world(files);
        let found = report(&env);
        assert!(!found.is_sound(), "{found:?}");
        let refused = Db::open_in(&env, DIR, tiny()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert!(
            refused.damage().is_some_and(|(path, offset)| path.to_str().unwrap().contains("log-") && offset.is_some())
        );
    }
    assert!(report(&world(&whole)).findings.is_empty());
    // Its very last group only says once more what the one before it says: nothing is lost.
    let mut almost = whole.clone();
    almost.insert(last.clone(), content[..group].to_vec());
    let env = world(&almost);
    assert!(!report(&env).is_sound());
    let db = Db::open_in(&env, DIR, tiny()).unwrap();
    assert_eq!(db.iter().count(), 37);
}

/// A database with tables in several levels of two keyspaces, garbage and an unflushed log; its
/// content as read back, and its files after the close.
fn build(env: &Env, options: Options, rounds: u64, seed: u64) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let db = Db::open_in(env, DIR, options).unwrap();
    let users = db.keyspace("users").unwrap();
    let default = db.default_keyspace();
    let snapshot = db.snapshot();
    for round in 0..rounds {
        let mut batch = db.batch();
        for _ in 0..1 + random.below(4) {
            let keyspace = if random.chance(3) { &users } else { &default };
            let key = random.key();
            if random.chance(4) {
                batch.delete(keyspace, &key);
            } else {
                batch.put(keyspace, &key, &random.value());
            }
        }
        db.write(batch, Durability::Buffered).unwrap();
        // Once everything to the bottom, later only to the top: so that all levels have their part.
        if round == rounds / 2 {
            db.compact().unwrap();
        }
        if round == rounds * 2 / 3 || round == rounds * 4 / 5 {
            db.flush().unwrap();
        }
    }
    drop(snapshot);
    let mut content = BTreeMap::new();
    for keyspace in [&default, &users] {
        for entry in keyspace.iter() {
            let (key, value) = entry.unwrap();
            content.insert((keyspace.name().to_owned(), key), value);
        }
    }
    db.close().unwrap();
    content
}

/// Zeros are written ahead only once something was synced: the files are small.
fn small() -> Options {
    Options { durability: Durability::Buffered, ..tiny() }
}

/// Every key of every keyspace, with its value.
type Everything = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn read_all(env: &Env) -> cairn::Result<Everything> {
    let db = Db::open_in(env, DIR, small())?;
    let mut content = BTreeMap::new();
    for name in db.keyspaces() {
        for entry in db.keyspace(&name)?.iter() {
            let (key, value) = entry?;
            content.insert((name.clone(), key), value);
        }
    }
    Ok(content)
}

#[test]
fn a_database_with_everything_in_it_is_sound() {
    for seed in 1..4 {
        let env = Env::memory();
        build(&env, tiny(), 400, seed);
        let before = files(&env);
        let report = report(&env);
        assert_eq!(report.findings, []);
        assert!(report.tables > 10 && report.log_groups > 10 && report.log_entries > report.log_groups, "{report:?}");
        assert_eq!((report.keyspaces, report.files), (2, before.len() as u64));
        assert_eq!(files(&env), before, "a check changes nothing");
        // And again after another process has gone on with it.
        let db = Db::open_in(&env, DIR, tiny()).unwrap();
        db.compact().unwrap();
        db.close().unwrap();
        assert_eq!(self::report(&env).findings, []);
    }
}

#[test]
fn an_unclean_end_is_sound_and_an_open_database_is_busy() {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, tiny()).unwrap();
    for i in 0..100_u32 {
        db.put(&i.to_be_bytes(), &[1; 500]).unwrap();
    }
    let busy = check(&env, Path::new(DIR), &mut |_| ()).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    db.flush().unwrap();
    db.compact().unwrap();
    db.put(b"last", b"one").unwrap();
    // What another process would find if this one were killed now.
    let mut left = files(&Env::on_disk(disk.kill()));
    drop(db);
    left.insert("table-0000009999.sst".to_owned(), vec![0; 10]);
    left.insert("CURRENT.tmp".to_owned(), Vec::new());
    left.insert("notes.txt".to_owned(), b"mine".to_vec());
    left.remove("RESERVE");
    let report = report(&world(&left));
    let told: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{told:#?}");
    for part in [
        "the log was not closed",
        "data/table-0000009999.sst: nothing names it any more",
        "data/CURRENT.tmp: nothing names it any more",
        "data/notes.txt: it is no file of a cairn database",
        "data/RESERVE: it is missing",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "no \"{part}\" in {told:#?}");
    }
}

#[test]
fn a_directory_that_holds_no_database_is_left_alone() {
    let env = Env::memory();
    assert_eq!(check(&env, Path::new("none"), &mut |_| ()).unwrap_err().kind(), ErrorKind::Io);
    let env = world(&BTreeMap::from([("notes.txt".to_owned(), b"mine".to_vec())]));
    assert_eq!(check(&env, Path::new(DIR), &mut |_| ()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(files(&env).len(), 1, "no LOCK was made");
    // Nor is one made in a copy that lacks it.
    let env = Env::memory();
    build(&env, small(), 30, 1);
    let mut copy = files(&env);
    copy.remove("LOCK");
    let env = world(&copy);
    let report = report(&env);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.is_sound() && report.findings[0].path == path("LOCK"));
    assert_eq!(files(&env), copy);
}

/// Bytes that no structure covers: LOCK is empty, and RESERVE only takes up space.
const UNCOVERED: [&str; 2] = ["LOCK", "RESERVE"];

/// Every bit of every file, save [`UNCOVERED`].
#[test]
fn every_flipped_bit_is_found() {
    let env = Env::memory();
    build(&env, Options { memtable_bytes_max: 64 << 10, ..small() }, 12, 7);
    let whole = files(&env);
    assert_eq!(report(&env).findings, []);
    assert!(names(&whole, "table-").len() >= 3, "{:?}", whole.keys());
    let mut flips = 0;
    for (name, content) in whole.iter().filter(|(name, _)| !UNCOVERED.contains(&name.as_str())) {
        let file = env.open_writable(&path(name)).unwrap();
        for (at, byte) in content.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
                let report = report(&env);
                let found = report.damages().any(|finding| finding.path == path(name));
                assert!(found, "bit {bit} of byte {at} of {name}: {report:#?}");
                flips += 1;
            }
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
    }
    println!("proof: flipped bits, all of a small database = {flips}");
    println!("{flips} bits in {:?}", whole.iter().map(|(name, content)| (name, content.len())).collect::<Vec<_>>());
    assert_eq!(report(&env).findings, []);
}

/// Flips in one larger database.
const FLIPS: u64 = 600;

/// Over a database of many tables and several segments, zeros written ahead behind the log's end.
#[test]
fn flipped_bits_of_a_larger_database_are_found() {
    let segments: Vec<usize> = rounds(1, 1).map(flip_bits_of_a_larger_database).collect();
    // How many there are when the database is closed is up to its threads.
    assert!(segments.iter().any(|count| *count > 1), "{segments:?}");
    println!("proof: flipped bits in larger databases = {}", segments.len() as u64 * FLIPS);
}

/// Returns how many segments the database's log had.
fn flip_bits_of_a_larger_database(seed: u64) -> usize {
    let env = Env::memory();
    build(&env, Options { memtable_bytes_max: 32 << 10, ..tiny() }, 2000, seed + 10);
    let whole = files(&env);
    assert!(names(&whole, "table-").len() > 20, "{:?}", whole.keys());
    let covered: Vec<_> =
        whole.iter().filter(|(name, bytes)| !UNCOVERED.contains(&name.as_str()) && !bytes.is_empty()).collect();
    let mut random = Random::new(seed + 11);
    for round in 0..FLIPS {
        // Every file gets its share, however small it is beside the log.
        let (name, content) = covered[round as usize % covered.len()];
        let (at, bit) = (random.below(content.len() as u64), random.below(8));
        let file = env.open_writable(&path(name)).unwrap();
        let byte = content[at as usize];
        file.write_all_at(&[byte ^ (1 << bit)], at).unwrap();
        let report = report(&env);
        assert!(
            report.damages().any(|finding| finding.path == path(name)),
            "CAIRN_SEED={seed}, bit {bit} of byte {at} of {name}: {report:#?}"
        );
        file.write_all_at(&[byte], at).unwrap();
    }
    assert_eq!(report(&env).findings, []);
    names(&whole, "log-").len()
}

/// Only the zeros behind the log, and the end of the manifest, may be lost without damage: what a crash within the
/// close leaves. Of the manifest nothing but the closing records is missing then, and the note about it shows.
#[test]
fn every_truncation_is_found() {
    let env = Env::memory();
    let content = build(&env, Options { memtable_bytes_max: 64 << 10, ..small() }, 12, 7);
    let whole = files(&env);
    let mut sound = 0;
    for (name, bytes) in whole.iter().filter(|(name, _)| !UNCOVERED.contains(&name.as_str())) {
        let file = env.open_writable(&path(name)).unwrap();
        let zeros =
            if name.starts_with("log-") { bytes.iter().rev().take_while(|&&byte| byte == 0).count() } else { 0 };
        for len in (0..bytes.len() - zeros).rev() {
            file.set_len(len as u64).unwrap();
            let report = report(&env);
            let found = report.findings.iter().any(|finding| finding.path == path(name));
            assert!(found, "{name} cut to {len} bytes: {report:#?}");
            if report.is_sound() {
                assert!(name.starts_with("manifest-"), "{name} cut to {len} bytes: {report:#?}");
                sound += 1;
                if len % 64 == 0 {
                    let mut cut = whole.clone();
                    cut.get_mut(name).unwrap().truncate(len);
                    assert_eq!(read_all(&world(&cut)).unwrap(), content, "{name} cut to {len} bytes");
                }
            }
        }
        file.write_all_at(bytes, 0).unwrap();
    }
    assert!(sound > 0);
    assert_eq!(report(&env).findings, []);
}

#[test]
fn missing_and_swapped_files_are_found() {
    let env = Env::memory();
    build(&env, Options { memtable_bytes_max: 32 << 10, ..tiny() }, 1500, 21);
    let whole = files(&env);
    for name in whole.keys().filter(|name| !UNCOVERED.contains(&name.as_str())) {
        let mut without = whole.clone();
        without.remove(name);
        let report = report(&world(&without));
        let named = report.damages().any(|finding| finding.path == path(name));
        // Of a lost last segment only the log before it can tell.
        let last = names(&whole, "log-").last() == Some(name);
        assert!(named || (last && !report.is_sound()), "without {name}: {report:#?}");
        assert!(Db::open_in(&world(&without), DIR, tiny()).is_err(), "without {name}");
    }
    let tables = names(&whole, "table-");
    for pair in tables.windows(2) {
        let mut swapped = whole.clone();
        swapped.insert(pair[0].clone(), whole[&pair[1]].clone());
        swapped.insert(pair[1].clone(), whole[&pair[0]].clone());
        let report = report(&world(&swapped));
        let damaged: BTreeSet<_> = report.damages().map(|finding| finding.path.clone()).collect();
        assert_eq!(damaged, pair.iter().map(|name| path(name)).collect(), "{report:#?}");
    }
    // Damage does not stop a check: every other file is looked at, and told of, too.
    let mut spoiled = whole.clone();
    let mut all = BTreeSet::new();
    for name in tables.iter().chain(&names(&whole, "log-")[..1]) {
        spoiled.get_mut(name).unwrap()[0] ^= 1;
        all.insert(path(name));
    }
    for current in [&whole["CURRENT"][..], b"cairn"] {
        spoiled.insert("CURRENT".to_owned(), current.to_vec());
        let report = report(&world(&spoiled));
        let mut damaged: BTreeSet<_> = report.damages().map(|finding| finding.path.clone()).collect();
        assert_eq!(damaged.remove(&path("CURRENT")), current == b"cairn");
        assert_eq!(damaged, all, "{report:#?}");
    }
}

/// A sound report is a promise: the database opens. Of one that was killed, so that its log has an
/// end that may be torn.
#[test]
fn what_is_sound_opens() {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, small()).unwrap();
    let users = db.keyspace("users").unwrap();
    let mut random = Random::new(31);
    for _ in 0..60 {
        db.put(&random.key(), &random.value()).unwrap();
        users.put(&random.key(), &random.value()).unwrap();
    }
    db.flush().unwrap();
    for _ in 0..10 {
        users.put(&random.key(), &random.value()).unwrap();
    }
    // All at one moment: background jobs go on.
    let mut killed = files(&Env::on_disk(disk.kill()));
    drop(db);
    killed.remove("RESERVE");
    let names: Vec<String> = killed.keys().cloned().collect();
    let (mut sound, mut damaged) = (0, 0);
    for _ in 0..400 {
        let mut spoiled = killed.clone();
        let name = &names[random.below(names.len() as u64) as usize];
        let bytes = spoiled.get_mut(name).unwrap();
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..at).map(|_| random.next() as u8)),
            2 => bytes[at..].iter_mut().for_each(|byte| *byte = 0),
            _ => bytes[at..].iter_mut().take(1 + at % 9).for_each(|byte| *byte ^= random.next() as u8),
        }
        let env = world(&spoiled);
        for name in &names {
            // Whatever it makes of damage, it ends, and does not panic.
            let _ = inspect(&env, &path(name), &mut |_| ControlFlow::Continue(()));
        }
        if report(&env).is_sound() {
            sound += 1;
            read_all(&env).unwrap();
        } else {
            damaged += 1;
        }
    }
    assert!(sound > 30 && damaged > 30, "{sound} sound, {damaged} damaged");
}
