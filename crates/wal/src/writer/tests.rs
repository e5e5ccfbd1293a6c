use super::*;
use crate::testing::{Log, append};

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
