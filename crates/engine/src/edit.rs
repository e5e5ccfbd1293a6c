//! Manifest edits: what they say, and the state they build.
//!
//! ```text
//! edit     := change*                      one edit is the body of one group of the manifest
//! change   := tag:u8 fields
//!   1 database     id:u64  hash_seed:u64
//!   2 keyspace     id:varint  name:prefixed           created; ids only grow
//!   3 next_table   id:varint                          ids below are used up
//!   4 log_start    segment:varint                     the first segment to replay
//!   5 flushed      keyspace:varint  seq:varint        all of it up to seq is in tables
//!   6 add_table    keyspace:varint  level:u8  meta
//!   7 remove_table keyspace:varint  level:u8  id:varint
//!   8 drop_keyspace keyspace:varint seq:varint        gone with its tables; all of it was up to seq
//!   9 dropped      next:varint  seq:varint            of all that were dropped: see below
//! meta     := id:varint  file_bytes:varint  entries:varint  tombstones:varint  stale:varint
//!             smallest_seq:varint  largest_seq:varint  created_ms:varint
//!             smallest_key:prefixed  largest_key:prefixed
//! ```
//! `prefixed` is a varint length and that many bytes. An unknown tag refuses to open. The first
//! edit of a manifest file is a snapshot of the whole state; every later one changes it.
//!
//! Of a keyspace that was dropped two things are remembered, in a snapshot by `dropped`, which stands
//! behind the keyspaces and is left out if none ever was: ids below `next` are used up, even if the
//! newest keyspace is among the dropped, and no operation on a dropped one has a number above `seq`.
//! So an operation in the log on an id below `next` that no keyspace has, with a number up to `seq`,
//! is one of a dropped keyspace and is skipped; any other on an unknown id is damage. Numbers go on
//! behind `seq`, also when neither log nor tables hold it any more.

use std::collections::BTreeMap;

use cairn_codec::{DecodeError, Reader, Write};

use crate::levels::{LEVEL_COUNT, TableMeta};
use crate::types::{
    DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID, KEY_BYTES_MAX, KEYSPACE_IDS_MAX, KEYSPACE_NAME_BYTES_MAX, KeyspaceId,
    NUMBER_MAX, SeqNo, TableId,
};

/// One change to the durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Database { id: u64, hash_seed: u64 },
    Keyspace { id: KeyspaceId, name: String },
    NextTable(TableId),
    LogStart(u64),
    Flushed { keyspace: KeyspaceId, seq: SeqNo },
    AddTable { keyspace: KeyspaceId, level: usize, meta: TableMeta },
    RemoveTable { keyspace: KeyspaceId, level: usize, id: TableId },
    DropKeyspace { keyspace: KeyspaceId, seq: SeqNo },
    Dropped { next: KeyspaceId, seq: SeqNo },
}

/// Encodes an edit.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes {
        match change {
            Change::Database { id, hash_seed } => {
                out.put_u8(1);
                out.put_u64(*id);
                out.put_u64(*hash_seed);
            }
            Change::Keyspace { id, name } => {
                out.put_u8(2);
                out.put_varint(u64::from(*id));
                out.put_prefixed(name.as_bytes());
            }
            Change::NextTable(id) => {
                out.put_u8(3);
                out.put_varint(*id);
            }
            Change::LogStart(segment) => {
                out.put_u8(4);
                out.put_varint(*segment);
            }
            Change::Flushed { keyspace, seq } => {
                out.put_u8(5);
                out.put_varint(u64::from(*keyspace));
                out.put_varint(seq.0);
            }
            Change::AddTable { keyspace, level, meta } => {
                out.put_u8(6);
                out.put_varint(u64::from(*keyspace));
                out.put_u8(level_byte(*level));
                for number in [
                    meta.id,
                    meta.file_bytes,
                    meta.entries,
                    meta.tombstones,
                    meta.stale,
                    meta.smallest_seq.0,
                    meta.largest_seq.0,
                    meta.created_ms,
                ] {
                    out.put_varint(number);
                }
                out.put_prefixed(&meta.smallest_key);
                out.put_prefixed(&meta.largest_key);
            }
            Change::RemoveTable { keyspace, level, id } => {
                out.put_u8(7);
                out.put_varint(u64::from(*keyspace));
                out.put_u8(level_byte(*level));
                out.put_varint(*id);
            }
            Change::DropKeyspace { keyspace, seq } => {
                out.put_u8(8);
                out.put_varint(u64::from(*keyspace));
                out.put_varint(seq.0);
            }
            Change::Dropped { next, seq } => {
                out.put_u8(9);
                out.put_varint(u64::from(*next));
                out.put_varint(seq.0);
            }
        }
    }
    out
}

fn level_byte(level: usize) -> u8 {
    debug_assert!(level < LEVEL_COUNT);
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// Decodes an edit.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<Change>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut changes = Vec::new();
    while !reader.is_empty() {
        changes.push(decode_change(&mut reader)?);
    }
    Ok(changes)
}

fn decode_change(reader: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let unknown = reader.error("a change of a kind that this build does not know (use a newer cairn)");
    Ok(match reader.u8()? {
        1 => Change::Database { id: reader.u64()?, hash_seed: reader.u64()? },
        2 => {
            let id = keyspace(reader)?;
            let bad = reader.error("the name of a keyspace is malformed");
            let name = std::str::from_utf8(reader.prefixed()?).map_err(|_| bad)?;
            if name.is_empty() || name.len() > KEYSPACE_NAME_BYTES_MAX {
                return Err(bad);
            }
            Change::Keyspace { id, name: name.to_owned() }
        }
        3 => Change::NextTable(reader.varint()?),
        4 => Change::LogStart(reader.varint()?),
        5 => Change::Flushed { keyspace: keyspace(reader)?, seq: SeqNo(reader.varint()?) },
        6 => Change::AddTable { keyspace: keyspace(reader)?, level: level(reader)?, meta: meta(reader)? },
        7 => Change::RemoveTable { keyspace: keyspace(reader)?, level: level(reader)?, id: reader.varint()? },
        8 => Change::DropKeyspace { keyspace: keyspace(reader)?, seq: SeqNo(reader.varint()?) },
        9 => {
            let beyond = reader.error("more keyspaces are used up than this build gives out");
            let next = u32::try_from(reader.varint()?).ok().filter(|next| *next <= KEYSPACE_IDS_MAX).ok_or(beyond)?;
            Change::Dropped { next, seq: SeqNo(reader.varint()?) }
        }
        _ => return Err(unknown),
    })
}

fn keyspace(reader: &mut Reader<'_>) -> Result<KeyspaceId, DecodeError> {
    let error = reader.error("keyspace beyond what this build gives out");
    u32::try_from(reader.varint()?).ok().filter(|id| *id < KEYSPACE_IDS_MAX).ok_or(error)
}

fn level(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let error = reader.error("level that does not exist");
    let level = usize::from(reader.u8()?);
    if level < LEVEL_COUNT { Ok(level) } else { Err(error) }
}

fn meta(reader: &mut Reader<'_>) -> Result<TableMeta, DecodeError> {
    let start = reader.error("the description of a table contradicts itself");
    let meta = TableMeta {
        id: reader.varint()?,
        file_bytes: reader.varint()?,
        entries: reader.varint()?,
        tombstones: reader.varint()?,
        stale: reader.varint()?,
        smallest_seq: SeqNo(reader.varint()?),
        largest_seq: SeqNo(reader.varint()?),
        created_ms: reader.varint()?,
        smallest_key: reader.prefixed()?.to_vec(),
        largest_key: reader.prefixed()?.to_vec(),
    };
    let keys = [&meta.smallest_key, &meta.largest_key];
    if keys.iter().any(|key| key.is_empty() || key.len() > KEY_BYTES_MAX)
        || meta.smallest_key > meta.largest_key
        || meta.smallest_seq > meta.largest_seq
        || meta.tombstones > meta.entries
        || meta.stale > meta.entries
        || meta.entries == 0
    {
        return Err(start);
    }
    Ok(meta)
}

/// One keyspace's durable state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyspaceState {
    pub(crate) name: String,
    pub(crate) flushed: SeqNo,
    pub(crate) tables: BTreeMap<TableId, (usize, TableMeta)>,
}

/// All that the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) database_id: u64,
    pub(crate) hash_seed: u64,
    pub(crate) keyspaces: BTreeMap<KeyspaceId, KeyspaceState>,
    /// Ids below are used up.
    pub(crate) next_keyspace: KeyspaceId,
    /// No operation on a keyspace that was dropped has a greater number. 0 if none was.
    pub(crate) dropped: SeqNo,
    pub(crate) next_table: TableId,
    pub(crate) log_start: u64,
}

impl State {
    /// Applies an edit; says what contradicts the state.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            self.apply_one(change)?;
        }
        Ok(())
    }

    fn keyspace(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceState, String> {
        let never = id >= self.next_keyspace;
        self.keyspaces.get_mut(&id).ok_or_else(|| {
            format!("an edit is about keyspace {id}, which was {}", if never { "never created" } else { "dropped" })
        })
    }

    /// The keyspace that operation `seq` of the log is about; none if that was dropped. An id that was
    /// never given out is damage, and so is a number that no dropped keyspace got.
    pub(crate) fn keyspace_of(&self, id: KeyspaceId, seq: u64) -> Result<Option<&KeyspaceState>, String> {
        match self.keyspaces.get(&id) {
            Some(keyspace) => Ok(Some(keyspace)),
            None if id < self.next_keyspace && SeqNo(seq) <= self.dropped => Ok(None),
            None => Err(format!("a batch is about keyspace {id}, which does not exist")),
        }
    }

    /// The greatest number that the log need not hold any more: where numbers go on without it.
    pub(crate) fn last_seq(&self) -> SeqNo {
        let dropped = if cairn_env::mutant("dropped-numbers-forgotten") { SeqNo(0) } else { self.dropped };
        self.keyspaces.values().map(|keyspace| keyspace.flushed).fold(dropped, SeqNo::max)
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Database { id, hash_seed } => {
                self.database_id = *id;
                self.hash_seed = *hash_seed;
            }
            Change::Keyspace { id, name } => {
                if *id < self.next_keyspace {
                    return Err(format!("keyspace {id} is created after a later one"));
                }
                let state = KeyspaceState { name: name.clone(), ..KeyspaceState::default() };
                self.keyspaces.insert(*id, state);
                self.next_keyspace = id.saturating_add(1);
            }
            Change::NextTable(id) => self.next_table = self.next_table.max(*id),
            Change::LogStart(segment) => {
                if *segment < self.log_start {
                    return Err(format!("the start of the log goes back from {} to {segment}", self.log_start));
                }
                self.log_start = *segment;
            }
            Change::Flushed { keyspace, seq } => {
                let state = self.keyspace(*keyspace)?;
                state.flushed = state.flushed.max(*seq);
            }
            Change::AddTable { keyspace, level, meta } => {
                let state = self.keyspace(*keyspace)?;
                if state.tables.insert(meta.id, (*level, meta.clone())).is_some() {
                    return Err(format!("table {} is added twice", meta.id));
                }
            }
            Change::RemoveTable { keyspace, level, id } => {
                let state = self.keyspace(*keyspace)?;
                match state.tables.remove(id) {
                    Some((stood, _)) if stood == *level => {}
                    _ => return Err(format!("table {id} is removed from level {level}, where it is not")),
                }
            }
            Change::DropKeyspace { keyspace, .. } if *keyspace == DEFAULT_KEYSPACE_ID => {
                return Err(format!("keyspace {keyspace} is dropped, which every database has"));
            }
            Change::DropKeyspace { keyspace, seq } => {
                self.keyspace(*keyspace)?;
                self.keyspaces.remove(keyspace);
                self.dropped = self.dropped.max(*seq);
            }
            Change::Dropped { next, seq } => {
                self.next_keyspace = self.next_keyspace.max(*next);
                self.dropped = self.dropped.max(*seq);
            }
        }
        Ok(())
    }

    /// The edit that builds this state from nothing.
    pub(crate) fn snapshot(&self) -> Vec<Change> {
        let mut changes = vec![
            Change::Database { id: self.database_id, hash_seed: self.hash_seed },
            Change::NextTable(self.next_table),
            Change::LogStart(self.log_start),
        ];
        for (&id, keyspace) in &self.keyspaces {
            changes.push(Change::Keyspace { id, name: keyspace.name.clone() });
            changes.push(Change::Flushed { keyspace: id, seq: keyspace.flushed });
            for (level, meta) in keyspace.tables.values() {
                changes.push(Change::AddTable { keyspace: id, level: *level, meta: meta.clone() });
            }
        }
        let follows = self.keyspaces.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        let any_dropped = self.next_keyspace > follows || self.dropped > SeqNo(0);
        if any_dropped && !cairn_env::mutant("dropped-keyspace-id-forgotten") {
            changes.push(Change::Dropped { next: self.next_keyspace, seq: self.dropped });
        }
        changes
    }

    /// Checks what no single edit shows: the default keyspace must be there, tables of one sorted level
    /// must not overlap, and numbers must leave room for those to come.
    pub(crate) fn check(&self) -> Result<(), String> {
        let default = self.keyspaces.get(&DEFAULT_KEYSPACE_ID);
        if default.is_none_or(|keyspace| keyspace.name != DEFAULT_KEYSPACE) {
            return Err(format!("keyspace {DEFAULT_KEYSPACE_ID} is not \"{DEFAULT_KEYSPACE}\""));
        }
        let flushed = self.keyspaces.values().map(|keyspace| keyspace.flushed.0);
        let mut numbers = flushed.chain([self.dropped.0, self.next_table, self.log_start]);
        if let Some(number) = numbers.find(|number| *number > NUMBER_MAX) {
            return Err(format!("number {number} leaves no room for others"));
        }
        for keyspace in self.keyspaces.values() {
            for level in 1..LEVEL_COUNT {
                let mut tables: Vec<&TableMeta> =
                    keyspace.tables.values().filter(|(at, _)| *at == level).map(|(_, meta)| meta).collect();
                tables.sort_by(|a, b| a.smallest_key.cmp(&b.smallest_key));
                for (a, b) in tables.iter().zip(tables.iter().skip(1)) {
                    if a.largest_key >= b.smallest_key {
                        return Err(format!(
                            "tables {} and {} of level {level} in keyspace \"{}\" overlap",
                            a.id, b.id, keyspace.name
                        ));
                    }
                }
            }
            if let Some((_, meta)) = keyspace.tables.values().find(|(_, meta)| meta.id >= self.next_table) {
                return Err(format!("table {} has a number that was never given out", meta.id));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(id: TableId) -> TableMeta {
        TableMeta {
            id,
            file_bytes: 4096,
            entries: 10,
            tombstones: 2,
            stale: 1,
            smallest_key: b"a".to_vec(),
            largest_key: b"m".to_vec(),
            smallest_seq: SeqNo(1),
            largest_seq: SeqNo(300),
            created_ms: 5,
        }
    }

    fn every_change() -> Vec<Change> {
        vec![
            Change::Database { id: 7, hash_seed: 8 },
            Change::Keyspace { id: 0, name: "default".into() },
            Change::NextTable(9),
            Change::LogStart(3),
            Change::Flushed { keyspace: 0, seq: SeqNo(300) },
            Change::AddTable { keyspace: 0, level: 2, meta: meta(4) },
            Change::RemoveTable { keyspace: 0, level: 2, id: 4 },
            Change::Keyspace { id: 1, name: "x".into() },
            Change::DropKeyspace { keyspace: 1, seq: SeqNo(301) },
            Change::Dropped { next: 2, seq: SeqNo(301) },
        ]
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&every_change());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0107000000000000000800000000000000\
             02000764656661756c74\
             0309\
             0403\
             0500ac02\
             060002048020\
             0a020101ac0205\
             0161016d\
             07000204\
             02010178\
             0801ad02\
             0902ad02"
        );
        assert_eq!(decode(&bytes), Ok(every_change()));
    }

    #[test]
    fn every_truncation_is_an_error_or_ends_at_a_change() {
        let changes = every_change();
        let bytes = encode(&changes);
        let mut whole = 0;
        for cut in 0..bytes.len() {
            match decode(&bytes[..cut]) {
                Ok(prefix) => {
                    assert_eq!(prefix, changes[..prefix.len()]);
                    whole += 1;
                }
                Err(e) => assert!(e.offset <= cut),
            }
        }
        assert_eq!(whole, changes.len());
        assert!(decode(&[99]).is_err());
    }

    #[test]
    fn a_forged_keyspace_cannot_make_the_catalog_large() {
        let create = |id| encode(&[Change::Keyspace { id, name: "x".into() }]);
        assert!(decode(&create(KEYSPACE_IDS_MAX - 1)).is_ok());
        assert!(decode(&create(KEYSPACE_IDS_MAX)).is_err());
        assert!(decode(&create(u32::MAX)).is_err());
        let used_up = |next| encode(&[Change::Dropped { next, seq: SeqNo(1) }]);
        assert!(decode(&used_up(KEYSPACE_IDS_MAX)).is_ok());
        assert!(decode(&used_up(KEYSPACE_IDS_MAX + 1)).is_err());
    }

    /// Writes to a default keyspace that only the open database knew were logged, and the next open
    /// refused the log.
    #[test]
    fn a_state_without_the_default_keyspace_is_refused() {
        let mut state = State::default();
        assert!(state.check().unwrap_err().contains("is not \"default\""));
        state.apply(&[Change::Keyspace { id: 0, name: "other".into() }]).unwrap();
        assert!(state.check().unwrap_err().contains("is not \"default\""));
    }

    #[test]
    fn a_state_is_rebuilt_by_its_own_snapshot() {
        let mut state = State::default();
        let rebuilt = |state: &State| {
            let mut again = State::default();
            again.apply(&decode(&encode(&state.snapshot())).unwrap()).unwrap();
            again
        };
        state.apply(&every_change()[..6]).unwrap();
        assert_eq!(rebuilt(&state), state);
        state.check().unwrap();
        state.apply(&every_change()[7..8]).unwrap();
        assert_eq!(rebuilt(&state), state);
        assert_eq!(state.snapshot().len(), 8, "nothing was dropped, and nothing is said of it");
        state.apply(&every_change()[8..9]).unwrap();
        assert_eq!(rebuilt(&state), state);
        state.check().unwrap();
    }

    /// The newest keyspace is the one that was dropped.
    #[test]
    fn the_id_of_a_dropped_keyspace_is_used_up_and_its_operations_are_known() {
        let mut state = State::default();
        state.apply(&every_change()).unwrap();
        assert_eq!((state.next_keyspace, state.dropped, state.last_seq()), (2, SeqNo(301), SeqNo(301)));
        let mut again = State::default();
        again.apply(&state.snapshot()).unwrap();
        for state in [&state, &again] {
            assert_eq!(state.keyspace_of(1, 301), Ok(None));
            assert!(state.keyspace_of(0, 9000).unwrap().is_some());
            for (id, seq) in [(1, 302), (2, 1), (7, 1)] {
                assert!(state.keyspace_of(id, seq).unwrap_err().contains("does not exist"), "{id} {seq}");
            }
            let create = |id| [Change::Keyspace { id, name: "x".into() }];
            assert!(state.clone().apply(&create(1)).unwrap_err().contains("after a later one"));
            state.clone().apply(&create(2)).unwrap();
        }
    }

    #[test]
    fn edits_that_contradict_the_state_are_refused() {
        let mut state = State::default();
        state.apply(&every_change()).unwrap();
        for (change, what) in [
            (Change::RemoveTable { keyspace: 0, level: 0, id: 77 }, "where it is not"),
            (Change::Flushed { keyspace: 5, seq: SeqNo(1) }, "never created"),
            (Change::LogStart(1), "goes back"),
            (Change::Keyspace { id: 0, name: "x".into() }, "after a later one"),
            (Change::DropKeyspace { keyspace: 0, seq: SeqNo(1) }, "which every database has"),
            (Change::DropKeyspace { keyspace: 1, seq: SeqNo(1) }, "which was dropped"),
            (Change::DropKeyspace { keyspace: 5, seq: SeqNo(1) }, "never created"),
            (Change::AddTable { keyspace: 1, level: 1, meta: meta(9) }, "which was dropped"),
        ] {
            assert!(state.clone().apply(&[change]).unwrap_err().contains(what), "{what}");
        }
        let twice = Change::AddTable { keyspace: 0, level: 1, meta: meta(4) };
        assert!(state.clone().apply(&[twice.clone(), twice]).unwrap_err().contains("twice"));
        let overlap = [
            Change::AddTable { keyspace: 0, level: 1, meta: meta(4) },
            Change::AddTable { keyspace: 0, level: 1, meta: meta(5) },
        ];
        state.apply(&overlap).unwrap();
        assert!(state.check().unwrap_err().contains("overlap"));
    }
}
