//! `cairn get`: the value of a key.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use cairn_client::ScanLine;
use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output;
use crate::target::{IfMissing, TargetArgs};
use crate::text;

/// Print the value of a key
///
/// Writes the value's bytes as they are to standard output, with a newline after them only on a
/// terminal. A key that does not exist prints nothing, says so on standard error, and exits with 1.
#[derive(Args)]
pub(crate) struct Get {
    /// The key
    key: OsString,
    #[command(flatten)]
    target: TargetArgs,
    /// Print {"key","value"} instead (key_base64, value_base64 where they are not UTF-8)
    #[arg(long)]
    json: bool,
}

impl Get {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let key = self.key.as_bytes();
        let target = self.target.open(&Env::real(), IfMissing::Refuse)?;
        let value = target.get(key)?;
        target.close()?;
        match value {
            Some(value) if self.json => {
                output::json_line(ScanLine { key: key.to_vec(), value })?;
                Ok(ExitCode::SUCCESS)
            }
            Some(mut value) => {
                if output::is_terminal() {
                    value.push(b'\n');
                }
                output::raw(&value)?;
                Ok(ExitCode::SUCCESS)
            }
            None => {
                output::message(&format!("cairn: no such key: {}", text::escaped(key)));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
