//! The bytes of a log: golden, damaged, hostile.

use super::*;
use cairn_env::testing::Rng;

fn hex(bytes: &[u8]) -> Vec<String> {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(16).map(line).collect()
}

const HEADER: SegmentHeader = SegmentHeader {
    id: 0x0102,
    origin: 0x0101,
    previous: Some(Position { segment: 0x0101, offset: 0x1048 }),
    recycled: true,
    salt: 0x1122_3344_5566_7788,
};

const START: GroupStart = GroupStart {
    kind: 7,
    position: Position { segment: 0x0102, offset: 72 },
    salt: HEADER.salt,
    first_seq: 0x99,
    synced: Position { segment: 0x0101, offset: 0x1040 },
};

fn place() -> Place {
    HEADER.place(72)
}

fn encoded(bodies: &[&[u8]]) -> Vec<u8> {
    let bodies: Vec<Body<'_>> = bodies.iter().map(|body| Body::new(body)).collect();
    let mut bytes = Vec::new();
    encode_group(&mut bytes, &START, &bodies).unwrap();
    bytes
}

fn decoded(bytes: &[u8]) -> std::result::Result<Group<'_>, Damage> {
    Group::decode(&GroupHeader::decode(bytes, place())?, bytes)
}

/// A change of these bytes is a change of format.
#[test]
fn golden_segment_header() {
    assert_eq!(
        hex(&HEADER.encode()),
        [
            "43 41 49 52 4e 4c 4f 47 00 00 00 00 be a7 e5 3e",
            "01 00 00 00 00 00 00 00 02 01 00 00 00 00 00 00",
            "01 01 00 00 00 00 00 00 01 01 00 00 00 00 00 00",
            "48 10 00 00 00 00 00 00 88 77 66 55 44 33 22 11",
            "19 f8 26 4a 1f 14 19 17",
        ]
    );
    let first = SegmentHeader { id: 1, origin: 1, previous: None, recycled: false, salt: 0 };
    assert_eq!(
        hex(&first.encode()),
        [
            "43 41 49 52 4e 4c 4f 47 00 00 00 00 be a7 e5 3e",
            "00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00",
            "01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
            "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
            "56 b1 ad db 2f db c0 ad"
        ]
    );
}

/// A change of these bytes is a change of format.
#[test]
fn golden_group() {
    assert_eq!(
        hex(&encoded(&[b"cairn", b"", b"of stones"])),
        [
            "9a 77 66 55 4c 00 00 00 99 00 00 00 00 00 00 00",
            "07 01 00 10 04 00 00 00 0f 57 e5 7f 50 af 46 c9",
            "05 e1 49 3a fd 65 80 5f c9 63 61 69 72 6e 00 d2",
            "c3 36 47 55 2f 40 e4 09 04 99 23 6d 0c 3b ef 7d",
            "6f 66 20 73 74 6f 6e 65 73 00 00 00",
        ]
    );
}

#[test]
fn a_header_reads_back_and_every_flip_and_cut_of_it_is_seen() {
    let first = SegmentHeader { id: 0, origin: 0, previous: None, recycled: false, salt: 5 };
    for header in [HEADER, first] {
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(SegmentHeader::decode(&flipped).is_err(), "byte {at} bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(SegmentHeader::decode(&bytes[..len]), Err(Damage::FileEnds));
        }
    }
}

#[test]
fn a_newer_format_is_told_from_damage_whatever_follows_its_version() {
    let mut bytes = b"CAIRNLOG".to_vec();
    bytes.put_u32(FORMAT_VERSION + 1);
    bytes.put_u32(low_half(checksum64(&bytes)));
    assert_eq!(SegmentHeader::decode(&bytes), Err(Damage::Newer { version: 1 }));
    bytes.extend_from_slice(&[0xAB; 100]);
    assert_eq!(SegmentHeader::decode(&bytes), Err(Damage::Newer { version: 1 }));
}

#[test]
fn a_header_that_contradicts_itself_is_refused_though_its_checksum_holds() {
    let at = |segment, offset| Some(Position { segment, offset });
    for (what, id, origin, previous) in [
        ("follows itself", 5, 5, at(5, 72)),
        ("follows a later one", 5, 1, at(6, 72)),
        ("follows one before the origin", 5, 3, at(2, 72)),
        ("the first of its chain, after another", 5, 5, at(4, 72)),
        ("not the first, after none", 5, 4, None),
        ("the one before ended in its header", 5, 4, at(4, 64)),
        ("the one before ended between groups", 5, 4, at(4, 77)),
    ] {
        let header = SegmentHeader { id, origin, previous, recycled: false, salt: 1 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Err(Damage::HeaderFields), "{what}");
    }
    let mut bytes = HEADER.encode();
    bytes[16] |= 2;
    let checksum = checksum64(&bytes[..64]).to_le_bytes();
    bytes[64..].copy_from_slice(&checksum);
    assert_eq!(SegmentHeader::decode(&bytes), Err(Damage::HeaderFields), "an unknown flag");
}

#[test]
fn a_group_reads_back_and_every_flip_and_cut_of_it_is_seen() {
    let all: [&[&[u8]]; 4] = [&[], &[b""], &[b"one"], &[b"12345678", b"", b"three"]];
    for bodies in all {
        let bytes = encoded(bodies);
        assert!(bytes.len().is_multiple_of(4));
        let group = decoded(&bytes).unwrap();
        assert_eq!(group.bodies().len(), bodies.len());
        assert_eq!(group.bodies().collect::<Vec<_>>(), bodies);
        assert_eq!((group.kind, group.first_seq, group.synced), (START.kind, START.first_seq, START.synced));
        assert_eq!((group.position, group.end.offset), (START.position, 72 + bytes.len() as u64));
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(decoded(&flipped).is_err(), "byte {at} bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decoded(&bytes[..len]).unwrap_err(), Damage::FileEnds, "{len}");
        }
    }
}

#[test]
fn a_group_counts_only_where_it_was_written() {
    let bytes = encoded(&[b"x"]);
    let Position { segment, offset } = START.position;
    let begins = |segment, offset, salt| {
        let place = Place { position: Position { segment, offset }, salt };
        let damage = GroupHeader::decode(&bytes, place).err();
        // A torn header, to its first eight bytes, tells as much as the whole one.
        let begins = [32, 8].map(|len| GroupHeader::begins(&bytes[..len], place));
        (damage, begins)
    };
    let salt = Some(START.salt);
    assert_eq!(begins(segment, offset, salt), (None, [true, true]));
    assert_eq!(begins(segment, offset + 4, salt), (Some(Damage::Magic), [false, false]));
    assert_eq!(begins(segment, offset, Some(START.salt + 1)), (Some(Damage::Magic), [false, false]));
    assert_eq!(begins(segment + 1, offset, salt), (Some(Damage::HeaderChecksum), [true, true]));
    // The salt of another use may have the same low half; then the checksum tells.
    assert_eq!(begins(segment, offset, Some(START.salt ^ 1 << 40)), (Some(Damage::HeaderChecksum), [true, true]));
    // Without the salt the whole header tells.
    assert_eq!(begins(segment, offset, None), (None, [true, false]));
    for (segment, offset) in [(segment + 1, offset), (segment - 1, offset), (segment, offset + 4), (segment, 8)] {
        assert_eq!(begins(segment, offset, None), (Some(Damage::Magic), [false, false]));
    }
}

/// What is not a length ends the search at once: of two bytes that look like a tag only one is.
#[test]
fn a_group_begins_only_with_a_length_that_can_be() {
    let with = |len: u32| {
        let mut bytes = tag(72, START.salt).to_le_bytes().to_vec();
        bytes.put_u32(len);
        GroupHeader::begins(&bytes, place())
    };
    let most = u32::try_from(GROUP_BYTES_MAX).unwrap();
    assert_eq!([32, 36, most].map(with), [true; 3]);
    assert_eq!([0, 28, 33, 34, 35, most + 4, u32::MAX].map(with), [false; 7]);
}

/// A block of a large group that never reached a recycled file leaves there what an earlier group of
/// the same lengths had in that place: bodies that are whole, and not this group's.
#[test]
fn a_body_counts_only_behind_its_header_and_in_its_turn() {
    let bodies: [&[u8]; 3] = [b"first", b"other", b"third"];
    let sound = encoded(&bodies);
    let body_at = |index: usize| 32 + index * 14..32 + (index + 1) * 14;
    for other in [
        GroupStart { first_seq: START.first_seq + 1, ..START },
        GroupStart { salt: START.salt + 1, ..START },
        GroupStart { synced: START.position, ..START },
        GroupStart { position: Position { segment: 0x0102, offset: 76 }, ..START },
    ] {
        let mut older = Vec::new();
        let was: Vec<Body<'_>> = [&b"FIRST"[..], b"OTHER", b"THIRD"].map(Body::new).to_vec();
        encode_group(&mut older, &other, &was).unwrap();
        let mut mixed = sound.clone();
        mixed[body_at(1)].copy_from_slice(&older[body_at(1)]);
        assert_eq!(decoded(&mixed).unwrap_err(), Damage::Body { index: 1 });
    }
    let mut swapped = sound.clone();
    swapped[body_at(0)].copy_from_slice(&sound[body_at(1)]);
    swapped[body_at(1)].copy_from_slice(&sound[body_at(0)]);
    assert_eq!(decoded(&swapped).unwrap_err(), Damage::Body { index: 0 });
}

/// Every length of a body but its own is refused, though the header holds.
#[test]
fn a_wrong_length_of_a_body_is_refused() {
    let bodies: [&[u8]; 3] = [b"first", b"", b"third body"];
    let sound = encoded(&bodies);
    for (index, at) in [(0, 32), (1, 46), (2, 55)] {
        assert_eq!(usize::from(sound[at]), bodies[index as usize].len());
        for len in (0..=255).filter(|len| *len != sound[at]) {
            let mut bytes = sound.clone();
            bytes[at] = len;
            let damage = decoded(&bytes).unwrap_err();
            assert!(damage == Damage::Lengths || damage == Damage::Body { index }, "{index} of {len}: {damage:?}");
        }
    }
}

#[test]
fn a_claim_says_what_is_true_or_nothing() {
    let position = Position { segment: 70_000, offset: 400 };
    let at = |segment, offset| Position { segment, offset };
    let tib = 1u64 << 40;
    for (synced, read) in [
        (at(70_000, 400), at(70_000, 400)),
        (at(70_000, 72), at(70_000, 72)),
        (at(69_999, tib), at(69_999, tib)),
        (at(69_999, 4 * tib - 4), at(69_999, 4 * tib - 4)),
        (at(70_000 - 65_534, 72), at(70_000 - 65_534, 72)),
        // Further than can be said.
        (at(69_999, 4 * tib), NOTHING),
        (at(70_000 - 65_535, 72), NOTHING),
        (at(1, 72), NOTHING),
        (NOTHING, NOTHING),
    ] {
        let mut bytes = Vec::new();
        encode_group(&mut bytes, &GroupStart { position, synced, ..START }, &[]).unwrap();
        let place = Place { position, salt: Some(START.salt) };
        let header = GroupHeader::decode(&bytes, place).unwrap();
        assert_eq!(header.start, GroupStart { position, synced: read, ..START });
        assert!(header.start.synced <= synced);
    }
}

/// Headers with right checksums that nobody writes.
#[test]
fn a_group_header_that_contradicts_itself_is_refused_though_its_checksum_holds() {
    let decode = |bytes: u64, claim: u64| {
        let words = [u64::from(tag(72, START.salt)) | bytes << 32, START.first_seq, 7 | claim << 8];
        let mut out = Vec::new();
        words.iter().for_each(|word| out.put_u64(*word));
        out.put_u64(header_checksum(words, START.position) ^ START.salt);
        GroupHeader::decode(&out, place()).map(|header| header.start.synced)
    };
    let segment = START.position.segment;
    let own = |quarter: u64| quarter << 16;
    assert_eq!(decode(32, own(18)), Ok(START.position));
    assert_eq!(decode(32, 2 | own(1000)), Ok(Position { segment: segment - 2, offset: 4000 }));
    assert_eq!(decode(32, 0xffff), Ok(NOTHING));
    for (what, bytes, claim) in [
        ("shorter than its header", 28, own(18)),
        ("not a multiple of four", 34, own(18)),
        ("beyond the largest", GROUP_BYTES_MAX + 4, own(18)),
        ("claims what comes after it", 32, own(19)),
        ("claims a segment before the first", 32, (segment + 1) | own(18)),
        ("claims a place within a segment's header", 32, 1 | own(17)),
        ("says nothing of a place", 32, 0xffff | own(18)),
    ] {
        assert_eq!(decode(bytes, claim), Err(Damage::HeaderFields), "{what}");
    }
}

#[test]
fn bodies_and_groups_have_a_largest_size() {
    let body = vec![0; usize::try_from(BODY_BYTES_MAX).unwrap() + 1];
    let of = |len: usize| Body { bytes: &body[..len], checksum: 0 };
    assert!(matches!(group_bytes(&[of(body.len())]), Err(Error::TooLarge { .. })));
    let most = of(body.len() - 1);
    assert!(group_bytes(&[most; 7]).is_ok());
    assert!(matches!(group_bytes(&[most; 8]), Err(Error::TooLarge { .. })));
}

/// Hostile bytes that pass the header's checksum: whatever the fields say, decoding ends in a
/// value or in damage, and what it lends lies within the input.
#[test]
fn hostile_fields_under_valid_checksums_never_panic() {
    let mut good = 0;
    for seed in 0..20_000u64 {
        let mut rng = Rng::new(seed);
        let mut bytes = encoded(&[b"first", b"second body", &[9; 40]]);
        for _ in 0..=rng.below(3) {
            // The length, the number, the claim, and the lengths of the bodies, with values near the edges.
            let at = [4, 8, 16, 18, 32, 46, 66][rng.index(7)];
            let value = match rng.below(4) {
                0 => rng.below(300) as u32,
                1 => u32::MAX - rng.below(300) as u32,
                2 => bytes.len() as u32 + rng.below(20) as u32 - 10,
                _ => rng.next_u64() as u32,
            };
            let width = if at < 32 { 4 } else { 1 };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let checksum = header_checksum([word(0), word(8), word(16)], START.position) ^ START.salt;
        bytes[24..32].copy_from_slice(&checksum.to_le_bytes());
        mend_bodies(&mut bytes, checksum);
        let Ok(header) = GroupHeader::decode(&bytes, place()) else { continue };
        if let Ok(group) = Group::decode(&header, &bytes) {
            let lent: usize = group.bodies().map(<[u8]>::len).sum();
            assert!(lent <= bytes.len(), "seed {seed}");
            assert_eq!(group.bodies().count(), group.bodies().len(), "seed {seed}");
            good += 1;
        }
    }
    assert!(good > 100, "only {good} of the inputs reached the bodies");
}

/// Puts the checksums of bodies right, as far as their lengths lead.
fn mend_bodies(bytes: &mut [u8], header_checksum: u64) {
    let (mut at, mut index) = (32, 0);
    while at < bytes.len() {
        let mut reader = Reader::new(&bytes[at..]);
        let Ok(len) = reader.varint_len(bytes.len()) else { return };
        let body_at = at + reader.offset() + 8;
        let Some(body) = bytes.get(body_at..body_at + len) else { return };
        let checksum = checksum64(body) ^ body_key(header_checksum, index);
        bytes[body_at - 8..body_at].copy_from_slice(&checksum.to_le_bytes());
        (at, index) = (body_at + len, index + 1);
    }
}
