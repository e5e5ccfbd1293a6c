//! The memory budget holds: a counting allocator watches a load, iterators held open, and a read
//! back of everything. A million keys under 64 MiB by default; `CAIRN_KEYS` and `CAIRN_BUDGET_MIB`
//! make it larger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests can do nothing better")]

mod common;

use std::collections::VecDeque;

use cairn::{Db, Durability, Env, ErrorKind, Options};
use cairn_env::testing::{CountingAllocator, TempDir};
use common::{Random, number};

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

/// Peak resident memory of this process, in bytes.
fn resident_peak(env: &Env) -> u64 {
    let status = env.open("/proc/self/status".as_ref()).unwrap();
    let mut text = vec![0; 8192];
    let len = status.read_at(&mut text, 0).unwrap();
    let text = String::from_utf8_lossy(&text[..len]).into_owned();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn key(i: u64) -> [u8; 16] {
    // Random order, every key once: a bijection of the counter.
    let mut key = [0; 16];
    key[..8].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

#[test]
fn the_budget_holds_while_loading_iterating_and_reading_back() {
    let keys = number("CAIRN_KEYS", 1_000_000);
    let budget = number("CAIRN_BUDGET_MIB", 64) << 20;
    let slack: u64 = 32 << 20;
    let dir = TempDir::new();
    let env = Env::real();
    let options = Options { memory_budget_bytes: budget, durability: Durability::Buffered, ..Options::default() };
    let db = Db::open_in(&env, dir.path(), options).unwrap();
    let mut random = Random::new(9);
    let mut value = [0u8; 100];
    let mut iterators = VecDeque::new();
    let mut refused = 0;
    for i in 0..keys {
        value[..8].copy_from_slice(&random.next().to_le_bytes());
        while let Err(e) = db.put(&key(i), &value) {
            // What iterators pin counts: when it leaves no room, writes are refused until one goes.
            assert_eq!(e.kind(), ErrorKind::Busy);
            refused += 1;
            iterators.pop_front().expect("writes are refused though nobody pins anything");
        }
        if i % (keys / 16) == 0 {
            // Held open to the end: each pins blocks, and what was compacted away since.
            let mut iterator = db.iter();
            assert!(iterator.next().is_some());
            iterators.push_back(iterator);
        }
    }
    let loaded = (HEAP.peak(), resident_peak(&env));
    db.flush().unwrap();
    for i in 0..keys {
        assert!(db.get_with_len(&key(i)) == Some(100), "key {i}");
    }
    let mut counted = 0;
    for entry in db.iter() {
        entry.unwrap();
        counted += 1;
    }
    assert_eq!(counted, keys);
    let peak = (HEAP.peak(), resident_peak(&env));
    println!(
        "{keys} keys, budget {} MiB, {refused} writes refused, {} iterators held: allocated at most {} MiB after load, {} MiB in all; resident at most {} and {} MiB",
        budget >> 20,
        iterators.len(),
        loaded.0 >> 20,
        peak.0 >> 20,
        loaded.1 >> 20,
        peak.1 >> 20
    );
    assert!(peak.0 <= budget + slack, "{} bytes allocated at the peak", peak.0);
    assert!(peak.1 <= budget + slack, "{} bytes resident at the peak", peak.1);
    assert!(iterators.iter_mut().all(|iterator| iterator.next().is_some_and(|entry| entry.is_ok())));
}

trait GetLen {
    fn get_with_len(&self, key: &[u8]) -> Option<usize>;
}

impl GetLen for Db {
    fn get_with_len(&self, key: &[u8]) -> Option<usize> {
        self.default_keyspace().get_with(key, <[u8]>::len).unwrap()
    }
}
