//! How long the disk takes to make a small write durable: what every figure about waiting is held against.
//!
//! A disk that others use too is now fast and now slow. So a workload that is held against it asks it between
//! its own calls, and compares what was measured in the same seconds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::figure::quantile;

/// About what a command on a task writes to the log.
const BYTES: usize = 256;
const SAMPLES: u32 = 500;

/// A file that is appended to, as a log is, with `fdatasync` after each write.
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
    /// Milliseconds of each.
    took: Vec<f64>,
}

impl Disk {
    pub(crate) fn new(scratch: &Path) -> Result<Disk, String> {
        let path = scratch.join("fdatasync");
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Disk { path, file, took: Vec::new() })
    }

    /// The same, asked often enough to know a median.
    pub(crate) fn asked(scratch: &Path) -> Result<Disk, String> {
        let mut disk = Disk::new(scratch)?;
        (0..SAMPLES).try_for_each(|_| disk.ask().map(drop))?;
        Ok(disk)
    }

    /// One small write; says how many milliseconds it took.
    pub(crate) fn ask(&mut self) -> Result<f64, String> {
        let at = (self.took.len() * BYTES) as u64;
        let began = Instant::now();
        let written = self.file.write_all_at(&[7; BYTES], at).and_then(|()| self.file.sync_data());
        written.map_err(|e| format!("{}: {e}", self.path.display()))?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        self.took.push(took);
        Ok(took)
    }

    /// The median, F50, in milliseconds.
    pub(crate) fn p50(&mut self) -> f64 {
        quantile(&mut self.took, 0.5)
    }

    /// F99.
    pub(crate) fn p99(&mut self) -> f64 {
        quantile(&mut self.took, 0.99)
    }
}
