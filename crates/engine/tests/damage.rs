//! Damage tests: a bit flips, a file ends early, a block is lost, a file is gone.
//!
//! After a clean close and after a kill, each file of a database is damaged in each way. Opening or
//! reading must give `Corrupt` with the file's name, and never a wrong value. The one thing that no
//! check can tell from a write that a crash cut short is damage to the end of a log after a kill,
//! beyond what the log itself says was synced: what is found then is a prefix.
//!
//! `CAIRN_SEED=n` replays from a seed, `CAIRN_PROOF_SECONDS=n` takes further ones for so long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use cairn::{Db, Env, Error, ErrorKind, Options};
use cairn_env::SimDisk;
use common::history::{Content, History, Recorder, SPACES, existing};
use common::workload::{Client, DIR};
use common::{Random, Scene, rounds, tiny};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlipBit(u64, u8),
    /// A block of the disk reads as zeros.
    Zeros(u64, u64),
    CutTo(u64),
    Gone,
}

/// How the database took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RefusedToOpen,
    ErrorAtRead,
    Prefix,
    AllThere,
}

fn inflict(disk: &SimDisk, path: &Path, damage: Damage) {
    let env = Env::on_disk(disk.clone());
    match damage {
        Damage::FlipBit(at, bit) => {
            let file = env.open_writable(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
        }
        Damage::Zeros(at, len) => {
            let file = env.open_writable(path).unwrap();
            let len = len.min(file.len().unwrap() - at);
            file.write_all_at(&vec![0; len as usize], at).unwrap();
        }
        Damage::CutTo(len) => env.open_writable(path).unwrap().set_len(len).unwrap(),
        Damage::Gone => env.remove(path).unwrap(),
    }
    disk.settle();
}

fn damages(len: u64, random: &mut Random) -> Vec<Damage> {
    let mut all = vec![Damage::Gone, Damage::CutTo(0), Damage::CutTo(len / 2), Damage::CutTo(len.saturating_sub(1))];
    if len > 0 {
        let edge = 80.min(len);
        let positions = (0..edge).step_by(3).chain(len - edge..len).chain((0..80).map(|_| random.below(len)));
        all.extend(positions.map(|at| Damage::FlipBit(at, (at % 8) as u8)));
        // Most of a log is zeros: most of these near the beginning.
        let mut near = |i: u64| random.below((len >> (i % 5)).max(1));
        all.extend((0..30).map(|i| Damage::CutTo(near(i))));
        all.extend((0..15).map(|i| Damage::Zeros(near(i) / 512 * 512, 512)));
        all.extend((0..60).map(|i| Damage::FlipBit(near(i), (i % 8) as u8)));
    }
    all
}

/// The error is `Corrupt` and names the file.
fn check_error(e: &Error, path: &Path, damage: Damage, clean: bool) {
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
    let (named, offset) = e.damage().unwrap();
    // Edits lost at the end of a manifest look like edits that a crash cut short. They show by the
    // files that had been removed because of them.
    let edits_lost = !matches!(damage, Damage::FlipBit(..)) || !clean;
    if edits_lost && path.to_string_lossy().contains("manifest-") {
        return;
    }
    // A segment that is gone, or its header, shows where the one before it ends.
    let segment = |path: &Path| path.extension().is_some_and(|extension| extension == "wal");
    let beside = !matches!(damage, Damage::FlipBit(..)) && segment(path) && segment(named);
    assert!(named == path || beside, "{e:?}");
    assert!(offset.is_some() || !matches!(damage, Damage::FlipBit(..)), "no offset: {e:?}");
}

/// Reads all there is; what was found, and the first error.
fn read_all(db: &Db) -> (Content, Option<Error>) {
    let mut found = Content::default();
    let mut error = None;
    for (index, name) in SPACES.iter().enumerate() {
        let Some(space) = existing(db, name) else { continue };
        for entry in space.iter() {
            match entry {
                Ok((key, value)) => found[index].insert(key, value),
                Err(e) => {
                    error.get_or_insert(e);
                    break;
                }
            };
        }
    }
    (found, error)
}

/// One database at rest, and what it must hold.
struct Rest {
    disk: SimDisk,
    history: History,
    seq: u64,
    clean: bool,
}

/// Lets a workload run and leaves the database closed, or as a killed process leaves it.
fn at_rest(seed: u64, clean: bool, options: &Options) -> Rest {
    let disk = SimDisk::with_seed(seed);
    let env = Env::simulated(seed, disk.clone());
    let recorder = Recorder::new(&disk);
    let run = env.run(|| {
        for round in 0..2 {
            let mut client = Client::open(&env, options, &recorder, seed + round).unwrap();
            client.steps(60).unwrap();
            // Whatever the steps were: tables below level 0, tables in it, and entries in the log.
            client.db.compact().unwrap();
            client.steps(6).unwrap();
            client.db.flush().unwrap();
            // One keyspace with little in it keeps all segments of the log that the other fills.
            client.put(1, 10).unwrap();
            for _ in 0..30 {
                client.put(0, 1000).unwrap();
            }
            for _ in 0..4 {
                client.write().unwrap();
            }
            client.db.sync().unwrap();
            if round == 1 && !clean {
                let killed = disk.kill();
                client.close().unwrap();
                return killed;
            }
            client.close().unwrap();
        }
        disk.kill()
    });
    let disk = run.value;
    disk.settle();
    let history = recorder.finish();
    let seq = history.writes().last().unwrap().last;
    Rest { disk, history, seq, clean }
}

impl Rest {
    /// Opens and reads a damaged copy.
    fn examine(&self, path: &Path, damage: Damage, options: &Options) -> Outcome {
        let disk = self.disk.kill();
        inflict(&disk, path, damage);
        let env = Env::simulated(1, disk);
        let run = env.run(|| {
            let options = Options { create_if_missing: false, ..options.clone() };
            let db = match Db::open_in(&env, DIR, options) {
                Ok(db) => db,
                Err(e) => {
                    check_error(&e, path, damage, self.clean);
                    return Outcome::RefusedToOpen;
                }
            };
            let want = self.history.content_at(self.seq).unwrap();
            let (found, error) = read_all(&db);
            let outcome = match error {
                None if found == want => Outcome::AllThere,
                None => {
                    // Only after a kill, and only what a torn write would look like.
                    let seq = db.stats().get("applied_seq").unwrap();
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(!self.clean && name.ends_with(".wal"), "it opens and ends at {seq} of {}", self.seq);
                    let prefix = self.history.content_at(seq).expect("whole batches");
                    assert_eq!(found, prefix);
                    Outcome::Prefix
                }
                Some(e) => {
                    check_error(&e, path, damage, self.clean);
                    Outcome::ErrorAtRead
                }
            };
            if outcome == Outcome::ErrorAtRead {
                for (found, want) in found.iter().zip(&want) {
                    assert!(found.iter().all(|(key, value)| want.get(key) == Some(value)), "a wrong value");
                }
            }
            if outcome != Outcome::Prefix {
                self.check_keys(&db, &want, path, damage);
            }
            if let Err(e) = db.compact() {
                check_error(&e, path, damage, self.clean);
            }
            db.close().unwrap();
            outcome
        });
        assert_eq!((run.panicked, run.unfinished), (Vec::new(), Vec::new()));
        run.value
    }

    /// Each key by itself: the right value or an error.
    fn check_keys(&self, db: &Db, want: &Content, path: &Path, damage: Damage) {
        for (index, name) in SPACES.iter().enumerate() {
            let space = existing(db, name).expect("the keyspace is there");
            for key in self.history.keys(index) {
                match space.get(key) {
                    Ok(value) => assert_eq!(value.as_ref(), want[index].get(key), "{name}: get {key:?}"),
                    Err(e) => check_error(&e, path, damage, self.clean),
                }
            }
        }
    }
}

fn damage_everything(clean: bool) {
    let (mut databases, mut damages) = (0, 0);
    for seed in rounds(1, 2) {
        databases += 1;
        damages += damage_one(seed, clean);
    }
    let how = if clean { "closed" } else { "killed" };
    println!("proof: {how} databases = {databases}");
    println!("proof: damages to {how} databases = {damages}");
}

/// Damages a database of its own; the number of ways.
fn damage_one(seed: u64, clean: bool) -> u64 {
    let options = tiny();
    let rest = at_rest(seed, clean, &options);
    let mut random = Random::new(seed);
    let mut outcomes: BTreeMap<(String, &'static str, Outcome), u64> = BTreeMap::new();
    let files = Env::on_disk(rest.disk.clone()).list(Path::new(DIR)).unwrap();
    for file in &files {
        let path = Path::new(DIR).join(&file.name);
        let harmless = file.name == "LOCK" || file.name == "RESERVE";
        for damage in damages(file.len, &mut random) {
            let _scene = Scene::set(format!("CAIRN_SEED={seed}, {} of {} bytes: {damage:?}", file.name, file.len));
            let outcome = rest.examine(&path, damage, &options);
            assert!(!harmless || outcome == Outcome::AllThere);
            let kind = file.name.trim_matches(|c: char| c.is_ascii_digit() || c == '.').replace("0", "");
            let way = match damage {
                Damage::FlipBit(..) => "bit flipped",
                Damage::Zeros(..) => "block zeroed",
                Damage::CutTo(_) => "cut short",
                Damage::Gone => "gone",
            };
            *outcomes.entry((kind, way, outcome)).or_default() += 1;
        }
    }
    println!("CAIRN_SEED={seed}, {} files, closed cleanly: {clean}", files.len());
    for ((kind, way, outcome), count) in &outcomes {
        println!("  {kind:<16} {way:<13} {outcome:?} {count}");
    }
    outcomes.values().sum()
}

#[test]
fn damage_after_a_clean_close_is_found() {
    damage_everything(true);
}

#[test]
fn damage_after_a_kill_is_found_or_looks_like_a_torn_write() {
    damage_everything(false);
}

#[test]
fn an_opening_that_fails_leaves_no_copy_of_the_log() {
    let disk = SimDisk::new();
    let env = Env::on_disk(disk.clone());
    let db = Db::open_in(&env, DIR, Options::default()).unwrap();
    for i in 0..100u32 {
        db.put(&i.to_be_bytes(), &[7; 1000]).unwrap();
    }
    let disk = disk.kill();
    drop(db);
    let env = Env::on_disk(disk.clone());
    let files = || env.list(DIR.as_ref()).unwrap();
    let log = files().into_iter().rfind(|entry| entry.name.ends_with(".wal")).unwrap();
    // In what was durable, behind most of it.
    inflict(&disk, &Path::new(DIR).join(&log.name), Damage::FlipBit(80_000, 0));
    let before = files();
    for _ in 0..3 {
        let error = Db::open_in(&env, DIR, Options::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(files(), before);
    }
}
