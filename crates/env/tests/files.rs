//! The same behaviour from every world that keeps files: the operating system, memory, and the
//! simulated disk.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cairn_env::testing::TempDir;
use cairn_env::{DirEntry, Env, Op, SimDisk};

/// Runs a test in every world, each in an empty directory.
fn in_every_world(test: impl Fn(&Env, &Path)) {
    let real = TempDir::new();
    test(&Env::real(), real.path());
    for env in [Env::memory(), Env::on_disk(SimDisk::new())] {
        let dir = PathBuf::from("/data");
        env.create_dir_all(&dir).unwrap();
        test(&env, &dir);
    }
}

fn file(name: &str, len: u64) -> DirEntry {
    DirEntry { name: name.into(), len, is_dir: false }
}

#[test]
fn a_created_file_is_read_back() {
    in_every_world(|env, dir| {
        let path = dir.join("a");
        let created = env.create(&path).unwrap();
        created.write_all_at(b"hello", 0).unwrap();
        created.write_all_at(b"world", 10).unwrap();
        created.sync_data().unwrap();
        created.sync_all().unwrap();
        env.sync_dir(dir).unwrap();
        assert_eq!(env.read_file(&path, 100).unwrap(), b"hello\0\0\0\0\0world");
        assert_eq!(created.len().unwrap(), 15);
        assert!(!created.is_empty().unwrap());

        let opened = env.open(&path).unwrap();
        let mut buf = [9; 4];
        assert_eq!(opened.read_at(&mut buf, 13).unwrap(), 2);
        assert_eq!(buf, [b'l', b'd', 9, 9]);
        assert_eq!(opened.read_at(&mut buf, 15).unwrap(), 0);
        assert_eq!(opened.read_at(&mut buf, 1000).unwrap(), 0);
        let short = opened.read_exact_at(&mut buf, 13).unwrap_err().to_string();
        let expected = format!("cannot read {}: wanted 4 bytes at offset 13, the file ends after 2", path.display());
        assert_eq!(short, expected);
    });
}

#[test]
fn create_refuses_what_exists_and_open_what_does_not() {
    in_every_world(|env, dir| {
        let path = dir.join("a");
        env.create(&path).unwrap();
        let error = env.create(&path).unwrap_err();
        assert!(error.is_already_exists());
        assert!(error.to_string().starts_with(&format!("cannot create {}: ", path.display())), "{error}");

        let missing = dir.join("missing");
        for error in [
            env.open(&missing).unwrap_err(),
            env.open_writable(&missing).unwrap_err(),
            env.remove(&missing).unwrap_err(),
            env.rename(&missing, &path).unwrap_err(),
            env.list(&missing).unwrap_err(),
            env.sync_dir(&missing).unwrap_err(),
            env.create(&missing.join("x")).unwrap_err(),
            env.lock(&missing.join("x")).unwrap_err(),
        ] {
            assert!(error.is_not_found(), "{error}");
        }
        assert_eq!(env.open(dir).unwrap_err().op, Op::Open);
        assert!(!env.open(&path.join("x")).unwrap_err().is_not_found(), "a file has no entries");
    });
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    in_every_world(|env, dir| {
        let path = dir.join("a");
        env.create(&path).unwrap();
        let file = env.open(&path).unwrap();
        assert_eq!(file.write_all_at(b"x", 0).unwrap_err().op, Op::Write);
        assert_eq!(file.set_len(3).unwrap_err().op, Op::SetLen);
        assert_eq!(file.len().unwrap(), 0);
        env.open_writable(&path).unwrap().write_all_at(b"x", 0).unwrap();
        assert_eq!(file.len().unwrap(), 1);
    });
}

#[test]
fn set_len_cuts_and_grows_with_zeros() {
    in_every_world(|env, dir| {
        let file = env.create(&dir.join("a")).unwrap();
        file.write_all_at(b"abcdef", 0).unwrap();
        file.set_len(2).unwrap();
        file.set_len(4).unwrap();
        let mut buf = [9; 4];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"ab\0\0");
        assert_eq!(file.len().unwrap(), 4);
    });
}

#[test]
fn rename_replaces_and_open_files_live_on() {
    in_every_world(|env, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        env.create(&a).unwrap().write_all_at(b"new", 0).unwrap();
        let old = env.create(&b).unwrap();
        old.write_all_at(b"older", 0).unwrap();
        env.rename(&a, &b).unwrap();
        assert_eq!(env.list(dir).unwrap(), [file("b", 3)]);
        assert_eq!(env.read_file(&b, 10).unwrap(), b"new");
        let mut buf = [0; 5];
        old.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"older");

        let open = env.open(&b).unwrap();
        env.remove(&b).unwrap();
        assert_eq!(env.list(dir).unwrap(), []);
        assert_eq!(open.len().unwrap(), 3);
        env.rename(&b, &a).unwrap_err();
    });
}

#[test]
fn directories_are_made_listed_and_not_files() {
    in_every_world(|env, dir| {
        let deep = dir.join("x/y");
        env.create_dir_all(&deep).unwrap();
        env.create_dir_all(&deep).unwrap();
        env.create(&dir.join("b")).unwrap();
        env.create(&dir.join("a")).unwrap().write_all_at(b"12", 0).unwrap();
        let x = DirEntry { name: "x".into(), len: 0, is_dir: true };
        assert_eq!(env.list(dir).unwrap(), [file("a", 2), file("b", 0), x]);
        assert_eq!(env.remove(&deep).unwrap_err().op, Op::Remove);
        assert!(env.create(&deep).unwrap_err().is_already_exists());
        env.create_dir_all(&dir.join("a")).unwrap_err();
        env.create_dir_all(&dir.join("a/z")).unwrap_err();
        env.rename(&dir.join("a"), &deep).unwrap_err();

        env.create(&deep.join("f")).unwrap();
        env.rename(&dir.join("x"), &dir.join("moved")).unwrap();
        assert_eq!(env.list(&dir.join("moved/y")).unwrap(), [file("f", 0)]);
        assert!(env.list(&deep).unwrap_err().is_not_found());
    });
}

#[test]
fn the_lock_has_one_holder() {
    in_every_world(|env, dir| {
        let path = dir.join("LOCK");
        let held = env.lock(&path).unwrap();
        let refused = env.lock(&path).unwrap_err();
        assert!(refused.is_locked());
        assert!(refused.to_string().starts_with(&format!("cannot lock {}: ", path.display())), "{refused}");
        let other = env.lock(&dir.join("LOCK2")).unwrap();
        drop(held);
        drop(env.lock(&path).unwrap());
        drop(env.lock(&path).unwrap());
        drop(other);
        assert_eq!(env.list(dir).unwrap(), [file("LOCK", 0), file("LOCK2", 0)]);
    });
}

#[test]
fn replace_file_leaves_one_whole_file() {
    in_every_world(|env, dir| {
        let path = dir.join("CURRENT");
        env.create(&dir.join("CURRENT.tmp")).unwrap().write_all_at(b"left over", 0).unwrap();
        env.replace_file(&path, b"one").unwrap();
        env.replace_file(&path, b"second").unwrap();
        assert_eq!(env.list(dir).unwrap(), [file("CURRENT", 6)]);
        assert_eq!(env.read_file(&path, 6).unwrap(), b"second");
        let error = env.read_file(&path, 5).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}: it holds 6 bytes; at most 5 are expected", path.display()));
    });
}
