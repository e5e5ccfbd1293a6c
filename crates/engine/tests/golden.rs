//! Golden directories: databases as this and earlier builds wrote them, in `tests/golden/vN` at the top
//! of the repository, each with its content as text beside it.
//!
//! Copies of them must open, hold that content and be sound, under every later build. While the
//! format version is the same the writer must make the same bytes again: a change of the format
//! without a new version shows here. Databases are made in simulation, one seed each, so that ids,
//! times and the work of background threads repeat.
//!
//! `CAIRN_GOLDEN=write cargo test -p cairn --test golden the_writer` writes them anew. While the version is 0 a
//! change of the format, or of the engine that changes which tables are made, is settled by that;
//! from version 1 on a change of the format takes a new version and a new directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests whose helpers can do nothing better, and which keep data files in the repository"
)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cairn::{Compression, Db, Durability, Env, ErrorKind, Options, check};
use cairn_codec::{Write as _, checksum64};
use cairn_env::SimDisk;
use common::{Random, tiny};

/// The format that this build writes.
const VERSION: u32 = 0;
/// All of them together stay small.
const BYTES_MAX: u64 = 320_000;
const DIR: &str = "data";

type Files = BTreeMap<String, Vec<u8>>;

/// How a golden database is made.
struct Recipe {
    name: &'static str,
    options: fn() -> Options,
    rounds: u64,
    value_bytes_max: u64,
    /// Copied while open, as a killed process leaves it.
    killed: bool,
    /// A keyspace is dropped that has tables and operations in the log, and made again.
    drops: bool,
}

fn small() -> Options {
    // Zeros are written ahead only once something was synced: the files are about as small as what they hold.
    Options { durability: Durability::Buffered, memtable_bytes_max: 4 << 10, ..tiny() }
}

const RECIPES: [Recipe; 7] = [
    Recipe { name: "empty", options: small, rounds: 0, value_bytes_max: 60, killed: false, drops: false },
    Recipe { name: "levels", options: small, rounds: 620, value_bytes_max: 300, killed: false, drops: false },
    Recipe {
        name: "killed",
        options: || Options { durability: Durability::Commit, ..small() },
        rounds: 90,
        value_bytes_max: 60,
        killed: true,
        drops: false,
    },
    Recipe { name: "dropped", options: small, rounds: 60, value_bytes_max: 60, killed: true, drops: true },
    Recipe {
        name: "no-compression",
        options: || Options { compression: Compression::None, ..small() },
        rounds: 60,
        value_bytes_max: 60,
        killed: false,
        drops: false,
    },
    Recipe {
        name: "no-filter",
        options: || Options { filter_bits_per_key: 0, ..small() },
        rounds: 60,
        value_bytes_max: 60,
        killed: false,
        drops: false,
    },
    Recipe {
        name: "series",
        options: || Options { memtable_entries_max: Some(20), table_entries_max: Some(30), ..series() },
        rounds: 60,
        value_bytes_max: 60,
        killed: false,
        drops: false,
    },
];

/// The series' filter and compaction, over what [`small`] makes small.
fn series() -> Options {
    let Options { filter_bits_per_key, filter_probes, .. } = Options::series();
    Options { filter_bits_per_key, filter_probes, compaction: cairn::CompactionStyle::EveryUpdates(100), ..small() }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn files(env: &Env, dir: &Path) -> Files {
    let entries = env.list(dir).unwrap().into_iter().filter(|entry| !entry.is_dir);
    // A megabyte of zeros, and nothing: what every open makes.
    let kept = entries.filter(|entry| !["RESERVE", "LOCK"].contains(&entry.name.as_str()));
    kept.map(|entry| (entry.name.clone(), env.read_file(&dir.join(&entry.name), 1 << 30).unwrap())).collect()
}

fn world(files: &Files) -> Env {
    let env = Env::memory();
    env.create_dir_all(Path::new(DIR)).unwrap();
    for (name, content) in files {
        env.create(&Path::new(DIR).join(name)).unwrap().write_all_at(content, 0).unwrap();
    }
    env
}

/// All entries as text, a line each.
fn dump(db: &Db) -> String {
    let mut text = String::new();
    let mut names = db.keyspaces();
    names.sort();
    for name in names {
        writeln!(text, "keyspace {name}").unwrap();
        for entry in db.keyspace(&name).unwrap().iter() {
            let (key, value) = entry.unwrap();
            writeln!(text, "{}\t{}", key.escape_ascii(), value.escape_ascii()).unwrap();
        }
    }
    text
}

/// Half of it repeats, so that compression has something to do and does not do away with all.
fn value(random: &mut Random, length: usize) -> Vec<u8> {
    let letter = |random: &mut Random| b'a' + random.below(26) as u8;
    let repeated = letter(random);
    (0..length).map(|i| if i % 2 == 0 { repeated } else { letter(random) }).collect()
}

/// Makes the database of a recipe: its files, and its content.
fn make(recipe: &Recipe) -> (Files, String) {
    let disk = SimDisk::new();
    let env = Env::simulated(1, disk.clone());
    env.run(|| {
        let db = Db::open_in(&env, DIR, (recipe.options)()).unwrap();
        let mut random = Random::new(recipe.rounds);
        for round in 0..recipe.rounds {
            let other = db.keyspace("other").unwrap();
            let mut batch = db.batch();
            for _ in 0..1 + random.below(3) {
                let keyspace = if random.chance(3) { &other } else { &db.default_keyspace() };
                let key = random.key();
                let length = random.below(recipe.value_bytes_max) as usize;
                match random.chance(4) {
                    true => batch.delete(keyspace, &key),
                    false => batch.put(keyspace, &key, &value(&mut random, length)),
                }
            }
            db.write(batch, (recipe.options)().durability).unwrap();
            if round == recipe.rounds / 2 {
                db.compact().unwrap();
            }
            if round == recipe.rounds * 3 / 4 {
                db.flush().unwrap();
            }
            if recipe.drops && round == recipe.rounds - 2 {
                assert!(db.drop_keyspace("other").unwrap());
            }
        }
        if recipe.rounds > 0 {
            db.keyspace("empty").unwrap();
        }
        let content = dump(&db);
        let left = if recipe.killed {
            let left = files(&Env::on_disk(disk.kill()), Path::new(DIR));
            db.close().unwrap();
            left
        } else {
            db.close().unwrap();
            files(&env, Path::new(DIR))
        };
        (left, content)
    })
    .value
}

/// Zeros at the end of a segment that were written ahead are not kept: where a file ends and where
/// its zeros begin is the same to a reader.
fn without_zeros(mut files: Files) -> Files {
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with("log-")) {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used.next_multiple_of(8).max(72));
    }
    files
}

#[test]
fn the_writer_makes_the_same_bytes() {
    let real = Env::real();
    let home = home().join(format!("v{VERSION}"));
    let anew = std::env::var("CAIRN_GOLDEN").is_ok_and(|what| what == "write");
    let mut bytes = 0;
    for recipe in &RECIPES {
        let (files, content) = make(recipe);
        assert_eq!(make(recipe), (files.clone(), content.clone()), "{} does not repeat", recipe.name);
        let files = without_zeros(files);
        let dir = home.join(recipe.name);
        let text = home.join(format!("{}.txt", recipe.name));
        if anew {
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&text, &content).unwrap();
            for (name, bytes) in &files {
                std::fs::write(dir.join(name), bytes).unwrap();
            }
        }
        let stored = self::files(&real, &dir);
        assert_eq!(stored.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "{}: {ADVICE}", recipe.name);
        for (name, made) in &files {
            let differ = stored[name].iter().zip(made).position(|(a, b)| a != b);
            let same = stored[name] == *made;
            assert!(same, "{}/{name} differs at byte {differ:?}: {ADVICE}", recipe.name);
            bytes += made.len() as u64;
        }
        bytes += content.len() as u64;
    }
    assert!(bytes < BYTES_MAX, "{bytes} bytes");
}

const ADVICE: &str = "the files that this build writes are not those of tests/golden, though the format version is the \
    same. If the format is to change, and from version 1 on, raise its version. If only the engine's choice of what to \
    write has changed, or the version is 0: CAIRN_GOLDEN=write cargo test -p cairn --test golden the_writer";

#[test]
fn every_build_opens_what_an_earlier_one_wrote() {
    let real = Env::real();
    let (mut opened, mut versions) = (0, 0);
    for version in 0..=VERSION {
        let home = home().join(format!("v{version}"));
        versions += 1;
        for entry in real.list(&home).unwrap().iter().filter(|entry| entry.is_dir) {
            let want = real.read_file(&home.join(format!("{}.txt", entry.name)), 1 << 20).unwrap();
            let env = world(&files(&real, &home.join(&entry.name)));
            let dir = Path::new(DIR);
            let report = check(&env, dir, &mut |_| ()).unwrap();
            assert!(report.is_sound(), "v{version} {}: {:#?}", entry.name, report.findings);
            for options in [tiny(), Options::default(), Options::series()] {
                let db = Db::open_in(&env, DIR, options).unwrap();
                assert_eq!(dump(&db), String::from_utf8(want.clone()).unwrap(), "v{version} {}", entry.name);
                db.put(b"written later", b"by another build").unwrap();
                db.compact().unwrap();
                db.delete(b"written later").unwrap();
                db.close().unwrap();
                assert!(check(&env, dir, &mut |_| ()).unwrap().is_sound(), "v{version} {}", entry.name);
            }
            opened += 1;
        }
    }
    assert!(opened >= RECIPES.len());
    println!("proof: golden databases opened = {opened}");
    println!("proof: golden versions opened = {versions}");
}

/// What the recipe called "levels" is for: it would be of little use if it had one.
#[test]
fn the_levels_are_several() {
    let env = world(&files(&Env::real(), &home().join(format!("v{VERSION}/levels"))));
    let db = Db::open_in(&env, DIR, Options { log_bytes_max: 1 << 20, ..Options::default() }).unwrap();
    let stats = db.stats();
    for keyspace in ["default", "other"] {
        let levels = stats.levels().iter().filter(|level| level.keyspace == keyspace).count();
        assert!(levels >= 2, "{keyspace}: {:#?}", stats.levels());
    }
    assert!(stats.levels().iter().map(|level| level.tables).sum::<u64>() > 8, "{:#?}", stats.levels());
}

/// A directory that a later build wrote is refused with a message that says so; it is not taken for
/// damaged, and neither an open nor a repair touches it.
#[test]
fn what_a_later_build_wrote_is_refused() {
    let stored = files(&Env::real(), &home().join(format!("v{VERSION}/levels")));
    let table = stored.keys().find(|name| name.ends_with(".sst")).unwrap();
    let log = stored.keys().find(|name| name.starts_with("log-")).unwrap();
    let manifest = stored.keys().find(|name| name.starts_with("manifest-")).unwrap();
    type Forge = fn(&mut Vec<u8>);
    let forgeries: [(&str, Forge); 4] = [
        ("CURRENT", |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let body = text.replacen(&format!("format {VERSION}"), &format!("format {}", VERSION + 1), 1);
            let body = body.split_once(" check").unwrap().0;
            *bytes = format!("{body} check {:016x}\n", checksum64(body.as_bytes())).into_bytes();
        }),
        (log, |bytes| newer_segment(bytes)),
        (manifest, |bytes| newer_segment(bytes)),
        (table, |bytes| {
            let footer = bytes.len() - 96;
            let place = {
                let mut stored = [0; 8];
                stored.copy_from_slice(&bytes[footer + 80..footer + 88]);
                u64::from_le_bytes(stored) ^ checksum64(&bytes[footer..footer + 80])
            };
            bytes[footer + 76..footer + 80].copy_from_slice(&(VERSION + 1).to_le_bytes());
            let checksum = checksum64(&bytes[footer..footer + 80]) ^ place;
            bytes[footer + 80..footer + 88].copy_from_slice(&checksum.to_le_bytes());
        }),
    ];
    for (name, forge) in forgeries {
        let mut forged = stored.clone();
        forge(forged.get_mut(name).unwrap());
        let env = world(&forged);
        let refused = Db::open_in(&env, DIR, tiny()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        let not_repaired = cairn::repair(&env, Path::new(DIR), Path::new("new"), &mut |_| ()).unwrap_err();
        for text in [refused.to_string(), not_repaired.to_string()] {
            assert!(text.contains(name) && text.contains("newer") && !text.contains("damaged"), "{text}");
        }
        assert!(env.list(Path::new("new")).is_err(), "nothing was made");
    }
}

/// The header of a segment, one version on.
fn newer_segment(bytes: &mut [u8]) {
    bytes[8..12].copy_from_slice(&(cairn_wal::FORMAT_VERSION + 1).to_le_bytes());
    let mut half = Vec::new();
    half.put_u64(checksum64(&bytes[..12]));
    bytes[12..16].copy_from_slice(&half[..4]);
}
