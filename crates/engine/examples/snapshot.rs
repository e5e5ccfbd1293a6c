//! A snapshot sees the past while writes go on, through flush and compaction.
//!
//! ```sh
//! cargo run --package cairn --example snapshot              # in memory, gone afterwards
//! cargo run --package cairn --example snapshot -- my-data   # in a directory
//! ```

use cairn::{Db, Env, Options};

fn main() -> cairn::Result<()> {
    let db = match std::env::args().nth(1) {
        Some(dir) => Db::open(dir, Options::default())?,
        None => Db::open_in(&Env::memory(), "data", Options::default())?,
    };
    run(&db)?;
    db.close()
}

pub(crate) fn run(db: &Db) -> cairn::Result<()> {
    let accounts = db.keyspace("accounts")?;
    accounts.put(b"alice", b"100")?;
    accounts.put(b"bob", b"20")?;

    let before = db.snapshot();

    accounts.put(b"alice", b"70")?;
    accounts.put(b"bob", b"50")?;
    accounts.delete(b"carol")?;
    // The versions that the snapshot needs outlive both.
    db.flush()?;
    db.compact()?;

    println!("number  alice  bob");
    let now = accounts.latest(cairn::Visibility::Applied).pinned();
    for reader in [accounts.at(&before)?, now] {
        let [alice, bob] = [reader.get(b"alice")?, reader.get(b"bob")?].map(|value| value.unwrap_or_default());
        println!("{:>6}  {:>5}  {:>3}", reader.seq(), String::from_utf8_lossy(&alice), String::from_utf8_lossy(&bob));
    }

    // Once it goes, compaction may drop what only it needed.
    drop(before);
    db.compact()?;
    let entries: u64 = db.stats().levels().iter().filter(|l| l.keyspace == "accounts").map(|l| l.entries).sum();
    println!("without the snapshot {entries} entries are left in the tables");
    Ok(())
}
