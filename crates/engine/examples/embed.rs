//! A database inside a program: open, put, get, range, delete.
//!
//! ```sh
//! cargo run --package cairn --example embed              # in memory, gone afterwards
//! cargo run --package cairn --example embed -- my-data   # in a directory; run it twice
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
    // A put returns when the value is on stable storage: `Durability::Commit` is the default.
    db.put(b"cairn/ben-nevis", b"1345 m")?;
    db.put(b"cairn/scafell-pike", b"978 m")?;
    db.put(b"cairn/snowdon", b"1085 m")?;
    db.put(b"note", b"heights above the sea")?;

    let height = db.get(b"cairn/snowdon")?;
    println!("cairn/snowdon is {}", text(height.as_deref().unwrap_or(b"unknown")));

    // In place, without a copy.
    let length = db.default_keyspace().get_with(b"note", <[u8]>::len)?;
    println!("note has {} bytes", length.unwrap_or(0));

    println!("all cairns, from the last to the first:");
    for entry in db.prefix(b"cairn/").rev() {
        let (key, value) = entry?;
        println!("  {} = {}", text(&key), text(&value));
    }

    db.delete(b"cairn/scafell-pike")?;
    let left: Vec<_> = db.range(b"cairn/b".as_slice()..b"cairn/t").collect::<cairn::Result<_>>()?;
    println!("after a delete {} are left", left.len());

    // Keyspaces are trees of their own that share one log.
    let users = db.keyspace("users")?;
    users.put(b"u1", b"ada")?;
    println!("keyspaces: {}", db.keyspaces().join(", "));
    Ok(())
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
