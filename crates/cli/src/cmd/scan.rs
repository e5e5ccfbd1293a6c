//! `cairn scan`: the entries of a range of keys.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use cairn_client::ScanQuery;
use cairn_env::Env;
use clap::Args;

use crate::failure::Failure;
use crate::output::Lines;
use crate::target::{IfMissing, TargetArgs};
use crate::text;

/// Print the entries of a range of keys, ascending by bytes
///
/// One line each: the key, a tab, the value, with control characters and bytes that are not UTF-8
/// escaped (\n, \x00). Without bounds: everything.
///
///     cairn scan --prefix user/
///     cairn scan --start a --end c --limit 10 --keys
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Scan {
    /// The first key of the range (it is in it)
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// The end of the range (it is not in it)
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// All keys that begin so
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// At most so many entries
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the keys only
    #[arg(long, conflicts_with = "json")]
    keys: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// Print {"key","value"} a line instead (key_base64, value_base64 where they are not UTF-8)
    #[arg(long)]
    json: bool,
}

impl Scan {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let query = match self.prefix {
            Some(prefix) => ScanQuery { limit: self.limit, ..ScanQuery::prefix(&prefix.into_vec()) },
            None => ScanQuery {
                start: self.start.map(OsString::into_vec),
                end: self.end.map(OsString::into_vec),
                limit: self.limit,
            },
        };
        let target = self.target.open(&Env::real(), IfMissing::Refuse)?;
        let mut lines = Lines::new();
        target.scan(&query, |entry| match (self.json, self.keys) {
            (true, _) => lines.json(entry),
            (false, true) => lines.text(&text::escaped(&entry.key).to_string()),
            (false, false) => lines.text(&format!("{}\t{}", text::escaped(&entry.key), text::escaped(&entry.value))),
        })?;
        lines.finish()?;
        target.close()?;
        Ok(ExitCode::SUCCESS)
    }
}
