//! Hostile edits, batches, names and whole directories: refused, or read as what they say.
//!
//! For the fuzz targets, behind the feature `fuzzing`. Checksums are put right before the bytes are
//! read, so that what lies behind them is reached; the code under test is the product's, unchanged.
#![allow(clippy::expect_used, reason = "a broken promise must end the run")]

use std::path::Path;

use cairn_codec::{Reader, Write, checksum64};
use cairn_wal::{Body, LogOptions, LogWriter, Naming, replay};

use crate::batch::Ops;
use crate::commit::GROUP_KIND;
use crate::edit::{self, Change, State};
use crate::files::{self, FileKind, LOG, MANIFEST, classify, table_path};
use crate::manifest::EDIT_KIND;
use crate::types::kind;
use crate::{CompactionStyle, Db, Durability, Env, Options, check};

const DIR: &str = "/db";

/// The body of a group of the log.
///
/// # Panics
/// If a promise is broken.
pub fn batch(input: &[u8]) {
    let mut ops = Ops::new(input);
    let mut again = Vec::new();
    loop {
        match ops.next() {
            Err(_) => return,
            Ok(None) => break,
            Ok(Some(op)) => {
                again.put_u8(op.kind);
                again.put_varint(u64::from(op.keyspace));
                again.put_prefixed(op.key);
                if op.kind == kind::PUT {
                    again.put_prefixed(op.value);
                }
            }
        }
    }
    assert_eq!(again, input, "a batch has one encoding");
}

/// The body of a group of the manifest.
///
/// # Panics
/// If a promise is broken.
pub fn edit(input: &[u8]) {
    let Ok(changes) = edit::decode(input) else { return };
    assert_eq!(edit::encode(&changes), input, "an edit has one encoding");
    let mut state = State::default();
    if state.apply(&changes).is_ok() {
        let mut again = State::default();
        again.apply(&state.snapshot()).expect("a snapshot builds its state");
        assert_eq!(again, state);
        let _ = state.check();
    }
}

/// `CURRENT`, and names of files.
///
/// # Panics
/// If a promise is broken.
pub fn names(input: &[u8]) {
    let _ = files::parse_current_text(input);
    let body = input.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = [body, format!(" check {:016x}\n", checksum64(body)).as_bytes()].concat();
    if let Ok(manifest) = files::parse_current_text(&text) {
        assert_eq!(files::current_text(files::FORMAT_VERSION, manifest).as_bytes(), text, "CURRENT has one encoding");
    }
    let Ok(name) = std::str::from_utf8(input) else { return };
    let canonical = match classify(name) {
        FileKind::Table(id) => table_path(Path::new(""), id),
        FileKind::Manifest(id) => MANIFEST.path(Path::new(""), id),
        FileKind::Log(id) => LOG.path(Path::new(""), id),
        _ => return,
    };
    assert_eq!(canonical, Path::new(name), "a file has one name");
}

/// A directory whose files are whole and say anything.
///
/// ```text
/// input   := flags:u8 section*             1: the manifest was closed, 2: the log was
/// section := tag:u8 length:u16 bytes       1: an edit, 2: seq:u64 and a batch, 3: a table file
/// ```
///
/// # Panics
/// If a promise is broken.
pub fn database(input: &[u8]) {
    let Some((flags, sections)) = input.split_first() else { return };
    let sections = split(sections);
    let (env, dir) = (Env::memory(), Path::new(DIR));
    env.create_dir_all(dir).expect("memory");
    let starts = sections.iter().filter(|(tag, _)| *tag == 1).filter_map(|(_, body)| edit::decode(body).ok()).flatten();
    let start = starts.filter_map(|change| if let Change::LogStart(segment) = change { Some(segment) } else { None });
    let start = start.max().filter(|start| (1..1000).contains(start)).unwrap_or(1);
    let begin = |naming: Naming, id| {
        let options = LogOptions { segment_bytes: 1 << 20, allocate: false };
        LogWriter::create(&env, dir, naming, id, options).expect("memory").0
    };
    let (mut manifest, mut log) = (begin(MANIFEST, 1), begin(LOG, start));
    let mut last = 0;
    for (number, (tag, bytes)) in (1..).zip(&sections) {
        match tag {
            1 => {
                manifest.append(EDIT_KIND, number, &[Body::new(bytes)]).expect("memory");
            }
            2 => {
                let mut reader = Reader::new(bytes);
                let Ok(seq) = reader.u64() else { continue };
                if seq > last {
                    log.append(GROUP_KIND, seq, &[Body::new(reader.rest())]).expect("memory");
                    last = seq;
                }
            }
            _ => {
                let mut table = bytes.to_vec();
                cairn_table::fuzzing::mend(&mut table);
                let footer = table.len().saturating_sub(96);
                let id = Reader::new(table.get(footer..).unwrap_or_default()).u64().unwrap_or_default();
                let _ = env.create(&table_path(dir, id)).and_then(|file| file.write_all_at(&table, 0));
            }
        }
    }
    if flags & 2 != 0 {
        log.close().expect("memory");
    }
    if flags & 1 != 0 {
        manifest.close().expect("memory");
    }
    files::write_current(&env, dir, 1).expect("memory");
    // What it finds is not compared: bodies may lie about what tables hold.
    let _ = check(&env, dir, &mut |_| {});
    let Ok(db) = Db::open_in(&env, dir, options()) else { return };
    let shown = read_all(&db);
    let _ = db.put(b"one more", b"1");
    if db.close().is_err() {
        return;
    }
    // What was opened and closed without an error opens again, and says the same.
    let db = Db::open_in(&env, dir, options()).expect("it was closed cleanly");
    // A forged table may hold keys twice or out of order; then there is no one content to say.
    let ordered = |entries: &Vec<(Vec<u8>, Vec<u8>)>| entries.is_sorted_by(|a, b| a.0 < b.0);
    if let (Some(mut before), Some(after)) = (shown.filter(ordered), read_all(&db)) {
        let place = before.binary_search_by(|(key, _)| key.as_slice().cmp(b"one more"));
        if after.iter().any(|(key, _)| key == b"one more") {
            match place {
                Ok(at) => before.get_mut(at).expect("found").1 = b"1".to_vec(),
                Err(at) => before.insert(at, (b"one more".to_vec(), b"1".to_vec())),
            }
        }
        assert_eq!(before, after);
    }
    let _ = db.close();
}

fn options() -> Options {
    // Nothing flushes or compacts by itself: the files of the input are what is read.
    Options { memory_budget_bytes: 16 << 20, compaction: CompactionStyle::EveryUpdates(1 << 40), ..Options::default() }
}

/// Every entry of the default keyspace; `None` if a read fails, or there are too many.
fn read_all(db: &Db) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut entries = Vec::new();
    for entry in db.iter().take(1_000) {
        let (key, value) = entry.ok()?;
        let _ = db.get(&key);
        entries.push((key.to_vec(), value.to_vec()));
    }
    (entries.len() < 1_000).then_some(entries)
}

fn split(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut sections = Vec::new();
    while let Some(([tag, low, high], rest)) = bytes.split_first_chunk() {
        let (section, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
        sections.push((*tag, section));
        bytes = rest;
    }
    sections
}

/// A directory that was closed, and one with a table, deletes, and writes after the flush, some of a
/// keyspace that was dropped, and that one opened and closed again.
///
/// # Panics
/// Never: the files are in memory.
fn directories() -> Vec<Vec<(u8, Vec<u8>)>> {
    let fill = |flush: bool, again: bool| {
        let (env, dir) = (Env::memory(), Path::new(DIR));
        let db = Db::open_in(&env, dir, options()).expect("memory");
        for i in 0..20u8 {
            db.put(&[b'k', i / 5, i], &[i; 20]).expect("memory");
        }
        if flush {
            db.flush().expect("memory");
            db.keyspace("second").expect("memory").put(b"a", b"b").expect("memory");
            let mut batch = db.batch();
            batch.put(&db.default_keyspace(), b"d", b"e");
            batch.put(&db.keyspace("third").expect("memory"), b"d", b"e");
            db.write(batch, Durability::Commit).expect("memory");
            db.drop_keyspace("third").expect("memory");
            db.delete(&[b'k', 0, 3]).expect("memory");
        }
        db.close().expect("memory");
        if again {
            Db::open_in(&env, dir, options()).expect("memory").close().expect("memory");
        }
        let mut sections = Vec::new();
        let current = files::read_current(&env, dir).expect("memory").expect("closed");
        let mut start = 1;
        let done = replay(&env, dir, MANIFEST, current, |group| {
            for body in group.bodies() {
                for change in edit::decode(body).expect("just written") {
                    if let Change::LogStart(segment) = change {
                        start = segment;
                    }
                }
                sections.push((1, body.to_vec()));
            }
            Ok::<(), crate::Error>(())
        });
        done.expect("just written");
        let done = replay(&env, dir, LOG, start, |group| {
            for body in group.bodies() {
                sections.push((2, [&group.first_seq.to_le_bytes()[..], body].concat()));
            }
            Ok::<(), crate::Error>(())
        });
        done.expect("just written");
        for entry in env.list(dir).expect("memory") {
            if let FileKind::Table(_) = classify(&entry.name) {
                sections.push((3, env.read_file(&dir.join(entry.name), 1 << 20).expect("memory")));
            }
        }
        sections
    };
    vec![fill(false, false), fill(true, false), fill(true, true)]
}

/// Real directories.
pub fn database_seeds() -> Vec<Vec<u8>> {
    let encode = |sections: Vec<(u8, Vec<u8>)>| {
        let mut seed = vec![3];
        for (tag, bytes) in sections {
            seed.push(tag);
            seed.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
            seed.extend_from_slice(&bytes);
        }
        seed
    };
    directories().into_iter().map(encode).collect()
}

fn bodies(wanted: u8, skip: usize) -> Vec<Vec<u8>> {
    let sections = directories().into_iter().flatten().filter(|(tag, _)| *tag == wanted);
    sections.map(|(_, bytes)| bytes.get(skip..).unwrap_or_default().to_vec()).collect()
}

/// Real edits.
pub fn edit_seeds() -> Vec<Vec<u8>> {
    bodies(1, 0)
}

/// Real batches.
pub fn batch_seeds() -> Vec<Vec<u8>> {
    bodies(2, 8).into_iter().rev().take(4).collect()
}

/// Real names.
pub fn names_seeds() -> Vec<Vec<u8>> {
    let names = ["table-0000000031.sst", "log-0000000002.wal", "manifest-0000000001.log", "CURRENT.tmp"];
    let current = files::current_text(files::FORMAT_VERSION, 7).replace(" check ", "\n");
    names.iter().map(|name| name.as_bytes().to_vec()).chain([current.into_bytes()]).collect()
}
