//! The entries of a scan as they arrive: lines of JSON out of frames of any size.

use cairn_api::ScanLine;

use crate::connection::{ANSWER_BYTES_MAX, Answer};
use crate::error::{Error, Result};

/// A scan under way. Dropped early, it closes its connection.
#[derive(Debug)]
pub struct Entries {
    answer: Answer,
    received: Vec<u8>,
    /// Start of what has not been handed out.
    taken: usize,
    /// Up to here, no line feed was found after `taken`: each byte is looked at once.
    searched: usize,
}

impl Entries {
    pub(crate) fn new(answer: Answer) -> Entries {
        Entries { answer, received: Vec::new(), taken: 0, searched: 0 }
    }

    /// The sequence number the scan sees.
    pub fn seq(&self) -> Option<u64> {
        self.answer.seq()
    }

    /// The next entry, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unanswered`] or [`Error::Timeout`] if the scan broke off: what came so far is right,
    /// but not all. [`Error::Answer`] for a line that is not one.
    pub async fn next(&mut self) -> Result<Option<ScanLine>> {
        loop {
            let unsearched = self.received.get(self.searched..).unwrap_or_default();
            if let Some(length) = unsearched.iter().position(|&byte| byte == b'\n') {
                let end = self.searched + length;
                let line = self.received.get(self.taken..end).unwrap_or_default();
                let entry = serde_json::from_slice(line).map_err(|e| Error::answer("a line of the scan", e))?;
                (self.taken, self.searched) = (end + 1, end + 1);
                return Ok(Some(entry));
            }
            self.received.drain(..self.taken);
            (self.taken, self.searched) = (0, self.received.len());
            if self.received.len() > ANSWER_BYTES_MAX {
                return Err(Error::answer("a line of the scan", "it has no end"));
            }
            match self.answer.frame().await? {
                Some(bytes) => self.received.extend_from_slice(&bytes),
                None if self.received.is_empty() => return Ok(None),
                None => return Err(Error::answer("the last line of the scan", "it ends without a line feed")),
            }
        }
    }
}
