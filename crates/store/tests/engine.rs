//! The engine keeps the contract, in memory and on a disk, with small limits and with its own.

use cairn::{Db, Env, Options};
use cairn_env::testing::TempDir;

#[test]
fn the_engine_keeps_the_contract() {
    let tiny = || Options { memtable_bytes_max: 64 << 10, ..Options::default() };
    let (mut stores, mut checks) = (0, 0);
    for options in [Options::default(), Options::series(), tiny()] {
        let db = Db::open_in(&Env::memory(), "data", options).unwrap();
        checks += cairn_store::conformance::check(&db);
        stores += 1;
    }
    let dir = TempDir::new();
    let db = Db::open(dir.path(), Options::default()).unwrap();
    checks += cairn_store::conformance::check(&db);
    println!("proof: stores that keep the contract = {}", stores + 1);
    println!("proof: checks of the contract = {checks}");
}
