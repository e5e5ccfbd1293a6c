//! The log on a disk that fails, fills up and loses power.

use std::path::Path;

use cairn_env::testing::Rng;
use cairn_env::{CrashPolicy, Fault, FaultKind, Op, SimDisk};

use super::*;
use crate::testing::Owned;

fn on(disk: &SimDisk) -> Log {
    Log { env: Env::on_disk(disk.clone()), dir: "/d".into() }
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    Env::on_disk(disk.clone()).create_dir_all(Path::new("/d")).unwrap();
    disk.settle();
    disk
}

fn seqs(groups: &[Owned]) -> Vec<u64> {
    groups.iter().map(|group| group.first_seq).collect()
}

#[test]
fn a_failed_write_poisons_the_writer_and_not_what_was_appended() {
    for op in [Op::Write, Op::Create, Op::SyncDir] {
        let disk = disk();
        let log = on(&disk);
        let (mut writer, syncer) = log.create(1, 300);
        append(&mut writer, 1, &[1; 120]);
        disk.inject(Fault::new(FaultKind::Eio).on(op));
        assert!(matches!(writer.append(1, 2, &[Body::new(&[2; 120])]), Err(Error::Io(_))), "{op:?}");
        for _ in 0..2 {
            assert!(matches!(writer.append(1, 2, &[]), Err(Error::Poisoned { .. })), "{op:?}");
        }
        let synced = syncer.sync().unwrap();
        assert_eq!(synced, writer.position());
        let (groups, done) = on(&disk.crash(CrashPolicy::DropAll)).replay(1).unwrap();
        assert_eq!((seqs(&groups), done.cut), (vec![1], None), "{op:?}");
    }
}

/// The first sync fails and the system forgets the data; the second would say Ok.
#[test]
fn a_failed_sync_is_never_forgotten() {
    let disk = disk();
    let log = on(&disk);
    let (mut writer, syncer) = log.create(1, 1 << 20);
    append(&mut writer, 1, b"durable");
    let synced = syncer.sync().unwrap();
    append(&mut writer, 2, b"lost");
    disk.inject(Fault::new(FaultKind::SyncDrops).on(Op::Sync));
    assert!(matches!(syncer.sync(), Err(Error::Io(_))));
    for _ in 0..3 {
        assert!(matches!(syncer.sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(writer.append(1, 3, &[]), Err(Error::Poisoned { .. })));
        assert_eq!(syncer.synced(), synced);
    }
    assert!(matches!(writer.close(), Err(Error::Poisoned { .. })));
    let (groups, _) = on(&disk.crash(CrashPolicy::KeepAll)).replay(1).unwrap();
    assert_eq!(seqs(&groups), [1]);
}

/// However often the disk fills up, and wherever in an append: what was refused is gone for good,
/// even over a crash; what was accepted is there; and once there is space the log goes on.
#[test]
fn a_full_disk_refuses_and_forgets_and_recovers() {
    let mut refused = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let disk = disk();
        let log = on(&disk);
        let options = LogOptions { segment_bytes: 2000, allocate: seed % 2 == 0 };
        let (mut writer, syncer) = log.create_with(1, options).unwrap();
        let mut accepted = Vec::new();
        for seq in 1..60 {
            let room = if rng.one_in(3) { Some(disk.used_bytes() + rng.below(700)) } else { None };
            disk.set_space_bytes(room);
            match writer.append(1, seq, &[Body::new(&vec![seq as u8; rng.index(500)])]) {
                Ok(_) => accepted.push(seq),
                Err(Error::NoSpace(_)) => {
                    refused += 1;
                    let (groups, done) = log.replay(1).unwrap();
                    assert_eq!(
                        (seqs(&groups), done.cut, done.orphans),
                        (accepted.clone(), None, vec![]),
                        "seed {seed}"
                    );
                    assert_eq!(done.end, writer.position(), "seed {seed} seq {seq}");
                    let (groups, done) = on(&disk.crash(CrashPolicy::Random(seed))).replay(1).unwrap();
                    let seen = seqs(&groups);
                    assert_eq!(seen, accepted[..seen.len()], "seed {seed} seq {seq}");
                    assert!(done.end <= writer.position(), "seed {seed} seq {seq}");
                }
                Err(e) => panic!("seed {seed}: {e}"),
            }
            if rng.one_in(4) {
                assert_eq!(syncer.sync().unwrap(), writer.position());
            }
        }
        disk.set_space_bytes(None);
        writer.close().unwrap();
        let (groups, done) = log.replay(1).unwrap();
        assert_eq!(seqs(&groups), accepted, "seed {seed}");
        assert!(done.clean_close && done.orphans.is_empty(), "seed {seed}");
    }
    assert!(refused > 300, "{refused} refused");
}

/// A group that ends in zeros, on a disk that holds zeros there already, is whole before all of it
/// is written. When the disk then fills up, it was refused, and must not come back in a crash.
#[test]
fn a_refused_group_does_not_come_back() {
    let mut was_whole = 0;
    for seed in 0..200 {
        let disk = SimDisk::with_seed(seed);
        let log = Log::new(Env::on_disk(disk.clone()), Path::new("/d"));
        disk.settle();
        let options = LogOptions { segment_bytes: 1 << 20, allocate: true };
        let (mut writer, syncer) = log.create_with(1, options).unwrap();
        append(&mut writer, 1, b"accepted");
        syncer.sync().unwrap();
        append(&mut writer, 2, b"accepted, with zeros ahead");
        syncer.sync().unwrap();
        disk.inject(Fault::new(FaultKind::ShortWrite).on(Op::Write));
        disk.inject(Fault::new(FaultKind::Enospc).on(Op::Write).nth(2));
        disk.start_trace();
        assert!(matches!(writer.append(1, 3, &[Body::new(&[0; 3000])]), Err(Error::NoSpace(_))));
        was_whole += u64::from(disk.trace().iter().any(|step| step.op == Op::Write && step.len > 42));
        for one in 0..disk.pending_count() {
            for policy in [CrashPolicy::DropOne(one), CrashPolicy::KeepOne(one)] {
                let (groups, _) = on(&disk.crash(policy)).replay(1).unwrap();
                assert_eq!(seqs(&groups), [1, 2], "seed {seed}, {policy:?}");
            }
        }
        let (groups, done) = on(&disk.crash(CrashPolicy::DropAll)).replay(1).unwrap();
        assert_eq!((seqs(&groups), done.cut), (vec![1, 2], None), "seed {seed}");
        append(&mut writer, 4, b"goes on");
        assert_eq!(seqs(&log.replay(1).unwrap().0), [1, 2, 4]);
    }
    assert!(was_whole > 100);
}

/// What one run of the workload was told before the power went.
#[derive(Default)]
struct Told {
    created: bool,
    /// Where a replay begins by now, and the first group there.
    start: u64,
    first: u64,
    /// The last group whose append was called.
    tried: u64,
    /// The last group that is durable for sure.
    synced: u64,
    recycled: u64,
    closed: bool,
}

/// Appends, syncs, rolls, recycles and closes, until something fails.
fn work(log: &Log, seed: u64, told: &mut Told) -> Result<()> {
    let mut rng = Rng::new(seed);
    let options = LogOptions { segment_bytes: 1500, allocate: rng.one_in(2) };
    let sync_every = 1 + rng.below(5);
    (told.start, told.first) = (1, 1);
    let (mut writer, syncer) = log.create_with(1, options)?;
    told.created = true;
    for seq in 1..=40 {
        told.tried = seq;
        writer.append(2, seq, &[Body::new(&vec![seq as u8; rng.index(400)]), Body::new(b"second")])?;
        if rng.one_in(sync_every) {
            syncer.sync()?;
            told.synced = seq;
        }
        let &[oldest, next, ..] = writer.segments() else { continue };
        if rng.one_in(4) && syncer.synced().segment > next.id {
            // As an engine does: first a replay would begin later, then the file is let go.
            (told.start, told.first) = (next.id, next.first_seq.unwrap());
            writer.forget_before(next.id);
            if writer.offer_spare(oldest.id)? {
                told.recycled += 1;
            } else {
                log.env.remove(&log.path(oldest.id))?;
            }
        }
    }
    writer.close()?;
    told.closed = true;
    Ok(())
}

/// Each is a workload of about a hundred calls, cut at each of them.
const SEEDS: u64 = 6;

/// Power is cut at every call of the workload and the disk keeps what it likes of what was not
/// synced: a replay never fails, shows a prefix, and shows all that was durable.
#[test]
fn power_cut_at_every_call() {
    let (mut cuts, mut recycled) = (0, 0);
    for seed in 0..SEEDS {
        let whole = disk();
        let mut told = Told::default();
        work(&on(&whole), seed, &mut told).unwrap();
        recycled += told.recycled;
        let (_, done) = on(&whole.crash(CrashPolicy::DropAll)).replay(told.start).unwrap();
        assert!(told.closed && done.clean_close, "seed {seed}");
        for step in disk().steps() + 1..=whole.steps() {
            let disk = disk();
            disk.crash_at(step);
            let mut told = Told::default();
            assert!(work(&on(&disk), seed, &mut told).is_err() && !told.closed);
            if !told.created {
                continue;
            }
            let random = (0..6).map(|n| CrashPolicy::Random(seed ^ step << 8 ^ n));
            let garbage = (0..3).map(|n| CrashPolicy::Garbage(seed ^ step << 8 ^ n));
            let mut policies = vec![CrashPolicy::DropAll, CrashPolicy::KeepAll];
            policies.extend(random.chain(garbage));
            for one in 0..disk.pending_count() {
                policies.extend([CrashPolicy::DropOne(one), CrashPolicy::KeepOne(one)]);
            }
            for policy in policies {
                let what = format!("seed {seed}, power cut at call {step}, {policy:?}");
                let log = on(&disk.crash(policy));
                let (groups, done) = log.replay(told.start).unwrap_or_else(|e| panic!("{what}: {e}"));
                let end = told.first + groups.len() as u64;
                assert_eq!(seqs(&groups), (told.first..end).collect::<Vec<_>>(), "{what}");
                assert!(end > told.synced && end <= told.tried + 1, "{what}: up to {end}, {} durable", told.synced);
                cuts += u64::from(done.cut.is_some());
                // A new log begins beside whatever is left, and the old one becomes its orphan.
                let (mut writer, _) = log.create(done.next_id, 1000);
                append(&mut writer, 1, b"anew");
                writer.close().unwrap();
                let (groups, anew) = log.replay(done.next_id).unwrap();
                assert!(groups.len() == 1 && anew.clean_close && anew.cut.is_none(), "{what}");
                assert!(anew.orphans.contains(&told.start), "{what}");
            }
        }
    }
    println!("{cuts} torn ends, {recycled} recycled");
    assert!(cuts > 100 && recycled > SEEDS, "{cuts} torn ends, {recycled} recycled");
}
