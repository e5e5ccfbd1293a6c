//! Replay of logs with damage in every place.

use super::*;
use crate::testing::{Log, NAMING, Owned, append};
use crate::{Body, Item, LogOptions, Scan};
use cairn_env::testing::Rng;

/// Every group of the log in its order, closing groups too, as single files tell them.
fn scan_all(log: &Log, segments: &[SegmentInfo]) -> Vec<Owned> {
    let mut groups = Vec::new();
    for segment in segments {
        let mut scan = Scan::open(&log.env, &log.path(segment.id), NAMING).unwrap();
        assert_eq!(scan.header().unwrap().id, segment.id);
        while let Some(item) = scan.next().unwrap() {
            let Item::Group(group) = item else { continue };
            groups.push(Owned {
                position: group.position,
                end: group.end,
                kind: group.kind,
                first_seq: group.first_seq,
                synced: group.synced,
                bodies: group.bodies().map(<[u8]>::to_vec).collect(),
            });
        }
    }
    groups
}

/// A log whose segments are whole, and all that is known of it.
struct Sound {
    name: &'static str,
    log: Log,
    start: u64,
    segments: Vec<SegmentInfo>,
    files: Vec<(u64, Vec<u8>)>,
    /// All groups, closing ones included.
    groups: Vec<Owned>,
}

impl Sound {
    fn new(name: &'static str, log: Log, start: u64) -> Sound {
        let (visited, done) = log.replay(start).unwrap();
        assert_eq!((done.cut, &done.orphans), (None, &vec![]), "{name}");
        let groups = scan_all(&log, &done.segments);
        let callers: Vec<Owned> = groups.iter().filter(|group| group.kind != KIND_CLOSING).cloned().collect();
        assert_eq!(visited, callers, "{name}");
        let files = done.segments.iter().map(|segment| (segment.id, log.read(segment.id))).collect();
        Sound { name, log, start, segments: done.segments, files, groups }
    }

    /// What must come of it when group `bad` cannot be read, and of the groups after it `seen`.
    fn check(&self, what: &str, bad: usize, seen: impl Fn(&Owned) -> bool) {
        let name = self.name;
        let position = self.groups[bad].position;
        let claimed = self.groups[bad + 1..].iter().any(|group| seen(group) && group.synced > position);
        match self.log.replay(self.start) {
            Ok((visited, done)) => {
                assert!(!claimed, "{name}, {what}: lost group {bad} at {position}, which was durable");
                let expected: Vec<_> = self.groups[..bad].iter().filter(|g| g.kind != KIND_CLOSING).cloned().collect();
                assert_eq!(visited, expected, "{name}, {what}");
                assert!(!done.clean_close, "{name}, {what}");
            }
            Err(Error::Corrupt { path, offset, claim, .. }) => {
                assert!(claimed, "{name}, {what}: group {bad} at {position} was not known durable");
                assert_eq!((path, offset), (self.log.path(position.segment), position.offset), "{name}, {what}");
                assert!(claim.unwrap().synced > position);
            }
            Err(e) => panic!("{name}, {what}: {e}"),
        }
    }

    fn restore(&self) {
        for (id, bytes) in &self.files {
            self.log.write(*id, bytes);
        }
    }
}

/// Logs of every make: closed or not, synced or not, recycled, with groups that fill a segment.
fn sound_logs() -> Vec<Sound> {
    let mut logs = Vec::new();
    let fill = |log: &Log, id, seqs: std::ops::Range<u64>, sync_every: u64, close: bool| {
        let (mut writer, syncer) = log.create(id, 600);
        for seq in seqs {
            let body = vec![seq as u8; (seq * 37 % 190) as usize];
            writer.append(3, seq, &[Body::new(&body), Body::new(b"second")]).unwrap();
            if sync_every > 0 && seq % sync_every == 0 {
                syncer.sync().unwrap();
            }
        }
        if close {
            writer.close().unwrap();
        }
    };
    for (name, sync_every, close) in [
        ("never synced", 0, false),
        ("synced always", 1, false),
        ("synced now and then", 4, false),
        ("closed", 0, true),
        ("synced and closed", 3, true),
    ] {
        let log = Log::in_memory();
        fill(&log, 1, 1..13, sync_every, close);
        logs.push(Sound::new(name, log, 1));
    }

    let log = Log::in_memory();
    let (mut writer, syncer) = log.create_with(1, LogOptions { segment_bytes: 600, allocate: true }).unwrap();
    for seq in 1..12 {
        append(&mut writer, seq, &vec![7; if seq == 6 { 1500 } else { 100 }]);
        if seq < 9 {
            syncer.sync().unwrap();
        }
    }
    logs.push(Sound::new("zeros ahead, one group longer than a segment", log, 1));

    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 600);
    for seq in 1..16 {
        append(&mut writer, seq, &[seq as u8; 130]);
        if seq % 2 == 0 {
            syncer.sync().unwrap();
        }
        if seq == 5 {
            assert!(writer.offer_spare(1).unwrap());
        }
    }
    drop(writer);
    let recycled = Sound::new("recycled", log, 2);
    assert!(!recycled.log.names().contains(&NAMING.name(1)));
    logs.push(recycled);
    logs
}

#[test]
fn every_flipped_bit_gives_a_prefix_or_an_error_where_durable_bytes_are_lost() {
    for sound in sound_logs() {
        for (id, bytes) in &sound.files {
            let info = sound.segments.iter().find(|segment| segment.id == *id).unwrap();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                sound.log.write(*id, &flipped);
                let what = format!("bit {} of byte {at} of segment {id}", at % 8);
                let hit = |group: &Owned| {
                    let (from, to) = (group.position.offset as usize, group.end.offset as usize);
                    group.position.segment == *id && (from..to).contains(&at)
                };
                if let Some(bad) = sound.groups.iter().position(hit) {
                    sound.check(&what, bad, |_| true);
                } else if at < SEGMENT_HEADER_BYTES as usize {
                    match sound.log.replay(sound.start) {
                        Err(Error::Corrupt { path, offset: 0, .. }) => assert_eq!(path, sound.log.path(*id), "{what}"),
                        other => panic!("{}, {what}: {other:?}", sound.name),
                    }
                } else {
                    // Behind the last group: nothing is lost. What should be zeros is reported.
                    assert!(at as u64 >= info.bytes);
                    let (visited, done) = sound.log.replay(sound.start).unwrap();
                    let all = sound.groups.iter().filter(|group| group.kind != KIND_CLOSING);
                    assert_eq!(visited.len(), all.count(), "{what}");
                    let last = sound.segments.last().unwrap().id == *id;
                    let recycled = SegmentHeader::decode(bytes).unwrap().recycled;
                    assert_eq!(done.cut.is_some(), last && !recycled, "{}, {what}", sound.name);
                }
            }
            sound.log.write(*id, bytes);
        }
    }
}

#[test]
fn every_truncation_gives_a_prefix_or_an_error_where_durable_bytes_are_lost() {
    for sound in sound_logs() {
        for (id, bytes) in &sound.files {
            for len in SEGMENT_HEADER_BYTES as usize..bytes.len() {
                sound.log.write(*id, &bytes[..len]);
                let lost = |group: &Owned| group.position.segment == *id && group.end.offset > len as u64;
                let Some(bad) = sound.groups.iter().position(lost) else { continue };
                // A header within the file still speaks, though its bodies are gone.
                let header_end = |group: &Owned| group.position.offset as usize + crate::format::GROUP_HEADER_LEN;
                let what = format!("segment {id} cut to {len}");
                sound.check(&what, bad, |group| group.position.segment != *id || header_end(group) <= len);
            }
            sound.restore();
        }
    }
}

#[test]
fn a_missing_segment_is_corruption_if_a_later_one_says_it_was_durable() {
    let (mut corrupt, mut cut) = (0, 0);
    for sound in sound_logs() {
        for (id, bytes) in &sound.files {
            // Gone, or with half a header: then it held no group, as far as anyone can see.
            for left in [None, Some(&bytes[..40]), Some(&[][..])] {
                sound.log.remove(*id);
                if let Some(left) = left {
                    sound.log.write(*id, left);
                }
                let before: Vec<_> = sound
                    .groups
                    .iter()
                    .filter(|g| g.position.segment < *id && g.kind != KIND_CLOSING)
                    .cloned()
                    .collect();
                let end =
                    sound.segments.iter().rfind(|s| s.id < *id).map(|s| Position { segment: s.id, offset: s.bytes });
                let claimed = sound.groups.iter().any(|g| g.position.segment > *id && Some(g.synced) > end);
                let later = sound.segments.last().unwrap().id > *id;
                match sound.log.replay(sound.start) {
                    Err(Error::Missing { path }) => {
                        assert!(*id == sound.start && left.is_none() && path == sound.log.path(*id))
                    }
                    Err(Error::Corrupt { path, offset, what, .. }) if *id != sound.start => {
                        assert!(claimed, "{}: {id}", sound.name);
                        assert_eq!((path, offset, what), (sound.log.path(*id), 0, Damage::MissingSegment { id: *id }));
                        corrupt += 1;
                    }
                    Err(Error::Corrupt { offset: 0, .. }) => assert!(left.is_some()),
                    Err(e) => panic!("{e}"),
                    Ok((visited, done)) => {
                        assert!(!claimed && *id != sound.start, "{}: {id}", sound.name);
                        assert_eq!(visited, before);
                        assert_eq!(done.cut.map(|cut| cut.reason), later.then_some(Damage::MissingSegment { id: *id }));
                        cut += u64::from(later);
                    }
                }
                sound.restore();
            }
        }
    }
    assert!(corrupt > 10 && cut > 2, "{corrupt} {cut}");
}

#[test]
fn an_unfinished_rewrite_is_an_orphan_and_so_is_what_follows_it() {
    let log = Log::in_memory();
    let (mut old, _) = log.create(1, 300);
    for seq in 1..6 {
        append(&mut old, seq, &[1; 60]);
    }
    let (old_groups, before) = log.replay(1).unwrap();
    let rewrite_id = before.next_id;
    let (mut rewrite, syncer) = log.create(rewrite_id, 300);
    for seq in 1..6 {
        append(&mut rewrite, seq, &[1; 60]);
        syncer.sync().unwrap();
    }
    let rewritten: Vec<u64> = rewrite.segments().iter().map(|segment| segment.id).collect();
    assert!(rewritten.len() > 1 && before.segments.len() > 1);

    // While the start is the old one, the new ones do not count; nor when some of them are gone.
    let (groups, done) = log.replay(1).unwrap();
    assert_eq!((groups, done.cut, &done.orphans), (old_groups, None, &rewritten));
    // Once the start has moved, the old ones do not count.
    let (groups, done) = log.replay(rewrite_id).unwrap();
    assert_eq!((groups.len(), done.cut), (5, None));
    assert_eq!(done.orphans, before.segments.iter().map(|segment| segment.id).collect::<Vec<_>>());
    log.remove(rewrite_id);
    let (_, done) = log.replay(1).unwrap();
    assert_eq!((done.cut, done.orphans), (None, rewritten[1..].to_vec()));
    assert_eq!(done.next_id, rewritten.last().unwrap() + 1);
}

#[test]
fn a_torn_end_is_cut_with_all_that_follows_it() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 1 << 20);
    append(&mut writer, 1, b"durable");
    syncer.sync().unwrap();
    let torn = writer.position();
    append(&mut writer, 2, b"torn");
    append(&mut writer, 3, b"whole, but after a torn one");
    let end = append(&mut writer, 4, b"likewise");
    let mut bytes = log.read(1);
    bytes[torn.offset as usize + 42] ^= 1;
    log.write(1, &bytes);
    let (groups, done) = log.replay(1).unwrap();
    assert_eq!(groups.iter().map(|g| g.first_seq).collect::<Vec<_>>(), [1]);
    assert_eq!(done.end, torn);
    let cut = done.cut.unwrap();
    assert_eq!((cut.position, cut.reason, cut.groups_cut), (torn, Damage::Body { index: 0 }, 3));
    assert!(cut.bytes_cut <= end.offset - torn.offset && cut.bytes_cut > end.offset - torn.offset - 4);
}

#[test]
fn a_sector_of_zeros_before_durable_groups_is_corruption() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 1 << 20);
    for seq in 1..200 {
        append(&mut writer, seq, &[0xEE; 100]);
        syncer.sync().unwrap();
    }
    let (groups, _) = log.replay(1).unwrap();
    let at = groups[50].position.offset as usize;
    let mut bytes = log.read(1);
    bytes[at..at + 512].fill(0);
    log.write(1, &bytes);
    match log.replay(1) {
        Err(e @ Error::Corrupt { .. }) => {
            let text = e.to_string();
            assert!(text.contains("log-0000000001.wal is damaged at offset"), "{text}");
            assert!(text.contains("says that the log was durable up to"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// A value that holds what looks like a group claiming all sorts of things must not be believed:
/// it cannot know the salt. (The attack: store such values, pull the plug, and the database
/// refuses to open.)
#[test]
fn a_group_inside_a_body_is_not_believed() {
    let log = Log::in_memory();
    let (mut writer, _) = log.create(1, 1 << 20);
    let torn = writer.position();
    append(&mut writer, 1, b"to be torn");
    let inside = writer.position().offset + 32 + 9 + 3;
    let position = Position { segment: 1, offset: inside };
    let start = crate::format::GroupStart { kind: 1, position, salt: 42, first_seq: 9, synced: position };
    let mut forged = Vec::new();
    crate::format::encode_group(&mut forged, &start, &[]).unwrap();
    append(&mut writer, 2, &[&[0; 3][..], &forged].concat());
    let mut bytes = log.read(1);
    assert_eq!(bytes[inside as usize..][..forged.len()], forged);
    bytes[torn.offset as usize + 42] ^= 1;
    log.write(1, &bytes);
    let (groups, done) = log.replay(1).unwrap();
    assert!(groups.is_empty());
    assert_eq!(done.cut.unwrap().groups_cut, 2);
}

#[test]
fn a_start_of_a_newer_format_or_with_another_name_is_refused() {
    let log = Log::in_memory();
    drop(log.create(1, 600));
    let bytes = log.read(1);
    log.write(2, &bytes);
    assert!(matches!(log.replay(2), Err(Error::Corrupt { what: Damage::Elsewhere { .. }, .. })));
    let (_, done) = log.replay(1).unwrap();
    assert_eq!(done.orphans, [2]);

    let mut newer = bytes;
    newer[8] = 9;
    let sum = cairn_codec::checksum64(&newer[..12]).to_le_bytes();
    newer[12..16].copy_from_slice(&sum[..4]);
    log.write(2, &newer);
    for start in [1, 2] {
        match log.replay(start) {
            Err(Error::Newer { path, version: 9 }) => assert_eq!(path, log.path(2)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_visitor_can_stop_the_replay() {
    let log = Log::in_memory();
    let (mut writer, _) = log.create(1, 600);
    for seq in 1..5 {
        append(&mut writer, seq, b"x");
    }
    let mut seen = 0;
    let stopped = replay(&log.env, &log.dir, NAMING, 1, |group| {
        seen += 1;
        if group.first_seq == 2 { Err("enough") } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(ReplayError::Visit("enough"))));
    assert_eq!(seen, 2);
}

/// Groups and searches that cross the window in which a file is read.
#[test]
fn groups_across_and_beyond_the_window() {
    let log = Log::in_memory();
    let (mut writer, syncer) = log.create(1, 64 << 20);
    let sizes = [1 << 20, 3, (1 << 20) - 200, 5 << 20, 77, 500_000, 900_000];
    for (seq, len) in (1..).zip(sizes) {
        append(&mut writer, seq, &vec![seq as u8; len]);
    }
    syncer.sync().unwrap();
    append(&mut writer, 8, b"says that all before it was durable");
    let (groups, done) = log.replay(1).unwrap();
    assert_eq!(groups[..7].iter().map(|g| g.bodies[0].len()).collect::<Vec<_>>(), sizes);
    assert_eq!((groups.len(), done.cut), (8, None));
    let sound = log.read(1);
    for bad in 0..7 {
        let mut bytes = sound.clone();
        bytes[groups[bad].position.offset as usize + 40] ^= 0x10;
        log.write(1, &bytes);
        match log.replay(1) {
            Err(Error::Corrupt { offset, claim, .. }) => {
                assert_eq!((offset, claim.unwrap().by), (groups[bad].position.offset, groups[7].position));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The header that makes the difference lies across two of the windows in which a file is searched.
#[test]
fn a_claim_across_the_windows_of_the_search_is_heard() {
    for before_end in (0..=40).step_by(4) {
        let log = Log::in_memory();
        let (mut writer, syncer) = log.create(1, 64 << 20);
        append(&mut writer, 1, &vec![1; (1 << 20) - before_end - 32 - 3 - 8]);
        syncer.sync().unwrap();
        append(&mut writer, 2, b"claims");
        let mut bytes = log.read(1);
        bytes[SEGMENT_HEADER_BYTES as usize] ^= 1;
        log.write(1, &bytes);
        match log.replay(1) {
            Err(Error::Corrupt { claim: Some(claim), .. }) => {
                let expected = SEGMENT_HEADER_BYTES + (1 << 20) - before_end as u64;
                assert!(claim.by.offset - expected < 4, "{before_end}");
            }
            other => panic!("{before_end}: {other:?}"),
        }
    }
}

/// Random damage of whole logs, many bytes at a time: replay and scan end, without a panic, with a
/// prefix of what was written or with an error.
#[test]
fn random_damage_never_shows_a_wrong_group() {
    let logs = sound_logs();
    let mut prefixes = 0;
    for seed in 0..3000u64 {
        let mut rng = Rng::new(seed);
        let sound = &logs[rng.index(logs.len())];
        for _ in 0..=rng.below(3) {
            let (id, bytes) = &sound.files[rng.index(sound.files.len())];
            let mut bytes = bytes.clone();
            let (from, to) = (rng.index(bytes.len()), rng.index(bytes.len()));
            match rng.below(6) {
                0 => bytes[from..].iter_mut().for_each(|b| *b = rng.next_u64() as u8),
                1 => bytes[from.min(to)..from.max(to)].fill(0),
                2 => bytes.truncate(from),
                // Misdirected: a stretch of the file, or of another, in the wrong place.
                3 => bytes.copy_within(from.min(to)..from.max(to), 0),
                4 => {
                    let (_, other) = &sound.files[rng.index(sound.files.len())];
                    let len = other.len().min(bytes.len()).saturating_sub(from);
                    let from = from.min(bytes.len() - len).min(other.len() - len);
                    bytes[from..from + len].copy_from_slice(&other[from..from + len]);
                }
                _ => bytes.extend((0..200).map(|_| rng.next_u64() as u8)),
            }
            sound.log.write(*id, &bytes);
        }
        let expected: Vec<&Owned> = sound.groups.iter().filter(|group| group.kind != KIND_CLOSING).collect();
        match sound.log.replay(sound.start) {
            Ok((visited, _)) => {
                assert!(visited.iter().zip(&expected).all(|(a, b)| a == *b), "seed {seed}");
                assert!(visited.len() <= expected.len(), "seed {seed}");
                prefixes += 1;
            }
            Err(Error::Corrupt { .. } | Error::Newer { .. }) => {}
            Err(e) => panic!("seed {seed}: {e}"),
        }
        for (id, _) in &sound.files {
            let mut scan = Scan::open(&sound.log.env, &sound.log.path(*id), NAMING).unwrap();
            while let Some(item) = scan.next().unwrap() {
                if let Item::Group(group) = &item {
                    assert!(sound.groups.iter().any(|g| g.position == group.position), "seed {seed}");
                }
            }
        }
        sound.restore();
    }
    assert!(prefixes > 100, "{prefixes}");
}
