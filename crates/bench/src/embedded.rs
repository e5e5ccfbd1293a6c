//! The workloads against a database in this process: one thread per caller.

use std::sync::{Arc, Mutex, PoisonError};

use cairn::{Db, Durability, Keyspace};
use cairn_env::Env;

use crate::data::{Action, Data, Workload};
use crate::measure::{Measurement, Tally};
use crate::{Error, Result, Settings};

/// Puts every key, if it is not there from an earlier run; tells `progress` how many stand.
pub fn load_embedded(db: &Db, data: &Data, mut progress: impl FnMut(u64)) -> Result<()> {
    let keyspace = db.default_keyspace();
    if keyspace.get(data.last_key().as_bytes())?.is_some_and(|value| value.len() == data.value_bytes()) {
        return Ok(());
    }
    let mut loaded = 0;
    for entries in data.batches() {
        let mut batch = db.batch();
        for (key, value) in &entries {
            batch.put(&keyspace, key.as_bytes(), value);
        }
        db.write(batch, Durability::Buffered)?;
        loaded += entries.len() as u64;
        progress(loaded);
    }
    Ok(db.sync()?)
}

/// Runs one workload from `callers` threads.
pub fn run_embedded(
    env: &Env,
    db: &Db,
    data: &Arc<Data>,
    settings: &Settings,
    workload: Workload,
    callers: usize,
) -> Result<Measurement> {
    let deadline = env.now() + settings.duration;
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    for caller in 0..callers {
        let (own_env, data, results) = (env.clone(), Arc::clone(data), Arc::clone(&results));
        let keyspace = db.default_keyspace();
        threads.push(env.spawn(&format!("bench-{caller}"), move || {
            let mut random = data.stream(caller);
            let mut tally = Tally::start(&own_env);
            let outcome = loop {
                let action = data.next(workload, &mut random);
                let began = own_env.now();
                let entries = match execute(&keyspace, &data, action) {
                    Ok(entries) => entries,
                    Err(error) => break Err(error),
                };
                let ended = own_env.now();
                tally.operation(began, ended, entries);
                if ended >= deadline {
                    break Ok(tally);
                }
            };
            results.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        })?);
    }
    // All are waited for, also when one of them panicked.
    let ends: Vec<bool> = threads.into_iter().map(cairn_env::sync::Thread::join).collect();
    if ends.contains(&false) {
        return Err(Error::Panicked);
    }
    let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Measurement::of(results.into_iter().collect::<Result<_>>()?))
}

/// Does one operation and returns how many entries it read or wrote.
fn execute(keyspace: &Keyspace, data: &Data, action: Action<'_>) -> Result<u64> {
    match action {
        Action::Put { key, value } => {
            keyspace.put(key.as_bytes(), value)?;
            Ok(1)
        }
        Action::Get { key, exists } => {
            let length = keyspace.get_pinned(key.as_bytes())?.map(|value| value.len());
            data.check_get(&key, exists, length)
        }
        Action::Scan { start, end, limit, expected } => {
            let mut entries = 0;
            for entry in keyspace.range(start.as_bytes()..end.as_bytes()) {
                let (_, value) = entry?;
                data.check_get(&start, true, Some(value.len()))?;
                entries += 1;
                if entries == limit {
                    break;
                }
            }
            data.check_scan(&start, expected, entries)
        }
    }
}
