//! `cairn check` and `cairn inspect` on directories of the real file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of real processes, sockets and files, whose helpers can do nothing better than panic"
)]

mod common;

use common::{TempDir, run};

/// A database with a table and something in the log; the path of its directory.
fn database(dir: &TempDir) -> String {
    let db = dir.join("db");
    for key in ["alpha", "beta", "alpha"] {
        assert_eq!(run(&["put", key, "value", "--dir", &db]).code, Some(0));
    }
    assert_eq!(run(&["compact", &db]).code, Some(0));
    assert_eq!(run(&["put", "gamma\n", "value", "--dir", &db]).code, Some(0));
    db
}

/// The only file of the database with this suffix.
fn file(db: &str, suffix: &str) -> String {
    let paths = std::fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path().to_str().unwrap().to_owned());
    let found: Vec<String> = paths.filter(|path| path.ends_with(suffix)).collect();
    let [path] = found.as_slice() else { panic!("{found:?}") };
    path.clone()
}

#[test]
fn a_sound_database_is_exit_code_0() {
    let dir = TempDir::new();
    let db = database(&dir);
    let checked = run(&["check", &db]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        checked.stdout,
        "sound: 6 files, 1 MiB; 1 keyspaces, 1 tables, 2 entries in them, 1 in the log\n".replace("1 MiB", &size(&db))
    );
    let json: serde_json::Value = serde_json::from_str(&run(&["check", &db, "--json"]).stdout).unwrap();
    assert_eq!(json["sound"], true);
    assert_eq!(json["findings"], serde_json::json!([]));
    assert_eq!((&json["tables"], &json["table_entries"], &json["log_entries"]), (&1.into(), &2.into(), &1.into()));
    // A note is told and does not count.
    let notes = dir.file("db/notes.txt", "mine");
    let checked = run(&["check", &db]);
    assert_eq!(checked.code, Some(0));
    assert!(
        checked.stdout.starts_with(&format!("note: {notes}: it is no file of a cairn database\n")),
        "{}",
        checked.stdout
    );
    assert!(checked.last_line().starts_with("sound: 6 files"));
}

fn size(db: &str) -> String {
    let bytes: u64 = std::fs::read_dir(db).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bytes >> 20, 1, "the reserve is most of it");
    match (bytes * 10) >> 20 {
        10 => "1 MiB".to_owned(),
        tenths => format!("1.{} MiB", tenths - 10),
    }
}

#[test]
fn damage_is_exit_code_1_with_file_and_offset() {
    let dir = TempDir::new();
    let db = database(&dir);
    let (table, log) = (file(&db, ".sst"), file(&db, ".wal"));
    for path in [&table, &log] {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[100] ^= 4;
        std::fs::write(path, bytes).unwrap();
    }
    let checked = run(&["check", &db]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(1), ""));
    let lines: Vec<&str> = checked.stdout.lines().collect();
    let [first, second, last] = lines.as_slice() else { panic!("{lines:#?}") };
    assert!(first.starts_with(&format!("{table} at byte ")), "{first}");
    assert!(second.starts_with(&format!("{log} at byte 72: ")), "{second}");
    assert_eq!(*last, "2 problems");
    let json: serde_json::Value = serde_json::from_str(&run(&["check", &db, "--json"]).stdout).unwrap();
    assert_eq!((&json["sound"], &json["findings"][1]["offset"]), (&false.into(), &72.into()));
    assert_eq!((&json["findings"][0]["file"], &json["findings"][0]["severity"]), (&table.into(), &"damage".into()));
    let checked = run(&["check", &dir.join("none")]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(1), ""));
    let checked = run(&["check", dir.path().to_str().unwrap()]);
    assert_eq!(checked.code, Some(1));
    assert!(checked.stderr.ends_with("holds no cairn database\n"), "{}", checked.stderr);
}

#[test]
fn inspect_tells_every_kind_of_file() {
    let dir = TempDir::new();
    let db = database(&dir);
    for (suffix, part) in [
        ("CURRENT", "the manifest in force is manifest-"),
        (".log", "\n  keyspace 0 is \"default\"\n"),
        (".wal", "put \"gamma\\n\" in keyspace 0, a value of 5 bytes\n"),
        (".sst", "keys: alpha .. beta\n"),
    ] {
        let told = run(&["inspect", &file(&db, suffix)]);
        assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{suffix}");
        assert!(told.stdout.contains(part), "{suffix}: {}", told.stdout);
    }
    let told = run(&["inspect", &dir.file("notes.txt", "mine")]);
    assert_eq!((told.code, told.stdout.as_str()), (Some(1), ""));
    assert!(told.stderr.contains("is no table, log segment, manifest or CURRENT"), "{}", told.stderr);
}
