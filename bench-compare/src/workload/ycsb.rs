//! The core workloads of YCSB: mixes of reads, updates, inserts, scans and read-modify-writes.

use cairn_bench::Histogram;

use super::Bench;
use super::scan::Order;
use crate::data::Checker;
use crate::engine::Result;
use crate::measure::{Metrics, Stopwatch, add_latencies, add_rate};
use crate::zipf::Zipf;

/// The longest scan of workload E; lengths are drawn evenly.
const SCAN_ENTRIES_MAX: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Update,
    Insert,
    Scan,
    /// A read, and an update of the same key.
    ReadModifyWrite,
}

const KIND_NAMES: [(Kind, &str); 5] = [
    (Kind::Read, "read_"),
    (Kind::Update, "update_"),
    (Kind::Insert, "insert_"),
    (Kind::Scan, "scan_"),
    (Kind::ReadModifyWrite, "rmw_"),
];

/// A mix of two kinds.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Its letter.
    pub letter: char,
    main: Kind,
    main_percent: u64,
    other: Kind,
    /// Asks for what was inserted last rather than for what is popular.
    latest: bool,
}

const fn mix(letter: char, main: Kind, main_percent: u64, other: Kind, latest: bool) -> Mix {
    Mix { letter, main, main_percent, other, latest }
}

/// In the order YCSB advises: those that insert come last.
pub const MIXES: [Mix; 6] = [
    mix('a', Kind::Read, 50, Kind::Update, false),
    mix('b', Kind::Read, 95, Kind::Update, false),
    mix('c', Kind::Read, 100, Kind::Read, false),
    mix('f', Kind::Read, 50, Kind::ReadModifyWrite, false),
    mix('d', Kind::Read, 95, Kind::Insert, true),
    mix('e', Kind::Scan, 95, Kind::Insert, false),
];

/// `ycsb_*`.
pub fn ycsb(bench: &Bench, mix: &Mix) -> Result<Metrics> {
    let (engine, data) = (bench.engine, bench.data);
    let mut random = bench.random("ycsb", u64::from(u32::from(mix.letter)));
    let generation = data.begin_generation();
    let zipf = Zipf::new(data.count());
    let mut checker = Checker::new(data);
    let mut latencies = KIND_NAMES.map(|_| Histogram::new());
    let mut value = Vec::new();
    let mut watch = Stopwatch::start(bench.duration);
    while !watch.is_over() {
        let kind = if random.percent(mix.main_percent) { mix.main } else { mix.other };
        let number = match kind {
            Kind::Insert => data.next_number(),
            _ if mix.latest => data.count() - 1 - zipf.rank(&mut random),
            _ => zipf.scrambled(&mut random),
        };
        let key = data.key(number);
        if !matches!(kind, Kind::Read | Kind::Scan) {
            data.value(number, generation, &mut value);
        }
        let latencies = &mut latencies[kind as usize];
        match kind {
            Kind::Read => {
                let found = watch.time(latencies, || engine.get(&key, &mut |value| checker.value(number, value)))?;
                checker.expect(found);
            }
            Kind::Update => watch.time(latencies, || engine.put(&key, &value, false))?,
            Kind::Insert => {
                watch.time(latencies, || engine.put(&key, &value, false))?;
                data.inserted();
            }
            Kind::Scan => {
                let limit = 1 + random.below(SCAN_ENTRIES_MAX);
                let mut order = Order::with_gaps(&mut checker, false);
                let count = watch.time(latencies, || {
                    engine.scan(Some(&key), limit, false, &mut |key, value| order.entry(key, value))
                })?;
                // Near the end of the keys there may be fewer.
                checker.expect((1..=limit).contains(&count));
            }
            Kind::ReadModifyWrite => {
                let found = watch.time(latencies, || {
                    let found = engine.get(&key, &mut |value| checker.value(number, value))?;
                    engine.put(&key, &value, false).map(|()| found)
                })?;
                checker.expect(found);
            }
        }
    }
    let mut metrics = Metrics::from([("bad".to_owned(), checker.bad as f64)]);
    let mut all = Histogram::new();
    for ((_, name), latencies) in KIND_NAMES.iter().zip(&latencies).filter(|(_, latencies)| latencies.count() > 0) {
        all.add(latencies);
        add_latencies(&mut metrics, name, latencies);
    }
    add_rate(&mut metrics, "", &all, watch.elapsed());
    Ok(metrics)
}
