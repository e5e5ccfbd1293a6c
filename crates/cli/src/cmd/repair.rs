//! `cairn repair`: what is left of a damaged database, in a new one.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn::{Lost, Repaired};
use cairn_env::Env;
use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::text;

/// Save what can be read of a damaged database to a new one
///
/// For a database that does not open, or that `cairn check` finds damaged, when there is no backup.
/// Reads DIR, which nobody may have open, and changes nothing in it; writes every key with its newest
/// readable value to a new database in NEW. Prints what is lost, one line each, with the file and the
/// range of keys, where it can be known, that may be missing, older than they were, or back after a
/// delete; all other keys are as they were. A table whose footer, properties or index are damaged is
/// lost whole. Needs as much free space as the data takes.
///
/// A database that was killed does not say where its log ends: that last writes were cut off later
/// cannot be told there, and a line says so.
///
/// Exit code 0: nothing is known to be lost; 1: something is, or the repair failed: then standard error says why.
/// NEW is there only once all is saved; what an interrupted repair leaves is beside it, with
/// `.unfinished` behind its name, to be removed.
#[derive(Args)]
pub(crate) struct Repair {
    /// The damaged database directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the new database goes: a directory that is empty or does not exist
    #[arg(long, value_name = "NEW")]
    to: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let bar = output::progress_bar(0);
        let repaired = cairn::repair(&Env::real(), &self.dir, &self.to, &mut |progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
            if let Some(name) = progress.path.file_name() {
                bar.set_message(name.to_string_lossy().into_owned());
            }
        });
        bar.finish_and_clear();
        let repaired = repaired?;
        if self.json {
            output::line(&as_json(&repaired)?)?;
        } else {
            self.print(&repaired)?;
        }
        Ok(if repaired.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print(&self, repaired: &Repaired) -> Result<(), Failure> {
        let mut lines = Lines::new();
        for lost in &repaired.lost {
            lines.text(&format!("lost: {lost}"))?;
        }
        lines.text(&format!(
            "saved to {}: {}, {} of {}, then {} of the log; {}",
            self.to.display(),
            text::counted(repaired.keyspaces, "keyspace", "keyspaces"),
            text::counted(repaired.table_entries, "entry", "entries"),
            text::counted(repaired.tables, "table", "tables"),
            text::counted(repaired.log_operations, "operation", "operations"),
            text::human_bytes(repaired.bytes),
        ))?;
        if !repaired.closed {
            lines.text("the database was not closed: whether its log went on after what was found cannot be told")?;
        }
        lines.text(&match repaired.lost.len() {
            0 if repaired.closed => "nothing is lost".to_owned(),
            0 => "nothing is known to be lost".to_owned(),
            1 => "1 loss".to_owned(),
            n => format!("{n} losses"),
        })?;
        lines.finish()
    }
}

fn as_json(repaired: &Repaired) -> Result<String, Failure> {
    let lost: Result<Vec<Value>, Failure> = repaired.lost.iter().map(lost_as_json).collect();
    let object = json!({
        "keyspaces": repaired.keyspaces,
        "tables": repaired.tables,
        "table_entries": repaired.table_entries,
        "log_operations": repaired.log_operations,
        "bytes": repaired.bytes,
        "lost": lost?,
        "closed": repaired.closed,
    });
    Ok(object.to_string())
}

fn lost_as_json(lost: &Lost) -> Result<Value, Failure> {
    let range = match &lost.range {
        Some((from, to)) => json!({ "from": output::json_key(from)?, "to": output::json_key(to)? }),
        None => Value::Null,
    };
    Ok(json!({
        "file": lost.path.to_string_lossy(),
        "offset": lost.offset,
        "what": lost.what,
        "blocks": lost.blocks,
        "keyspace": lost.keyspace,
        "range": range,
    }))
}
