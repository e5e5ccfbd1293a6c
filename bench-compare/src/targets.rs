//! How fast Cairn is to be beside the others: the targets as data, line by line, and whether they are reached.

use serde::Serialize;

use crate::results::Status;
use crate::summary::{Figure, Group, OURS};

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// So many times another engine's, or more.
    AtLeast(f64, &'static str),
    /// So many times another engine's, or less.
    AtMost(f64, &'static str),
    /// More than each of these engines'.
    First(&'static [&'static str]),
    /// Less than so much, whatever others do.
    Below(f64),
    /// So many times another figure of ours, or more.
    OfOwn(f64, &'static str, &'static str),
    /// So many times another figure of ours, or less.
    OfOwnAtMost(f64, &'static str, &'static str),
    /// That there is one.
    Lives,
}

/// One target: a row's name, and what is asked of a figure of ours.
#[derive(Clone, Copy, Debug)]
struct Target {
    row: &'static str,
    scenario: &'static str,
    workload: &'static str,
    metric: &'static str,
    ask: Ask,
}

impl Ask {
    fn is_met_by(self, got: f64) -> bool {
        match self {
            AtLeast(factor, _) | OfOwn(factor, ..) => got >= factor,
            AtMost(most, _) | OfOwnAtMost(most, ..) | Below(most) => got <= most,
            First(_) => got >= 1.0,
            Lives => got > 0.0,
        }
    }
}

use Ask::{AtLeast, AtMost, Below, First, Lives, OfOwn, OfOwnAtMost};

const ROCKSDB: &str = "rocksdb";
const FJALL: &str = "fjall";
const LMDB: &str = "lmdb";
/// Everybody else.
const ALL: &[&str] = &["rocksdb", "fjall", "lmdb", "redb", "surrealkv"];
/// The LSM engines, and redb.
const LSM_AND_REDB: &[&str] = &["rocksdb", "fjall", "surrealkv", "redb"];

const RATE: &str = "ops_s";

/// The rate of a workload.
const fn rate(row: &'static str, scenario: &'static str, workload: &'static str, ask: Ask) -> Target {
    Target { row, scenario, workload, metric: RATE, ask }
}

/// Another figure of it.
const fn figure(
    row: &'static str,
    scenario: &'static str,
    workload: &'static str,
    metric: &'static str,
    ask: Ask,
) -> Target {
    Target { row, scenario, workload, metric, ask }
}

const SORTED: &str = "sorted load";
const RANDOM: &str = "random load in batches of 100";
const OVERWRITE: &str = "overwrite, single puts";
const SYNC_1: &str = "durable puts, 1 thread";
const SYNC_16: &str = "durable puts, 16 threads";
const HOT: &str = "point get hot";
const UNIFORM: &str = "point get uniform, larger than the cache";
const MISSING: &str = "point get missing";
const SCAN: &str = "scan of 100, either way";
const FULL: &str = "full scan, either way";
const YCSB_AF: &str = "YCSB A, F";
const YCSB_BCD: &str = "YCSB B, C, D";
const YCSB_E: &str = "YCSB E";
const TOMBSTONES: &str = "scan of 10 across 490 tombstones, at once with a snapshot held";
const TOMBSTONES_IDLE: &str = "scan of 10 across 490 tombstones, after the snapshot is gone and it was idle";
const UNIFORM_2: &str = "gets from 2 threads, uniform";
const CGROUP: &str = "in a small memory group, cache 32 MiB";
const STEADY: &str = "minutes of overwriting at full speed";
const TOGETHER: &str = "reads and writes at full speed together";
const COST: &str = "write amplification, space settled, peak memory";
const KILLED: &str = "open after kill with 100,000 unflushed puts";

const TARGETS: &[Target] = &[
    rate(SORTED, "sorted", "load_sorted", AtLeast(1.5, ROCKSDB)),
    rate(SORTED, "sorted", "load_sorted", AtLeast(2.5, FJALL)),
    rate(RANDOM, "main", "load_random", AtLeast(2.0, ROCKSDB)),
    rate(RANDOM, "main", "load_random", AtLeast(2.0, FJALL)),
    rate(RANDOM, "main", "load_random", First(ALL)),
    rate(OVERWRITE, "main", "overwrite", AtLeast(2.5, ROCKSDB)),
    rate(OVERWRITE, "main", "overwrite", AtLeast(2.0, FJALL)),
    rate(OVERWRITE, "main", "overwrite", First(ALL)),
    rate(SYNC_1, "sync", "put_sync_t1", AtLeast(1.4, ROCKSDB)),
    rate(SYNC_1, "sync", "put_sync_t1", AtLeast(1.0, FJALL)),
    figure(SYNC_1, "sync", "put_sync_t1", "p50_of_device", Below(1.1)),
    rate(SYNC_16, "sync", "put_sync_t16", AtLeast(2.5, ROCKSDB)),
    rate(SYNC_16, "sync", "put_sync_t16", AtLeast(8.0, FJALL)),
    rate(SYNC_16, "sync", "put_sync_t16", First(ALL)),
    rate(HOT, "main", "get_hot", AtLeast(3.0, ROCKSDB)),
    rate(HOT, "main", "get_hot", AtLeast(2.2, FJALL)),
    rate(HOT, "main", "get_hot", AtLeast(0.9, LMDB)),
    rate(UNIFORM, "main", "get_uniform", AtLeast(3.0, ROCKSDB)),
    rate(UNIFORM, "main", "get_uniform", AtLeast(1.5, FJALL)),
    rate(MISSING, "main", "get_missing", AtLeast(3.0, ROCKSDB)),
    rate(MISSING, "main", "get_missing", AtLeast(1.1, FJALL)),
    rate(MISSING, "main", "get_missing", First(ALL)),
    rate(SCAN, "main", "scan100", AtLeast(2.0, ROCKSDB)),
    rate(SCAN, "main", "scan100", AtLeast(2.5, FJALL)),
    rate(SCAN, "main", "scan100", AtLeast(0.6, LMDB)),
    rate(SCAN, "main", "scan100_rev", AtLeast(2.0, ROCKSDB)),
    rate(SCAN, "main", "scan100_rev", AtLeast(2.5, FJALL)),
    rate(SCAN, "main", "scan100_rev", AtLeast(0.6, LMDB)),
    rate(FULL, "main", "scan_full", AtLeast(1.5, ROCKSDB)),
    rate(FULL, "main", "scan_full", AtLeast(3.0, FJALL)),
    rate(FULL, "main", "scan_full", AtLeast(0.7, LMDB)),
    rate(FULL, "main", "scan_full_rev", AtLeast(1.5, ROCKSDB)),
    rate(FULL, "main", "scan_full_rev", AtLeast(3.0, FJALL)),
    rate(FULL, "main", "scan_full_rev", AtLeast(0.7, LMDB)),
    rate(YCSB_AF, "main", "ycsb_a", AtLeast(2.0, ROCKSDB)),
    rate(YCSB_AF, "main", "ycsb_a", AtLeast(1.5, FJALL)),
    rate(YCSB_AF, "main", "ycsb_a", First(ALL)),
    rate(YCSB_AF, "main", "ycsb_f", AtLeast(2.0, ROCKSDB)),
    rate(YCSB_AF, "main", "ycsb_f", AtLeast(1.5, FJALL)),
    rate(YCSB_AF, "main", "ycsb_f", First(ALL)),
    rate(YCSB_BCD, "main", "ycsb_b", AtLeast(2.5, ROCKSDB)),
    rate(YCSB_BCD, "main", "ycsb_b", AtLeast(2.0, FJALL)),
    rate(YCSB_BCD, "main", "ycsb_b", AtLeast(0.7, LMDB)),
    rate(YCSB_BCD, "main", "ycsb_c", AtLeast(2.5, ROCKSDB)),
    rate(YCSB_BCD, "main", "ycsb_c", AtLeast(2.0, FJALL)),
    rate(YCSB_BCD, "main", "ycsb_c", AtLeast(0.7, LMDB)),
    rate(YCSB_BCD, "main", "ycsb_d", AtLeast(2.5, ROCKSDB)),
    rate(YCSB_BCD, "main", "ycsb_d", AtLeast(2.0, FJALL)),
    rate(YCSB_BCD, "main", "ycsb_d", AtLeast(0.7, LMDB)),
    rate(YCSB_E, "main", "ycsb_e", AtLeast(2.5, ROCKSDB)),
    rate(YCSB_E, "main", "ycsb_e", First(LSM_AND_REDB)),
    rate(TOMBSTONES, "delete", "delete_scan10", AtLeast(3.0, ROCKSDB)),
    rate(TOMBSTONES, "delete", "delete_scan10", AtLeast(10.0, FJALL)),
    rate(TOMBSTONES_IDLE, "delete", "delete_scan10_idle", AtLeast(20.0, ROCKSDB)),
    rate(TOMBSTONES_IDLE, "delete", "delete_scan10_idle", AtLeast(60.0, FJALL)),
    rate(UNIFORM_2, "main", "get_uniform_t2", AtLeast(3.0, ROCKSDB)),
    rate(UNIFORM_2, "main", "get_uniform_t2", AtLeast(2.0, FJALL)),
    // "Close to twice one thread."
    rate(UNIFORM_2, "main", "get_uniform_t2", OfOwn(1.8, "get_uniform", RATE)),
    rate(CGROUP, "cgroup", "load_random", AtLeast(1.5, ROCKSDB)),
    rate(CGROUP, "cgroup", "get_uniform", AtLeast(2.0, ROCKSDB)),
    rate(CGROUP, "cgroup", "scan100", Lives),
    figure(STEADY, "steady", "steady", "worst_second_ops_s", AtLeast(1.0, ROCKSDB)),
    figure(STEADY, "steady", "steady", "worst_second_ops_s", AtLeast(1.0, FJALL)),
    figure(STEADY, "steady", "steady", "disk_peak_mib", AtMost(1.0, ROCKSDB)),
    figure(STEADY, "steady", "steady", "disk_peak_mib", AtMost(1.0, FJALL)),
    figure(STEADY, "steady", "steady", "durable_p999_us", AtMost(1.0, ROCKSDB)),
    figure(STEADY, "steady", "steady", "durable_p999_us", AtMost(1.0, FJALL)),
    // "Flat": the standard deviation of a second is at most a quarter of the mean.
    figure(STEADY, "steady", "steady", "deviation_ops_s", OfOwnAtMost(0.25, "steady", RATE)),
    rate(TOGETHER, "main", "rww_max", AtLeast(1.0, ROCKSDB)),
    rate(TOGETHER, "main", "rww_max", AtLeast(1.0, FJALL)),
    figure(TOGETHER, "main", "rww_max", "writes_s", AtLeast(1.0, ROCKSDB)),
    figure(TOGETHER, "main", "rww_max", "writes_s", AtLeast(1.0, FJALL)),
    figure(TOGETHER, "main", "rww_max", "p999_us", Below(100.0)),
    figure(TOGETHER, "main", "rww_max", "max_us", Below(50_000.0)),
    figure(TOGETHER, "main", "rww_max", "write_max_us", Below(50_000.0)),
    figure(COST, "main", "load_random", "write_amp", AtMost(1.0, ROCKSDB)),
    figure(COST, "main", "load_random", "write_amp", AtMost(0.7, FJALL)),
    figure(COST, "main", "load_random", "space_amp", AtMost(1.0, ROCKSDB)),
    figure(COST, "main", "load_random", "space_amp", AtMost(0.7, FJALL)),
    figure(COST, "main", "load_random", "rss_peak_mib", AtMost(1.0, ROCKSDB)),
    figure(COST, "main", "load_random", "rss_peak_mib", AtMost(0.7, FJALL)),
    figure(KILLED, "open", "open_after_kill", "open_ms", AtMost(0.5, ROCKSDB)),
    figure(KILLED, "open", "open_after_kill", "open_ms", AtMost(0.3, FJALL)),
];

/// With five times the keys no ratio falls below this part of what it was.
const LARGER_KEEPS: f64 = 0.8;

/// A target and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The row of the table of targets.
    pub row: String,
    /// The figure.
    pub figure: String,
    /// What is asked of it.
    pub asked: String,
    /// What was measured; none if it was not.
    pub measured: Option<f64>,
    /// Whether that is enough; none if it was not measured.
    pub reached: Option<bool>,
}

impl Target {
    fn figure(&self) -> Figure {
        Figure::new(self.scenario, self.workload, self.metric)
    }

    fn verdict(&self, group: &Group) -> Verdict {
        let figure = self.figure();
        let of_own = |workload: &str, metric: &str| {
            group.ratio_of(&figure, OURS, &Figure::new(self.scenario, workload, metric), OURS)
        };
        let (asked, measured) = match self.ask {
            AtLeast(factor, other) => (format!(">= {factor:.1}x {other}"), group.ratio(&figure, OURS, other)),
            AtMost(factor, other) => (format!("<= {factor:.1}x {other}"), group.ratio(&figure, OURS, other)),
            First(others) => {
                let whom = if others.len() == ALL.len() { "all".to_owned() } else { others.join(", ") };
                let ratios = others.iter().filter_map(|other| group.ratio(&figure, OURS, other));
                (format!("first of {whom}"), ratios.min_by(f64::total_cmp))
            }
            Below(most) => (format!("<= {most}"), group.median(&figure, OURS)),
            OfOwn(factor, workload, metric) => {
                (format!(">= {factor}x its {workload} {metric}"), of_own(workload, metric))
            }
            OfOwnAtMost(factor, workload, metric) => {
                (format!("<= {factor}x its {workload} {metric}"), of_own(workload, metric))
            }
            Lives => {
                let lives = group.ended(self.scenario, OURS).map(|status| f64::from(u8::from(status == Status::Ok)));
                ("lives".to_owned(), lives)
            }
        };
        // Who answers wrongly has reached nothing.
        let is_right = group.bad(self.scenario, self.workload, OURS) == 0.0;
        Verdict {
            row: self.row.to_owned(),
            figure: format!("{} {}", self.workload, self.metric),
            asked,
            measured,
            reached: measured.map(|got| is_right && self.ask.is_met_by(got)),
        }
    }
}

/// Every target, judged by the results of one configuration.
pub fn verdicts(group: &Group) -> Vec<Verdict> {
    TARGETS.iter().map(|target| target.verdict(group)).collect()
}

/// Whether the ratios hold with more keys: for each target that is a ratio and was measured with both,
/// the part of it that is left.
pub fn larger(group: &Group, larger: &Group) -> Vec<Verdict> {
    let compared = TARGETS.iter().filter_map(|target| {
        let (other, is_better_above) = match target.ask {
            AtLeast(_, other) => (other, true),
            AtMost(_, other) => (other, false),
            _ => return None,
        };
        let figure = target.figure();
        let (small, large) = (group.ratio(&figure, OURS, other)?, larger.ratio(&figure, OURS, other)?);
        if small <= 0.0 || large <= 0.0 {
            return None;
        }
        let left = if is_better_above { large / small } else { small / large };
        Some(Verdict {
            row: format!("{} keys: {}", larger.config.keys, target.row),
            figure: format!("{} {} against {other}", target.workload, target.metric),
            asked: format!(">= {LARGER_KEEPS} of the ratio with {} keys", group.config.keys),
            measured: Some(left),
            reached: Some(left >= LARGER_KEEPS),
        })
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::KINDS;
    use crate::scenario::{MAIN, SCENARIOS};
    use crate::summary::groups;
    use crate::summary::tests::{config, record};

    #[test]
    fn targets_name_what_exists() {
        for target in TARGETS {
            assert!(SCENARIOS.iter().any(|scenario| scenario.name == target.scenario), "{target:?}");
            assert!(target.scenario != "main" || MAIN.contains(&target.workload), "{target:?}");
        }
        assert!(KINDS.iter().all(|kind| kind.name == OURS || ALL.contains(&kind.name)));
    }

    fn verdict(verdicts: &[Verdict], figure: &str, asked: &str) -> Verdict {
        verdicts.iter().find(|verdict| verdict.figure == figure && verdict.asked == asked).cloned().unwrap()
    }

    #[test]
    fn a_target_is_reached_by_ratios_bounds_and_right_answers() {
        let mut records = vec![
            record(OURS, "get_hot", 1, "ops_s", 300.0),
            record("rocksdb", "get_hot", 1, "ops_s", 100.0),
            record("fjall", "get_hot", 1, "ops_s", 200.0),
            record(OURS, "rww_max", 1, "p999_us", 100.5),
            record(OURS, "load_random", 1, "write_amp", 2.0),
            record("rocksdb", "load_random", 1, "write_amp", 2.0),
            record(OURS, "load_random", 1, "ops_s", 5.0),
            record("redb", "load_random", 1, "ops_s", 6.0),
            record("rocksdb", "load_random", 1, "ops_s", 1.0),
        ];
        let reached = |records: &[crate::results::Record], figure: &str, asked: &str| {
            verdict(&verdicts(&groups(records.to_vec())[0]), figure, asked).reached
        };
        assert_eq!(reached(&records, "get_hot ops_s", ">= 3.0x rocksdb"), Some(true));
        assert_eq!(reached(&records, "get_hot ops_s", ">= 2.2x fjall"), Some(false));
        assert_eq!(reached(&records, "get_hot ops_s", ">= 0.9x lmdb"), None);
        assert_eq!(reached(&records, "rww_max p999_us", "<= 100"), Some(false));
        assert_eq!(reached(&records, "load_random write_amp", "<= 1.0x rocksdb"), Some(true));
        assert_eq!(reached(&records, "load_random ops_s", "first of all"), Some(false));
        records.push(record(OURS, "get_hot", 1, "bad", 1.0));
        assert_eq!(reached(&records, "get_hot ops_s", ">= 3.0x rocksdb"), Some(false));
    }

    #[test]
    fn ratios_are_held_against_those_with_fewer_keys() {
        let mut records = Vec::new();
        for (keys, ours) in [(2_000_000, 300.0), (10_000_000, 230.0)] {
            for (engine, rate) in [(OURS, ours), ("rocksdb", 100.0)] {
                records.push(record(engine, "get_hot", 1, "ops_s", rate));
                records.last_mut().unwrap().config = config(keys);
            }
        }
        let groups = groups(records);
        let verdicts = larger(&groups[0], &groups[1]);
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0].reached, Some(false));
    }
}
