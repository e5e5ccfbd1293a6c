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
            "43 47 52 50 07 00 00 00 88 00 00 00 03 00 00 00",
            "02 01 00 00 00 00 00 00 48 00 00 00 00 00 00 00",
            "88 77 66 55 44 33 22 11 99 00 00 00 00 00 00 00",
            "01 01 00 00 00 00 00 00 40 10 00 00 00 00 00 00",
            "e9 aa d9 0b d3 ae 4a fb 12 ee 22 3b 35 d3 64 71",
            "05 00 00 00 ee 1e df 82 35 2f 19 00 00 00 00 00",
            "c2 94 d3 38 05 80 06 2d 09 00 00 00 15 ce c6 12",
            "5c 94 a9 b4 63 61 69 72 6e 6f 66 20 73 74 6f 6e",
            "65 73 00 00 00 00 00 00",
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
        assert!(bytes.len().is_multiple_of(8));
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
    for (segment, offset, salt) in
        [(segment + 1, offset, START.salt), (segment, offset + 8, START.salt), (segment, offset, START.salt + 1)]
    {
        let place = Place { position: Position { segment, offset }, salt: Some(salt) };
        assert_eq!(GroupHeader::decode(&bytes, place), Err(Damage::Elsewhere { named: START.position }));
        assert!(!GroupHeader::begins(&bytes, place));
    }
    assert!(GroupHeader::begins(&bytes, place()));
    assert!(GroupHeader::decode(&bytes, Place { salt: None, ..place() }).is_ok());
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
            // Lengths, counts, the table and the claim, with values near the edges.
            let at = [8, 12, 16, 24, 40, 48, 56, 80, 92, 104][rng.index(10)];
            let value = match rng.below(4) {
                0 => rng.below(300) as u32,
                1 => u32::MAX - rng.below(300) as u32,
                2 => bytes.len() as u32 + rng.below(20) as u32 - 10,
                _ => rng.next_u64() as u32,
            };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        if let Some(table) = bytes.get(80..80 + (count * 12).min(1 << 20)) {
            let checksum = checksum64(table).to_le_bytes();
            bytes[64..72].copy_from_slice(&checksum);
        }
        let checksum = checksum64(&bytes[..72]).to_le_bytes();
        bytes[72..80].copy_from_slice(&checksum);
        let segment = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let offset = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
        let place = Place { position: Position { segment, offset }, salt: None };
        let Ok(header) = GroupHeader::decode(&bytes, place) else { continue };
        if let Ok(group) = Group::decode(&header, &bytes) {
            let lent: usize = group.bodies().map(<[u8]>::len).sum();
            assert!(lent <= bytes.len(), "seed {seed}");
            assert_eq!(group.bodies().count(), group.bodies().len(), "seed {seed}");
            good += 1;
        }
    }
    assert!(good > 100, "only {good} of the inputs reached the bodies");
}
