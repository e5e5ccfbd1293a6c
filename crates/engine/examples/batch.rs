//! Batches: several writes as one, and conditions that make a read and a write one step.
//!
//! Four threads move money between two accounts. Each reads, decides, and writes only if what it
//! read still stands; whoever comes too late gets `Conflict` and starts over. No money is lost.
//!
//! ```sh
//! cargo run --package cairn --example batch              # in memory, gone afterwards
//! cargo run --package cairn --example batch -- my-data   # in a directory
//! ```

use cairn::{Db, Durability, Env, ErrorKind, Keyspace, Options, Reader, Visibility};

const THREADS: u64 = 4;
const TRANSFERS_EACH: u64 = 50;

fn main() -> cairn::Result<()> {
    let env = Env::real();
    let db = match std::env::args().nth(1) {
        Some(dir) => Db::open(dir, Options::default())?,
        None => Db::open_in(&Env::memory(), "data", Options::default())?,
    };
    run(&env, &db)?;
    db.close()
}

pub(crate) fn run(env: &Env, db: &Db) -> cairn::Result<()> {
    let accounts = db.keyspace("accounts")?;
    let log = db.keyspace("log")?;

    // All or nothing, also across keyspaces.
    let mut batch = db.batch();
    batch.put(&accounts, b"alice", b"1000");
    batch.put(&accounts, b"bob", b"0");
    batch.put(&log, b"opened", b"two accounts");
    db.write(batch, Durability::Commit)?;

    // Refused as a whole: alice is there already.
    let mut batch = db.batch();
    batch.require_absent(&accounts, b"alice");
    batch.put(&accounts, b"alice", b"0");
    batch.put(&log, b"opened", b"again");
    match db.write(batch, Durability::Commit) {
        Err(e) if e.kind() == ErrorKind::Conflict => println!("refused: {e}"),
        other => println!("this was not refused: {other:?}"),
    }

    let mut threads = Vec::new();
    for _ in 0..THREADS {
        let (db, accounts) = (db.clone(), accounts.clone());
        let body = move || match transfers(&db, &accounts) {
            Ok(retries) => println!("{TRANSFERS_EACH} transfers, {retries} of them tried again"),
            Err(e) => println!("a transfer failed: {e}"),
        };
        threads.push(env.spawn("transfers", body)?);
    }
    for thread in threads {
        thread.join();
    }

    let now = accounts.latest(Visibility::Applied).pinned();
    let (alice, bob) = (balance(&now, b"alice")?, balance(&now, b"bob")?);
    println!("alice has {alice}, bob has {bob}, together {}", alice + bob);
    Ok(())
}

/// Moves one from alice to bob, again and again; returns how often it had to start over.
fn transfers(db: &Db, accounts: &Keyspace) -> cairn::Result<u64> {
    let mut retries = 0;
    for _ in 0..TRANSFERS_EACH {
        loop {
            // Both balances as of one moment, and the number of that moment.
            let read = accounts.latest(Visibility::Applied).pinned();
            let (alice, bob) = (balance(&read, b"alice")?, balance(&read, b"bob")?);

            let mut batch = db.batch();
            batch.require_unchanged(accounts, b"alice", read.seq());
            batch.require_unchanged(accounts, b"bob", read.seq());
            batch.put(accounts, b"alice", (alice - 1).to_string().as_bytes());
            batch.put(accounts, b"bob", (bob + 1).to_string().as_bytes());
            match db.write(batch, Durability::Commit) {
                Ok(_) => break,
                Err(e) if e.kind() == ErrorKind::Conflict => retries += 1,
                Err(e) => return Err(e),
            }
        }
    }
    Ok(retries)
}

fn balance(reader: &Reader, account: &[u8]) -> cairn::Result<i64> {
    let value = reader.get(account)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&value).parse().unwrap_or(0))
}
