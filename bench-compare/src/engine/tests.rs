//! Every engine built in means the same by the same call.

use std::path::PathBuf;

use super::{Engine, KINDS, Setup};
use crate::data::Data;

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("bench-compare-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The numbers that a scan gives.
fn scan(engine: &dyn Engine, start: Option<&[u8]>, limit: u64, reverse: bool) -> Vec<u64> {
    let mut numbers = Vec::new();
    let count = engine
        .scan(start, limit, reverse, &mut |_, value| numbers.push(u64::from_le_bytes(value[..8].try_into().unwrap())))
        .unwrap();
    assert_eq!(count, numbers.len() as u64);
    numbers
}

fn get(engine: &dyn Engine, key: &[u8]) -> Option<Vec<u8>> {
    let mut got = None;
    let found = engine.get(key, &mut |value| got = Some(value.to_vec())).unwrap();
    assert_eq!(found, got.is_some());
    got
}

/// What every engine must answer after the same calls; `keys` is 1,000.
fn check(engine: &dyn Engine, data: &Data) {
    let value = |number: u64, generation: u32| {
        let mut value = Vec::new();
        data.value(number, generation, &mut value);
        value
    };
    let even = |number: u64| number.is_multiple_of(2);
    for number in 0..1_000 {
        let expected = match number {
            500 => Some(value(500, 1)),
            number if even(number) => Some(value(number, 0)),
            _ => None,
        };
        assert_eq!(get(engine, &data.key(number)), expected, "{number}");
    }
    assert_eq!(get(engine, &data.missing_key(0)), None);

    let mut seen = [None, None, None];
    engine
        .multi_get(&[data.key(4), data.key(5), data.key(6)], &mut |at, value| {
            seen[at] = Some(value.map(<[u8]>::to_vec))
        })
        .unwrap();
    assert_eq!(seen, [Some(Some(value(4, 0))), Some(None), Some(Some(value(6, 0)))]);

    let (present, missing) = (data.key(600), data.key(601));
    assert_eq!(scan(engine, Some(&present), 3, false), [600, 602, 604]);
    assert_eq!(scan(engine, Some(&missing), 3, false), [602, 604, 606]);
    assert_eq!(scan(engine, Some(&present), 3, true), [600, 598, 596]);
    assert_eq!(scan(engine, Some(&missing), 3, true), [600, 598, 596]);
    assert_eq!(scan(engine, Some(&data.key(998)), 3, false), [998]);
    assert_eq!(scan(engine, Some(&data.key(0)), 3, true), [0]);
    let all: Vec<u64> = (0..1_000).step_by(2).collect();
    assert_eq!(scan(engine, None, u64::MAX, false), all);
    assert_eq!(scan(engine, None, u64::MAX, true), all.iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn every_engine_answers_alike_in_memory_flushed_compacted_and_reopened() {
    for kind in KINDS {
        for durable in [false, true] {
            let dir = Dir::new(&format!("{}-{durable}", kind.name));
            let setup = Setup { cache_bytes: 32 << 20, durable, memory_bytes_max: None };
            let data = Data::new(1_000, 100);
            let engine = (kind.open)(&dir.0, &setup).unwrap();
            assert_eq!(scan(engine.as_ref(), None, 10, false), [0; 0], "{}", kind.name);
            let mut entries = data.entries(1_000);
            (0..1_000).for_each(|number| data.add(&mut entries, number, 0));
            engine.write_batch(&entries).unwrap();
            let held = engine.snapshot().unwrap();
            engine.delete(&data.key(1)).unwrap();
            let odd: Vec<_> = (3..1_000).step_by(2).map(|number| data.key(number)).collect();
            engine.delete_batch(&odd).unwrap();
            let mut value = Vec::new();
            data.value(500, 1, &mut value);
            engine.put(&data.key(500), &value, true).unwrap();
            check(engine.as_ref(), &data);
            drop(held);
            engine.flush().unwrap();
            check(engine.as_ref(), &data);
            engine.compact().unwrap();
            check(engine.as_ref(), &data);
            engine.close().unwrap();
            let engine = (kind.open)(&dir.0, &setup).unwrap();
            check(engine.as_ref(), &data);
            engine.close().unwrap();
        }
    }
}
