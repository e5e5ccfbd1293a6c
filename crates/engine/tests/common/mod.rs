//! What the tests of the engine share: a seeded generator and small databases.

// Each test binary uses its part.
#![allow(dead_code, unreachable_pub)]

pub mod concurrent;
pub mod history;
pub mod short;
pub mod workload;

use std::time::Duration;

use cairn::{CompactionStyle, Durability, Options, Visibility};
use cairn_env::{Op, SimDisk};

/// SplitMix64: one word of state, replays exactly from its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// A key from a small space in which many are prefixes of one another, with bytes 0x00 and 0xff.
    pub fn key(&mut self) -> Vec<u8> {
        let bytes = [0x00, b'a', b'b', 0xff];
        let len = 1 + self.below(5);
        (0..len).map(|_| bytes[self.below(4) as usize]).collect()
    }

    /// A value of 0 to 200 bytes.
    pub fn value(&mut self) -> Vec<u8> {
        let len = if self.chance(20) { self.below(3000) } else { self.below(200) };
        let byte = self.next() as u8;
        (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect()
    }
}

/// Sizes so small that a few hundred writes go through every part of the machine.
pub fn tiny() -> Options {
    Options {
        memory_budget_bytes: 4 << 20,
        memtable_bytes_max: 8 << 10,
        table_bytes_max: 4 << 10,
        block_bytes: 256,
        log_bytes_max: 64 << 10,
        ..Options::default()
    }
}

/// The seed decides who syncs the log, and how memtables fill and compaction comes.
pub fn varied(options: Options, seed: u64) -> Options {
    match seed % 3 {
        // Buffered writes are synced in the background.
        0 => Options { durability: Durability::Buffered, sync_interval: Some(Duration::from_millis(1)), ..options },
        1 => options,
        // A memtable holds two keys, and compaction comes after so many updates.
        _ => Options { memtable_entries_max: Some(2), compaction: CompactionStyle::EveryUpdates(2), ..options },
    }
}

/// Either visibility; both must agree when every write waits for its sync.
pub fn visibility(random: &mut Random) -> Visibility {
    if random.chance(2) { Visibility::Applied } else { Visibility::Durable }
}

/// The seed to start from: `CAIRN_SEED`, or 1.
pub fn base_seed() -> u64 {
    number("CAIRN_SEED", 1)
}

/// The seeds of a test that repeats itself: `least` of them from [`base_seed`] on, then more until its
/// part of `CAIRN_PROOF_SECONDS` is over, which the binary's `tests` tests of this kind share.
pub fn rounds(least: u64, tests: u64) -> impl Iterator<Item = u64> {
    let clock = cairn::Env::real();
    let time = Duration::from_secs(number("CAIRN_PROOF_SECONDS", 0)) / u32::try_from(tests).unwrap();
    (0..).take_while(move |round| *round < least || clock.now() < time).map(|round| base_seed() + round)
}

/// Whether a failure is worth the time to find the shortest workload that shows it; `CAIRN_SHRINK=0`: no.
pub fn shrinks() -> bool {
    number("CAIRN_SHRINK", 1) > 0
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Before the calls that change the disk, each the last of those between which it holds the same; and the end.
pub fn moments(disk: &SimDisk) -> Vec<u64> {
    let changes = |op: Op| !matches!(op, Op::Open | Op::Read | Op::Stat | Op::List);
    let steps = disk.trace();
    let end = disk.steps() + 1;
    steps.iter().filter(|step| changes(step.op)).map(|step| step.number).chain([end]).collect()
}

/// Prints where a test stood when it failed.
pub struct Scene(String);

impl Scene {
    pub fn set(text: String) -> Scene {
        Scene(text)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at {}", self.0);
        }
    }
}
