//! The workloads against a server: one connection, and one task, per caller.

use std::sync::Arc;

use cairn_client::{BatchRequest, Client, Op, ScanQuery, WriteDurability};
use cairn_env::Env;
use tokio::task::JoinSet;

use crate::data::{Action, Data, Workload};
use crate::measure::{Measurement, Tally};
use crate::{Error, Result, Settings};

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

/// Runs one workload over `callers` connections. `connect` gives each its own client.
pub async fn run_http(
    env: &Env,
    connect: impl Fn() -> cairn_client::Result<Client>,
    data: &Arc<Data>,
    settings: &Settings,
    workload: Workload,
    callers: usize,
) -> Result<Measurement> {
    let mut clients = Vec::new();
    for _ in 0..callers {
        let client = connect()?;
        client.connect().await?;
        clients.push(client);
    }
    let deadline = env.now() + settings.duration;
    let mut tasks: JoinSet<Result<Tally>> = JoinSet::new();
    for (caller, client) in clients.into_iter().enumerate() {
        let (env, data) = (env.clone(), Arc::clone(data));
        tasks.spawn(async move {
            let mut random = data.stream(caller);
            let mut tally = Tally::start(&env);
            loop {
                let action = data.next(workload, &mut random);
                let began = env.now();
                let entries = execute(&client, &data, action).await?;
                let ended = env.now();
                tally.operation(began, ended, entries);
                if ended >= deadline {
                    return Ok(tally);
                }
            }
        });
    }
    let mut tallies = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        tallies.push(finished.map_err(|_| Error::Panicked)??);
    }
    Ok(Measurement::of(tallies))
}

/// Does one operation and returns how many entries it read or wrote.
async fn execute(client: &Client, data: &Data, action: Action<'_>) -> Result<u64> {
    match action {
        Action::Put { key, value } => {
            let echo = client.put(key.as_bytes(), value).await?.echo;
            if echo == value { Ok(1) } else { Err(Error::WrongAnswer(format!("the echo of {key} differs"))) }
        }
        Action::Get { key, exists } => {
            let length = client.get(key.as_bytes()).await?.value.map(|value| value.len());
            data.check_get(&key, exists, length)
        }
        Action::Scan { start, end, limit, expected } => {
            let query = ScanQuery { start: Some(start.clone().into()), end: Some(end.into()), limit: Some(limit) };
            let mut entries = client.entries(&query).await?;
            let mut count = 0;
            while let Some(entry) = entries.next().await? {
                data.check_get(&start, true, Some(entry.value.len()))?;
                count += 1;
            }
            data.check_scan(&start, expected, count)
        }
    }
}
