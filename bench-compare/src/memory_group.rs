//! A memory group of the kernel (cgroup, version 1) with a limit, page cache included.

use std::path::{Path, PathBuf};

use crate::engine::Result;

/// Where version 1 is mounted.
const ROOT: &str = "/sys/fs/cgroup/memory";

/// A group, removed on drop when nobody is in it any more.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// A new group with a limit in MiB.
    pub fn create(limit_mib: u64) -> Result<MemoryGroup> {
        let dir = Path::new(ROOT).join(format!("bench-compare-{}", std::process::id()));
        if !Path::new(ROOT).join("memory.limit_in_bytes").exists() {
            return Err(format!("{ROOT} is not the memory controller of cgroup version 1").into());
        }
        let _ = std::fs::remove_dir(&dir);
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let group = MemoryGroup { dir };
        std::fs::write(group.dir.join("memory.limit_in_bytes"), (limit_mib << 20).to_string())?;
        Ok(group)
    }

    /// How often the kernel ended a process of it for lack of memory.
    pub fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join("memory.oom_control")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Its directory; a process that is written into its `cgroup.procs` belongs to it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // What is still charged to it the kernel gives to the parent.
        let _ = std::fs::remove_dir(&self.dir);
    }
}
