//! `cairn delete`: removes a key.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output;
use crate::target::{IfMissing, TargetArgs};

/// Remove a key, whether it exists or not
#[derive(Args)]
pub(crate) struct Delete {
    /// The key
    key: OsString,
    #[command(flatten)]
    target: TargetArgs,
    /// Print what was removed as one JSON object
    #[arg(long)]
    json: bool,
}

impl Delete {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let target = self.target.open(&Env::real(), IfMissing::Refuse)?;
        target.delete(self.key.as_bytes())?;
        target.close()?;
        if self.json {
            output::json_written(self.key.as_bytes(), None)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
