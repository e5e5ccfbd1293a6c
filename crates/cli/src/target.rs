//! Where a command's requests go: to a server, or to a database directory that no server has open.
//!
//! Owns the arguments that say so, and one blocking form of the few operations that commands need,
//! the same for both. Refuses retries and printing.

use std::collections::BTreeMap;
use std::env;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use cairn::{Db, ErrorKind, Options};
use cairn_client::{Client, Level, ScanLine, ScanQuery, Stats};
use cairn_env::Env;
use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Where the other commands look for what `serve` has started.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:8080";
/// The variable that names another server; the Python SDK reads it too.
const URL_VARIABLE: &str = "CAIRN_URL";
/// A token longer than this is some other file.
const TOKEN_FILE_BYTES_MAX: u64 = 4_096;

/// The server that a command talks to if it is not told: what the variable says, unless that is empty.
/// It is a default and not clap's `env`, which takes a variable for an argument that was given: `--dir` would be
/// refused wherever the variable is set.
pub(crate) fn url_default() -> String {
    let url = env::var_os(URL_VARIABLE).filter(|url| !url.is_empty());
    url.map_or_else(|| URL_DEFAULT.to_owned(), |url| url.to_string_lossy().into_owned())
}

/// The arguments of a command that talks to a server.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// The server's address; if not given, what the variable CAIRN_URL says
    #[arg(long, value_name = "URL", default_value_t = url_default())]
    url: String,
    /// A file that holds the server's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The arguments of a command that talks to a server or opens a directory itself.
#[derive(Args, Debug)]
pub(crate) struct TargetArgs {
    /// The server's address; if not given, what the variable CAIRN_URL says
    #[arg(long, value_name = "URL", default_value_t = url_default())]
    url: String,
    /// A file that holds the server's token
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    token_file: Option<PathBuf>,
    /// Open this database directory instead, when no server runs on it
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    dir: Option<PathBuf>,
}

/// A server's address, and how to be let in.
#[derive(Clone, Debug)]
pub(crate) struct ServerAddress {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
}

/// An open target. Every operation blocks until it is done.
pub(crate) enum Target {
    Server { client: Client, runtime: Runtime },
    Directory { db: Db },
}

/// What to do about a directory that holds no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Refuse,
}

impl ServerArgs {
    pub(crate) fn address(&self, env: &Env) -> Result<ServerAddress, Failure> {
        let token = self.token_file.as_deref().map(|path| read_token(env, path)).transpose()?;
        Ok(ServerAddress { url: self.url.clone(), token })
    }
}

impl TargetArgs {
    pub(crate) fn open(&self, env: &Env, if_missing: IfMissing) -> Result<Target, Failure> {
        match &self.dir {
            Some(dir) => Target::directory(env, dir, if_missing, "go there with --url"),
            None => Target::server(env, &self.url, self.token_file.as_deref()),
        }
    }
}

impl Target {
    /// What `text` names: a server if it is a URL, else a directory that holds a database.
    pub(crate) fn named(env: &Env, text: &str, token_file: Option<&Path>) -> Result<Target, Failure> {
        if text.contains("://") {
            return Target::server(env, text, token_file);
        }
        match token_file {
            Some(_) => Err(Failure::new("--token-file is for servers; a directory needs none")),
            None => Target::directory(env, Path::new(text), IfMissing::Refuse, "give its URL instead"),
        }
    }

    fn server(env: &Env, url: &str, token_file: Option<&Path>) -> Result<Target, Failure> {
        let token = token_file.map(|path| read_token(env, path)).transpose()?;
        Ok(Target::Server { client: Client::new(url, token.as_deref())?, runtime: small_runtime()? })
    }

    /// `instead` is how this command is sent to a server.
    fn directory(env: &Env, dir: &Path, if_missing: IfMissing, instead: &str) -> Result<Target, Failure> {
        let options = Options { create_if_missing: if_missing == IfMissing::Create, ..Options::default() };
        match Db::open_in(env, dir, options) {
            Ok(db) => Ok(Target::Directory { db }),
            // What most likely holds it, and what to do then.
            Err(error) if error.kind() == ErrorKind::Busy => {
                Err(Failure::new(format!("{error}; if a server runs on it, {instead}")))
            }
            // `localhost:8080` where a directory or a URL is expected.
            Err(error) if error.kind() == ErrorKind::NotFound && dir.to_string_lossy().contains(':') => {
                Err(Failure::new(format!("{error}; a server's URL begins with http://")))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Target::Server { client, runtime } => Ok(runtime.block_on(client.get(key))?.value),
            Target::Directory { db } => Ok(db.default_keyspace().get(key)?),
        }
    }

    pub(crate) fn put(&self, key: &[u8], value: Vec<u8>) -> Result<(), Failure> {
        match self {
            Target::Server { client, runtime } => {
                runtime.block_on(client.put(key, value))?;
            }
            Target::Directory { db } => {
                db.default_keyspace().put(key, &value)?;
            }
        }
        Ok(())
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), Failure> {
        match self {
            Target::Server { client, runtime } => {
                runtime.block_on(client.delete(key))?;
            }
            Target::Directory { db } => {
                db.default_keyspace().delete(key)?;
            }
        }
        Ok(())
    }

    /// Hands every entry of the range to `each`, ascending, holding one at a time.
    pub(crate) fn scan(
        &self,
        query: &ScanQuery,
        mut each: impl FnMut(ScanLine) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Target::Server { client, runtime } => runtime.block_on(async {
                let mut entries = client.entries(query).await?;
                while let Some(entry) = entries.next().await? {
                    each(entry)?;
                }
                Ok(())
            }),
            Target::Directory { db } => {
                let start = query.start.clone().map_or(Bound::Unbounded, Bound::Included);
                let end = query.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
                let limit = query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
                for entry in db.default_keyspace().range((start, end)).take(limit) {
                    let (key, value) = entry?;
                    each(ScanLine { key, value })?;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn stats(&self) -> Result<Stats, Failure> {
        match self {
            Target::Server { client, runtime } => Ok(runtime.block_on(client.stats())?),
            Target::Directory { db } => {
                let stats = db.stats();
                let level = |level: &cairn::LevelStats| Level {
                    keyspace: level.keyspace.clone(),
                    level: level.level as u64,
                    tables: level.tables,
                    bytes: level.bytes,
                    entries: level.entries,
                };
                Ok(Stats {
                    health: stats.health().to_string(),
                    stall_reason: stats.stall_reason().map(|reason| reason.to_string()),
                    last_background_error: stats.last_background_error().map(str::to_owned),
                    engine: stats.metrics().iter().map(|metric| (metric.name.to_owned(), metric.value)).collect(),
                    server: BTreeMap::new(),
                    levels: stats.levels().iter().map(level).collect(),
                })
            }
        }
    }

    pub(crate) fn compact(&self) -> Result<(), Failure> {
        match self {
            Target::Server { client, runtime } => {
                runtime.block_on(client.compact())?;
            }
            Target::Directory { db } => db.compact()?,
        }
        Ok(())
    }

    /// Ends it, saying what went wrong where a drop could not.
    pub(crate) fn close(self) -> Result<(), Failure> {
        match self {
            Target::Server { .. } => Ok(()),
            Target::Directory { db } => Ok(db.close()?),
        }
    }
}

/// Reads a token: the file's only line.
pub(crate) fn read_token(env: &Env, path: &Path) -> Result<String, Failure> {
    let bytes = env.read_file(path, TOKEN_FILE_BYTES_MAX)?;
    let fail = |what: &str| Failure::new(format!("{} {what}; it should hold the token on one line", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| fail("is not text"))?;
    let token = text.trim_end_matches(['\n', '\r']);
    match token {
        "" => Err(fail("is empty")),
        token if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(fail("holds spaces, several lines, or characters that a header cannot carry"))
        }
        token => Ok(token.to_owned()),
    }
}

/// A runtime for one connection.
fn small_runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(runtime_failure)
}

/// A runtime for many.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(runtime_failure)
}

/// A runtime of so many threads; one is the caller's own.
pub(crate) fn runtime_of(threads: usize) -> Result<Runtime, Failure> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().map_err(runtime_failure)
}

/// Done when the process is told to stop, by SIGTERM or Ctrl-C.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn runtime_failure(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot start the threads for network input and output: {error}"))
}
