//! Every interleaving of a reader with what changes the catalog, under the memory model (loom).
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p cairn --lib interleavings -- --nocapture
//!
//! A model of the protocol, not the code: the cell is a library's and the counts of references are
//! std's, which the checker cannot look into. What is modelled are the rules that `catalog` and
//! `levels` add to them: catalog first and number second; memtable out and table in with one swap; a
//! file goes with its last holder. Each has a twin that breaks the rule and must fail.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::loom_model::{Seen, model};

/// A catalog of one key: where its versions are.
struct Catalog {
    memtable: &'static [u64],
    table: &'static [u64],
}

/// The catalogs there will be, and which is current.
struct Cell {
    catalogs: [Catalog; 3],
    current: AtomicU64,
}

impl Cell {
    fn load(&self) -> &Catalog {
        &self.catalogs[usize::try_from(self.current.load(Ordering::Acquire)).unwrap()]
    }

    fn swap(&self, next: u64) {
        self.current.store(next, Ordering::Release);
    }
}

/// What a broken twin does instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Kept,
    NumberFirst,
    TwoSwaps,
}

/// Version 2 of a key is written over version 1 and published; then a flush drops what is hidden and
/// moves the rest. A reader must find the newest version of its number. The outcome is what it found.
fn read_against_flush(rule: Rule) -> Seen {
    model(move |seen| {
        let cell = Arc::new(Cell {
            catalogs: [
                Catalog { memtable: &[2, 1], table: &[] },
                Catalog { memtable: &[], table: &[2] },
                Catalog { memtable: &[], table: &[] },
            ],
            current: AtomicU64::new(0),
        });
        let visible = Arc::new(AtomicU64::new(1));
        let reader = {
            let (cell, visible, seen) = (Arc::clone(&cell), Arc::clone(&visible), seen.clone());
            thread::spawn(move || {
                let (catalog, number) = if rule == Rule::NumberFirst {
                    let number = visible.load(Ordering::Acquire);
                    (cell.load(), number)
                } else {
                    let catalog = cell.load();
                    (catalog, visible.load(Ordering::Acquire))
                };
                let found = catalog.memtable.iter().chain(catalog.table).find(|seq| **seq <= number);
                let found = *found.expect("a version that the reader may see is gone");
                assert_eq!(found, number);
                seen.outcome(found);
            })
        };
        visible.store(2, Ordering::Release);
        // No snapshot is registered: whoever loads the number from here on gets 2, so 1 is dropped.
        if rule == Rule::TwoSwaps {
            cell.swap(2);
        }
        cell.swap(1);
        reader.join().unwrap();
    })
}

/// A table's file, and whether its directory still has it.
struct File {
    on_disk: Arc<UnsafeCell<bool>>,
    obsolete: AtomicU64,
}

impl Drop for File {
    fn drop(&mut self) {
        // A mutant's execution that has failed already is only unwound.
        if !std::thread::panicking() && self.obsolete.load(Ordering::Acquire) == 1 {
            self.on_disk.with_mut(|there| remove(there));
        }
    }
}

#[allow(unsafe_code)]
fn remove(there: *mut bool) {
    // SAFETY: the checker's cell has just made sure that nobody else uses it.
    unsafe { *there = false };
}

#[allow(unsafe_code)]
fn is_there(there: *const bool) -> bool {
    // SAFETY: the checker's cell has just made sure that nobody writes it.
    unsafe { *there }
}

/// A compaction takes a table out of the catalog and marks it obsolete; an iterator may still hold
/// it. The twin removes the file when it is marked. The outcome: 1 if the iterator had the file.
fn iterate_against_removal(early: bool) -> Seen {
    model(move |seen| {
        let on_disk = Arc::new(UnsafeCell::new(true));
        let file = Arc::new(File { on_disk: Arc::clone(&on_disk), obsolete: AtomicU64::new(0) });
        let catalog = Arc::new(Mutex::new(Some(file)));
        let reader = {
            let (catalog, seen) = (Arc::clone(&catalog), seen.clone());
            thread::spawn(move || {
                let held = catalog.lock().unwrap().clone();
                if let Some(file) = &held {
                    assert!(file.on_disk.with(|there| is_there(there)), "the file of a held table is gone");
                }
                seen.outcome(u64::from(held.is_some()));
            })
        };
        let old = catalog.lock().unwrap().take();
        if let Some(file) = &old {
            file.obsolete.store(1, Ordering::Release);
            if early {
                file.on_disk.with_mut(|there| remove(there));
            }
        }
        drop(old);
        reader.join().unwrap();
        assert!(!on_disk.with(|there| is_there(there)), "nobody removed the file");
    })
}

fn is_rejected(run: impl FnOnce() -> Seen + Send) -> bool {
    #[allow(clippy::disallowed_methods, reason = "outside the model")]
    std::thread::scope(|scope| scope.spawn(move || catch_unwind(AssertUnwindSafe(run)).is_err()).join().unwrap_or(true))
}

#[test]
fn the_catalog_keeps_what_a_reader_may_see() {
    let reads = read_against_flush(Rule::Kept);
    assert_eq!(reads.outcomes(), BTreeSet::from([1, 2]));
    let files = iterate_against_removal(false);
    assert_eq!(files.outcomes(), BTreeSet::from([0, 1]));
    let executions = reads.executions() + files.executions();
    println!("proof: loom executions, catalog and files = {executions}");
    println!("proof: loom outcomes, catalog and files = 4 of 4 allowed");
}

#[test]
fn a_mutant_fails() {
    let rejected = [
        is_rejected(|| read_against_flush(Rule::NumberFirst)),
        is_rejected(|| read_against_flush(Rule::TwoSwaps)),
        is_rejected(|| iterate_against_removal(true)),
    ];
    println!("number first, two swaps, early removal: rejected {rejected:?}");
    let count = rejected.iter().filter(|rejected| **rejected).count();
    println!("proof: loom mutant twins of the catalog rejected = {count} of {}", rejected.len());
    assert_eq!(count, rejected.len());
}
