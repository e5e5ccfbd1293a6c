//! `cairn check`: whether every byte of a database directory is what it should be.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn::{Report, Severity};
use cairn_env::Env;
use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::text;

/// Check every file, block, checksum and invariant of a database that nobody has open
///
/// Changes nothing. Prints what it finds, one line each with file and offset, then the verdict.
/// Exit code 0: sound; 1: damaged, or not checked: then there is no verdict, and standard error says
/// why. A line that begins with `note:` tells of nothing lost, such as an end without a shutdown,
/// and does not count.
#[derive(Args)]
pub(crate) struct Check {
    /// The database directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let bar = output::progress_bar(0);
        let checked = cairn::check(&Env::real(), &self.dir, &mut |progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
            if let Some(name) = progress.path.file_name() {
                bar.set_message(name.to_string_lossy().into_owned());
            }
        });
        bar.finish_and_clear();
        let report = checked?;
        if self.json {
            output::line(&as_json(&report))?;
        } else {
            print(&report)?;
        }
        Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut lines = Lines::new();
    for finding in &report.findings {
        let mark = match finding.severity {
            Severity::Damage => "",
            Severity::Note => "note: ",
        };
        lines.text(&format!("{mark}{finding}"))?;
    }
    lines.text(&match report.damages().count() {
        0 => format!(
            "sound: {}, {}; {}, {}, {} in them, {} in the log",
            text::counted(report.files, "file", "files"),
            text::human_bytes(report.bytes),
            text::counted(report.keyspaces, "keyspace", "keyspaces"),
            text::counted(report.tables, "table", "tables"),
            text::counted(report.table_entries, "entry", "entries"),
            report.log_entries,
        ),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    })?;
    lines.finish()
}

fn as_json(report: &Report) -> String {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "severity": match finding.severity {
                    Severity::Damage => "damage",
                    Severity::Note => "note",
                },
                "file": finding.path.to_string_lossy(),
                "offset": finding.offset,
                "what": finding.what,
            })
        })
        .collect();
    json!({
        "sound": report.is_sound(),
        "findings": findings,
        "files": report.files,
        "bytes": report.bytes,
        "keyspaces": report.keyspaces,
        "manifest_edits": report.manifest_edits,
        "tables": report.tables,
        "table_entries": report.table_entries,
        "log_segments": report.log_segments,
        "log_groups": report.log_groups,
        "log_entries": report.log_entries,
    })
    .to_string()
}
