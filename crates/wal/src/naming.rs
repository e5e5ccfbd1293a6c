//! The names of a log's files; the only place that makes or reads them.

use std::path::{Path, PathBuf};

use cairn_env::Env;

use crate::error::Result;

/// How the files of one log are called: `{prefix}{id:010}{suffix}`. Logs that share a directory
/// differ in prefix or suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// What stands before the id, such as `log-`.
    pub prefix: &'static str,
    /// What stands after it, such as `.wal`.
    pub suffix: &'static str,
}

impl Naming {
    /// The file name of segment `id`.
    pub fn name(&self, id: u64) -> String {
        format!("{}{id:010}{}", self.prefix, self.suffix)
    }

    /// The path of segment `id` in `dir`.
    pub fn path(&self, dir: &Path, id: u64) -> PathBuf {
        dir.join(self.name(id))
    }

    /// The id in a name that [`Naming::name`] made; none for every other name.
    pub fn parse(&self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?;
        let id = digits.parse().ok()?;
        // One name per id: `+7`, `007` and the like are not ours.
        (self.name(id) == name).then_some(id)
    }

    /// The name under which a segment waits to be used again.
    pub fn spare_name(&self) -> String {
        format!("{}spare{}", self.prefix, self.suffix)
    }

    /// The id with which a new log in `dir` may begin: above those of all segments there are,
    /// whatever became of their logs; 1 if there is none.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the directory cannot be listed.
    pub fn next_id(&self, env: &Env, dir: &Path) -> Result<u64> {
        Ok(self.ids(env, dir)?.last().map_or(1, |highest| highest.saturating_add(1)))
    }

    /// The ids of all segments in `dir`, ascending.
    pub(crate) fn ids(&self, env: &Env, dir: &Path) -> Result<Vec<u64>> {
        let mut ids: Vec<u64> = env.list(dir)?.iter().filter_map(|entry| self.parse(&entry.name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub(crate) fn spare_path(&self, dir: &Path) -> PathBuf {
        dir.join(self.spare_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_it_made_parse() {
        let naming = Naming { prefix: "log-", suffix: ".wal" };
        assert_eq!(naming.name(7), "log-0000000007.wal");
        for id in [0, 7, 9_999_999_999, 10_000_000_000, u64::MAX] {
            assert_eq!(naming.parse(&naming.name(id)), Some(id));
        }
        for other in [
            "log-7.wal",
            "log-00000000007.wal",
            "log-+000000007.wal",
            "log-0000000007.wa",
            "log-spare.wal",
            "log-.wal",
            "log-99999999999999999999.wal",
            "x",
            "",
        ] {
            assert_eq!(naming.parse(other), None, "{other}");
        }
    }
}
