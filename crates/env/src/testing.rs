//! Helpers for tests of all crates; no part of the product.

mod heap;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::rng::Rng;
pub use heap::CountingAllocator;

/// Says what this thread does from now on, for the table of [`Coverage`](crate::Coverage). A thread
/// that an environment started does what its name says.
pub fn set_stage(name: &str) {
    crate::sim_disk::set_stage(name);
}

/// A fresh directory of the real file system, removed with all it holds on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes the directory under the system's place for temporary files.
    ///
    /// # Panics
    /// If the system refuses: a test can do nothing better.
    #[allow(clippy::panic)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> TempDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("cairn-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir_all(std::env::temp_dir()).and_then(|()| std::fs::create_dir(&path)) {
                Ok(()) => return TempDir { path },
                // Left over from an earlier process that had our number.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => panic!("cannot create {}: {e}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A directory left behind is no reason to fail a test that passed.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
