//! Making and dropping keyspaces.
//!
//! Owns which keyspaces there are: the manifest says it, the catalog follows. Ids are given out in
//! order and never again, names as often as they are free. A handle stands for an id.
//!
//! A drop takes place in the leader's order ([`Core::between_groups`]): it syncs the log through the last
//! write, writes the one edit that is the drop, then takes the keyspace out of the catalog. The group under
//! way is before all of that, batches still queued are after it. Reads load a catalog with the keyspace or
//! one without.
//!
//! What a crash leaves: before the edit is durable, all as it was; after it, tables that nothing
//! names (the next open removes them) and operations in the log on an id that is used up and has no
//! keyspace (replay skips them). The edit also says up to where numbers were given out, for neither
//! tables nor log need hold the last of them any more; that is why the log is synced first.
//!
//! A flush or compaction of the keyspace that is under way installs under the manifest's lock, finds it gone,
//! and ends without an edit. A leader that waits for one goes on as soon as the drop waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Tree;
use crate::commit::{ActiveMemtable, Lead};
use crate::core::Core;
use crate::edit::Change;
use crate::error::{Error, ErrorKind, Result};
use crate::levels::Levels;
use crate::manifest::Manifest;
use crate::types::{DEFAULT_KEYSPACE, KEYSPACE_IDS_MAX, KEYSPACE_NAME_BYTES_MAX, KeyspaceId, SeqNo, Visibility};

/// Lets writers wait for a keyspace's jobs again.
struct Dropping<'a> {
    core: &'a Core,
    id: KeyspaceId,
}

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        self.core.jobs.lock().dropping.remove(&self.id);
    }
}

/// What is left of a keyspace, to be let go without a lock: its readers may have gone.
struct Dropped {
    _active: Option<ActiveMemtable>,
    tree: Arc<Tree>,
    /// Where the log starts now.
    log_start: u64,
}

impl Core {
    fn find_keyspace(&self, name: &str) -> Option<Arc<Tree>> {
        self.catalog.load().trees().find(|tree| &*tree.name == name).cloned()
    }

    /// Whether a keyspace that was there is no more. Who holds the manifest's lock and finds it there keeps it there.
    pub(crate) fn is_dropped(&self, id: KeyspaceId) -> bool {
        self.catalog.load().tree(id).is_none()
    }

    /// Fails if a keyspace that was there is no more.
    pub(crate) fn check_kept(&self, id: KeyspaceId) -> Result<()> {
        if self.is_dropped(id) { Err(Error::not_found("the keyspace was dropped")) } else { Ok(()) }
    }

    /// The id of a keyspace, which is made if there is none of this name.
    pub(crate) fn keyspace_id(&self, name: &str) -> Result<KeyspaceId> {
        if name.is_empty() || name.len() > KEYSPACE_NAME_BYTES_MAX {
            let text =
                format!("the keyspace name has {} bytes; 1 to {KEYSPACE_NAME_BYTES_MAX} are allowed", name.len());
            return Err(Error::invalid(text));
        }
        self.check_open()?;
        if let Some(tree) = self.find_keyspace(name) {
            return Ok(tree.id);
        }
        self.check_writable()?;
        let mut manifest = self.manifest.lock();
        if let Some(tree) = self.find_keyspace(name) {
            return Ok(tree.id);
        }
        let manifest = manifest.as_mut().ok_or_else(|| Error::closed("the database is closed"))?;
        let id = manifest.state().next_keyspace;
        if id >= KEYSPACE_IDS_MAX {
            return Err(Error::invalid("every keyspace id is used up"));
        }
        self.commit_edit(manifest, &[Change::Keyspace { id, name: name.to_owned() }])?;
        // It is empty up to now: conditions about earlier moments can be decided.
        self.catalog.add(Tree::new(id, Arc::from(name), Levels::empty(), SeqNo(0)));
        Ok(id)
    }

    /// Drops a keyspace; false if there is none of this name.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<bool> {
        if name == DEFAULT_KEYSPACE {
            let text = format!("the keyspace \"{DEFAULT_KEYSPACE}\" cannot be dropped: every database has it");
            return Err(Error::invalid(text));
        }
        self.check_open()?;
        self.check_writable()?;
        let Some(id) = self.find_keyspace(name).map(|tree| tree.id) else { return Ok(false) };
        self.jobs.lock().dropping.insert(id);
        self.jobs_changed.notify_all();
        let _waits = Dropping { core: self, id };
        let Some(dropped) = self.between_groups(|lead| self.drop_in_order(lead, name))? else { return Ok(false) };
        self.remove_log_before(dropped.log_start);
        self.jobs.lock().forget(dropped.tree.id);
        drop(dropped);
        // Who waited for a flush or compaction of it looks again, and files are to be removed.
        self.jobs_changed.notify_all();
        self.flush_wanted.notify_one();
        Ok(true)
    }

    /// Drops a keyspace between two groups.
    fn drop_in_order(&self, lead: &mut Lead, name: &str) -> Result<Option<Dropped>> {
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or_else(|| Error::closed("the database is closed"))?;
        // Another drop may have come first.
        let Some(tree) = self.find_keyspace(name) else { return Ok(None) };
        let id = tree.id;
        let seq = self.seq_at(Visibility::Applied);
        if !cairn_env::mutant("dropped-before-log-synced") {
            self.sync_through(seq)?;
        }
        let own: BTreeSet<*const _> = tree.buffers().map(Arc::as_ptr).collect();
        let log_start = self.log_start(|buffer| own.contains(&Arc::as_ptr(buffer))).max(manifest.state().log_start);
        let mut changes = vec![Change::DropKeyspace { keyspace: id, seq }];
        if log_start > manifest.state().log_start {
            changes.push(Change::LogStart(log_start));
        }
        self.commit_drop(manifest, &changes)?;
        for (_, table) in tree.levels.iter() {
            table.mark_obsolete();
        }
        self.catalog.remove(id);
        Ok(Some(Dropped { _active: lead.take(id), tree, log_start }))
    }

    /// Writes the edit; on a full disk once more, with what was kept aside for deletes.
    fn commit_drop(&self, manifest: &mut Manifest, changes: &[Change]) -> Result<()> {
        match self.commit_edit(manifest, changes) {
            Err(e) if e.kind() == ErrorKind::Full => {
                self.set_full(&e.to_string());
                self.commit_edit(manifest, changes)
            }
            result => result,
        }
    }
}
