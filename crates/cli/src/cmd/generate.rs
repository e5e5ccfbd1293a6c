//! `cairn generate`: seeded validation files.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::generator::{self, Kind, LINES_MAX};
use crate::output;

/// Write a validation file made from a seed
///
/// The file has exactly N lines of the grammar that `cairn validate` runs (see its --help). The
/// same kind, seed and number of lines give the same file on every machine. It holds what a weak
/// store gets wrong: reads after deletes, keys put again after a delete, keys that are prefixes of
/// one another, long values, scans over runs of deleted keys, and (concurrency) blocks with
/// hundreds of writes to the same few keys in flight.
///
///     cairn generate put-delete-scan --seed 7 --lines 100000 --out requests.txt
///     cairn validate requests.txt
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Generate {
    /// Which requests the file has
    #[arg(value_enum)]
    kind: Kind,
    /// What the file is made from: another seed, another file
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many lines it has
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=LINES_MAX))]
    lines: u64,
    /// Where to write it, replacing what stands there [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Generate {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let bar = output::progress_bar(self.lines);
        let mut bytes = Vec::new();
        generator::generate(self.kind, self.seed, self.lines, &mut bytes, |lines| bar.set_position(lines));
        bar.finish_and_clear();
        match &self.out {
            Some(path) => Env::real().replace_file(path, &bytes)?,
            None => output::raw(&bytes)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
