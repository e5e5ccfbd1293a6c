//! `cairn stats`: counters, gauges and levels.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_client::Stats as Numbers;
use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output;
use crate::target::{self, Target};
use crate::text;

/// Print what a server or database counts: health, levels, counters and gauges
///
/// The last word of a name is its unit. Counters start at zero when the database is opened.
#[derive(Args)]
pub(crate) struct Stats {
    /// A server's URL, or a database directory that no server has open; if not given, what the variable
    /// CAIRN_URL says
    #[arg(value_name = "DIR|URL", default_value_t = target::url_default())]
    target: String,
    /// A file that holds the server's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let target = Target::named(&Env::real(), &self.target, self.token_file.as_deref())?;
        let numbers = target.stats()?;
        target.close()?;
        output::line(&if self.json { as_json(&numbers)? } else { as_text(&numbers) })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_text(numbers: &Numbers) -> String {
    let mut lines = vec![format!("health: {}", numbers.health)];
    lines.extend(numbers.stall_reason.iter().map(|reason| format!("writes wait: {reason}")));
    lines.extend(numbers.last_background_error.iter().map(|error| format!("last background error: {error}")));
    for level in &numbers.levels {
        let (tables, entries, bytes) = (level.tables, level.entries, text::human_bytes(level.bytes));
        let (keyspace, level) = (&level.keyspace, level.level);
        lines.push(format!("keyspace {keyspace}, level {level}: {tables} tables, {entries} entries, {bytes}"));
    }
    let names = numbers.engine.keys().chain(numbers.server.keys());
    let width = names.map(String::len).max().unwrap_or(0);
    for (title, group) in [("engine", &numbers.engine), ("server", &numbers.server)] {
        if !group.is_empty() {
            lines.push(format!("\n{title}"));
        }
        for (name, value) in group {
            let readable = if name.ends_with("_bytes") && *value >= 1024 {
                format!("  ({})", text::human_bytes(*value))
            } else {
                String::new()
            };
            lines.push(format!("  {name:width$}  {value}{readable}"));
        }
    }
    lines.join("\n")
}

fn as_json(numbers: &Numbers) -> Result<String, Failure> {
    serde_json::to_string(numbers).map_err(|error| Failure::new(format!("cannot write the numbers as JSON: {error}")))
}
