//! Every interleaving of one insertion with a reader, under the memory model (loom).
//!
//!     RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p cairn --lib interleavings
//!
//! The trie itself runs here, on the checker's atomics: it explores what a reader may see of
//! slots, marks and key words in every order. That the plain bytes between are ordered by them is
//! Miri's to check, in `tests::concurrent`.
//!
//! Each case is a kind of publication of `trie`'s table: what is there, then what is inserted
//! while a reader looks.

use std::sync::Arc as StdArc;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::*;

fn explore(there: &'static [&'static [u8]], inserted: &'static [&'static [u8]]) {
    loom::model(move || {
        let (table, mut writer) = Memtable::new(MemtableOptions::default());
        for (key, seq) in there.iter().zip(1..) {
            writer.insert(key, seq, 1, key).unwrap();
        }
        let before = there.len() as u64;
        let published = Arc::new(AtomicU64::new(before));
        let reader = {
            let (table, published) = (StdArc::clone(&table), Arc::clone(&published));
            thread::spawn(move || {
                let now = published.load(Ordering::Acquire);
                for (key, seq) in there.iter().chain(inserted).zip(1..) {
                    let found = table.get(key, seq);
                    assert!(found.is_none_or(|found| found.value == *key), "{key:?}");
                    assert!(
                        seq > now || found.is_some_and(|found| found.seq == seq),
                        "{key:?} of {seq} lost, {now} are published"
                    );
                }
                let mut cursor = MemtableCursor::new(table);
                let (mut count, mut last) = (0, None);
                cursor.seek_to_first();
                while cursor.valid() {
                    assert_eq!(cursor.key(), cursor.value());
                    let here = (cursor.key().to_vec(), std::cmp::Reverse(cursor.seq()));
                    assert!(last.as_ref().is_none_or(|last| *last < here));
                    last = Some(here);
                    count += u64::from(cursor.seq() <= now);
                    cursor.next();
                }
                assert_eq!(count, now);
            })
        };
        for (key, seq) in inserted.iter().zip(before + 1..) {
            writer.insert(key, seq, 1, key).unwrap();
            published.store(seq, Ordering::Release);
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_root() {
    explore(&[], &[b"a"]);
}

#[test]
fn a_version() {
    explore(&[b"a"], &[b"a"]);
}

#[test]
fn a_fork() {
    explore(&[b"aa"], &[b"ab"]);
}

#[test]
fn a_child_in_a_node_of_4() {
    explore(&[b"b", b"c"], &[b"\0"]);
}

#[test]
fn a_split() {
    explore(&[b"aaa", b"aab"], &[b"ab"]);
}

#[test]
fn a_key_that_ends_at_a_node() {
    explore(&[b"aa", b"ab"], &[b"a"]);
}

#[test]
fn two_in_a_row() {
    explore(&[b"aaa"], &[b"aab", b"a"]);
    explore(&[b"a", b"b", b"c"], &[b"d", b"e"]);
}

#[test]
fn growth_to_16() {
    explore(&[b"a", b"b", b"c", b"d"], &[b"e"]);
}
