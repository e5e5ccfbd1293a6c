//! The workloads against a server: one connection, and one task, per caller. Puts and gets are written and read by
//! hand (`wire`), since what the load costs is taken from a server beside it; scans go by the client.

use std::sync::Arc;
use std::time::Duration;

use cairn_client::{BatchRequest, Client, Op, ScanQuery, WriteDurability};
use cairn_env::Env;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::data::{Action, Data, Workload};
use crate::measure::{Measurement, Tally};
use crate::wire::{Answer, Connection};
use crate::{Error, Result, Settings};

/// How long after a workload's time its last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// A server, and how to be let in.
#[derive(Clone)]
pub struct Peer {
    /// `http://HOST:PORT`.
    pub url: String,
    /// What it wants as `Authorization: Bearer`.
    pub token: Option<String>,
}

impl Peer {
    /// A client of it, with connections of its own.
    ///
    /// # Errors
    /// [`Error::Client`] if the address or the token is not of their form.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.url, self.token.as_deref())?)
    }
}

/// What one caller asks by.
struct Caller {
    connection: Connection,
    /// Connects with the first scan.
    client: Client,
}

/// Puts every key, if it is not there from an earlier run; tells `progress` how many stand.
pub async fn load_http(client: &Client, data: &Data, mut progress: impl FnMut(u64)) -> Result<()> {
    let last = client.get(data.last_key().as_bytes()).await?.value;
    if last.is_some_and(|value| value.len() == data.value_bytes()) {
        return Ok(());
    }
    let mut loaded = 0;
    let keys = data.keys();
    for entries in data.batches() {
        loaded += entries.len() as u64;
        let op = |(key, value): (String, &[u8])| Op::Put { keyspace: None, key: key.into(), value: value.to_vec() };
        let ops = entries.into_iter().map(op).collect();
        // The last one is synced, and everything before with it.
        let durability = Some(if loaded < keys { WriteDurability::Buffered } else { WriteDurability::Commit });
        client.batch(&BatchRequest { ops, conditions: Vec::new(), durability }).await?;
        progress(loaded);
    }
    Ok(())
}

/// Runs one workload over `callers` connections.
///
/// # Errors
/// The first that a caller met; [`Error::Connection`] also for answers that have not come a minute after the workload's time.
pub async fn run_http(
    env: &Env,
    peer: &Peer,
    data: &Arc<Data>,
    settings: &Settings,
    workload: Workload,
    callers: usize,
) -> Result<Measurement> {
    let mut connected = Vec::new();
    for _ in 0..callers {
        let client = peer.client()?;
        let connection = Connection::open(&client, peer.token.as_deref()).await?;
        connected.push(Caller { connection, client });
    }
    let deadline = env.now() + settings.duration;
    let mut tasks: JoinSet<Result<Tally>> = JoinSet::new();
    for (number, mut caller) in connected.into_iter().enumerate() {
        let (env, data) = (env.clone(), Arc::clone(data));
        tasks.spawn(async move {
            let mut random = data.stream(number);
            let mut tally = Tally::start(&env);
            loop {
                let action = data.next(workload, &mut random);
                let began = env.now();
                let entries = caller.execute(&data, action).await?;
                let ended = env.now();
                tally.operation(began, ended, entries);
                if ended >= deadline {
                    return Ok(tally);
                }
            }
        });
    }
    let finish = async {
        let mut tallies = Vec::new();
        while let Some(finished) = tasks.join_next().await {
            tallies.push(finished.map_err(|_| Error::Panicked)??);
        }
        Ok(Measurement::of(tallies))
    };
    // One timer for all: one for each operation would be part of what is measured.
    let waited = settings.duration + LAST_ANSWERS;
    timeout(waited, finish).await.map_err(|_| Error::Connection(format!("{} does not answer", peer.url)))?
}

impl Caller {
    /// Does one operation and returns how many entries it read or wrote.
    async fn execute(&mut self, data: &Data, action: Action<'_>) -> Result<u64> {
        match action {
            Action::Put { key, value } => match self.connection.put(&key, value).await? {
                Answer { status: 200, body } if body == value => Ok(1),
                Answer { status: 200, .. } => Err(Error::WrongAnswer(format!("the echo of {key} differs"))),
                answer => Err(refused(&key, &answer)),
            },
            Action::Get { key, exists } => match self.connection.get(&key).await? {
                Answer { status: 200, body } => data.check_get(&key, exists, Some(body.len())),
                Answer { status: 404, .. } => data.check_get(&key, exists, None),
                answer => Err(refused(&key, &answer)),
            },
            Action::Scan { start, end, limit, expected } => {
                let query = ScanQuery { start: Some(start.clone().into()), end: Some(end.into()), limit: Some(limit) };
                let mut entries = self.client.entries(&query).await?;
                let mut count = 0;
                while let Some(entry) = entries.next().await? {
                    data.check_get(&start, true, Some(entry.value.len()))?;
                    count += 1;
                }
                data.check_scan(&start, expected, count)
            }
        }
    }
}

/// The server said no.
fn refused(key: &str, answer: &Answer<'_>) -> Error {
    let text = String::from_utf8_lossy(answer.body);
    Error::Refused(format!("{key} was answered {}: {}", answer.status, text.trim()))
}
