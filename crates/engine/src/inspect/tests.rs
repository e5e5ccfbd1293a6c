//! What inspect prints of each kind of file, as golden texts.

use std::ops::ControlFlow;
use std::path::Path;

use cairn_codec::Write;
use cairn_env::Env;
use cairn_table::{TableBuilder, TableOptions};
use cairn_wal::{Body, LogOptions, LogWriter};

use super::inspect;
use crate::ErrorKind;
use crate::edit::{Change, State};
use crate::files::{LOG, MANIFEST, table_path};
use crate::levels::TableMeta;
use crate::manifest::Manifest;
use crate::types::SeqNo;

fn world() -> Env {
    let env = Env::memory();
    env.create_dir_all(dir()).unwrap();
    env
}

fn dir() -> &'static Path {
    Path::new("data")
}

fn lines(env: &Env, path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    inspect(env, path, &mut |line| {
        lines.push(line.to_owned());
        ControlFlow::Continue(())
    })
    .unwrap();
    lines
}

fn copy(env: &Env, from: &Path, to: &str) {
    let bytes = env.read_file(from, 1 << 20).unwrap();
    env.create(&dir().join(to)).unwrap().write_all_at(&bytes, 0).unwrap();
}

/// A segment with three groups and both closing groups.
fn write_log(env: &Env) {
    let options = LogOptions { segment_bytes: 1 << 20, allocate: false };
    let (mut log, syncer) = LogWriter::create(env, dir(), LOG, 4, options).unwrap();
    let mut body = Vec::new();
    body.extend_from_slice(&[1, 0]);
    body.put_prefixed(b"user/\xff\n");
    body.put_prefixed(b"ada");
    body.extend_from_slice(&[0, 7]);
    body.put_prefixed(&[b'k'; 100]);
    log.append(1, 10, &[Body::new(&body), Body::new(b"?")]).unwrap();
    syncer.sync().unwrap();
    log.append(9, 12, &[Body::new(b"")]).unwrap();
    log.append(1, 13, &[Body::new(b"\0\0\x01a")]).unwrap();
    log.close().unwrap();
}

#[test]
fn a_log_segment() {
    let env = world();
    write_log(&env);
    let path = LOG.path(dir(), 4);
    let long = format!("  11 delete \"{}\"... (100 bytes) in keyspace 7", "k".repeat(64));
    let whole = [
        "write-ahead log: segment 4 of the log that began with 4",
        "72 group of kind 1: first sequence number 10, 2 bodies, 168 bytes, durable before it up to 4:72",
        "  10 put \"user/\\xff\\n\" in keyspace 0, a value of 3 bytes",
        &long,
        "  body 1 does not decode: an operation of a kind that this build does not know (use a newer cairn) at byte 1",
        "240 group of kind 9: first sequence number 12, 1 bodies, 44 bytes, durable before it up to 4:240",
        "  a kind that this build does not know",
        "284 group of kind 1: first sequence number 13, 1 bodies, 48 bytes, durable before it up to 4:240",
        "  13 delete \"a\" in keyspace 0",
        "332 closing group, durable before it up to 4:332",
        "4096 closing group, durable before it up to 4:4096",
    ];
    assert_eq!(lines(&env, &path), whole);
    // Under any name, as long as what it is can be seen.
    copy(&env, &path, "copy");
    assert_eq!(lines(&env, &dir().join("copy")), whole);
    // Damage is told where it stands, and the text goes on behind it.
    env.open_writable(&path).unwrap().write_all_at(b"?", 240 + 32).unwrap();
    let mut damaged: Vec<&str> = whole.to_vec();
    damaged.splice(5..7, ["240 44 damaged bytes: the lengths of its bodies are damaged"]);
    assert_eq!(lines(&env, &path), damaged);
    env.open_writable(&path).unwrap().write_all_at(b"?", 3).unwrap();
    assert_eq!(lines(&env, &path)[0], "write-ahead log: damaged at byte 0: no group or header starts here");
    // Who has seen enough breaks off.
    let mut seen = 0;
    let mut until = |n| {
        inspect(&env, &dir().join("copy"), &mut |_| {
            seen += 1;
            if seen < n { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        std::mem::take(&mut seen)
    };
    assert_eq!((1..=11).map(&mut until).collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
}

/// A put of 17 bytes reads as the first change of a manifest: a tag and two numbers. Under a
/// name that tells nothing the segment was taken for a manifest.
#[test]
fn a_batch_that_reads_as_an_edit_is_no_manifest() {
    let env = world();
    let options = LogOptions { segment_bytes: 1 << 20, allocate: false };
    let (mut log, _) = LogWriter::create(&env, dir(), LOG, 1, options).unwrap();
    log.append(1, 1, &[Body::new(b"\x01\0\x05hello\x08eight by")]).unwrap();
    copy(&env, &LOG.path(dir(), 1), "copy");
    let told = lines(&env, &dir().join("copy"));
    assert_eq!(told[0], "write-ahead log: segment 1 of the log that began with 1");
    assert_eq!(told[2], "  1 put \"hello\" in keyspace 0, a value of 8 bytes");
}

#[test]
fn a_manifest_and_current() {
    let env = world();
    let meta = TableMeta {
        id: 4,
        file_bytes: 4096,
        entries: 10,
        tombstones: 2,
        stale: 1,
        smallest_key: b"a".to_vec(),
        largest_key: b"m\0".to_vec(),
        smallest_seq: SeqNo(1),
        largest_seq: SeqNo(300),
        created_ms: 5,
    };
    let mut state = State { database_id: 7, hash_seed: 255, next_table: 9, log_start: 3, ..State::default() };
    state.apply(&[Change::Keyspace { id: 0, name: "default".into() }]).unwrap();
    let mut manifest = Manifest::begin(&env, dir(), 2, state, u64::MAX).unwrap();
    manifest.commit(&[Change::AddTable { keyspace: 0, level: 0, meta }]).unwrap();
    manifest.commit(&[Change::RemoveTable { keyspace: 0, level: 0, id: 4 }, Change::LogStart(5)]).unwrap();
    let dropped = [Change::DropKeyspace { keyspace: 1, seq: SeqNo(6) }, Change::Dropped { next: 2, seq: SeqNo(6) }];
    manifest.commit(&[&[Change::Keyspace { id: 1, name: "x".into() }], &dropped[..]].concat()).unwrap();
    drop(manifest);
    let path = MANIFEST.path(dir(), 2);
    let whole = [
        "manifest: segment 2 of the log that began with 2",
        "72 group of kind 1: first sequence number 1, 1 bodies, 76 bytes, durable before it up to 2:72",
        "  database 0x0000000000000007, hash seed 0x00000000000000ff",
        "  the next table is 9",
        "  the log starts with segment 3",
        "  keyspace 0 is \"default\"",
        "  keyspace 0 is flushed up to 0",
        "148 group of kind 1: first sequence number 2, 1 bodies, 60 bytes, durable before it up to 2:148",
        "  add table 4 to level 0 of keyspace 0: 4096 bytes, 10 entries, 2 tombstones, 1 stale, \
         keys \"a\" .. \"m\\x00\", sequence numbers 1 .. 300, written at 5 ms",
        "208 group of kind 1: first sequence number 3, 1 bodies, 48 bytes, durable before it up to 2:208",
        "  remove table 4 from level 0 of keyspace 0",
        "  the log starts with segment 5",
        "256 group of kind 1: first sequence number 4, 1 bodies, 52 bytes, durable before it up to 2:256",
        "  keyspace 1 is \"x\"",
        "  keyspace 1 is dropped with its tables; its sequence numbers are up to 6",
        "  keyspaces below 2 that are not named were dropped; their sequence numbers are up to 6",
    ];
    assert_eq!(lines(&env, &path), whole);
    copy(&env, &path, "copy");
    assert_eq!(lines(&env, &dir().join("copy")), whole);
    let current = ["format version 0; the manifest in force is manifest-0000000002.log"];
    assert_eq!(lines(&env, &dir().join("CURRENT")), current);
    copy(&env, &dir().join("CURRENT"), "CURRENT.old");
    assert_eq!(lines(&env, &dir().join("CURRENT.old")), current);
}

#[test]
fn a_table_and_what_is_none_of_ours() {
    let env = world();
    let path = table_path(dir(), 3);
    let mut builder = TableBuilder::new(env.create(&path).unwrap(), 3, 1, TableOptions::default()).unwrap();
    builder.add(b"key", 12, 1, b"value").unwrap();
    builder.finish().unwrap();
    copy(&env, &path, "copy");
    for path in [&path, &dir().join("copy")] {
        let text = lines(&env, path);
        assert!(text[0].starts_with("table 3 of owner 1, format version 0, "), "{text:#?}");
        assert!(
            text.last().unwrap().contains("1 entries") && text.last().unwrap().ends_with("key .. key"),
            "{text:#?}"
        );
    }
    for (name, content, kind, what) in [
        ("table-0000000004.sst", &b"no table"[..], ErrorKind::Corrupt, "shorter than a footer"),
        ("CURRENT", b"cairn", ErrorKind::Corrupt, "not the line that names the manifest"),
        ("LOCK", b"", ErrorKind::Invalid, "LOCK is held by"),
        ("RESERVE", &[0; 100], ErrorKind::Invalid, "RESERVE is 100 bytes kept free"),
        ("notes.txt", &[b'x'; 200], ErrorKind::Invalid, "no table, log segment, manifest or CURRENT"),
        ("empty", b"", ErrorKind::Invalid, "no table"),
    ] {
        env.create(&dir().join(name)).unwrap().write_all_at(content, 0).unwrap();
        let e = inspect(&env, &dir().join(name), &mut |line| panic!("{line}")).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(what), "{name}: {e}");
    }
    for path in [dir(), &dir().join("none")] {
        assert_eq!(inspect(&env, path, &mut |line| panic!("{line}")).unwrap_err().kind(), ErrorKind::Io);
    }
}
