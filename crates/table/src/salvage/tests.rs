//! A table is flipped at every place: what is salvaged is what was written, less the ranges told.

use std::cmp::Reverse;

use cairn_env::Env;

use super::*;
use crate::testing::{Dir, Model, Rng};
use crate::{Compression, Load, TableOptions};

type Version = (Vec<u8>, u64, u8, Vec<u8>);

fn salvaged(table: Arc<Table>) -> (Vec<Version>, Vec<Lost>) {
    let (mut entries, mut lost) = (Vec::new(), Vec::new());
    let mut salvage = Salvage::new(table);
    salvage.step(&mut |range| lost.push(range));
    while salvage.valid() {
        entries.push((salvage.key().to_vec(), salvage.seq(), salvage.kind(), salvage.value().to_vec()));
        salvage.step(&mut |range| lost.push(range));
    }
    (entries, lost)
}

fn versions(model: &Model) -> Vec<Version> {
    model.iter().map(|((key, Reverse(seq)), (kind, value))| (key.clone(), *seq, *kind, value.clone())).collect()
}

#[test]
fn of_a_sound_table_everything_is_there() {
    let dir = Dir::new();
    for (id, block_bytes) in [(1, 64), (2, 500), (3, 1 << 20)] {
        let model = Rng(id).model(700);
        dir.build(id, &TableOptions { block_bytes, ..TableOptions::default() }, &model);
        let (entries, lost) = salvaged(dir.open(id, Load::OnDemand, None).unwrap());
        assert_eq!(lost, []);
        assert!(entries == versions(&model));
    }
}

#[test]
fn of_a_damaged_table_all_is_there_but_the_ranges_told() {
    let dir = Dir::new();
    let (mut blocks, mut partitions, mut filter, mut whole) = (0, 0, 0, 0);
    for compression in [Compression::None, Compression::Lz4] {
        let model = Rng(9).model(400);
        let all = versions(&model);
        let options = TableOptions { block_bytes: 256, compression, ..TableOptions::default() };
        let summary = dir.build(1, &options, &model);
        let sound = dir.open(1, Load::OnDemand, None).unwrap();
        let footer = sound.footer();
        let (data_end, filter_at, index_at) = (footer.data_end, footer.filter.offset, footer.index.offset);
        let file = Env::real().open_writable(&dir.path("1")).unwrap();
        for at in 0..summary.file_bytes {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
            match dir.open(1, Load::OnDemand, None) {
                Ok(table) if (filter_at..index_at).contains(&at) => {
                    assert!(salvaged(Arc::clone(&table)) == (all.clone(), Vec::new()), "byte {at}");
                    assert!(matches!(table.verify(&mut |_| {}), Err(Error::Corrupt { .. })), "byte {at}");
                    filter += 1;
                }
                Ok(table) => {
                    let (entries, lost) = salvaged(table);
                    let [range] = lost.as_slice() else { panic!("byte {at}: {lost:?}") };
                    assert!(range.offset <= at && range.from <= range.to, "byte {at}: {range:?}");
                    let inside = |v: &&Version| (&range.from..=&range.to).contains(&&v.0);
                    let missing = all.len() - entries.len();
                    assert!((1..=all.iter().filter(inside).count()).contains(&missing), "byte {at}: {missing} missing");
                    assert!(entries.iter().all(|entry| all.contains(entry)), "byte {at}");
                    assert!(entries.iter().filter(|v| !inside(v)).eq(all.iter().filter(|v| !inside(v))), "byte {at}");
                    if at < data_end { blocks += 1 } else { partitions += 1 }
                }
                Err(_) => {
                    assert!(at >= index_at, "byte {at}");
                    whole += 1;
                }
            }
            file.write_all_at(&byte, at).unwrap();
        }
    }
    let counts = (blocks, partitions, filter, whole);
    assert!(blocks > 1000 && partitions > 500 && filter > 200 && whole > 200, "{counts:?}");
}
