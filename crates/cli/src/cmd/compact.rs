//! `cairn compact`: merges everything now.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_env::Env;
use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::target::{self, Target};

/// Merge all tables now, and give the space of what was overwritten or deleted back
///
/// Returns when done, which takes a while for a large database. The server goes on serving, and
/// does this by itself in the background: it is for the impatient and for measurements.
#[derive(Args)]
pub(crate) struct Compact {
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

impl Compact {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let env = Env::real();
        let target = Target::named(&env, &self.target, self.token_file.as_deref())?;
        let spinner = output::spinner("compacting");
        let began = env.now();
        let outcome = target.compact();
        let elapsed = env.now().saturating_sub(began);
        spinner.finish_and_clear();
        outcome?;
        target.close()?;
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        output::line(&if self.json {
            json!({ "elapsed_ms": elapsed_ms }).to_string()
        } else {
            format!("compacted in {:.1} s", elapsed.as_secs_f64())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
