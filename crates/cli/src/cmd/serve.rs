//! `cairn serve`: a database behind HTTP until it is told to stop.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn::{Db, Options};
use cairn_env::Env;
use cairn_server::{Server, ServerConfig};
use clap::{Args, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;
use crate::output;
use crate::target::{self, read_token};
use crate::text;

/// Where `serve` listens unless told otherwise; the server's own default, and that of `--url`.
const HTTP_DEFAULT: &str = "127.0.0.1:8080";

/// Serve a database directory over HTTP
///
/// Makes the directory if it is not there, prints one line per listener once it accepts, and runs
/// until SIGTERM or Ctrl-C: then it finishes the requests in flight, closes the database and exits
/// with 0.
///
///     PUT /{key}     the body is the value; echoed when it is as safe as --durability says
///     GET /{key}     200 and the value, or 404
///     DELETE /{key}  200, whether the key existed or not
///     GET /scan?start=a&end=b&limit=n     the keys from a up to but not including b
///     GET /v1/healthz /v1/stats /v1/metrics     (healthz also without the token)
///     POST /v1/batch /v1/compact /v1/flush
///
/// A scan needs at least one of its parameters: /scan alone is the key `scan`.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Serve {
    /// Where the data lives
    #[arg(default_value = "./cairn-data")]
    dir: PathBuf,
    /// The address to listen on; port 0 takes a free one. Beyond this machine only with --token-file
    #[arg(long, value_name = "HOST:PORT", default_value = HTTP_DEFAULT)]
    http: String,
    /// When a write is answered: commit (it is on stable storage), interval:TIME (the system has it;
    /// synced that often) or os (the system has it, and syncs when it likes)
    #[arg(long, default_value = "commit", value_parser = Durability::parse)]
    durability: Durability,
    /// Sizes and triggers: default, or series, whose small ones let a reader watch the engine work
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    profile: Profile,
    /// The memory budget for caches, write buffers and indexes, such as 256MiB or 2GiB [default: a
    /// quarter of the machine's]
    #[arg(long, value_name = "BYTES", value_parser = text::parse_bytes)]
    memory: Option<u64>,
    /// A file whose one line every request must bring as `Authorization: Bearer ...`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let clients set the clock of the tasks forward, so that a test need not sleep. Never in earnest
    #[arg(long)]
    test_clock: bool,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Commit,
    Interval(Duration),
    Os,
}

/// Sizes and triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// For production
    Default,
    /// Of the series: small enough to watch flushes and compactions happen
    Series,
}

impl Durability {
    pub(crate) fn parse(text: &str) -> Result<Durability, String> {
        match text.split_once(':') {
            None if text == "commit" => Ok(Durability::Commit),
            None if text == "os" => Ok(Durability::Os),
            Some(("interval", interval)) => match text::parse_duration(interval)? {
                Duration::ZERO => Err("an interval of nothing is `commit`".to_owned()),
                interval => Ok(Durability::Interval(interval)),
            },
            _ => Err("expected commit, interval:TIME (such as interval:1s) or os".to_owned()),
        }
    }

    /// `options` with this durability and memory budget.
    pub(crate) fn apply(self, options: Options, memory_budget_bytes: u64) -> Options {
        let (durability, sync_interval) = match self {
            Durability::Commit => (cairn::Durability::Commit, None),
            Durability::Interval(interval) => (cairn::Durability::Buffered, Some(interval)),
            Durability::Os => (cairn::Durability::Buffered, None),
        };
        Options { durability, sync_interval, memory_budget_bytes, ..options }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Commit => f.write_str("commit"),
            Durability::Interval(interval) => write!(f, "interval:{}ms", interval.as_millis()),
            Durability::Os => f.write_str("os"),
        }
    }
}

impl Profile {
    pub(crate) fn options(self) -> Options {
        match self {
            Profile::Default => Options::default(),
            Profile::Series => Options::series(),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Default => "default",
            Profile::Series => "series",
        })
    }
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let env = Env::real();
        let token = self.token_file.as_deref().map(|path| read_token(&env, path)).transpose()?;
        let memory = self.memory.unwrap_or_else(|| a_quarter_of_memory(&env));
        let options = self.durability.apply(self.profile.options(), memory);
        let mut config = ServerConfig {
            http: self.http,
            token,
            durability: options.durability,
            test_clock: self.test_clock,
            ..ServerConfig::default()
        };
        // A database that cannot open another file cannot write.
        config.limits.connections_max = config.limits.connections_max.min((open_files_max() / 2).max(1));
        let db = Db::open_in(&env, &self.dir, options)?;
        target::runtime()?
            .block_on(async {
                let stop = target::stop_signal()?;
                let server = Server::bind(config, db).await?;
                output::line(&format!("listening on http://{}", server.local_addr()))?;
                Ok(server.run(stop).await?)
            })
            .map(|()| ExitCode::SUCCESS)
    }
}

/// Files and sockets that this process may have open, once it has taken all that the system allows.
fn open_files_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// The least the engine works with.
const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// A quarter of what this process may use: of the machine's memory, or of its control group's limit.
fn a_quarter_of_memory(env: &Env) -> u64 {
    let machine = read_kernel(env, "/proc/meminfo").as_deref().and_then(mem_total);
    let group = read_kernel(env, "/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => (u64::min(machine, group) / 4).max(MEMORY_BYTES_MIN),
        (Some(bytes), None) | (None, Some(bytes)) => (bytes / 4).max(MEMORY_BYTES_MIN),
        // A machine that does not say gets what an embedded database gets.
        (None, None) => Options::default().memory_budget_bytes,
    }
}

/// The total of `/proc/meminfo`, in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The beginning of one of the kernel's files; they say that they are empty.
fn read_kernel(env: &Env, path: &str) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let got = env.open(Path::new(path)).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
    bytes.truncate(got);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_the_default_of_all() {
        assert_eq!(ServerConfig::default().http, HTTP_DEFAULT);
        assert_eq!(target::URL_DEFAULT, format!("http://{HTTP_DEFAULT}"));
    }

    #[test]
    fn durabilities() {
        assert_eq!(Durability::parse("commit"), Ok(Durability::Commit));
        assert_eq!(Durability::parse("os"), Ok(Durability::Os));
        assert_eq!(Durability::parse("interval:1s"), Ok(Durability::Interval(Duration::from_secs(1))));
        for text in ["", "Commit", "interval", "interval:", "interval:0s", "interval:1", "os:1s", "commit:1s"] {
            assert!(Durability::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durability_decides_what_a_write_waits_for() {
        let apply = |durability: Durability| durability.apply(Options::default(), 64 << 20);
        let commit = apply(Durability::Commit);
        assert_eq!((commit.durability, commit.sync_interval), (cairn::Durability::Commit, None));
        let second = Some(Duration::from_secs(1));
        let interval = apply(Durability::Interval(Duration::from_secs(1)));
        assert_eq!((interval.durability, interval.sync_interval), (cairn::Durability::Buffered, second));
        let os = apply(Durability::Os);
        assert_eq!((os.durability, os.sync_interval), (cairn::Durability::Buffered, None));
        assert_eq!(os.memory_budget_bytes, 64 << 20);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(mem_total("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(mem_total("MemTotal: much\n"), None);
        assert_eq!(mem_total(""), None);
        assert!(a_quarter_of_memory(&Env::real()) >= MEMORY_BYTES_MIN);
    }
}
