//! Each invariant is broken once, in files that are whole: only the check can tell.

use std::path::{Path, PathBuf};

use cairn_codec::Write;
use cairn_env::Env;
use cairn_table::{TableBuilder, TableOptions};
use cairn_wal::{Body, LogOptions, LogWriter};

use super::{Finding, Severity, check};
use crate::commit::GROUP_KIND;
use crate::edit::{KeyspaceState, State};
use crate::files::{LOG, MANIFEST, table_path};
use crate::levels::TableMeta;
use crate::manifest::Manifest;
use crate::types::{KeyspaceId, NUMBER_MAX, SeqNo, TableId};
use crate::{Db, Error, ErrorKind, Options};

const DIR: &str = "data";
const SEED: u64 = 9;

/// A group of the log before it is written.
struct Logged {
    kind: u8,
    first_seq: u64,
    body: Vec<u8>,
}

/// A database in the making: change it, write it, check it.
struct Database {
    env: Env,
    state: State,
    log: Vec<Logged>,
    segment_bytes: u64,
    close: bool,
}

impl Database {
    fn new() -> Database {
        let env = Env::memory();
        env.create_dir_all(Path::new(DIR)).unwrap();
        for name in [super::LOCK, super::RESERVE] {
            env.create(&Path::new(DIR).join(name)).unwrap();
        }
        let mut state = State { database_id: 1, hash_seed: SEED, next_table: 100, log_start: 1, ..State::default() };
        for (id, name) in [(0, "default"), (1, "users")] {
            let keyspace = KeyspaceState { name: name.to_owned(), flushed: SeqNo(50), ..KeyspaceState::default() };
            state.keyspaces.insert(id, keyspace);
        }
        Database { env, state, log: Vec::new(), segment_bytes: 1 << 20, close: true }
    }

    /// A keyspace was dropped, the last that was made.
    fn dropped(&mut self, id: KeyspaceId, seq: u64) -> &mut Database {
        (self.state.next_keyspace, self.state.dropped) = (id + 1, SeqNo(seq));
        self
    }

    fn keyspace(&mut self, id: KeyspaceId) -> &mut KeyspaceState {
        self.state.keyspaces.get_mut(&id).unwrap()
    }

    /// Writes a table of these versions, `key seq` or `key seq -` for a tombstone, and lists it.
    fn table(&mut self, keyspace: KeyspaceId, level: usize, id: TableId, entries: &[&str]) -> &mut TableMeta {
        let file = self.env.create(&table_path(Path::new(DIR), id)).unwrap();
        let options = TableOptions { hash_seed: SEED, ..TableOptions::default() };
        let mut builder = TableBuilder::new(file, id, u64::from(keyspace), options).unwrap();
        for entry in entries {
            let words: Vec<&str> = entry.split(' ').collect();
            let kind = match words.get(2) {
                None => 1,
                Some(&"-") => 0,
                Some(kind) => kind.parse().unwrap(),
            };
            builder.add(words[0].as_bytes(), words[1].parse().unwrap(), kind, b"").unwrap();
        }
        let summary = builder.finish().unwrap();
        let meta = TableMeta {
            id,
            file_bytes: summary.file_bytes,
            entries: summary.entries,
            tombstones: summary.tombstones,
            stale: 0,
            smallest_key: summary.smallest_key,
            largest_key: summary.largest_key,
            smallest_seq: SeqNo(summary.smallest_seq),
            largest_seq: SeqNo(summary.largest_seq),
            created_ms: 0,
        };
        &mut self.keyspace(keyspace).tables.entry(id).or_insert((level, meta)).1
    }

    /// Adds a group with one batch of puts.
    fn logged(&mut self, first_seq: u64, keyspace: u64, keys: &[&str]) -> &mut Logged {
        let mut body = Vec::new();
        for key in keys {
            body.put_u8(1);
            body.put_varint(keyspace);
            body.put_prefixed(key.as_bytes());
            body.put_prefixed(b"value");
        }
        self.log.push(Logged { kind: GROUP_KIND, first_seq, body });
        self.log.last_mut().unwrap()
    }

    fn write(&self) {
        let dir = Path::new(DIR);
        let options = LogOptions { segment_bytes: self.segment_bytes, allocate: false };
        let (mut log, syncer) = LogWriter::create(&self.env, dir, LOG, self.state.log_start, options).unwrap();
        for group in &self.log {
            log.append(group.kind, group.first_seq, &[Body::new(&group.body)]).unwrap();
        }
        syncer.sync().unwrap();
        let manifest = Manifest::begin(&self.env, dir, 1, self.state.clone(), u64::MAX).unwrap();
        if self.close {
            log.close().unwrap();
            manifest.close().unwrap();
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let report = check(&self.env, Path::new(DIR), &mut |_| ()).unwrap();
        assert_eq!(report.is_sound(), report.findings.iter().all(|f| f.severity == Severity::Note));
        report.findings
    }

    /// Writes it and expects one damage that says this; returns all it says, and what an open says.
    #[track_caller]
    fn is_damaged(&self, path: PathBuf, what: &str) -> (String, Option<Error>) {
        self.write();
        let findings = self.findings();
        let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
        assert_eq!((finding.severity, &finding.path), (Severity::Damage, &path), "{finding}");
        assert!(finding.what.contains(what), "{finding}");
        // An open looks at less and may well succeed; panic it may not.
        let refused = Db::open_in(&self.env, DIR, Options::default()).and_then(Db::close).err();
        assert!(refused.as_ref().is_none_or(|e| e.kind() == ErrorKind::Corrupt), "{refused:?}");
        (finding.what.clone(), refused)
    }
}

fn table(id: TableId) -> PathBuf {
    table_path(Path::new(DIR), id)
}

fn manifest() -> PathBuf {
    MANIFEST.path(Path::new(DIR), 1)
}

fn segment(id: u64) -> PathBuf {
    LOG.path(Path::new(DIR), id)
}

#[test]
fn a_database_in_order_is_sound() {
    let mut db = Database::new();
    db.table(0, 0, 9, &["a 49", "c 48 -"]);
    db.table(0, 0, 8, &["a 40", "b 41", "b 39"]);
    db.table(0, 1, 7, &["a 30", "a 28", "b 21 -"]);
    db.table(0, 1, 6, &["c 20"]);
    db.table(0, 3, 5, &["a 10", "c 9"]);
    db.table(1, 2, 4, &["a 50"]);
    db.logged(51, 0, &["a", "b"]);
    db.logged(53, 1, &["z"]);
    db.write();
    let report = check(&db.env, Path::new(DIR), &mut |_| ()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.tables, report.table_entries, report.log_groups, report.log_entries), (6, 12, 2, 3));
    assert_eq!((report.files, report.keyspaces, report.manifest_edits, report.log_segments), (11, 2, 1, 1));
}

#[test]
fn a_newer_version_below_an_older_one() {
    // Level 0 against level 1.
    let mut db = Database::new();
    db.table(0, 0, 5, &["a 40", "b 20", "c 41"]);
    db.table(0, 1, 4, &["a 10", "b 30"]);
    db.is_damaged(table(5), "version 20 of key \"b\" lies above the newer version 30 in data/table-0000000004.sst");
    // Within level 0, where the table with the newest entry is read first.
    let mut db = Database::new();
    db.table(0, 0, 5, &["a 40", "b 20"]);
    db.table(0, 0, 4, &["b 30"]);
    db.is_damaged(table(5), "version 20 of key \"b\" lies above the newer version 30");
    // Between sorted levels, in the other keyspace, more than once.
    let mut db = Database::new();
    db.table(1, 2, 5, &["a 1", "b 2"]);
    db.table(1, 6, 4, &["a 3", "b 4"]);
    let (what, _) = db.is_damaged(table(5), "in keyspace \"users\", version 1 of key \"a\"");
    assert!(what.ends_with("; 1 more versions like it"), "{what}");
}

#[test]
fn versions_that_stand_twice_and_kinds_that_nobody_knows() {
    let mut db = Database::new();
    db.table(0, 0, 5, &["a 40", "b 20"]);
    db.table(0, 1, 4, &["b 20"]);
    db.is_damaged(table(4), "version 20 of key \"b\" stands also in data/table-0000000005.sst");
    let mut db = Database::new();
    db.table(0, 1, 4, &["b 20 7"]);
    db.is_damaged(table(4), "kind 7");
}

#[test]
fn a_table_that_is_not_what_the_manifest_says() {
    type Spoil = fn(&mut TableMeta);
    let spoils: [(Spoil, &str); 7] = [
        (|meta| meta.file_bytes += 1, "bytes instead of"),
        (|meta| meta.entries += 1, "it holds 3 entries, and the manifest says 4"),
        (|meta| meta.tombstones = 0, "it holds 1 tombstones, and the manifest says 0"),
        (|meta| meta.smallest_seq = SeqNo(1), "it holds 20 as smallest sequence number, and the manifest says 1"),
        (|meta| meta.largest_seq = SeqNo(30), "it holds 41 as largest sequence number, and the manifest says 30"),
        (|meta| meta.smallest_key = b"A".to_vec(), "its first key is \"a\", and the manifest says \"A\""),
        (|meta| meta.largest_key = b"cc".to_vec(), "its last key is \"c\", and the manifest says \"cc\""),
    ];
    for (spoil, what) in spoils {
        let mut db = Database::new();
        spoil(db.table(0, 1, 5, &["a 40", "b 20 -", "c 41"]));
        let (_, refused) = db.is_damaged(table(5), what);
        assert!(refused.is_some_and(|e| e.to_string().contains(what)));
    }
    let mut db = Database::new();
    db.table(0, 1, 5, &["a 40"]);
    let listed = db.keyspace(0).tables.remove(&5).unwrap();
    db.keyspace(1).tables.insert(5, listed);
    db.is_damaged(table(5), "it belongs to keyspace 0, and the manifest says to keyspace 1");
    let mut db = Database::new();
    db.table(0, 1, 5, &["a 51"]);
    db.is_damaged(table(5), "flushed up to 50");
}

#[test]
fn a_manifest_that_contradicts_itself() {
    let mut db = Database::new();
    db.keyspace(0).name = "other".to_owned();
    db.is_damaged(manifest(), "keyspace 0 is not \"default\"");
    let mut db = Database::new();
    db.keyspace(1).name = "default".to_owned();
    db.is_damaged(manifest(), "two keyspaces are called \"default\"");
    let mut db = Database::new();
    let meta = db.table(0, 1, 5, &["a 40"]).clone();
    db.keyspace(1).tables.insert(5, (3, meta));
    db.write();
    let findings = db.findings();
    let [twice, owner] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!((&twice.path, &owner.path), (&manifest(), &table(5)));
    assert!(twice.what.contains("table 5 is in the keyspaces \"default\" and \"users\""), "{twice}");
    assert!(owner.what.contains("it belongs to keyspace 0, and the manifest says to keyspace 1"), "{owner}");
    let mut db = Database::new();
    db.table(0, 1, 5, &["a 40", "c 30"]);
    db.table(0, 1, 4, &["b 20"]);
    db.is_damaged(manifest(), "overlap");
    let mut db = Database::new();
    db.keyspace(0).flushed = SeqNo(u64::MAX);
    db.is_damaged(manifest(), "leaves no room");
    let mut db = Database::new();
    db.state.dropped = SeqNo(u64::MAX);
    db.is_damaged(manifest(), "leaves no room");
    let mut db = Database::new();
    db.state.next_table = u64::MAX;
    db.is_damaged(manifest(), "leaves no room");
    let mut db = Database::new();
    db.state.next_table = 5;
    db.table(0, 1, 5, &["a 40"]);
    db.is_damaged(manifest(), "never given out");
}

#[test]
fn a_log_that_contradicts_itself_or_the_manifest() {
    type Spoil = fn(&mut Database);
    let spoils: [(Spoil, &str); 9] = [
        (|db| db.logged(60, 0, &["a"]).kind = 9, "kind 9"),
        (|db| db.logged(52, 0, &["a"]).first_seq = 52, "it begins with sequence number 52, and 52 is before it"),
        (|db| _ = db.logged(60, 7, &["a"]), "keyspace 7, which does not exist"),
        (|db| _ = db.dropped(7, 60).logged(60, 8, &["a"]), "keyspace 8, which does not exist"),
        (|db| _ = db.dropped(7, 60).logged(60, 7, &["a", "b"]), "keyspace 7, which does not exist"),
        (|db| _ = db.logged(60, 0, &["a", ""]), "does not decode"),
        (|db| db.logged(60, 0, &["a"]).body.push(0), "does not decode"),
        (|db| _ = db.logged(60, 0, &[]), "without an operation"),
        (|db| _ = db.logged(u64::MAX, 0, &["a"]), "leaves no room"),
    ];
    for (spoil, what) in spoils {
        let mut db = Database::new();
        db.logged(51, 0, &["a", "b"]);
        spoil(&mut db);
        db.logged(NUMBER_MAX, 1, &["z"]);
        db.log.sort_by_key(|group| group.first_seq);
        db.is_damaged(segment(1), what);
    }
}

#[test]
fn what_the_log_still_holds_of_a_dropped_keyspace_is_sound() {
    let mut db = Database::new();
    db.dropped(7, 61).logged(60, 7, &["a", "b"]);
    db.logged(62, 0, &["a"]);
    db.write();
    assert_eq!(db.findings(), []);
}

#[test]
fn bytes_behind_the_end_of_a_segment() {
    let mut db = Database::new();
    db.segment_bytes = 300;
    for seq in 51..56 {
        db.logged(seq, 0, &["a"]);
    }
    db.write();
    assert_eq!(db.findings(), []);
    let file = db.env.open_writable(&segment(1)).unwrap();
    let end = file.len().unwrap();
    file.set_len(end + 200_000).unwrap();
    assert_eq!(db.findings(), [], "zeros written ahead");
    file.write_all_at(&[1], end + 150_000).unwrap();
    let findings = db.findings();
    assert_eq!(findings.len(), 1);
    assert_eq!(
        findings[0].to_string(),
        format!("{} at byte {}: bytes stand behind the end of the segment", segment(1).display(), end + 150_000)
    );
}

#[test]
fn an_end_without_a_close_is_a_note_and_the_torn_write_at_it_too() {
    let mut db = Database::new();
    db.close = false;
    db.logged(51, 0, &["a"]);
    db.write();
    let told = |db: &Database| db.findings().iter().map(Finding::to_string).collect::<Vec<_>>();
    let end = db.env.open(&segment(1)).unwrap().len().unwrap();
    assert_eq!(
        told(&db),
        [format!(
            "{} at byte {end}: the log was not closed: the database was not shut down in order; nothing is lost by that",
            segment(1).display()
        )]
    );
    for path in [segment(1), manifest()] {
        let file = db.env.open_writable(&path).unwrap();
        file.write_all_at(b"torn", file.len().unwrap()).unwrap();
    }
    let told = told(&db);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("the log ends in an unfinished write of 4 bytes"), "{}", told[0]);
    assert!(told[1].contains("its last 4 bytes are an unfinished edit"), "{}", told[1]);
    assert!(db.findings().iter().all(|finding| finding.severity == Severity::Note));
}
