//! `cairn validate`: runs a validation file against a server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn_env::Env;
use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::script::Script;
use crate::target::{self, ServerArgs};
use crate::text;
use crate::validator::{self, CONNECTIONS_DEFAULT_MAX, Mismatch, Plan, Summary};

/// The largest file that is read; a request takes a few times its line's bytes in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Run the requests of a file against a server and check every answer
///
/// One request a line:
///
///     PUT key value             succeeds and echoes the value
///     GET key value             answers the value
///     GET key NOT_FOUND         answers that there is no such key
///     GET key [v1 v2 ...]       answers any one of these (NOT_FOUND may be among them)
///     DELETE key                succeeds, whether the key exists or not
///     SCAN from to k1,k2,...    answers these keys: all with from <= key < to, ascending
///     BARRIER                   waits until everything above is answered
///
/// Blank lines and lines that start with # are skipped. Without BARRIER requests go out one at a
/// time, in order. With it, all requests between two barriers are in flight together, as far as
/// there are connections for them. A file expects none of its keys to exist: run it against a
/// fresh database.
///
/// Prints what went wrong (the first 20 in detail), the peak of requests in flight, the time, and
/// last `N passed, N failed`. Exits with 1 if any failed.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Validate {
    /// The file, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// How many connections, each with one request in flight [default: the size of the largest
    /// block, at most 512; without BARRIER 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// Go on when the server goes away or is busy: reconnect and send again what was not answered,
    /// until nothing has been answered for this long (such as 30s)
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, default_value = "0s", hide_default_value = true)]
    retry: Duration,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let env = Env::real();
        let bytes = read(&env, &self.file)?;
        let script =
            Script::parse(&bytes).map_err(|error| Failure::new(format!("{}, {error}", self.file.display())))?;
        drop(bytes);
        let connections = match self.connections {
            Some(connections) => usize::from(connections),
            None => script.in_flight_max().min(CONNECTIONS_DEFAULT_MAX),
        };
        let plan = Plan { server: self.server.address(&env)?, connections, retry: self.retry };
        let bar = output::progress_bar(script.requests.len() as u64);
        let summary = target::runtime()?.block_on(validator::run(&env, &plan, script, bar))?;
        if self.json {
            output::line(&summary_json(&summary, connections).to_string())?;
        } else {
            output::line(&summary_text(&summary, connections))?;
        }
        Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn read(env: &Env, path: &Path) -> Result<Vec<u8>, Failure> {
    if path != Path::new("-") {
        return Ok(env.read_file(path, FILE_BYTES_MAX)?);
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Err(error) => Err(Failure::new(format!("cannot read standard input: {error}"))),
        Ok(count) if count as u64 > FILE_BYTES_MAX => {
            Err(Failure::new(format!("standard input holds more than {}", text::human_bytes(FILE_BYTES_MAX))))
        }
        Ok(_) => Ok(bytes),
    }
}

fn requests_per_second(summary: &Summary) -> f64 {
    let requests = summary.passed + summary.failed - summary.stopped.as_ref().map_or(0, |&(_, not_run)| not_run);
    requests as f64 / summary.elapsed.as_secs_f64().max(1e-9)
}

fn summary_text(summary: &Summary, connections: usize) -> String {
    let mut text = String::new();
    for Mismatch { line, request, expected, got } in &summary.mismatches {
        text.push_str(&format!("line {line}: {request}\n    expected: {expected}\n    got:      {got}\n"));
    }
    let not_run = summary.stopped.as_ref().map_or(0, |&(_, not_run)| not_run);
    let hidden = summary.failed - not_run - summary.mismatches.len();
    if hidden > 0 {
        text.push_str(&format!("... and {hidden} more failures\n"));
    }
    if let Some((reason, not_run)) = &summary.stopped {
        text.push_str(&format!("stopped: {reason}; {not_run} requests were not sent and count as failed\n"));
    }
    if summary.resent > 0 {
        text.push_str(&format!("{} requests were sent again\n", summary.resent));
    }
    text.push_str(&format!(
        "peak in flight: {} ({connections} connections)\nelapsed: {:.3} s, {:.0} requests/s\n{} passed, {} failed",
        summary.peak_in_flight,
        summary.elapsed.as_secs_f64(),
        requests_per_second(summary),
        summary.passed,
        summary.failed,
    ));
    text
}

fn summary_json(summary: &Summary, connections: usize) -> serde_json::Value {
    let failures: Vec<_> = summary
        .mismatches
        .iter()
        .map(|Mismatch { line, request, expected, got }| {
            json!({"line": line, "request": request, "expected": expected, "got": got})
        })
        .collect();
    json!({
        "passed": summary.passed,
        "failed": summary.failed,
        "not_sent": summary.stopped.as_ref().map_or(0, |&(_, not_run)| not_run),
        "stopped": summary.stopped.as_ref().map(|(reason, _)| reason),
        "resent": summary.resent,
        "connections": connections,
        "peak_in_flight": summary.peak_in_flight,
        "elapsed_ms": u64::try_from(summary.elapsed.as_millis()).unwrap_or(u64::MAX),
        "requests_per_second": requests_per_second(summary),
        "failures": failures,
    })
}
