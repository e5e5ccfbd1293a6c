//! Where a repair goes: its place, and the new database there.
//!
//! Until it is whole and durable the new database stands beside its place, under a name that says
//! so: a repair that was interrupted must not pass for a database that has lost everything.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Component, Path, PathBuf};

use cairn_env::Env;

use crate::batch::Batch;
use crate::db::{Db, Keyspace};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::types::{Durability, KeyspaceId};

/// What is read is handed to the new database in batches of about this size.
const BATCH_BYTES: usize = 4 << 20;

/// Behind the name of what is not finished.
const UNFINISHED: &str = ".unfinished";

/// A place that is apart from the damaged database, and free.
#[derive(Debug)]
pub(super) struct Destination {
    /// Absolute, without links.
    pub(super) to: PathBuf,
    /// Beside it.
    pub(super) unfinished: PathBuf,
}

impl Destination {
    pub(super) fn check(env: &Env, dir: &Path, to: &Path) -> Result<Destination> {
        let place = resolve(env, to)?;
        if place.starts_with(env.resolve(dir)?) {
            let (to, dir) = (to.display(), dir.display());
            return Err(Error::invalid(format!("{to} lies within {dir}: repair to a place beside it")));
        }
        match env.list(&place) {
            Ok(entries) if entries.is_empty() => {}
            Ok(_) => {
                let to = to.display();
                return Err(Error::invalid(format!("{to} is not empty: name a new or an empty directory")));
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        let Some(name) = place.file_name() else {
            return Err(Error::invalid(format!("{} has no name: name a new directory", to.display())));
        };
        let mut name = name.to_owned();
        name.push(UNFINISHED);
        let unfinished = place.with_file_name(name);
        match env.resolve(&unfinished) {
            Ok(_) => Err(Error::invalid(format!(
                "{} is there, of a repair that did not come to its end: remove it, or name another directory",
                unfinished.display()
            ))),
            Err(e) if e.is_not_found() => Ok(Destination { to: place, unfinished }),
            Err(e) => Err(e.into()),
        }
    }
}

/// The absolute path, without links, of what may not exist yet.
fn resolve(env: &Env, path: &Path) -> Result<PathBuf> {
    for above in path.ancestors() {
        let existing = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let mut resolved = match env.resolve(existing) {
            Ok(resolved) => resolved,
            Err(e) if e.is_not_found() => continue,
            Err(e) => return Err(e.into()),
        };
        for part in path.strip_prefix(above).unwrap_or(path).components() {
            match part {
                Component::Normal(name) => resolved.push(name),
                Component::CurDir => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "{} goes back from a directory that does not exist",
                        path.display()
                    )));
                }
            }
        }
        return Ok(resolved);
    }
    Err(Error::invalid(format!("{} leads nowhere", path.display())))
}

/// The new database.
pub(super) struct Target {
    db: Db,
    keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    batch: Batch,
    /// Of the keys and values that were written.
    pub(super) bytes: u64,
}

impl Target {
    pub(super) fn create(env: &Env, destination: &Destination) -> Result<Target> {
        let Destination { to, unfinished } = destination;
        // An empty directory is taken away now: one that cannot be is better refused before the work.
        match env.rename(to, unfinished) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        // Nothing is acknowledged before the whole is synced.
        let db = Db::open_in(env, unfinished, Options { durability: Durability::Buffered, ..Options::default() })?;
        let batch = db.batch();
        Ok(Target { db, keyspaces: BTreeMap::new(), batch, bytes: 0 })
    }

    /// Makes the keyspace that stands for the old one with this id.
    pub(super) fn keyspace(&mut self, id: KeyspaceId, name: &str) -> Result<()> {
        if let Entry::Vacant(vacant) = self.keyspaces.entry(id) {
            vacant.insert(self.db.keyspace(name)?);
        }
        Ok(())
    }

    /// Puts, or without a value deletes, a key of a keyspace that was made.
    pub(super) fn write(&mut self, id: KeyspaceId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let bytes = key.len() + value.unwrap_or_default().len();
        if !self.batch.is_empty() && self.batch.bytes() + bytes > BATCH_BYTES {
            self.hand_over()?;
        }
        let Some(keyspace) = self.keyspaces.get(&id) else {
            return Err(Error::invalid(format!("keyspace {id} was not made")));
        };
        match value {
            Some(value) => self.batch.put(keyspace, key, value),
            None => self.batch.delete(keyspace, key),
        }
        self.bytes += bytes as u64;
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        let batch = std::mem::replace(&mut self.batch, self.db.batch());
        self.db.write(batch, Durability::Buffered)?;
        Ok(())
    }

    /// Makes all of it durable, then gives it its name.
    pub(super) fn finish(mut self, env: &Env, destination: &Destination) -> Result<()> {
        self.hand_over()?;
        self.db.sync()?;
        self.db.flush()?;
        self.db.close()?;
        env.rename(&destination.unfinished, &destination.to)?;
        env.sync_dir(destination.to.parent().unwrap_or(Path::new("/")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_env::testing::TempDir;

    use super::*;

    #[test]
    fn a_repair_goes_to_a_place_of_its_own() {
        let env = Env::memory();
        for dir in ["data", "full/of", "empty", "left.unfinished"] {
            env.create_dir_all(Path::new(dir)).unwrap();
        }
        let check = |to: &str| Destination::check(&env, Path::new("data"), Path::new(to));
        for to in ["new", "empty", "data2", "./deep/new", "data/../new", "/new", "full/new"] {
            check(to).unwrap();
        }
        for (to, what) in [
            ("data", "within"),
            ("./data", "within"),
            ("data/new", "within"),
            ("/data/new", "within"),
            ("full/../data/new", "within"),
            ("full", "not empty"),
            ("left", "/left.unfinished is there"),
        ] {
            let refused = check(to).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn links_and_other_ways_round_lead_to_the_same_place() {
        let (env, temporary) = (Env::real(), TempDir::new());
        let at = |name: &str| temporary.path().join(name);
        env.create_dir_all(&at("data")).unwrap();
        env.create_dir_all(&at("elsewhere")).unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        let check = |dir: &str, to: &str| Destination::check(&env, &at(dir), &at(to));
        for (dir, to) in
            [("data", "link"), ("data", "link/new"), ("link", "data/new"), ("data", "elsewhere/../data/new")]
        {
            let refused = check(dir, to).unwrap_err().to_string();
            assert!(refused.contains("lies within"), "{dir} to {to}: {refused}");
        }
        let refused = check("data", "none/../new").unwrap_err().to_string();
        assert!(refused.contains("does not exist"), "{refused}");
        for (dir, to) in [("data", "new"), ("data", "data/../new"), ("data/.", "data/../new"), ("link", "link/../new")]
        {
            check(dir, to).unwrap();
        }
    }
}
