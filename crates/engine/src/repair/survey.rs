//! What there is to repair: from the manifest if it is sound, else from every file by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cairn_env::Env;
use cairn_table::Table;
use cairn_wal::{Damage, Item, KIND_CLOSING, Naming, Scan};

use crate::check::contradictions;
use crate::edit::{self, Change, State};
use crate::error::{Error, Result};
use crate::files::{self, CURRENT, FileKind, LOG, MANIFEST, classify, table_path};
use crate::manifest::{self, wal_error};
use crate::output::table_error;
use crate::recovery;
use crate::types::{DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID, KEYSPACE_IDS_MAX, KeyspaceId};

use super::ranges::Ranges;
use super::{Dropped, Part, Repair, Roll, Space, Survey};

impl Repair<'_> {
    /// Finds out what is there.
    pub(super) fn survey(&mut self) -> Result<Survey> {
        let mut survey = match self.manifest() {
            Ok(Some((path, state, closed))) => self.listed(path, &state, closed)?,
            Ok(None) => self.unlisted()?,
            Err(e) if e.is_newer() => return Err(e),
            Err(e) => {
                self.lose(&self.dir.join(CURRENT), &e, None, None);
                self.unlisted()?
            }
        };
        for entry in self.entries {
            let path = self.dir.join(&entry.name);
            match classify(&entry.name) {
                FileKind::Log(id) if id >= survey.log_start => refuse_newer(self.env, &path, LOG)?,
                _ => continue,
            }
            self.bytes_total += entry.len;
        }
        let parts = survey.spaces.values().flat_map(|space| &space.parts);
        self.bytes_total += parts.map(|part| part.file_bytes).sum::<u64>();
        if survey.manifest.is_none() {
            // Also of a keyspace of which there is nothing but its name.
            for space in survey.spaces.values_mut() {
                space.lost = Ranges::all();
            }
        }
        Ok(survey)
    }

    /// The manifest, what it says, and whether it was closed; nothing if the database was never finished.
    fn manifest(&self) -> Result<Option<(PathBuf, State, bool)>> {
        let Some(id) = files::read_current(self.env, self.dir)? else {
            recovery::check_half_created(self.dir, self.entries)?;
            return Ok(None);
        };
        let contents = manifest::read(self.env, self.dir, id)?;
        let (state, closed) = (contents.state, contents.replayed.closing_groups > 0);
        let path = MANIFEST.path(self.dir, id);
        if let Some(what) = contradictions(&state).into_iter().next() {
            return Err(Error::corrupt(path, None, what));
        }
        let tables = state.keyspaces.values().flat_map(|keyspace| keyspace.tables.keys());
        let mut named = tables.map(|id| table_path(self.dir, *id)).chain([LOG.path(self.dir, state.log_start)]);
        if let Some(missing) = named.find(|path| !self.is_there(path)).filter(|_| !closed) {
            let what = format!(
                "it was not closed, and {} is not there, which it names: its own end may be missing",
                missing.display()
            );
            return Err(Error::corrupt(path, None, what));
        }
        Ok(Some((path, state, closed)))
    }

    fn is_there(&self, path: &Path) -> bool {
        self.entries.iter().any(|entry| path.file_name().is_some_and(|name| name == entry.name.as_str()))
    }

    /// The tables and the log that the manifest names.
    fn listed(&mut self, manifest: PathBuf, state: &State, closed: bool) -> Result<Survey> {
        let (manifest, log_start) = (Some(manifest), state.log_start);
        let roll = Roll { next: state.next_keyspace, ids: state.keyspaces.keys().copied().collect() };
        let dropped = Dropped { rolls: vec![roll], seq: state.dropped.0, ..Dropped::default() };
        let mut survey = Survey { manifest, log_start, log_closed: closed, dropped, ..Survey::default() };
        for (&id, keyspace) in &state.keyspaces {
            let mut space = Space { name: keyspace.name.clone(), flushed: keyspace.flushed.0, ..Space::default() };
            for (_, meta) in keyspace.tables.values() {
                let part = Part {
                    path: table_path(self.dir, meta.id),
                    id: meta.id,
                    hash_seed: state.hash_seed,
                    file_bytes: meta.file_bytes,
                    smallest_key: meta.smallest_key.clone(),
                    largest_key: meta.largest_key.clone(),
                };
                let opened = self.open(&part).and_then(|table| match meta.disagreement(id, table.summary()) {
                    Some(what) => Err(Error::corrupt(&part.path, None, what)),
                    None => Ok(()),
                });
                match opened {
                    Ok(()) => space.parts.push(part),
                    Err(e) if e.is_newer() => return Err(e),
                    Err(e) => {
                        space.lost.add(&part.smallest_key, &part.largest_key);
                        let range = (part.smallest_key, part.largest_key);
                        self.lose(&part.path, &e, Some(&space.name), Some(range));
                    }
                }
            }
            survey.spaces.insert(id, space);
        }
        Ok(survey)
    }

    /// Every table in the directory, and what the manifests still say of keyspaces.
    fn unlisted(&mut self) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut names = BTreeMap::new();
        let mut hash_seed = None;
        for entry in self.entries {
            let FileKind::Manifest(id) = classify(&entry.name) else { continue };
            for edit in self.readable_edits(&MANIFEST.path(self.dir, id))? {
                survey.dropped.learn(&edit);
                for change in edit {
                    match change {
                        Change::Keyspace { id, name } => drop(names.entry(id).or_insert(name)),
                        Change::Database { hash_seed: seed, .. } => hash_seed = Some(seed),
                        _ => {}
                    }
                }
            }
        }
        names.insert(DEFAULT_KEYSPACE_ID, DEFAULT_KEYSPACE.to_owned());
        let mut taken = BTreeSet::from([DEFAULT_KEYSPACE.to_owned()]);
        // The youngest first: of two of one name the other was dropped, though no edit says it any more.
        for (id, name) in names.into_iter().rev() {
            if id == DEFAULT_KEYSPACE_ID || !survey.dropped.holds(id) && taken.insert(name.clone()) {
                survey.spaces.insert(id, Space { name, ..Space::default() });
            }
        }
        for entry in self.entries {
            let FileKind::Table(_) = classify(&entry.name) else { continue };
            let path = self.dir.join(&entry.name);
            match self.unlisted_table(&path, hash_seed) {
                Ok((owner, largest_seq, _)) if survey.is_dropped(owner, largest_seq) => {}
                Ok((owner, largest_seq, part)) => {
                    let space = survey.space(owner);
                    space.flushed = space.flushed.max(largest_seq);
                    space.parts.push(part);
                }
                Err(e) if e.is_newer() => return Err(e),
                Err(e) => self.lose(&path, &e, None, None),
            }
        }
        Ok(survey)
    }

    /// All whole edits of a manifest. Which of them are in force nobody knows.
    fn readable_edits(&self, path: &Path) -> Result<Vec<Vec<Change>>> {
        let mut edits = Vec::new();
        refuse_newer(self.env, path, MANIFEST)?;
        let Ok(mut scan) = Scan::open(self.env, path, MANIFEST) else { return Ok(edits) };
        while let Ok(Some(item)) = scan.next() {
            let Item::Group(group) = item else { continue };
            if group.kind != KIND_CLOSING {
                edits.extend(group.bodies().filter_map(|body| edit::decode(body).ok()));
            }
        }
        Ok(edits)
    }

    /// The keyspace of a table, its largest number, and itself.
    fn unlisted_table(&self, path: &Path, hash_seed: Option<u64>) -> Result<(KeyspaceId, u64, Part)> {
        let says = Table::identify(&self.env.open(path)?).map_err(table_error)?;
        if hash_seed.is_some_and(|seed| seed != says.hash_seed) {
            return Err(Error::corrupt(path, None, "it belongs to another database"));
        }
        let mut part = Part {
            path: path.to_path_buf(),
            id: says.id,
            hash_seed: says.hash_seed,
            file_bytes: says.file_bytes,
            smallest_key: Vec::new(),
            largest_key: Vec::new(),
        };
        let table = self.open(&part)?;
        let summary = table.summary();
        let owner = u32::try_from(summary.owner).ok().filter(|id| *id < KEYSPACE_IDS_MAX);
        let owner = owner.ok_or_else(|| Error::corrupt(path, None, "it names a keyspace beyond all there can be"))?;
        part.smallest_key.clone_from(&summary.smallest_key);
        part.largest_key.clone_from(&summary.largest_key);
        Ok((owner, summary.largest_seq, part))
    }
}

impl Dropped {
    /// Takes what an edit says of dropped keyspaces. It once was in force, and no keyspace ever comes back.
    fn learn(&mut self, edit: &[Change]) {
        let mut ids = BTreeSet::from([DEFAULT_KEYSPACE_ID]);
        for change in edit {
            match change {
                Change::Keyspace { id, .. } => drop(ids.insert(*id)),
                Change::DropKeyspace { keyspace, seq } if *keyspace != DEFAULT_KEYSPACE_ID => {
                    self.ids.insert(*keyspace);
                    self.seq = self.seq.max(seq.0);
                }
                Change::Dropped { next, seq } => {
                    // Behind the keyspaces, of which it names all.
                    self.rolls.push(Roll { next: *next, ids: ids.clone() });
                    self.seq = self.seq.max(seq.0);
                }
                _ => {}
            }
        }
    }
}

/// A segment in a newer format is no damage, and nothing to repair.
fn refuse_newer(env: &Env, path: &Path, naming: Naming) -> Result<()> {
    match Scan::open(env, path, naming).map(|scan| scan.header()) {
        Ok(Err(Damage::Newer { version })) => {
            Err(wal_error(cairn_wal::Error::Newer { path: path.to_path_buf(), version }))
        }
        // What else may be wrong is told when it is read.
        _ => Ok(()),
    }
}
