//! Result lines gathered: medians by engine, ratios within a repetition, and what is wrong with them.
//!
//! Owns what "median" and "ratio" mean here. The machine drifts, so a ratio is the median of the
//! ratios of runs of the same repetition, never a ratio of medians.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::KINDS;
use crate::results::{Config, END, Record, Status};
use crate::scenario::SCENARIOS;

/// Ours.
pub const OURS: &str = "cairn";

/// Others that kept so much of a core busy are worth a warning.
const OTHER_CORES_NOTED: f64 = 0.25;

/// A figure of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    /// The scenario.
    pub scenario: String,
    /// The workload.
    pub workload: String,
    /// The metric.
    pub metric: String,
}

impl Figure {
    /// By its names.
    pub fn new(scenario: &str, workload: &str, metric: &str) -> Figure {
        Figure { scenario: scenario.to_owned(), workload: workload.to_owned(), metric: metric.to_owned() }
    }
}

/// What an engine gave in each repetition.
type ByRep = BTreeMap<u32, f64>;

/// All results with one configuration.
#[derive(Debug)]
pub struct Group {
    /// The configuration.
    pub config: Config,
    figures: BTreeMap<Figure, BTreeMap<String, ByRep>>,
    /// Scenarios and workloads in the order in which they ran.
    order: Vec<(String, String)>,
    /// How each run ended, by scenario, engine and repetition.
    runs: BTreeMap<(String, String, u32), (Status, String)>,
    /// Wrong answers by scenario, workload and engine.
    bad: BTreeMap<(String, String, String), f64>,
    /// Versions, settings and commits by engine.
    pub engines: BTreeMap<String, BTreeSet<String>>,
    /// Cores that others kept busy, for every line.
    other_cores: Vec<f64>,
    /// Lines measured on a busy machine.
    disturbed: Vec<String>,
}

/// The middle of some numbers, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values.get(middle - 1)? + upper) / 2.0) }
}

/// Puts records in groups, by configuration, largest first. Of two lines for the same, the later counts.
pub fn groups(mut records: Vec<Record>) -> Vec<Group> {
    records.sort_by_key(|record| record.unix_seconds);
    let mut groups: Vec<Group> = Vec::new();
    for record in records {
        let at = match groups.iter().position(|group| group.config == record.config) {
            Some(at) => at,
            None => {
                groups.push(Group::new(record.config.clone()));
                groups.len() - 1
            }
        };
        if let Some(group) = groups.get_mut(at) {
            group.add(record);
        }
    }
    groups
}

impl Group {
    fn new(config: Config) -> Group {
        Group {
            config,
            figures: BTreeMap::new(),
            order: Vec::new(),
            runs: BTreeMap::new(),
            bad: BTreeMap::new(),
            engines: BTreeMap::new(),
            other_cores: Vec::new(),
            disturbed: Vec::new(),
        }
    }

    fn add(&mut self, record: Record) {
        let Record { engine, version, commit, scenario, workload, rep, status, note, metrics, settings, .. } = record;
        let tree = if engine == OURS && !commit.is_empty() { format!(", commit {commit}") } else { String::new() };
        self.engines.entry(engine.clone()).or_default().insert(format!("{version}{tree}: {settings}"));
        if workload == END {
            self.runs.insert((scenario, engine, rep), (status, note));
            return;
        }
        let name = (scenario, workload);
        if !self.order.contains(&name) {
            self.order.push(name.clone());
        }
        let (scenario, workload) = name;
        self.other_cores.push(record.other_cores);
        if record.other_cores > OTHER_CORES_NOTED {
            self.disturbed.push(format!("{workload} of {engine}, repetition {rep}: {:.1}", record.other_cores));
        }
        for (metric, value) in metrics {
            if metric == "bad" && value > 0.0 {
                *self.bad.entry((scenario.clone(), workload.clone(), engine.clone())).or_default() += value;
            }
            let figure = Figure::new(&scenario, &workload, &metric);
            self.figures.entry(figure).or_default().entry(engine.clone()).or_default().insert(rep, value);
        }
    }

    /// Names of the engines that have results, ours first, as they are built in.
    pub fn engine_names(&self) -> Vec<&str> {
        let place = |name: &str| KINDS.iter().position(|kind| kind.name == name).unwrap_or(KINDS.len());
        let mut names: Vec<&str> = self.engines.keys().map(String::as_str).collect();
        names.sort_by_key(|name| place(name));
        names
    }

    /// Every figure, in the order in which scenarios are listed and their workloads ran.
    pub fn figures(&self) -> Vec<&Figure> {
        let scenario = |figure: &Figure| SCENARIOS.iter().position(|scenario| scenario.name == figure.scenario);
        let workload = |figure: &Figure| {
            self.order
                .iter()
                .position(|(scenario, workload)| *scenario == figure.scenario && *workload == figure.workload)
        };
        let mut figures: Vec<&Figure> = self.figures.keys().collect();
        figures.sort_by_key(|figure| (scenario(figure), workload(figure)));
        figures
    }

    fn by_rep(&self, figure: &Figure, engine: &str) -> Option<&ByRep> {
        self.figures.get(figure)?.get(engine)
    }

    /// The median of an engine's repetitions.
    pub fn median(&self, figure: &Figure, engine: &str) -> Option<f64> {
        median(self.by_rep(figure, engine)?.values().copied().collect())
    }

    /// Each repetition of an engine.
    pub fn values(&self, figure: &Figure, engine: &str) -> Vec<f64> {
        self.by_rep(figure, engine).map(|values| values.values().copied().collect()).unwrap_or_default()
    }

    /// The median over the repetitions of one engine's figure divided by another's.
    pub fn ratio(&self, figure: &Figure, engine: &str, to: &str) -> Option<f64> {
        self.ratio_of(figure, engine, figure, to)
    }

    /// The same for two figures.
    pub fn ratio_of(&self, figure: &Figure, engine: &str, to_figure: &Figure, to: &str) -> Option<f64> {
        let (ours, theirs) = (self.by_rep(figure, engine)?, self.by_rep(to_figure, to)?);
        let ratios = ours.iter().filter_map(|(rep, value)| {
            let divisor = theirs.get(rep).copied().filter(|&divisor| divisor > 0.0)?;
            Some(value / divisor)
        });
        median(ratios.collect())
    }

    /// Wrong answers of a workload.
    pub fn bad(&self, scenario: &str, workload: &str, engine: &str) -> f64 {
        self.bad.get(&(scenario.to_owned(), workload.to_owned(), engine.to_owned())).copied().unwrap_or(0.0)
    }

    /// All wrong answers.
    pub fn all_bad(&self) -> impl Iterator<Item = String> {
        self.bad.iter().map(|((scenario, workload, engine), count)| {
            format!("{engine} gave {count:.0} wrong answers in {workload} of scenario {scenario}")
        })
    }

    /// How the runs of a scenario ended: the worst of them.
    pub fn ended(&self, scenario: &str, engine: &str) -> Option<Status> {
        let of_engine = self.runs.iter().filter(|((s, e, _), _)| s == scenario && e == engine);
        of_engine.map(|(_, (status, _))| *status).max_by_key(|status| match status {
            Status::Ok => 0,
            Status::Skipped => 1,
            Status::Failed => 2,
        })
    }

    /// Every run that did not end well.
    pub fn troubles(&self) -> impl Iterator<Item = String> {
        self.runs.iter().filter(|(_, (status, _))| *status != Status::Ok).map(
            |((scenario, engine, rep), (status, note))| {
                let word = if *status == Status::Skipped { "SKIPPED" } else { "failed" };
                format!("{scenario} of {engine}, repetition {rep}: {word}: {note}")
            },
        )
    }

    /// How many repetitions an engine has, at most.
    pub fn reps(&self, engine: &str) -> u32 {
        self.runs.keys().filter(|(_, e, _)| e == engine).map(|(_, _, rep)| *rep).max().unwrap_or(0)
    }

    /// Cores that others kept busy while measuring: the median, and the nine tenths.
    pub fn other_cores(&self) -> (f64, f64) {
        let mut sorted = self.other_cores.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted.get(sorted.len() * part / 10).copied().unwrap_or(0.0);
        (at(5), at(9))
    }

    /// Lines measured while others were busy, with the cores they kept.
    pub fn disturbed(&self) -> &[String] {
        &self.disturbed
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::measure::Metrics;

    /// A line of scenario main with one figure.
    pub fn record(engine: &str, workload: &str, rep: u32, metric: &str, value: f64) -> Record {
        Record {
            engine: engine.to_owned(),
            version: "1".to_owned(),
            commit: String::new(),
            scenario: "main".to_owned(),
            workload: workload.to_owned(),
            rep,
            status: Status::Ok,
            note: String::new(),
            metrics: Metrics::from([(metric.to_owned(), value)]),
            settings: "defaults".to_owned(),
            config: config(2_000_000),
            load_before: 0.0,
            other_cores: 0.0,
            stolen_cores: 0.0,
            unix_seconds: 0,
        }
    }

    pub fn config(keys: u64) -> Config {
        Config {
            keys,
            value_bytes: 100,
            cache_mib: 64,
            seconds: 2.0,
            idle_seconds: 10.0,
            steady_seconds: 180.0,
            mem_max_mb: 120,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_within_a_repetition() {
        let mut records = Vec::new();
        // The machine is twice as fast in the second repetition: the ratio is 2 in each.
        for (rep, ours, theirs) in [(1, 200.0, 100.0), (2, 400.0, 200.0), (3, 100.0, 50.0)] {
            records.push(record(OURS, "get_hot", rep, "ops_s", ours));
            records.push(record("rocksdb", "get_hot", rep, "ops_s", theirs));
        }
        // A repetition that the other lacks does not count.
        records.push(record(OURS, "get_hot", 4, "ops_s", 1.0));
        let groups = groups(records);
        let figure = Figure::new("main", "get_hot", "ops_s");
        assert_eq!(groups[0].ratio(&figure, OURS, "rocksdb"), Some(2.0));
        assert_eq!(groups[0].median(&figure, "rocksdb"), Some(100.0));
        assert_eq!(groups[0].ratio(&figure, OURS, "fjall"), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut end = record("fjall", END, 1, "x", 0.0);
        (end.status, end.note) = (Status::Failed, "killed by signal 9".to_owned());
        let groups = groups(vec![record("fjall", "get_hot", 1, "bad", 3.0), end]);
        assert_eq!(groups[0].all_bad().count(), 1);
        assert_eq!(groups[0].ended("main", "fjall"), Some(Status::Failed));
        assert!(groups[0].troubles().next().unwrap().contains("signal 9"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
