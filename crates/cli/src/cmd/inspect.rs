//! `cairn inspect`: what a file of a database holds, as text.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output::Lines;

/// Print what a log segment, a manifest, a table or CURRENT holds
///
/// Keys are escaped, and cut if they are long; of values the length is told. The file may be a copy,
/// and the database may be in use. Damage in a segment is told where it stands.
#[derive(Args)]
pub(crate) struct Inspect {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mut lines = Lines::new();
        let mut printed = Ok(());
        let inspected = cairn::inspect(&Env::real(), &self.file, &mut |line| {
            printed = lines.text(line);
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        lines.finish()?;
        inspected?;
        Ok(ExitCode::SUCCESS)
    }
}
