//! The workloads, and the keys and values they work on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::random::Random;
use crate::{Error, Result, Settings};

/// What is asked again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Overwrites the keys in ascending order.
    PutSequential,
    /// Overwrites keys drawn evenly.
    PutRandom,
    /// Reads keys drawn evenly from one hundredth of all.
    GetHot,
    /// Reads keys drawn evenly.
    GetUniform,
    /// Reads keys that do not exist, each between two that do.
    GetMissing,
    /// Reads up to 100 entries from a key drawn evenly.
    Scan100,
    /// Reads every entry.
    ScanFull,
    /// Reads and overwrites keys drawn evenly, half and half.
    Mixed,
}

impl Workload {
    /// Every workload, in the order a whole run takes.
    pub const ALL: [Workload; 8] = [
        Workload::PutSequential,
        Workload::PutRandom,
        Workload::GetHot,
        Workload::GetUniform,
        Workload::GetMissing,
        Workload::Scan100,
        Workload::ScanFull,
        Workload::Mixed,
    ];

    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Workload::PutSequential => "put-seq",
            Workload::PutRandom => "put-random",
            Workload::GetHot => "get-hot",
            Workload::GetUniform => "get-uniform",
            Workload::GetMissing => "get-missing",
            Workload::Scan100 => "scan-100",
            Workload::ScanFull => "scan-full",
            Workload::Mixed => "mixed",
        }
    }

    /// What it does, in half a line.
    pub const fn summary(self) -> &'static str {
        match self {
            Workload::PutSequential => "overwrite keys in ascending order",
            Workload::PutRandom => "overwrite keys in random order",
            Workload::GetHot => "read the same hundredth of all keys",
            Workload::GetUniform => "read any key",
            Workload::GetMissing => "read keys that do not exist",
            Workload::Scan100 => "read 100 entries from any key on",
            Workload::ScanFull => "read every entry",
            Workload::Mixed => "read and overwrite any key, half and half",
        }
    }
}

/// Every key begins so: they can share a database with others, and stand together in it.
const KEY_PREFIX: &str = "bench-";
/// The least above every key.
const KEY_END: &str = "bench.";
/// Values are cut from so many random bytes, at least.
const POOL_BYTES_MIN: usize = 1 << 20;
/// A batch of the load holds so many entries and bytes at most.
const BATCH_ENTRIES_MAX: u64 = 1_000;
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Keys, values and the choice between them.
#[derive(Debug)]
pub struct Data {
    keys: u64,
    value_bytes: usize,
    seed: u64,
    /// Letters that do not compress to nothing, from which values are cut.
    pool: Vec<u8>,
    /// The next key of [`Workload::PutSequential`].
    next: AtomicU64,
}

/// One operation.
pub(crate) enum Action<'a> {
    Put { key: String, value: &'a [u8] },
    Get { key: String, exists: bool },
    Scan { start: String, end: &'static str, limit: u64, expected: u64 },
}

impl Data {
    /// The data that `settings` describe.
    pub fn new(settings: &Settings) -> Data {
        let mut random = Random::new(settings.seed);
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let length = settings.value_bytes.saturating_mul(2).max(POOL_BYTES_MIN);
        let pool = (0..length).map(|_| random.pick(letters).copied().unwrap_or_default()).collect();
        let keys = settings.keys.max(1);
        Data { keys, value_bytes: settings.value_bytes, seed: settings.seed, pool, next: AtomicU64::new(0) }
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// The length of every value.
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The random stream of one caller.
    pub(crate) fn stream(&self, caller: usize) -> Random {
        Random::new(self.seed ^ (caller as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn key(&self, index: u64) -> String {
        format!("{KEY_PREFIX}{index:010}")
    }

    /// The key that is loaded last: if it is there with a value of the right length, all are.
    pub(crate) fn last_key(&self) -> String {
        self.key(self.keys - 1)
    }

    fn value(&self, random: &mut Random) -> &[u8] {
        let start = random.index(self.pool.len() - self.value_bytes);
        self.pool.get(start..start + self.value_bytes).unwrap_or_default()
    }

    /// Every entry once, in batches that fit the limits.
    pub(crate) fn batches(&self) -> impl Iterator<Item = Vec<(String, &[u8])>> {
        let entries = (BATCH_BYTES_MAX / (self.value_bytes as u64 + 32)).clamp(1, BATCH_ENTRIES_MAX);
        let mut random = Random::new(self.seed);
        let mut next = 0;
        std::iter::from_fn(move || {
            let end = (next + entries).min(self.keys);
            let batch: Vec<_> = (next..end).map(|index| (self.key(index), self.value(&mut random))).collect();
            next = end;
            if batch.is_empty() { None } else { Some(batch) }
        })
    }

    /// Whether a GET answered as it must: with a value of the right length, or not at all.
    pub(crate) fn check_get(&self, key: &str, exists: bool, got_bytes: Option<usize>) -> Result<u64> {
        match (exists, got_bytes) {
            (true, Some(bytes)) if bytes == self.value_bytes => Ok(1),
            (false, None) => Ok(0),
            (true, got) => Err(Error::WrongAnswer(format!(
                "the value at or after {key} should have {} bytes, got {got:?}",
                self.value_bytes
            ))),
            (false, got) => Err(Error::WrongAnswer(format!("{key} should not exist, got {got:?} bytes"))),
        }
    }

    /// Whether a scan answered as many entries as it must.
    pub(crate) fn check_scan(&self, start: &str, expected: u64, got: u64) -> Result<u64> {
        if got == expected {
            return Ok(got);
        }
        Err(Error::WrongAnswer(format!("a scan from {start} should have {expected} entries, got {got}")))
    }

    /// The next operation of a workload.
    pub(crate) fn next(&self, workload: Workload, random: &mut Random) -> Action<'_> {
        let any = random.below(self.keys);
        let put = |index: u64, random: &mut Random| Action::Put { key: self.key(index), value: self.value(random) };
        let get = |index: u64| Action::Get { key: self.key(index), exists: true };
        match workload {
            Workload::PutSequential => put(self.next.fetch_add(1, Ordering::Relaxed) % self.keys, random),
            Workload::PutRandom => put(any, random),
            Workload::GetHot => get(any % (self.keys / 100).max(1)),
            Workload::GetUniform => get(any),
            Workload::GetMissing => Action::Get { key: self.key(any) + "x", exists: false },
            Workload::Scan100 => {
                let expected = (self.keys - any).min(100);
                Action::Scan { start: self.key(any), end: KEY_END, limit: 100, expected }
            }
            Workload::ScanFull => {
                Action::Scan { start: self.key(0), end: KEY_END, limit: u64::MAX, expected: self.keys }
            }
            Workload::Mixed if random.percent(50) => put(any, random),
            Workload::Mixed => get(any),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(keys: u64, value_bytes: usize) -> Settings {
        Settings { keys, value_bytes, duration: Duration::from_millis(1), seed: 3 }
    }

    #[test]
    fn batches_hold_every_key_once_and_stay_within_their_bounds() {
        for value_bytes in [1, 100, 100_000, 5 << 20] {
            let data = Data::new(&settings(2_500.min(20_000_000 / value_bytes as u64).max(3), value_bytes));
            let mut keys = Vec::new();
            for batch in data.batches() {
                let bytes: usize = batch.iter().map(|(key, value)| key.len() + value.len()).sum();
                assert!(batch.len() == 1 || bytes as u64 <= BATCH_BYTES_MAX, "{bytes} bytes");
                assert!(batch.len() as u64 <= BATCH_ENTRIES_MAX);
                assert!(batch.iter().all(|(_, value)| value.len() == value_bytes));
                keys.extend(batch.into_iter().map(|(key, _)| key));
            }
            assert_eq!(keys.len() as u64, data.keys);
            assert!(keys.is_sorted() && keys.last() == Some(&data.last_key()));
            assert!(keys.iter().all(|key| key.as_str() < KEY_END));
        }
    }

    #[test]
    fn each_workload_asks_what_its_name_says() {
        let data = Data::new(&settings(1_000, 10));
        let mut random = data.stream(0);
        let key_index = |key: &str| key[KEY_PREFIX.len()..].parse::<u64>().unwrap();
        for step in 0..2_000u64 {
            for workload in Workload::ALL {
                match (workload, data.next(workload, &mut random)) {
                    (Workload::PutSequential, Action::Put { key, .. }) => assert_eq!(key_index(&key), step % 1_000),
                    (Workload::PutRandom | Workload::Mixed, Action::Put { key, value }) => {
                        assert!(key_index(&key) < 1_000 && value.len() == 10);
                    }
                    (Workload::GetHot, Action::Get { key, exists: true }) => assert!(key_index(&key) < 10),
                    (Workload::GetUniform | Workload::Mixed, Action::Get { key, exists: true }) => {
                        assert!(key_index(&key) < 1_000);
                    }
                    (Workload::GetMissing, Action::Get { key, exists: false }) => assert!(key.ends_with('x')),
                    (Workload::Scan100, Action::Scan { start, limit: 100, expected, .. }) => {
                        assert_eq!(expected, 100.min(1_000 - key_index(&start)));
                    }
                    (Workload::ScanFull, Action::Scan { expected: 1_000, .. }) => {}
                    (workload, _) => panic!("{workload:?} asked for something else"),
                }
            }
        }
    }

    #[test]
    fn names_are_distinct() {
        let mut names = Workload::ALL.map(Workload::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Workload::ALL.len());
    }
}
