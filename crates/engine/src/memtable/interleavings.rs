//! Every interleaving of a writer with a reader, under the memory model (loom).
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p cairn --lib interleavings -- --nocapture
//!
//! The trie itself runs here, on the checker's atomics, and its plain bytes are watched through
//! `shadow`. Each case is a kind of publication of `trie`'s table: what is there, then what is
//! inserted while a reader looks.
//!
//! That the checker could see a mistake is shown, not believed. Each case says which outcomes are
//! allowed, and all of them must have been seen: a model of which only one end was explored proves
//! nothing. And each ordering that publication rests on has a mutant in which it is relaxed; some
//! case must fail in each ([`a_mutant_fails`]).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc as StdArc;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use crate::loom_model::{Seen, model};

use super::atomics::WEAKENED;
use super::*;

/// A kind of publication.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    there: &'static [&'static [u8]],
    inserted: &'static [&'static [u8]],
    chunk_bytes_first: usize,
}

const fn case(name: &'static str, there: &'static [&'static [u8]], inserted: &'static [&'static [u8]]) -> Case {
    Case { name, there, inserted, chunk_bytes_first: 4 << 10 }
}

const CASES: &[Case] = &[
    case("a root", &[], &[b"a"]),
    case("a version", &[b"a"], &[b"a"]),
    case("a fork", &[b"aa"], &[b"ab"]),
    case("a first child", &[b"b", b"c"], &[b"\0"]),
    case("a last child", &[b"b", b"c"], &[b"d"]),
    case("a split", &[b"aaa", b"aab"], &[b"ab"]),
    case("a key that ends at a node", &[b"aa", b"ab"], &[b"a"]),
    case("two in a row", &[b"aaa"], &[b"aab", b"a"]),
    case("growth to 16", &[b"a", b"b", b"c", b"d"], &[b"e"]),
    // Each record needs a chunk of its own, so every step of a reader goes through the table of chunks.
    Case { chunk_bytes_first: 64, ..case("growth of the arena", &[b"a", b"b"], &[b"c"]) },
    Case { chunk_bytes_first: 64, ..case("growth of both", &[b"a", b"b", b"c", b"d"], &[b"e"]) },
];

/// The outcome is how many of the inserted keys' versions the reader's lookups found.
fn explore(case: Case) -> Seen {
    model(move |seen| {
        let Case { there, inserted, chunk_bytes_first, .. } = case;
        let options = MemtableOptions { chunk_bytes_first, ..MemtableOptions::default() };
        let (table, mut writer) = Memtable::new(options);
        for (key, seq) in there.iter().zip(1..) {
            writer.insert(key, seq, 1, key).unwrap();
        }
        let before = there.len() as u64;
        let published = Arc::new(AtomicU64::new(before));
        let reader = {
            let (table, published, seen) = (StdArc::clone(&table), Arc::clone(&published), seen.clone());
            thread::spawn(move || {
                let now = published.load(Ordering::Acquire);
                let mut new = 0;
                for (key, seq) in there.iter().chain(inserted).zip(1..) {
                    let found = table.get(key, seq);
                    assert!(found.is_none_or(|found| found.value == *key), "{key:?}");
                    let found = found.is_some_and(|found| found.seq == seq);
                    assert!(seq > now || found, "{key:?} of {seq} lost, {now} are published");
                    new += u64::from(found && seq > before);
                }
                seen.outcome(new);
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
        let bytes_before = table.bytes();
        for (key, seq) in inserted.iter().zip(before + 1..) {
            writer.insert(key, seq, 1, key).unwrap();
            published.store(seq, Ordering::Release);
        }
        assert!(chunk_bytes_first > 64 || table.bytes() > bytes_before, "the arena was to grow");
        reader.join().unwrap();
    })
}

#[test]
fn insert_against_read_and_iterate() {
    let (mut executions, mut outcomes) = (0, 0);
    for case in CASES {
        let seen = explore(*case);
        let allowed: BTreeSet<u64> = (0..=case.inserted.len() as u64).collect();
        assert_eq!(seen.outcomes(), allowed, "{}", case.name);
        println!("{}: {} executions", case.name, seen.executions());
        executions += seen.executions();
        outcomes += allowed.len();
    }
    println!("proof: loom executions, insert against read = {executions}");
    println!("proof: loom outcomes, insert against read = {outcomes} of {outcomes} allowed");
}

/// The summary: who sees that there are versions sees their numbers. The outcome is what was seen.
fn summary() -> Seen {
    model(|seen| {
        let (table, mut writer) = Memtable::new(MemtableOptions::default());
        let reader = {
            let (table, seen) = (StdArc::clone(&table), seen.clone());
            thread::spawn(move || {
                let smallest = table.smallest_seq();
                assert!(smallest.is_none_or(|seq| seq == 7), "{smallest:?}");
                let largest = table.largest_seq();
                assert!(largest.is_none_or(|seq| seq == 7 || seq == 9), "{largest:?}");
                assert!(smallest.is_none() || largest.is_some());
                seen.outcome(smallest.unwrap_or(0) * 10 + largest.unwrap_or(0));
            })
        };
        writer.insert(b"a", 7, 1, b"").unwrap();
        writer.insert(b"a", 9, 1, b"").unwrap();
        reader.join().unwrap();
    })
}

#[test]
fn insert_against_the_summary() {
    let seen = summary();
    assert_eq!(seen.outcomes(), BTreeSet::from([0, 7, 9, 77, 79]));
    println!("proof: loom executions, summary = {}", seen.executions());
}

/// A memtable is sealed after its last insertion and handed to a flush, which must meet all of it.
/// The mutant seals it before. The outcome is what the flush met, or 9 if it came too early.
fn freeze(seal_early: bool) -> Seen {
    model(move |seen| {
        let (table, mut writer) =
            Memtable::new(MemtableOptions { chunk_bytes_first: 64, ..MemtableOptions::default() });
        let sealed = Arc::new(AtomicBool::new(false));
        let flush = {
            let (sealed, seen) = (Arc::clone(&sealed), seen.clone());
            thread::spawn(move || {
                if !sealed.load(Ordering::Acquire) {
                    return seen.outcome(9);
                }
                let mut cursor = MemtableCursor::new(table);
                let mut count = 0;
                cursor.seek_to_first();
                while cursor.valid() {
                    count += 1;
                    cursor.next();
                }
                assert_eq!(count, 3, "the flush misses what was written");
                seen.outcome(count);
            })
        };
        writer.insert(b"a", 1, 1, b"").unwrap();
        writer.insert(b"b", 2, 1, b"").unwrap();
        if seal_early {
            sealed.store(true, Ordering::Release);
        }
        writer.insert(b"a", 3, 1, b"").unwrap();
        drop(writer);
        sealed.store(true, Ordering::Release);
        flush.join().unwrap();
    })
}

#[test]
fn freeze_against_insert() {
    let seen = freeze(false);
    assert_eq!(seen.outcomes(), BTreeSet::from([3, 9]));
    println!("proof: loom executions, freeze against insert = {}", seen.executions());
}

/// Whether the checker finds something wrong. On a thread of its own: a checker that stopped in the
/// middle of an execution is not used again.
fn is_rejected(weakened: Option<Needed>, run: impl FnOnce() -> Seen + Send) -> bool {
    let rejected = |run: Box<dyn FnOnce() -> Seen + '_>| {
        WEAKENED.set(weakened);
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    #[allow(clippy::disallowed_methods, reason = "outside the model")]
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || rejected(Box::new(run)));
        thread.join().unwrap_or(true)
    })
}

#[test]
fn a_mutant_fails() {
    let mut rejected = 0;
    for weakened in Needed::ALL {
        let case = CASES.iter().find(|case| is_rejected(Some(weakened), || explore(**case)));
        let by = case.map(|case| case.name).or_else(|| is_rejected(Some(weakened), summary).then_some("the summary"));
        println!("{weakened:?} relaxed: rejected by {by:?}");
        rejected += u32::from(by.is_some());
    }
    let early = is_rejected(None, || freeze(true));
    println!("sealed before the last insertion: rejected {early}");
    rejected += u32::from(early);
    let all = Needed::ALL.len() + 1;
    println!("proof: loom mutant twins of the memtable rejected = {rejected} of {all}");
    assert_eq!(rejected as usize, all);
}
