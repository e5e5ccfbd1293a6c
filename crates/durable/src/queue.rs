//! A queue and its settings, and the events that belong to it.

use cairn_codec::{DecodeError, Reader, Write};

use crate::id::Millis;
use crate::task::Json;

/// The queue that is always there.
pub const DEFAULT_QUEUE: &str = "default";
/// A queue's name has at most so many bytes, as in the model system.
pub const QUEUE_BYTES_MAX: usize = 57;

/// What is set of a queue.
///
/// ```text
/// queue := version:u8=0  status:u8  retention_days:varint  event_ttl_ms:varint  (max_waiting + 1, or 0):varint
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Whether tasks are handed out.
    pub status: QueueStatus,
    /// How long a task is kept that has ended, in days since it was made.
    pub retention_days: u32,
    /// How long an event is kept.
    pub event_ttl_ms: Millis,
    /// So many tasks may be queued, due or not; beyond it a spawn is refused. What runs or waits, and what is
    /// queued again, is not refused.
    pub max_waiting: Option<u64>,
}

/// Whether tasks of a queue are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueStatus {
    /// They are.
    Active,
    /// They stay where they are. Those that run go on.
    Paused,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { status: QueueStatus::Active, retention_days: 30, event_ttl_ms: 30 * 86_400_000, max_waiting: None }
    }
}

impl Queue {
    /// The row of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, u8::from(self.status == QueueStatus::Paused)];
        out.put_varint(u64::from(self.retention_days));
        out.put_varint(self.event_ttl_ms);
        out.put_varint(self.max_waiting.map_or(0, |max| max.saturating_add(1)));
        out
    }

    /// What a row says.
    ///
    /// # Errors
    /// What does not decode, and where.
    pub fn decode(row: &[u8]) -> Result<Queue, DecodeError> {
        let mut from = Reader::new(row);
        let unknown = from.error("a queue of a version that this build does not know (use a newer cairn)");
        let status = match (from.u8()?, from.u8()?) {
            (0, 0) => QueueStatus::Active,
            (0, 1) => QueueStatus::Paused,
            _ => return Err(unknown),
        };
        let large = from.error("days of retention over 32 bits");
        let retention_days = u32::try_from(from.varint()?).map_err(|_| large)?;
        let (event_ttl_ms, max_waiting) = (from.varint()?, from.varint()?.checked_sub(1));
        from.finish()?;
        Ok(Queue { status, retention_days, event_ttl_ms, max_waiting })
    }
}

/// An event: the first payload that was emitted under its name.
///
/// ```text
/// event := version:u8=0  at_ms:varint  payload: the rest
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at_ms: Millis,
    /// What.
    pub payload: Json,
}

impl Event {
    /// The row of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        out.put_varint(self.at_ms);
        out.extend_from_slice(&self.payload);
        out
    }

    /// What a row says.
    ///
    /// # Errors
    /// What does not decode, and where.
    pub fn decode(row: &[u8]) -> Result<Event, DecodeError> {
        let mut from = Reader::new(row);
        let unknown = from.error("an event of a version that this build does not know (use a newer cairn)");
        if from.u8()? != 0 {
            return Err(unknown);
        }
        Ok(Event { at_ms: from.varint()?, payload: from.rest().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_and_have_these_bytes() {
        let queue = Queue { status: QueueStatus::Paused, retention_days: 7, event_ttl_ms: 300, max_waiting: Some(0) };
        assert_eq!(queue.encode(), [0, 1, 7, 0xac, 2, 1]);
        for queue in [queue, Queue::default(), Queue { max_waiting: Some(u64::MAX - 1), ..queue }] {
            let row = queue.encode();
            assert_eq!(Queue::decode(&row), Ok(queue));
            assert!((0..row.len()).all(|len| Queue::decode(&row[..len]).is_err()));
        }
        assert!(Queue::decode(&[0, 2, 7, 1, 1]).is_err() && Queue::decode(&[1, 0, 7, 1, 1]).is_err());
        let event = Event { at_ms: 300, payload: Box::from(*b"null") };
        assert_eq!(event.encode(), b"\0\xac\x02null");
        assert_eq!(Event::decode(&event.encode()), Ok(event));
        assert!(Event::decode(b"").is_err() && Event::decode(b"\x01\0").is_err());
    }
}
