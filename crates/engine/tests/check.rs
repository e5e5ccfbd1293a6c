//! What a check finds in a database directory, and that it finds nothing in a sound one.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cairn::{Db, Durability, Env, ErrorKind, Options, Report, Severity, check, inspect};
use common::{Random, tiny};

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
    let group = content.windows(4).rposition(|four| four == b"CGRP").unwrap();
    let cut = content[..group - 1].windows(4).rposition(|four| four == b"CGRP").unwrap();
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
        assert!(refused.damage().is_some_and(|(path, offset)| path.to_str().unwrap().contains("log-") && offset.is_some()));
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
