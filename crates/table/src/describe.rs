//! A table as text, for people. Data blocks are read past the cache, which inspecting leaves alone.

use std::fmt::Write;

use crate::filter::Shape;
use crate::footer::Handle;
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
    /// What the table holds: its properties, then a line for each partition and data block.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] at the first damage, [`crate::Error::Io`].
    pub fn describe(&self) -> Result<String> {
        let mut out = self.describe_parts();
        let mut number = 0;
        for (partition, at) in self.index().handles().enumerate() {
            let held = self.load_partition(at)?;
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "partition {partition}: offset {}, {} bytes, {} blocks",
                at.offset,
                at.len,
                held.block_count()
            );
            for handle in held.handles() {
                self.describe_block(&mut out, number, handle)?;
                number += 1;
            }
        }
        Ok(out)
    }

    fn describe_block(&self, out: &mut String, number: u64, handle: Handle) -> Result<()> {
        let block = self.load_data(handle)?;
        let data = block.data().map_err(self.damaged(handle))?;
        let key = |number: usize| [data.prefix(), data.suffix(number)].concat();
        let _ = writeln!(
            out,
            "block {number}: offset {}, {} bytes stored, {} unpacked, {} entries, {} buckets, {} .. {}",
            handle.offset,
            handle.len,
            data.contents.len(),
            data.count(),
            data.bucket_count(),
            shown(&key(0)),
            shown(&key(data.count() - 1)),
        );
        Ok(())
    }

    fn describe_parts(&self) -> String {
        let (s, o, footer) = (self.summary(), self.options(), self.footer());
        let filter = match footer.filter {
            Shape { lines: 0, .. } => "none".to_owned(),
            Shape { offset, lines } => format!(
                "offset {offset}, {lines} lines of 512 bits in {} pieces, {} probes",
                footer.filter.piece_count(),
                o.filter_hashes.unwrap_or_default()
            ),
        };
        format!(
            "table {} of owner {}, format version {}, {} bytes, hash seed {:#x}\n\
             entries: {} ({} keys, {} tombstones), {} bytes of keys and values\n\
             keys: {} .. {}\n\
             sequence numbers: {} .. {}; largest kind {}\n\
             written with: blocks of {} bytes, compression {:?}, hash index {}\n\
             data: {} blocks, {} bytes\n\
             filter: {filter}\n\
             index: offset {}, {} bytes, {} partitions\n",
            s.id,
            s.owner,
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
            o.compression,
            if o.hash_index { "on" } else { "off" },
            s.data_blocks,
            footer.data_end,
            footer.index.offset,
            footer.index.len,
            self.index().block_count(),
        )
    }
}
