//! `cairn check`, `cairn repair` and `cairn inspect` on directories of the real file system.
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
        "sound: 6 files, 1 MiB; 1 keyspace, 1 table, 2 entries in them, 1 in the log\n".replace("1 MiB", &size(&db))
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

/// The keys and values of a database, as `cairn scan` prints them.
fn content(db: &str) -> String {
    let scanned = run(&["scan", "--dir", db, "--json"]);
    assert_eq!((scanned.code, scanned.stderr.as_str()), (Some(0), ""));
    scanned.stdout
}

#[test]
fn a_repair_of_a_sound_database_is_exit_code_0_and_loses_nothing() {
    let dir = TempDir::new();
    let (db, new) = (database(&dir), dir.join("new"));
    let repaired = run(&["repair", &db, "--to", &new]);
    assert_eq!((repaired.code, repaired.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        repaired.stdout,
        format!(
            "saved to {new}: 1 keyspace, 2 entries of 1 table, then 1 operation of the log; 30 B\nnothing is lost\n"
        )
    );
    assert_eq!(run(&["check", &new]).code, Some(0));
    assert_eq!(content(&new), content(&db));
    let again = run(&["repair", &db, "--to", &new]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    assert!(again.stderr.contains("is not empty: name a new or an empty directory"), "{}", again.stderr);
}

#[test]
fn a_repair_of_a_database_that_was_not_closed_does_not_say_that_nothing_is_lost() {
    let dir = TempDir::new();
    let (db, new) = (database(&dir), dir.join("new"));
    let manifest = file(&db, ".log");
    let bytes = std::fs::read(&manifest).unwrap();
    // There are two closing records; the second is 80 bytes long.
    std::fs::write(&manifest, &bytes[..bytes.len() - 81]).unwrap();
    let repaired = run(&["repair", &db, "--to", &new]);
    assert_eq!((repaired.code, repaired.stderr.as_str()), (Some(0), ""));
    let (_, told) = repaired.stdout.split_once("30 B\n").unwrap();
    assert_eq!(
        told,
        "the database was not closed: whether its log went on after what was found cannot be told\n\
         nothing is known to be lost\n"
    );
}

#[test]
fn a_repair_that_loses_something_is_exit_code_1_and_says_which_keys() {
    let dir = TempDir::new();
    let (db, new) = (database(&dir), dir.join("new"));
    let table = file(&db, ".sst");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[3] ^= 4;
    std::fs::write(&table, bytes).unwrap();
    let repaired = run(&["repair", &db, "--to", &new]);
    assert_eq!((repaired.code, repaired.stderr.as_str()), (Some(1), ""));
    let lost = format!(
        "lost: {table} at byte 0: block checksum does not match (byte 0 of the block); keys \"alpha\" .. \"beta\" of \
         keyspace \"default\" may be missing, older than they were, or back after a delete\n"
    );
    assert!(repaired.stdout.starts_with(&lost), "{}", repaired.stdout);
    assert_eq!(repaired.last_line(), "1 loss");
    assert_eq!(run(&["check", &new]).code, Some(0));
    assert_eq!(content(&new), "{\"key\":\"gamma\\n\",\"value\":\"value\"}\n");
    let told = run(&["repair", &db, "--to", &dir.join("other"), "--json"]);
    assert_eq!(told.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((&json["log_operations"], &json["lost"][0]["file"]), (&1.into(), &table.into()));
    assert_eq!(json["closed"], true);
    assert_eq!(json["lost"][0]["range"], serde_json::json!({ "from": { "key": "alpha" }, "to": { "key": "beta" } }));
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
