//! The tables: medians by engine, ratios of ours to those that count most, targets, and every reason for doubt.

use std::path::PathBuf;

use serde_json::json;

use crate::engine::Result;
use crate::results;
use crate::summary::{Figure, Group, OURS, groups};
use crate::targets::{Verdict, larger, verdicts};

/// Whom the ratios are to.
const PEERS: [&str; 3] = ["rocksdb", "fjall", "lmdb"];

/// The configuration that targets were set for.
const TARGET_KEYS: u64 = 2_000_000;

/// The figures that matter most of a workload, by how its name begins.
const HEADLINES: &[(&str, &[&str])] = &[
    ("load_", &["ops_s", "settled_ops_s", "write_amp", "space_amp", "rss_peak_mib", "cpu_s"]),
    ("get_", &["ops_s", "p50_us", "p99_us", "io_read_mib"]),
    ("multi_get", &["ops_s", "p50_us", "p99_us"]),
    ("scan100", &["ops_s", "p50_us", "p99_us"]),
    ("scan_full", &["ops_s"]),
    ("overwrite_settle", &["settle_s", "write_amp", "space_amp"]),
    ("overwrite", &["ops_s", "p50_us", "p99_us", "p999_us", "max_us"]),
    ("ycsb_", &["ops_s", "p50_us", "p99_us", "p999_us"]),
    (
        "rww_",
        &[
            "ops_s",
            "p50_us",
            "p99_us",
            "p999_us",
            "max_us",
            "writes_s",
            "write_p50_us",
            "write_p99_us",
            "write_p999_us",
            "write_max_us",
        ],
    ),
    ("put_sync", &["ops_s", "p50_us", "p99_us", "device_p50_us", "p50_of_device"]),
    ("delete_half_scan_full", &["ops_s"]),
    ("delete_", &["ops_s", "p50_us", "p99_us", "space_mib"]),
    ("compact", &["compact_s", "space_amp"]),
    ("close", &["close_ms"]),
    ("open_", &["open_ms", "kept"]),
    (
        "steady",
        &[
            "ops_s",
            "worst_second_ops_s",
            "deviation_ops_s",
            "disk_peak_mib",
            "durable_p50_us",
            "durable_p999_us",
            "durable_max_us",
            "write_amp",
            "rss_peak_mib",
        ],
    ),
];

/// The place of a metric among the headlines of its workload.
fn headline(figure: &Figure) -> Option<usize> {
    let (_, metrics) = HEADLINES.iter().find(|(start, _)| figure.workload.starts_with(start))?;
    metrics.iter().position(|metric| *metric == figure.metric)
}

/// A number as short as it is useful.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('|', "/")).collect();
    format!("| {} |", cells.join(" | "))
}

fn table_of(group: &Group, all: bool) -> Vec<String> {
    let engines = group.engine_names();
    let head = ["scenario", "workload", "metric"].map(str::to_owned).into_iter();
    let ratios = PEERS.iter().map(|peer| format!("{OURS}/{peer}"));
    let head: Vec<String> = head.chain(engines.iter().map(|&name| name.to_owned())).chain(ratios).collect();
    let rule =
        head.iter().enumerate().map(|(at, _)| if at < 3 { "---" } else { "---:" }.to_owned()).collect::<Vec<_>>();
    let mut lines = vec![row(head), row(rule)];
    // Workloads stay as they ran; the headlines of each are as they are listed above.
    let mut figures: Vec<(usize, &Figure)> = Vec::new();
    for figure in group.figures() {
        let wanted = if all { !figure.metric.starts_with("second_") } else { headline(figure).is_some() };
        let place = match figures.last() {
            Some((place, last)) if (&last.scenario, &last.workload) == (&figure.scenario, &figure.workload) => *place,
            last => last.map_or(0, |(place, _)| place + 1),
        };
        if wanted {
            figures.push((place, figure));
        }
    }
    figures.sort_by_key(|(place, figure)| (*place, headline(figure).unwrap_or(usize::MAX)));
    for (_, figure) in figures {
        let cells = engines.iter().map(|engine| match group.median(figure, engine) {
            Some(_) if group.bad(&figure.scenario, &figure.workload, engine) > 0.0 => "WRONG".to_owned(),
            Some(value) => short(value),
            None => match group.ended(&figure.scenario, engine) {
                Some(results::Status::Failed) => "failed".to_owned(),
                Some(results::Status::Skipped) => "SKIPPED".to_owned(),
                _ => String::new(),
            },
        });
        let ratios = PEERS
            .iter()
            .map(|peer| group.ratio(figure, OURS, peer).map_or(String::new(), |ratio| format!("{ratio:.2}x")));
        let names = [&figure.scenario, &figure.workload, &figure.metric].map(String::clone);
        lines.push(row(names.into_iter().chain(cells).chain(ratios)));
    }
    lines
}

fn targets_table(verdicts: &[Verdict]) -> Vec<String> {
    let mut lines = vec![
        row(["target", "figure", "asked", "measured", "reached"].map(str::to_owned)),
        row(["---"; 5].map(str::to_owned)),
    ];
    for verdict in verdicts {
        // A bound may be missed by little: one figure more than elsewhere.
        let measured = verdict.measured.map_or("not measured".to_owned(), |value| match value.abs() {
            size if size < 10.0 => format!("{value:.3}"),
            _ => short(value),
        });
        let reached = verdict.reached.map_or("", |reached| if reached { "yes" } else { "no" });
        lines.push(row([
            verdict.row.clone(),
            verdict.figure.clone(),
            verdict.asked.clone(),
            measured,
            reached.to_owned(),
        ]));
    }
    let count = |wanted| verdicts.iter().filter(|verdict| verdict.reached == wanted).count();
    let (yes, no, none) = (count(Some(true)), count(Some(false)), count(None));
    lines.push(format!("\nReached {yes} of {}; missed {no}; not measured {none}.", verdicts.len()));
    lines
}

/// What a reader must know before believing a table.
fn doubts(group: &Group) -> Vec<String> {
    let mut lines: Vec<String> = group.all_bad().map(|text| format!("- WRONG ANSWERS: {text}")).collect();
    lines.extend(group.troubles().map(|text| format!("- {text}")));
    let (middle, most) = group.other_cores();
    lines.push(format!("- cores kept busy by others while measuring: median {middle:.2}, nine tenths below {most:.2}"));
    if !group.disturbed().is_empty() {
        let shown: Vec<&str> = group.disturbed().iter().take(5).map(String::as_str).collect();
        let more = group.disturbed().len() - shown.len();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        lines.push(format!("- DISTURBED, cores of others: {}{more}", shown.join("; ")));
    }
    lines
}

fn settings(group: &Group) -> Vec<String> {
    let mut lines = Vec::new();
    for engine in group.engine_names() {
        for settings in group.engines.get(engine).into_iter().flatten() {
            lines.push(format!("- {engine} {settings}"));
        }
    }
    lines
}

fn markdown(groups: &[Group], all: bool) -> String {
    let mut lines = Vec::new();
    for group in groups {
        lines.push(format!("## {}\n", group.config.title()));
        let reps: Vec<String> =
            group.engine_names().iter().map(|engine| format!("{engine} {}", group.reps(engine))).collect();
        lines.push(format!(
            "Medians over repetitions ({}); ratios are medians of the ratios within a repetition.\n",
            reps.join(", ")
        ));
        lines.extend(table_of(group, all));
        lines.push(String::new());
        lines.extend(doubts(group));
        lines.push("\nSettings:\n".to_owned());
        lines.extend(settings(group));
        lines.push(format!("\n### Targets, {}\n", group.config.title()));
        lines.extend(targets_table(&verdicts(group)));
        lines.push(String::new());
    }
    for (small, large) in pairs(groups) {
        lines.push(format!("### Ratios with {} keys beside those with {}\n", large.config.keys, small.config.keys));
        lines.extend(targets_table(&larger(small, large)));
        lines.push(String::new());
    }
    lines.join("\n")
}

/// The results that the targets were set for, with each that has more keys of the same kind.
fn pairs(groups: &[Group]) -> impl Iterator<Item = (&Group, &Group)> {
    let base = groups.iter().find(|group| group.config.keys == TARGET_KEYS && group.config.value_bytes == 100);
    let is_larger = |group: &&Group| group.config.keys > TARGET_KEYS && group.config.value_bytes == 100;
    base.into_iter().flat_map(move |base| groups.iter().filter(is_larger).map(move |large| (base, large)))
}

fn json(groups: &[Group]) -> serde_json::Value {
    let of_group = |group: &Group| {
        let engines = group.engine_names();
        let figures: Vec<serde_json::Value> = group
            .figures()
            .into_iter()
            .map(|figure| {
                let medians: serde_json::Map<String, serde_json::Value> = engines
                    .iter()
                    .filter_map(|engine| Some(((*engine).to_owned(), json!(group.median(figure, engine)?))))
                    .collect();
                let values: serde_json::Map<String, serde_json::Value> =
                    engines.iter().map(|engine| ((*engine).to_owned(), json!(group.values(figure, engine)))).collect();
                let ratios: serde_json::Map<String, serde_json::Value> = PEERS
                    .iter()
                    .filter_map(|peer| Some(((*peer).to_owned(), json!(group.ratio(figure, OURS, peer)?))))
                    .collect();
                json!({
                    "scenario": figure.scenario,
                    "workload": figure.workload,
                    "metric": figure.metric,
                    "medians": medians,
                    "values": values,
                    "ratios": ratios,
                })
            })
            .collect();
        json!({
            "config": group.config,
            "settings": group.engines,
            "figures": figures,
            "targets": verdicts(group),
            "doubts": doubts(group),
        })
    };
    let pairs: Vec<serde_json::Value> = pairs(groups)
        .map(|(small, large)| json!({"keys": small.config.keys, "larger": large.config.keys, "targets": larger(small, large)}))
        .collect();
    json!({ "groups": groups.iter().map(of_group).collect::<Vec<_>>(), "larger": pairs })
}

/// Prints the tables of some results.
pub fn print(paths: &[PathBuf], as_json: bool, all: bool) -> Result<()> {
    let (records, problems) = results::read(paths)?;
    for problem in problems {
        eprintln!("compare: not a result line, left out: {problem}");
    }
    if records.is_empty() {
        return Err("no results there; `compare run` makes some".into());
    }
    let mut groups = groups(records);
    groups.sort_by_key(|group| (group.config.value_bytes, group.config.keys));
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json(&groups))?);
    } else {
        println!("{}", markdown(&groups, all));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{END, Status};
    use crate::summary::tests::record;

    #[test]
    fn a_table_shows_medians_ratios_wrong_answers_and_failures() {
        let mut end = record("lmdb", END, 1, "x", 0.0);
        (end.status, end.note) = (Status::Failed, "killed by signal 9".to_owned());
        let records = vec![
            record(OURS, "get_hot", 1, "ops_s", 1_234_567.0),
            record("rocksdb", "get_hot", 1, "ops_s", 617_283.5),
            record("fjall", "get_hot", 1, "ops_s", 9.0),
            record("fjall", "get_hot", 1, "bad", 1.0),
            end,
        ];
        let text = markdown(&groups(records), false);
        assert!(
            text.contains("| main | get_hot | ops_s | 1.23M | 617k | WRONG | failed | 2.00x | 137174.11x |  |"),
            "{text}"
        );
        assert!(text.contains("lmdb, repetition 1: failed: killed by signal 9"));
        assert!(text.contains("fjall gave 1 wrong answers in get_hot"));
        assert!(text.contains("| point get hot | get_hot ops_s | >= 3.0x rocksdb | 2.000 | no |"));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.654, "0.65"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123")];
        for (value, text) in cases.into_iter().chain([(12_345.0, "12k"), (1_234.0, "1234"), (12_345_678.0, "12.35M")]) {
            assert_eq!(short(value), text);
        }
    }
}
