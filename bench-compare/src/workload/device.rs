//! What the device itself does: the measure of a durable write.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use cairn_bench::Histogram;

use crate::engine::Result;
use crate::measure::Stopwatch;

/// Space written beforehand, so that a sync has no file size to record.
const FILE_BYTES: u64 = 8 << 20;
/// What one write writes: as much as a small entry of a log.
const WRITE_BYTES: u64 = 100;

/// A file whose written space is overwritten and synced.
pub struct Device {
    file: File,
    offset: u64,
}

impl Device {
    /// Makes the file in a directory.
    pub fn new(dir: &Path) -> Result<Device> {
        let mut file = File::create(dir.join("device-probe"))?;
        file.write_all(&vec![1; usize::try_from(FILE_BYTES)?])?;
        file.sync_all()?;
        Ok(Device { file, offset: 0 })
    }

    /// Overwrites, each time a little further on, and syncs the data, for so long.
    pub fn probe(&mut self, duration: Duration, latencies: &mut Histogram) -> Result<()> {
        let mut watch = Stopwatch::start(duration);
        while !watch.is_over() {
            let (file, offset) = (&self.file, self.offset);
            watch.time(latencies, || -> std::io::Result<()> {
                file.write_all_at(&[2; WRITE_BYTES as usize], offset)?;
                file.sync_data()
            })?;
            self.offset = (self.offset + WRITE_BYTES) % (FILE_BYTES - WRITE_BYTES);
        }
        Ok(())
    }
}
