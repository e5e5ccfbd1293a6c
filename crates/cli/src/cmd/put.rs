//! `cairn put`: sets the value of a key.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output;
use crate::target::{IfMissing, TargetArgs};
use crate::text;

/// Set the value of a key
///
/// Returns when the write is as safe as the server's --durability says; with --dir when it is on
/// stable storage. With --dir a database is made if there is none.
///
///     cairn put greeting hello
///     cairn put photo - < photo.jpg
///     cairn put -- -1 "a key that starts with a dash follows two dashes"
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Put {
    /// The key, 1 to 65,535 bytes
    key: OsString,
    /// The value, or - to read it from standard input
    #[arg(allow_negative_numbers = true)]
    value: OsString,
    #[command(flatten)]
    target: TargetArgs,
    /// Print what was written as one JSON object
    #[arg(long)]
    json: bool,
}

impl Put {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let value = if self.value == "-" { read_value()? } else { self.value.into_vec() };
        let value_bytes = value.len();
        let target = self.target.open(&Env::real(), IfMissing::Create)?;
        target.put(self.key.as_bytes(), value)?;
        target.close()?;
        if self.json {
            output::json_written(self.key.as_bytes(), Some(value_bytes))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read_value() -> Result<Vec<u8>, Failure> {
    let limit = cairn::VALUE_BYTES_MAX as u64;
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(limit + 1).read_to_end(&mut value);
    match read {
        Err(error) => Err(Failure::new(format!("cannot read standard input: {error}"))),
        Ok(count) if count as u64 > limit => {
            Err(Failure::new(format!("standard input holds more than a value's limit of {}", text::human_bytes(limit))))
        }
        Ok(_) => Ok(value),
    }
}
