//! Repair: databases are damaged in every way, and what is saved is compared with what was written.
//!
//! Of a database with several keyspaces, levels and a log, a file is flipped, cut, zeroed or removed.
//! Whatever is repaired holds, under every key, a value that was once written under it; equals the
//! model for every key that the repair does not name as concerned; and is sound. The damaged
//! database stays as it was.
//!
//! `CAIRN_SEED=n` replays from a seed; `CAIRN_PROOF_SECONDS=n` goes on for so long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn::{Db, Durability, Env, ErrorKind, Lost, Options, Repaired, check, repair};
use cairn_env::{CrashPolicy, SimDisk};
use common::{Random, Scene, base_seed, number, tiny};

const DIR: &str = "data";
const NEW: &str = "new";
const SPACES: [&str; 3] = ["default", "users", "an empty one"];
/// A keyspace that is dropped in the end, when it has tables and operations in the log.
const GONE: &str = "gone";

/// The files of a directory.
type Files = BTreeMap<String, Vec<u8>>;
/// A keyspace and a key.
type Place = (String, Vec<u8>);
type Content = BTreeMap<Place, Vec<u8>>;

/// A database at rest, and all that was ever written to it.
struct Database {
    files: Files,
    /// By sequence number: the key, and the value that was put.
    operations: BTreeMap<u64, (Place, Option<Vec<u8>>)>,
    /// The number of the first operation of the last group in the log.
    last_group: u64,
    closed: bool,
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn files(env: &Env) -> Files {
    let entries = env.list(Path::new(DIR)).unwrap();
    entries.into_iter().map(|entry| (entry.name.clone(), env.read_file(&path(&entry.name), 1 << 30).unwrap())).collect()
}

/// A fresh world that holds these files.
fn world(files: &Files) -> Env {
    let env = Env::memory();
    lay_out(&env, files);
    env
}

fn lay_out(env: &Env, files: &Files) {
    env.create_dir_all(Path::new(DIR)).unwrap();
    for (name, content) in files {
        env.create(&path(name)).unwrap().write_all_at(content, 0).unwrap();
    }
}

/// Writes one batch, and returns the number of its first operation.
fn write(
    db: &Db,
    random: &mut Random,
    spaces: &[&str],
    operations: &mut BTreeMap<u64, (Place, Option<Vec<u8>>)>,
) -> u64 {
    let mut batch = db.batch();
    let mut ops = Vec::new();
    for _ in 0..1 + random.below(4) {
        let space = spaces[random.below(spaces.len() as u64) as usize];
        let keyspace = db.keyspace(space).unwrap();
        let key = random.key();
        let value = (!random.chance(4)).then(|| random.value());
        match &value {
            Some(value) => batch.put(&keyspace, &key, value),
            None => batch.delete(&keyspace, &key),
        }
        ops.push(((space.to_owned(), key), value));
    }
    let last = db.write(batch, Durability::Buffered).unwrap().seq.0;
    let first = last + 1 - ops.len() as u64;
    operations.extend((first..).zip(ops));
    first
}

/// Tables in several levels of two keyspaces, garbage, and a log of which part is in tables.
fn build(seed: u64, closed: bool) -> Database {
    let disk = SimDisk::with_seed(seed);
    let env = Env::simulated(seed, disk.clone());
    env.run(|| build_in(&env, &disk, seed, closed)).value
}

fn build_in(env: &Env, disk: &SimDisk, seed: u64, closed: bool) -> Database {
    let mut random = Random::new(seed);
    let options = || Options { durability: Durability::Buffered, ..tiny() };
    let mut operations = BTreeMap::new();
    let db = Db::open_in(env, DIR, options()).unwrap();
    for name in SPACES.into_iter().chain([GONE]) {
        db.keyspace(name).unwrap();
    }
    let (staying, all) = (&SPACES[..2], &[SPACES[0], SPACES[1], GONE][..]);
    for round in 0..400 {
        write(&db, &mut random, if round < 250 { staying } else { all }, &mut operations);
        if round == 200 {
            db.compact().unwrap();
        }
        if round == 300 || round == 340 {
            db.flush().unwrap();
        }
    }
    db.close().unwrap();
    // What was replaced is removed now.
    let db = Db::open_in(env, DIR, options()).unwrap();
    db.flush().unwrap();
    let mut last_group = 0;
    for round in 0..40 {
        if round == 20 {
            assert!(db.drop_keyspace(GONE).unwrap());
        }
        last_group = write(&db, &mut random, if round < 20 { all } else { staying }, &mut operations);
    }
    let mut files = if closed {
        db.close().unwrap();
        files(env)
    } else {
        db.sync().unwrap();
        let files = files(&Env::on_disk(disk.kill()));
        db.close().unwrap();
        files
    };
    // A megabyte of zeros that nothing needs.
    files.remove("RESERVE");
    Database { files, operations, last_group, closed }
}

impl Database {
    fn content(&self) -> Content {
        let mut content = Content::new();
        for (place, value) in self.operations.values().filter(|((space, _), _)| space != GONE) {
            match value {
                Some(value) => content.insert(place.clone(), value.clone()),
                None => content.remove(place),
            };
        }
        content
    }

    /// Whether a loss says that this key may be concerned.
    fn concerns(&self, lost: &Lost, place: &Place) -> bool {
        if lost.keyspace.as_ref().is_some_and(|name| *name != place.0 && (name != "keyspace-1" || place.0 != "users")) {
            return false;
        }
        match (&lost.range, numbers(&lost.what)) {
            (Some((from, to)), _) => (from..=to).contains(&&place.1),
            (None, Some((from, to))) => self.operations.range(from..=to).any(|(_, (touched, _))| touched == place),
            (None, None) => true,
        }
    }
}

/// The numbers of the operations that a loss in the log tells.
fn numbers(what: &str) -> Option<(u64, u64)> {
    let (_, told) = what.strip_suffix(')')?.rsplit_once("(operations ")?;
    if let Some(to) = told.strip_prefix("up to ") {
        return Some((1, to.parse().ok()?));
    }
    if let Some(from) = told.strip_prefix("from ").and_then(|rest| rest.strip_suffix(" on")) {
        return Some((from.parse().ok()?, u64::MAX));
    }
    told.split_once(" to ").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
}

fn read_all(env: &Env) -> Content {
    let db = Db::open_in(env, NEW, tiny()).unwrap();
    let mut content = Content::new();
    for name in db.keyspaces() {
        for entry in db.keyspace(&name).unwrap().iter() {
            let (key, value) = entry.unwrap();
            content.insert((name.clone(), key), value);
        }
    }
    db.close().unwrap();
    content
}

/// Repairs, and checks the new database by itself.
fn repaired(env: &Env) -> (Repaired, Content) {
    let before = files(env);
    let mut left = 0;
    let repaired = repair(env, Path::new(DIR), Path::new(NEW), &mut |progress| {
        assert!(progress.bytes_done <= progress.bytes_total);
        left = progress.bytes_total - progress.bytes_done;
    });
    let repaired = repaired.unwrap();
    assert_eq!(left, 0, "the progress ends at the end");
    assert!(files(env) == before, "a repair changes nothing");
    let report = check(env, Path::new(NEW), &mut |_| ()).unwrap();
    assert_eq!(report.findings, []);
    let content = read_all(env);
    let live = repaired.table_entries + repaired.log_operations;
    assert!(content.len() as u64 <= live, "{} entries of {live}", content.len());
    (repaired, content)
}

#[test]
fn of_a_sound_database_the_new_one_is_equal() {
    for seed in 1..4 {
        for closed in [true, false] {
            println!("seed {seed}, closed {closed}");
            let database = build(seed, closed);
            let env = world(&database.files);
            let (told, content) = repaired(&env);
            assert_eq!((&told.lost, told.closed), (&Vec::new(), closed));
            assert!(content == database.content());
            assert!(told.tables > 5 && told.table_entries > 100 && told.log_operations > 10, "{told:?}");
            let db = Db::open_in(&env, NEW, tiny()).unwrap();
            assert_eq!(db.keyspaces().into_iter().collect::<BTreeSet<_>>(), SPACES.map(str::to_owned).into());
        }
    }
}

/// Without `CURRENT`, or with a manifest that cannot be read, everything is found in the tables and
/// the log themselves; only that nothing is missing cannot be proved.
#[test]
fn without_a_manifest_the_files_tell() {
    for seed in 1..4 {
        println!("seed {seed}");
        let database = build(seed, true);
        let manifest = database.files.keys().find(|name| name.starts_with("manifest-")).unwrap().clone();
        let report = check(&world(&database.files), Path::new(DIR), &mut |_| ()).unwrap();
        assert!(report.findings.iter().all(|finding| finding.path == path("RESERVE")), "{report:?}");
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [(&str, Option<Spoil>, &str); 5] = [
            ("CURRENT", None, "CURRENT"),
            ("CURRENT", Some(|bytes| bytes.clear()), "CURRENT"),
            ("CURRENT", Some(|bytes| bytes[20] ^= 1), "CURRENT"),
            (&manifest, None, &manifest),
            (&manifest, Some(|bytes| bytes[200] ^= 1), &manifest),
        ];
        for (name, spoil, blamed) in spoils {
            let mut files = database.files.clone();
            match spoil {
                Some(spoil) => spoil(files.get_mut(name).unwrap()),
                None => drop(files.remove(name)),
            }
            let (told, content) = repaired(&world(&files));
            let [lost] = told.lost.as_slice() else { panic!("{name}: {:#?}", told.lost) };
            assert_eq!((&lost.path, &lost.keyspace, &lost.range), (&path(blamed), &None, &None));
            assert!(
                lost.to_string().ends_with(
                    "; any keys of any keyspace may be missing, older than they were, or back after a delete"
                )
            );
            // Without any edit the names are gone: of the default keyspace it is known.
            let named = |(space, key): &Place| match space.as_str() {
                "users" if name == manifest => ("keyspace-1".to_owned(), key.clone()),
                _ => (space.clone(), key.clone()),
            };
            // Nothing says any more that it was dropped, and it comes back as far as it is still there.
            let dropped = |(space, _): &Place| name == manifest && space == "keyspace-3";
            let content: Content = content.into_iter().filter(|(place, _)| !dropped(place)).collect();
            let want: Content = database.content().iter().map(|(place, value)| (named(place), value.clone())).collect();
            assert!(content == want, "{name}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Gone,
    CutTo(usize),
    Flip(usize, u8),
    Zeros(usize, usize),
}

fn damage(random: &mut Random, len: usize) -> Damage {
    let at = random.below(len.max(1) as u64) as usize;
    match random.below(8) {
        0 => Damage::Gone,
        1 => Damage::CutTo(at),
        2 => Damage::Zeros(at / 512 * 512, 512),
        _ => Damage::Flip(at, random.below(8) as u8),
    }
}

fn inflict(files: &mut Files, name: &str, damage: Damage) {
    let Some(bytes) = files.get_mut(name) else { return };
    match damage {
        Damage::Gone => drop(files.remove(name)),
        Damage::CutTo(len) => bytes.truncate(len),
        Damage::Flip(at, bit) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit),
        Damage::Zeros(at, len) => bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0),
    }
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Figures {
    repairs: u64,
    lost: u64,
    /// Keys in lost ranges that were saved all the same, and that were not.
    saved_within: u64,
    not_saved: u64,
}

fn round(database: &Database, random: &mut Random, figures: &mut Figures) {
    let names: Vec<String> = database.files.keys().filter(|name| *name != "LOCK").cloned().collect();
    let mut spoiled = database.files.clone();
    let mut damages = Vec::new();
    for _ in 0..1 + random.below(3) {
        let name = &names[random.below(names.len() as u64) as usize];
        let damage = damage(random, database.files[name].len());
        inflict(&mut spoiled, name, damage);
        damages.push((name.as_str(), damage));
    }
    let _scene = Scene::set(format!("{damages:?}"));
    let env = world(&spoiled);
    let gone = spoiled.keys().all(|name| name == "LOCK");
    assert!(!gone, "several tables are there");
    let (told, content) = repaired(&env);
    figures.repairs += 1;
    figures.lost += told.lost.len() as u64;
    let model = database.content();
    let mut places: BTreeSet<&Place> = database.operations.values().map(|(place, _)| place).collect();
    places.extend(content.keys());
    // Without their manifest keyspaces have made-up names, and what was dropped may be back.
    let renamed = |place: &Place| match place.0.as_str() {
        "keyspace-1" => ("users".to_owned(), place.1.clone()),
        "keyspace-3" => (GONE.to_owned(), place.1.clone()),
        _ => place.clone(),
    };
    let content: Content = content.iter().map(|(place, value)| (renamed(place), value.clone())).collect();
    for (place, value) in &content {
        let written = database.operations.values().any(|(p, v)| p == place && v.as_ref() == Some(value));
        assert!(written, "{place:?} never was {value:?}");
    }
    assert!(database.closed || !told.closed);
    // Where a log or manifest that was not closed ends nobody knows; its last group, damaged, cannot be
    // told from a write cut short. But one flipped bit costs no more than that group. One that was
    // closed looks as if it was not once its manifest has lost the end; then the log's end is not known.
    let touched = |start: &str| damages.iter().any(|(name, _)| name.starts_with(start));
    let one_bit = matches!(damages.as_slice(), [(_, Damage::Flip(..))]);
    if !told.closed && !one_bit && (touched("log-") || !database.closed && touched("manifest-")) {
        return;
    }
    let in_last_group = |place: &Place| database.operations.range(database.last_group..).any(|(_, (p, _))| p == place);
    // A manifest that lost its last edit does not know of the drop.
    let not_dropped = |place: &Place| place.0 == GONE && touched("manifest-");
    let excused = |place: &Place| !database.closed && (touched("log-") && in_last_group(place) || not_dropped(place));
    for place in places {
        let equal = content.get(place) == model.get(place);
        if excused(place) {
            continue;
        }
        if told.lost.iter().any(|lost| database.concerns(lost, place)) {
            *if equal { &mut figures.saved_within } else { &mut figures.not_saved } += 1;
        } else {
            assert!(equal, "{place:?} is {:?}, and {:#?}", content.get(place), told.lost);
        }
    }
}

#[test]
fn whatever_is_damaged_the_rest_is_saved() {
    let env = Env::real();
    let (began, seconds) = (env.now(), number("CAIRN_PROOF_SECONDS", 10));
    let mut figures = Figures::default();
    let mut seed = base_seed();
    while env.now() - began < Duration::from_secs(seconds) {
        println!("seed {seed}");
        let _scene = Scene::set(format!("CAIRN_SEED={seed}"));
        let mut random = Random::new(seed);
        let database = build(seed, !seed.is_multiple_of(4));
        for _ in 0..60 {
            round(&database, &mut random, &mut figures);
        }
        seed += 1;
    }
    println!("{figures:?}");
    assert!(figures.lost > figures.repairs / 4 && figures.not_saved > 0 && figures.saved_within > figures.not_saved);
    println!("proof: repairs of damaged databases = {}", figures.repairs);
    println!("proof: repair lost ranges told = {}", figures.lost);
}

/// A database that was written operation by operation, `key 0` first; the log is all of it.
fn numbered(keyspace: &str, count: u32, options: Options, closed: bool) -> Files {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, options).unwrap();
    let keyspace = db.keyspace(keyspace).unwrap();
    for i in 0..count {
        keyspace.put(format!("key {i}").as_bytes(), &[7; 1000]).unwrap();
    }
    let killed = disk.kill();
    db.close().unwrap();
    files(&if closed { env } else { Env::on_disk(killed) })
}

/// The names of files that begin like this, in order.
fn named(files: &Files, start: &str) -> Vec<String> {
    files.keys().filter(|name| name.starts_with(start)).cloned().collect()
}

/// Which of the numbered keys are there.
fn kept(content: &Content, keyspace: &str, count: u32) -> Vec<u32> {
    let there = |i: &u32| content.contains_key(&(keyspace.to_owned(), format!("key {i}").into_bytes()));
    (0..count).filter(there).collect()
}

/// A segment of the log in which nothing was readable was passed over: the numbers on both sides of
/// it were not compared, and "nothing is lost" was said of 58 operations.
#[test]
fn a_segment_without_a_readable_group_is_told() {
    for closed in [true, false] {
        let options = Options { log_bytes_max: 512 << 10, ..Options::default() };
        let whole = numbered("default", 300, options, closed);
        let logs = named(&whole, "log-");
        assert!(logs.len() >= 4, "{logs:?}");
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [Option<Spoil>; 5] = [
            None,
            Some(|bytes| bytes.clear()),
            Some(|bytes| bytes.truncate(72)),
            Some(|bytes| bytes[72..].fill(0)),
            Some(|bytes| bytes.fill(0)),
        ];
        for (index, log) in logs.iter().enumerate().take(3) {
            for (how, spoil) in spoils.iter().enumerate() {
                for beheaded in [false, true] {
                    let mut files = whole.clone();
                    match spoil {
                        Some(spoil) => spoil(files.get_mut(log).unwrap()),
                        None => drop(files.remove(log)),
                    }
                    // The header of the next one, which says where the one before it ended.
                    if beheaded {
                        files.get_mut(&logs[index + 1]).unwrap()[30] ^= 1;
                    }
                    let (told, content) = repaired(&world(&files));
                    let kept = kept(&content, "default", 300);
                    let scene = format!("closed {closed}, {log}, spoil {how}, {beheaded}: {:#?}", told.lost);
                    assert!((200..299).contains(&kept.len()), "{} kept; {scene}", kept.len());
                    assert!(!told.lost.is_empty(), "{scene}");
                    for i in (0..300).filter(|i| !kept.contains(i)) {
                        let number = u64::from(i) + 1;
                        let covers = |lost: &Lost| {
                            numbers(&lost.what).is_none_or(|(from, to)| (from..=to).contains(&number) && to < 300)
                        };
                        assert!(told.lost.iter().any(covers), "key {i}; {scene}");
                    }
                    let twice = told.lost.iter().filter(|lost| lost.path == path(log)).count();
                    assert!(twice <= 1, "{scene}");
                }
            }
        }
    }
}

/// Groups that can be read behind a damaged one of a log that was not closed were dropped without a
/// word, as if they were the end of a write cut short.
#[test]
fn groups_behind_damage_in_a_killed_log_are_saved() {
    let options = || Options { durability: Durability::Buffered, ..Options::default() };
    let whole = numbered("default", 300, options(), false);
    let [log] = named(&whole, "log-").try_into().unwrap();
    let mut files = whole.clone();
    inflict(&mut files, &log, Damage::Flip(10_000, 0));
    let (told, content) = repaired(&world(&files));
    assert_eq!(kept(&content, "default", 300).len(), 299);
    let [lost] = told.lost.as_slice() else { panic!("{:#?}", told.lost) };
    let (from, to) = numbers(&lost.what).unwrap();
    assert_eq!(from, to);
    assert!(!content.contains_key(&("default".to_owned(), format!("key {}", from - 1).into_bytes())));
    let report = check(&world(&files), Path::new(DIR), &mut |_| ()).unwrap();
    let notes: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(notes.iter().any(|note| note.contains("not known to be durable, with the headers of 29")), "{notes:?}");
    // The last group alone looks like a write that was cut short.
    let end = whole[&log].iter().rposition(|byte| *byte != 0).unwrap();
    let mut files = whole;
    inflict(&mut files, &log, Damage::Flip(end, 0));
    let (told, content) = repaired(&world(&files));
    assert_eq!((told.lost, kept(&content, "default", 300).len()), (Vec::new(), 299));
}

/// An edit of the manifest that looked like one cut short took a keyspace with it, though its log
/// was whole; each operation was told as a loss of its own.
#[test]
fn a_keyspace_that_only_the_log_knows_is_saved() {
    let mut files = numbered("users", 500, Options::default(), false);
    let [manifest] = named(&files, "manifest-").try_into().unwrap();
    let end = files[&manifest].iter().rposition(|byte| *byte != 0).unwrap();
    inflict(&mut files, &manifest, Damage::Flip(end, 0));
    let (told, content) = repaired(&world(&files));
    assert_eq!(kept(&content, "keyspace-1", 500).len(), 500);
    let [lost] = told.lost.as_slice() else { panic!("{:#?}", told.lost) };
    assert_eq!((&lost.path, lost.keyspace.as_deref()), (&path(&manifest), Some("keyspace-1")));
}

/// An opening cut the log at a damaged group and gave the numbers behind it anew; the old segment
/// was still there. Without CURRENT its cut end won over what was durable.
#[test]
fn of_two_logs_the_newer_is_in_force() {
    let options = || Options { durability: Durability::Buffered, ..Options::default() };
    let mut files_cut = numbered("default", 20, options(), false);
    let [old] = named(&files_cut, "log-").try_into().unwrap();
    inflict(&mut files_cut, &old, Damage::Flip(10_000, 0));
    let env = world(&files_cut);
    let db = Db::open_in(&env, DIR, Options::default()).unwrap();
    let before = kept_in(&db);
    assert!((5..15).contains(&before), "{before}");
    for i in 0..8 {
        db.put(format!("durable {i}").as_bytes(), b"new").unwrap();
    }
    db.close().unwrap();
    let mut files = files(&env);
    files.insert(old.clone(), files_cut[&old].clone());
    files.remove("CURRENT");
    let (told, content) = repaired(&world(&files));
    assert_eq!(kept(&content, "default", 20).len(), before);
    assert_eq!(content.len(), before + 8);
    let [lost] = told.lost.as_slice() else { panic!("{:#?}", told.lost) };
    assert_eq!(lost.path, path("CURRENT"));
}

fn kept_in(db: &Db) -> usize {
    db.default_keyspace().iter().count()
}

/// A closed database whose manifest has lost its closing records looks like a killed one, whose log may
/// end anywhere: of one that had also lost a segment it was said that nothing is lost.
#[test]
fn where_a_log_ends_is_known_of_a_closed_database_only() {
    let whole = numbered("default", 300, Options { log_bytes_max: 512 << 10, ..Options::default() }, true);
    let [manifest] = named(&whole, "manifest-").try_into().unwrap();
    let last = named(&whole, "log-").pop().unwrap();
    let told_of = |cut: usize, log_gone: bool| {
        let mut files = whole.clone();
        inflict(&mut files, &manifest, Damage::CutTo(whole[&manifest].len() - cut));
        if log_gone {
            inflict(&mut files, &last, Damage::Gone);
        }
        let (told, content) = repaired(&world(&files));
        (told.closed, told.lost.is_empty(), kept(&content, "default", 300).len() == 300)
    };
    assert_eq!(told_of(0, false), (true, true, true));
    assert_eq!(told_of(0, true), (true, false, false));
    // The second closing record is 32 bytes long, and says only once more what the first one says.
    assert_eq!(told_of(32, true), (true, false, false));
    assert_eq!(told_of(33, false), (false, true, true));
    assert_eq!(told_of(33, true), (false, true, false));
}

/// A flipped bit in one data block costs that block's keys in one keyspace, and nothing else.
#[test]
fn a_damaged_block_costs_its_keys_only() {
    let database = build(7, true);
    let model = database.content();
    let tables: Vec<&String> = database.files.keys().filter(|name| name.ends_with(".sst")).collect();
    for table in tables {
        let mut files = database.files.clone();
        inflict(&mut files, table, Damage::Flip(10, 3));
        let (told, content) = repaired(&world(&files));
        let [lost] = told.lost.as_slice() else { panic!("{:#?}", told.lost) };
        assert_eq!((&lost.path, lost.offset, lost.blocks), (&path(table), Some(0), 1));
        assert!(lost.keyspace.is_some() && lost.range.is_some());
        let differ = model.iter().filter(|(place, value)| content.get(*place) != Some(*value));
        for (place, _) in differ {
            assert!(database.concerns(lost, place), "{place:?}");
        }
    }
}

#[test]
fn a_repair_refuses_what_it_must_not_touch() {
    let env = Env::memory();
    let db = Db::open_in(&env, DIR, tiny()).unwrap();
    db.put(b"k", b"v").unwrap();
    env.create_dir_all(Path::new("mine")).unwrap();
    env.create(Path::new("mine/notes.txt")).unwrap();
    let refused = |env: &Env, dir: &str, to: &str| {
        let e = repair(env, Path::new(dir), Path::new(to), &mut |_| ()).unwrap_err();
        (e.kind(), e.to_string())
    };
    assert_eq!(refused(&env, DIR, NEW).0, ErrorKind::Busy);
    db.close().unwrap();
    for within in ["data/new", "/data/new", "mine/../data/new"] {
        let (kind, text) = refused(&env, DIR, within);
        assert!(kind == ErrorKind::Invalid && text.contains("lies within data"), "{text}");
    }
    let (kind, text) = refused(&env, DIR, "mine");
    assert!(kind == ErrorKind::Invalid && text.contains("mine is not empty"), "{text}");
    assert_eq!(refused(&env, "mine", NEW).0, ErrorKind::NotFound);
    assert_eq!(refused(&env, "none", NEW).0, ErrorKind::Io);
}

#[test]
fn a_full_disk_is_told_with_what_to_do() {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, Options::default()).unwrap();
    for i in 0..200_u32 {
        db.put(&i.to_be_bytes(), &[7; 20_000]).unwrap();
    }
    db.close().unwrap();
    disk.set_space_bytes(Some(disk.used_bytes() + (2 << 20)));
    let e = repair(&env, Path::new(DIR), Path::new(NEW), &mut |_| ()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Full, "{e}");
    assert!(e.to_string().contains("new.unfinished holds an unfinished repair: remove it"), "{e}");
    assert!(env.list(Path::new(NEW)).unwrap_err().is_not_found());
    let e = repair(&env, Path::new(DIR), Path::new(NEW), &mut |_| ()).unwrap_err();
    assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains("new.unfinished is there"), "{e}");
}

/// A repair that was killed left a database that opened, was sound, and held a part of the data or
/// none.
#[test]
fn an_interrupted_repair_does_not_pass_for_a_database() {
    let files = numbered("default", 50, Options::default(), true);
    let steps = {
        let disk = SimDisk::new();
        let env = Env::on_disk(disk.clone());
        lay_out(&env, &files);
        let before = disk.steps();
        repair(&env, Path::new(DIR), Path::new(NEW), &mut |_| ()).unwrap();
        before + 1..disk.steps() + 2
    };
    let mut whole = 0;
    for step in steps.clone() {
        let disk = SimDisk::new();
        let env = Env::on_disk(disk.clone());
        lay_out(&env, &files);
        disk.settle();
        disk.crash_at(step);
        let told = repair(&env, Path::new(DIR), Path::new(NEW), &mut |_| ());
        for after in [disk.kill(), disk.crash(CrashPolicy::DropAll)] {
            let env = Env::on_disk(after);
            match check(&env, Path::new(NEW), &mut |_| ()) {
                Ok(report) => {
                    assert!(report.is_sound(), "crash at {step}: {report:?}");
                    assert_eq!(kept(&read_all(&env), "default", 50).len(), 50, "crash at {step}");
                    whole += 1;
                }
                Err(_) => assert!(told.is_err(), "crash at {step}"),
            }
        }
    }
    assert!(whole > 0 && whole < (steps.end - steps.start), "{whole} of {steps:?}");
}
