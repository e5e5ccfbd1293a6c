//! A table as text, for people. Data blocks are read past the cache, which inspecting leaves alone.

use std::fmt::Write;

use crate::cache::Part;
use crate::{Result, Table};

/// How much of a key is shown.
const KEY_BYTES_SHOWN: usize = 48;

fn shown(key: &[u8]) -> String {
    match key.get(..KEY_BYTES_SHOWN) {
        Some(start) if key.len() > KEY_BYTES_SHOWN => format!("{}... ({} bytes)", start.escape_ascii(), key.len()),
        _ => key.escape_ascii().to_string(),
    }
}

impl Table {
    /// What the table holds: its properties, then a line for each data block.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] at the first damage, [`crate::Error::Io`].
    pub fn describe(&self) -> Result<String> {
        let mut out = self.describe_parts()?;
        let index = self.index_block()?;
        let index = index.index().map_err(self.damaged(self.footer().index))?;
        for number in 0..index.block_count() {
            let Some(handle) = index.handle(number) else { break };
            let block = self.load(handle, Part::Data)?;
            let data = block.data().map_err(self.damaged(handle))?;
            let (mut place, mut entries, mut key, mut first) = (data.start(), 0, Vec::new(), None);
            while place.at < data.end() {
                let entry = data.entry(place).map_err(self.damaged(handle))?;
                data.step_key(&mut key, &entry).map_err(self.damaged(handle))?;
                first.get_or_insert_with(|| key.clone());
                entries += 1;
                place = entry.next();
            }
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "block {number}: offset {}, {} bytes stored, {} unpacked, {entries} entries, {} restarts, {} buckets, {} .. {}",
                handle.offset,
                handle.len,
                data.contents.len(),
                data.restart_count(),
                data.bucket_count(),
                shown(&first.unwrap_or_default()),
                shown(&key),
            );
        }
        Ok(out)
    }

    fn describe_parts(&self) -> Result<String> {
        let (s, o, footer) = (self.summary(), self.options(), self.footer());
        let filter = match footer.filter {
            Some(handle) => {
                let block = self.load(handle, self.filter_part())?;
                let (lines, hashes) = block.filter().map(|f| f.shape()).map_err(self.damaged(handle))?;
                format!("offset {}, {} bytes, {lines} lines of 512 bits, {hashes} probes", handle.offset, handle.len)
            }
            None => "none".to_owned(),
        };
        Ok(format!(
            "table {}, format version {}, {} bytes, hash seed {:#x}\n\
             entries: {} ({} keys, {} tombstones), {} bytes of keys and values\n\
             keys: {} .. {}\n\
             sequence numbers: {} .. {}; largest kind {}\n\
             written with: blocks of {} bytes, restarts every {}, compression {:?}, hash index {}\n\
             data: {} blocks, {} bytes\n\
             index: offset {}, {} bytes\n\
             filter: {filter}\n",
            s.id,
            crate::FORMAT_VERSION,
            s.file_bytes,
            o.hash_seed,
            s.entries,
            s.keys,
            s.tombstones,
            s.data_bytes,
            shown(&s.smallest_key),
            shown(&s.largest_key),
            s.smallest_seq,
            s.largest_seq,
            s.largest_kind,
            o.block_bytes,
            o.restart_interval,
            o.compression,
            if o.hash_index { "on" } else { "off" },
            s.data_blocks,
            footer.index.offset,
            footer.index.offset,
            footer.index.len,
        ))
    }
}
