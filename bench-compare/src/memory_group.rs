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
