//! Appending, rolling, closing, recycling; and the same on a disk that fails.

use super::*;
use crate::testing::{Log, NAMING, append};

#[test]
fn what_is_appended_is_replayed_over_many_segments() {
    for allocate in [false, true] {
        let log = Log::in_memory();
        let (mut writer, syncer) = log.create_with(3, LogOptions { segment_bytes: 1000, allocate }).unwrap();
        let mut expected = Vec::new();
        for seq in 1..=60u64 {
            let bodies: Vec<Vec<u8>> = (0..seq % 4).map(|n| vec![seq as u8; (seq * 7 * n) as usize % 150]).collect();
            let borrowed: Vec<Body<'_>> = bodies.iter().map(|body| Body::new(body)).collect();
            let start = writer.position();
            let end = writer.append(1 + (seq % 3) as u8, seq * 10, &borrowed).unwrap();
            assert!(end > start && end == writer.position());
            if seq % 5 == 0 {
                assert_eq!(syncer.sync().unwrap(), end);
                assert_eq!(syncer.synced(), end);
            }
            expected.push((1 + (seq % 3) as u8, seq * 10, end, bodies));
        }
        let segments = writer.segments().to_vec();
        assert!(segments.len() > 5, "{segments:?}");
        assert!(segments.iter().all(|segment| segment.bytes <= 1000 && segment.first_seq.is_some()));

        let (groups, done) = log.replay(3).unwrap();
        let found: Vec<_> = groups.into_iter().map(|g| (g.kind, g.first_seq, g.end, g.bodies)).collect();
        assert_eq!(found, expected);
        assert_eq!(done.segments, segments);
        assert_eq!(done.end, writer.position());
        assert_eq!((done.last_seq, done.cut, done.clean_close), (Some(600), None, false));
        assert_eq!((done.orphans, done.next_id), (vec![], segments.last().unwrap().id + 1));

        // From a later start the rest is the same, and what is before it is no part of the log.
        let later = segments[2].id;
        let (groups, done) = log.replay(later).unwrap();
        assert_eq!(groups.first().map(|g| Some(g.first_seq)), Some(segments[2].first_seq));
        assert_eq!(done.segments, segments[2..]);
        assert_eq!(done.orphans, [3, 4]);
    }
}

#[test]
fn a_closed_log_says_so() {
    let log = Log::in_memory();
    let (mut writer, _) = log.create(1, 1 << 20);
    append(&mut writer, 5, b"last");
    writer.close().unwrap();
    let (groups, done) = log.replay(1).unwrap();
    assert_eq!(groups.len(), 1);
    assert!(done.clean_close && done.cut.is_none());
    assert_eq!(done.last_seq, Some(5));
}

#[test]
fn a_group_longer_than_a_segment_has_its_own() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 500);
    append(&mut writer, 1, b"small");
    append(&mut writer, 2, &[2; 5000]);
    append(&mut writer, 3, b"small");
    syncer.sync().unwrap();
    let bytes: Vec<u64> = writer.segments().iter().map(|segment| segment.bytes).collect();
    assert_eq!(bytes, [72 + 48, 72 + 5044, 72 + 48]);
    // Also as the first of all.
    let (mut writer, _) = log.create(10, 500);
    append(&mut writer, 1, &[2; 5000]);
    assert_eq!(writer.segments().len(), 1);
    assert_eq!(log.replay(1).unwrap().0.len(), 3);
    assert_eq!(log.replay(10).unwrap().0.len(), 1);
}

#[test]
fn what_breaks_a_rule_is_refused_and_changes_nothing() {
    let log = Log::in_memory();
    let (mut writer, _) = log.create(5, 1 << 20);
    append(&mut writer, 7, b"first");
    let before = log.read(5);
    assert!(matches!(writer.append(KIND_CLOSING, 8, &[]), Err(Error::Invalid(_))));
    assert!(matches!(writer.append(1, 7, &[]), Err(Error::Invalid(_))));
    assert!(matches!(writer.append(1, 6, &[]), Err(Error::Invalid(_))));
    let huge = vec![0; usize::try_from(format::BODY_BYTES_MAX).unwrap() + 1];
    assert!(matches!(writer.append(1, 8, &[Body::new(&huge)]), Err(Error::TooLarge { .. })));
    assert_eq!(log.read(5), before);
    append(&mut writer, 8, b"second");
    assert_eq!(log.replay(5).unwrap().0.len(), 2);
    // Ids only grow: a segment that is there is never written over, nor chained around.
    let options = LogOptions { segment_bytes: 100, allocate: false };
    for id in [4, 5] {
        assert!(matches!(log.create_with(id, options), Err(Error::Invalid(_))));
    }
}

#[test]
fn a_spare_becomes_the_next_segment_and_its_past_is_never_seen() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 1000);
    let mut seq = 0;
    let mut fill = |writer: &mut LogWriter, segment| {
        while writer.position().segment < segment {
            seq += 1;
            append(writer, seq, &[seq as u8; 77]);
        }
    };
    fill(&mut writer, 4);
    assert!(!writer.offer_spare(4).unwrap(), "in use");
    assert!(!writer.offer_spare(1).unwrap(), "not durable yet");
    syncer.sync().unwrap();
    assert_eq!(writer.forget_before(3).iter().map(|segment| segment.id).collect::<Vec<_>>(), [1, 2]);
    assert!(writer.offer_spare(1).unwrap());
    assert!(!writer.offer_spare(2).unwrap(), "one is enough");
    let names = ["log-0000000002.wal", "log-0000000003.wal", "log-0000000004.wal", "log-spare.wal"];
    assert_eq!(log.names(), names);

    fill(&mut writer, 5);
    assert!(!log.names().contains(&"log-spare.wal".to_owned()));
    assert!(log.read(5).len() > writer.position().offset as usize, "the old bytes are still behind the new ones");
    let (groups, done) = log.replay(3).unwrap();
    assert_eq!(done.cut, None);
    assert_eq!(groups.last().map(|group| group.end), Some(writer.position()));
    assert_eq!(groups.iter().map(|g| g.first_seq).collect::<Vec<_>>(), (groups[0].first_seq..=seq).collect::<Vec<_>>());

    assert!(writer.offer_spare(2).unwrap());
    writer.drop_spares().unwrap();
    assert_eq!(log.names(), ["log-0000000003.wal", "log-0000000004.wal", "log-0000000005.wal"]);
}

#[test]
fn a_spare_that_was_left_over_goes_and_a_long_one_is_not_taken() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 300);
    append(&mut writer, 1, &[1; 1000]);
    append(&mut writer, 2, b"x");
    syncer.sync().unwrap();
    append(&mut writer, 3, &[1; 190]);
    append(&mut writer, 4, &[1; 190]);
    syncer.sync().unwrap();
    assert!(!writer.offer_spare(1).unwrap(), "longer than a segment");
    assert!(writer.offer_spare(2).unwrap());
    drop((writer, syncer));
    assert!(log.names().contains(&"log-spare.wal".to_owned()));
    drop(log.create(9, 300));
    assert!(!log.names().contains(&"log-spare.wal".to_owned()));
}

#[test]
fn zeros_are_written_ahead_only_for_who_syncs_and_in_growing_stretches() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create_with(1, LogOptions { segment_bytes: 1 << 20, allocate: true }).unwrap();
    let len = |log: &Log| log.env.open(&log.path(1)).unwrap().len().unwrap();
    for seq in 1..10 {
        append(&mut writer, seq, &[1; 100]);
    }
    assert_eq!(len(&log), writer.position().offset);
    let mut lengths = Vec::new();
    for seq in 10..9000 {
        syncer.sync().unwrap();
        append(&mut writer, seq, &[1; 100]);
        lengths.push(len(&log));
    }
    lengths.dedup();
    let steps: Vec<u64> = lengths.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(lengths[0] > 64 << 10 && lengths[0] < 80 << 10, "{lengths:?}");
    assert_eq!(steps, [128 << 10, 256 << 10, 512 << 10, (1 << 20) - lengths[3]], "{lengths:?}");
    assert_eq!(lengths.last(), Some(&(1 << 20)));
    assert_eq!(log.replay(1).unwrap().1.cut, None);
}

#[test]
fn a_closed_log_shows_damage_to_its_very_end() {
    let log = Log::in_memory();
    let (mut writer, _) = log.create(1, 1 << 20);
    append(&mut writer, 1, b"last");
    let data_end = writer.position().offset as usize;
    writer.close().unwrap();
    let sound = log.read(1);
    let second = sound.len() - format::group_bytes(&[]).unwrap() as usize;
    assert!(second.is_multiple_of(BLOCK_BYTES as usize));
    for at in SEGMENT_HEADER_BYTES as usize..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        log.write(1, &bytes);
        match log.replay(1) {
            Err(Error::Corrupt { offset, .. }) => {
                assert_eq!(offset as usize, if at < data_end { SEGMENT_HEADER_BYTES as usize } else { data_end });
                assert!(at < second);
            }
            Ok((groups, done)) => {
                assert!(at >= second && groups.len() == 1 && !done.clean_close && done.cut.is_some(), "{at}");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn one_thread_syncs_while_another_appends() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 20_000);
    let other = syncer.clone();
    let thread = log.env.spawn("syncer", move || {
        let mut last = other.synced();
        while last.segment < 20 {
            let synced = other.sync().unwrap();
            assert!(synced >= last && other.synced() >= synced && other.appended() >= synced);
            last = synced;
        }
    });
    let mut seq = 0;
    while writer.position().segment <= 20 {
        seq += 1;
        append(&mut writer, seq, &[seq as u8; 100]);
    }
    assert!(thread.unwrap().join());
    assert_eq!(syncer.sync().unwrap(), writer.position());
    assert_eq!(log.replay(1).unwrap().0.len() as u64, seq);
}

/// The same on the file system of the machine.
#[test]
fn on_real_files() {
    let dir = cairn_env::testing::TempDir::new();
    let log = Log::new(Env::real(), dir.path());
    let (mut writer, syncer) = log.create_with(1, LogOptions { segment_bytes: 1 << 20, allocate: true }).unwrap();
    for seq in 1..=300 {
        append(&mut writer, seq, &vec![seq as u8; 10_000]);
        if seq % 30 == 0 {
            assert_eq!(syncer.sync().unwrap(), writer.position());
        }
        if seq == 200 {
            assert!(writer.offer_spare(1).unwrap());
        }
    }
    let end = writer.position();
    let (groups, done) = log.replay(2).unwrap();
    assert_eq!((done.end, done.cut, done.segments.len()), (end, None, 2));
    assert!(groups.iter().all(|group| group.bodies == [vec![group.first_seq as u8; 10_000]]));
    writer.close().unwrap();
    assert!(log.replay(2).unwrap().1.clean_close);
    // As the thread of a commit leader does.
    fn goes_between_threads<T: Send>() {}
    goes_between_threads::<LogWriter>();
}

#[test]
fn a_log_may_begin_beside_the_rest_of_one_that_never_came_to_be() {
    let log = Log::in_memory();
    assert_eq!(NAMING.next_id(&log.env, &log.dir).unwrap(), 1);
    log.write(1, b"CAIRN");
    let id = NAMING.next_id(&log.env, &log.dir).unwrap();
    let (mut writer, _) = log.create(id, 1000);
    append(&mut writer, 1, b"x");
    let (groups, done) = log.replay(id).unwrap();
    assert_eq!((groups.len(), done.orphans, done.next_id), (1, vec![1], 3));
}

mod on_a_bad_disk;
