//! One engine in this process, for a profiler: the database stays, with a note of what is in it.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::engine::{Kind, Result, Setup};
use crate::results::Config;
use crate::scenario::{Task, work};
use crate::workload::{Bench, Reporter, load, settle};

/// What is in a kept database.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    engine: String,
    keys: u64,
    value_bytes: usize,
    inserted: u64,
    generation: u32,
}

/// Loads the database in `dir` unless it is there, and runs workloads of scenario `main` on it.
pub fn run(kind: &'static Kind, workloads: &[String], config: &Config, dir: &Path) -> Result<()> {
    let data = Data::new(config.keys, config.value_bytes);
    let (db_dir, note) = (dir.join("db"), dir.join("kept.json"));
    let kept: Option<Kept> = match std::fs::read_to_string(&note) {
        Ok(text) => Some(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", note.display()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", note.display()).into()),
    };
    if let Some(kept) = &kept {
        if (kept.engine.as_str(), kept.keys, kept.value_bytes) != (kind.name, config.keys, config.value_bytes) {
            return Err(format!(
                "{} holds {} keys x {} B of {}; name another --dir or remove it",
                dir.display(),
                kept.keys,
                kept.value_bytes,
                kept.engine
            )
            .into());
        }
        data.restore((kept.inserted, kept.generation));
    } else if db_dir.exists() {
        return Err(format!("{} was not left in good order; name another --dir or remove it", dir.display()).into());
    }
    // Until the note is written anew nobody goes on with what is there.
    if kept.is_some() {
        std::fs::remove_file(&note)?;
    }
    std::fs::create_dir_all(&db_dir)?;
    let engine = (kind.open)(&db_dir, &Setup { cache_bytes: config.cache_mib << 20, durable: false, memory_bytes_max: None })?;
    let bench =
        Bench { engine: engine.as_ref(), data: &data, dir: &db_dir, duration: Duration::from_secs_f64(config.seconds) };
    let task = Task {
        engine: kind.name.to_owned(),
        scenario: "main".to_owned(),
        phase: 0,
        rep: 1,
        config: config.clone(),
        dir: dir.to_owned(),
        commit: String::new(),
        memory_group: None,
    };
    let reporter = Reporter::new(crate::child::template(&task)?);
    if kept.is_none() && workloads.first().is_none_or(|first| first != "load_random") {
        load::fill(&bench, false)?;
        settle::settle(&bench)?;
    }
    for workload in workloads {
        work(&bench, &reporter, workload)?;
    }
    engine.close()?;
    let (inserted, generation) = data.state();
    let kept =
        Kept { engine: kind.name.to_owned(), keys: data.keys, value_bytes: data.value_bytes, inserted, generation };
    Ok(std::fs::write(&note, serde_json::to_string(&kept)?)?)
}
