//! The stored form of the records.
//!
//! ```text
//! spec    := version:u8=0  created_ms  priority:zigzag  max_lost  retry  max_delay:opt  max_duration:opt
//!            parent:opt16  queue:text  name:text  input:bytes  headers:bytes  tags:count (text text)*
//! task    := version:u8=0  status  run  max_attempts  lost  runs_ended  steps  first_started_ms:opt
//!            handed_back:u8 [fence]  code_version:opt text   handed_back: 0 none, else 1 + how it ended
//! status  := 0 due_ms | 1 fence | 2 since_ms | 3 ended_ms | 4 ended_ms failure | 5 ended_ms reason:text
//! run     := id:16  attempt  started_ms:opt
//! fence   := instance:u64  count
//! retry   := 0 | 1 base_ms jitter:f64 | 2 base_ms factor:f64 max_ms jitter:f64
//! ended   := version:u8=0  run  ended_ms  worker:text  (0 | 1 failure | 2 | 3)      done, failed, lost, cancelled
//! step    := version:u8=0  kind:u8  seq  attempt  at_ms  outcome
//! outcome := 0 bytes | 1 failure retry_at_ms:opt | 2 | 3     value, failed, cancelled, timed out
//! told    := version:u8=0  outcome                what all who wait for a target are told
//! wait    := version:u8=0  group:opt text  timeout_at_ms:opt  target       its id is in the key
//! target  := 0 until_ms | 1 name:text | 2 task:16
//! failure := kind:text  message:text  detail:opt bytes  retryable:u8
//! ```
//! A number without a width is a varint; `opt` is a byte 0 or 1, then the field if it is 1; `text` (UTF-8) and
//! `bytes` are a varint length and that many bytes; `zigzag` is a varint in which the lowest bit is the sign.
//! Another version, an unknown tag, bytes behind the end: refused. Tags and versions only ever grow.

use cairn_codec::{DecodeError, Reader, Write};

use crate::id::{Millis, RunId, TaskId};
use crate::retry::Retry;
use crate::step::{Outcome, Step, StepId, StepKind};
use crate::task::{
    Cancellation, EndedRun, Ending, Failure, Fence, HandedBack, Json, Run, RunStatus, Spec, Status, Task,
};
use crate::wait::{Target, Wait};

const VERSION: u8 = 0;

type Decoded<T> = Result<T, DecodeError>;

/// A record that is stored.
pub trait Row: Sized {
    /// Appends the fields.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads the fields.
    ///
    /// # Errors
    /// What does not decode, and where.
    fn take(from: &mut Reader<'_>) -> Decoded<Self>;

    /// The row of it.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out
    }

    /// What a row says, all of it.
    ///
    /// # Errors
    /// What does not decode, and where.
    fn decode(row: &[u8]) -> Decoded<Self> {
        let mut from = Reader::new(row);
        let newer = from.error("a record of a version that this build does not know (use a newer cairn)");
        if from.u8()? != VERSION {
            return Err(newer);
        }
        let record = Self::take(&mut from)?;
        from.finish()?;
        Ok(record)
    }
}

fn put_opt<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn take_opt<'a, T>(from: &mut Reader<'a>, take: impl FnOnce(&mut Reader<'a>) -> Decoded<T>) -> Decoded<Option<T>> {
    Ok(if take_bool(from)? { Some(take(from)?) } else { None })
}

fn take_bool(from: &mut Reader<'_>) -> Decoded<bool> {
    let neither = from.error("a byte that must be 0 or 1");
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(neither),
    }
}

fn put_ms(out: &mut Vec<u8>, ms: Millis) {
    out.put_varint(ms);
}

fn take_u32(from: &mut Reader<'_>) -> Decoded<u32> {
    let large = from.error("a number over 32 bits");
    u32::try_from(from.varint()?).map_err(|_| large)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_prefixed(text.as_bytes());
}

fn take_text(from: &mut Reader<'_>) -> Decoded<String> {
    let broken = from.error("a text that is not UTF-8");
    Ok(std::str::from_utf8(from.prefixed()?).map_err(|_| broken)?.to_owned())
}

fn take_json(from: &mut Reader<'_>) -> Decoded<Json> {
    Ok(from.prefixed()?.into())
}

fn take_id(from: &mut Reader<'_>) -> Decoded<[u8; 16]> {
    let short = from.error("an id of 16 bytes");
    from.bytes(16)?.try_into().map_err(|_| short)
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.put_u64(value.to_bits());
}

fn take_f64(from: &mut Reader<'_>) -> Decoded<f64> {
    Ok(f64::from_bits(from.u64()?))
}

fn put_fence(out: &mut Vec<u8>, fence: Fence) {
    out.put_u64(fence.instance);
    out.put_varint(fence.count);
}

fn take_fence(from: &mut Reader<'_>) -> Decoded<Fence> {
    Ok(Fence { instance: from.u64()?, count: from.varint()? })
}

impl Row for Spec {
    fn put(&self, out: &mut Vec<u8>) {
        put_ms(out, self.created_ms);
        let priority = i64::from(self.priority);
        out.put_varint(((priority << 1) ^ (priority >> 63)) as u64);
        out.put_varint(u64::from(self.max_lost));
        self.retry.put(out);
        put_opt(out, self.cancellation.max_delay_ms, put_ms);
        put_opt(out, self.cancellation.max_duration_ms, put_ms);
        put_opt(out, self.parent, |out, parent| out.extend_from_slice(parent.as_bytes()));
        put_text(out, &self.queue);
        put_text(out, &self.name);
        out.put_prefixed(&self.input);
        out.put_prefixed(&self.headers);
        out.put_varint(self.tags.len() as u64);
        for (tag, value) in &self.tags {
            put_text(out, tag);
            put_text(out, value);
        }
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Spec> {
        let created_ms = from.varint()?;
        let wild = from.error("a priority over 32 bits");
        let zigzag = from.varint()?;
        let priority = i32::try_from((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)).map_err(|_| wild)?;
        let max_lost = take_u32(from)?;
        let retry = Retry::take(from)?;
        let cancellation = Cancellation {
            max_delay_ms: take_opt(from, Reader::varint)?,
            max_duration_ms: take_opt(from, Reader::varint)?,
        };
        let parent = take_opt(from, take_id)?.map(TaskId::from_bytes);
        let (queue, name) = (take_text(from)?, take_text(from)?);
        let (input, headers) = (take_json(from)?, take_json(from)?);
        // A tag takes two bytes at least.
        let count = from.varint_len(from.remaining() / 2)?;
        let tags = (0..count).map(|_| Ok((take_text(from)?, take_text(from)?))).collect::<Decoded<_>>()?;
        Ok(Spec { queue, name, input, headers, tags, priority, retry, max_lost, cancellation, created_ms, parent })
    }
}

impl Row for Retry {
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Retry::None => out.put_u8(0),
            Retry::Fixed { base_ms, jitter } => {
                out.put_u8(1);
                put_ms(out, base_ms);
                put_f64(out, jitter);
            }
            Retry::Exponential { base_ms, factor, max_ms, jitter } => {
                out.put_u8(2);
                put_ms(out, base_ms);
                put_f64(out, factor);
                put_ms(out, max_ms);
                put_f64(out, jitter);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Retry> {
        let unknown = from.error("an unknown retry strategy");
        Ok(match from.u8()? {
            0 => Retry::None,
            1 => Retry::Fixed { base_ms: from.varint()?, jitter: take_f64(from)? },
            2 => Retry::Exponential {
                base_ms: from.varint()?,
                factor: take_f64(from)?,
                max_ms: from.varint()?,
                jitter: take_f64(from)?,
            },
            _ => return Err(unknown),
        })
    }
}

impl Row for Task {
    fn put(&self, out: &mut Vec<u8>) {
        self.status.put(out);
        self.run.put(out);
        for number in [self.max_attempts, self.lost, self.runs_ended, self.steps] {
            out.put_varint(u64::from(number));
        }
        put_opt(out, self.first_started_ms, put_ms);
        match self.handed_back {
            None => out.put_u8(0),
            Some(HandedBack { fence, by }) => {
                out.put_u8(match by {
                    Ending::Completed => 1,
                    Ending::Failed => 2,
                    Ending::Suspended => 3,
                    Ending::Released => 4,
                    Ending::Lost => 5,
                    Ending::Cancelled => 6,
                });
                put_fence(out, fence);
            }
        }
        put_opt(out, self.version.as_deref(), put_text);
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Task> {
        Ok(Task {
            status: Status::take(from)?,
            run: Run::take(from)?,
            max_attempts: take_u32(from)?,
            lost: take_u32(from)?,
            runs_ended: take_u32(from)?,
            steps: take_u32(from)?,
            first_started_ms: take_opt(from, Reader::varint)?,
            handed_back: take_handed_back(from)?,
            version: take_opt(from, take_text)?,
        })
    }
}

fn take_handed_back(from: &mut Reader<'_>) -> Decoded<Option<HandedBack>> {
    let unknown = from.error("an unknown end of a hand-out");
    let by = match from.u8()? {
        0 => return Ok(None),
        1 => Ending::Completed,
        2 => Ending::Failed,
        3 => Ending::Suspended,
        4 => Ending::Released,
        5 => Ending::Lost,
        6 => Ending::Cancelled,
        _ => return Err(unknown),
    };
    Ok(Some(HandedBack { fence: take_fence(from)?, by }))
}

impl Row for Status {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Status::Queued { due_ms } => {
                out.put_u8(0);
                put_ms(out, *due_ms);
            }
            Status::Running { fence } => {
                out.put_u8(1);
                put_fence(out, *fence);
            }
            Status::Waiting { since_ms } => {
                out.put_u8(2);
                put_ms(out, *since_ms);
            }
            Status::Completed { ended_ms } => {
                out.put_u8(3);
                put_ms(out, *ended_ms);
            }
            Status::Failed { ended_ms, failure } => {
                out.put_u8(4);
                put_ms(out, *ended_ms);
                failure.put(out);
            }
            Status::Cancelled { ended_ms, reason } => {
                out.put_u8(5);
                put_ms(out, *ended_ms);
                put_text(out, reason);
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Status> {
        let unknown = from.error("an unknown status of a task");
        Ok(match from.u8()? {
            0 => Status::Queued { due_ms: from.varint()? },
            1 => Status::Running { fence: take_fence(from)? },
            2 => Status::Waiting { since_ms: from.varint()? },
            3 => Status::Completed { ended_ms: from.varint()? },
            4 => Status::Failed { ended_ms: from.varint()?, failure: Failure::take(from)? },
            5 => Status::Cancelled { ended_ms: from.varint()?, reason: take_text(from)? },
            _ => return Err(unknown),
        })
    }
}

impl Row for Run {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.put_varint(u64::from(self.attempt));
        put_opt(out, self.started_ms, put_ms);
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Run> {
        let id = RunId::from_bytes(take_id(from)?);
        Ok(Run { id, attempt: take_u32(from)?, started_ms: take_opt(from, Reader::varint)? })
    }
}

impl Row for EndedRun {
    fn put(&self, out: &mut Vec<u8>) {
        self.run.put(out);
        put_ms(out, self.ended_ms);
        put_text(out, &self.worker);
        match &self.status {
            RunStatus::Done => out.put_u8(0),
            RunStatus::Failed(failure) => {
                out.put_u8(1);
                failure.put(out);
            }
            RunStatus::Lost => out.put_u8(2),
            RunStatus::Cancelled => out.put_u8(3),
        }
    }

    fn take(from: &mut Reader<'_>) -> Decoded<EndedRun> {
        let (run, ended_ms, worker) = (Run::take(from)?, from.varint()?, take_text(from)?);
        let unknown = from.error("an unknown end of a run");
        let status = match from.u8()? {
            0 => RunStatus::Done,
            1 => RunStatus::Failed(Failure::take(from)?),
            2 => RunStatus::Lost,
            3 => RunStatus::Cancelled,
            _ => return Err(unknown),
        };
        Ok(EndedRun { run, ended_ms, worker, status })
    }
}

impl Row for Step {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.kind {
            StepKind::Step => 0,
            StepKind::Spawn => 1,
            StepKind::Emit => 2,
            StepKind::Timer => 3,
            StepKind::Event => 4,
            StepKind::Task => 5,
        });
        out.put_varint(u64::from(self.seq));
        out.put_varint(u64::from(self.attempt));
        put_ms(out, self.at_ms);
        self.outcome.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Step> {
        let unknown = from.error("an unknown kind of step");
        let kind = match from.u8()? {
            0 => StepKind::Step,
            1 => StepKind::Spawn,
            2 => StepKind::Emit,
            3 => StepKind::Timer,
            4 => StepKind::Event,
            5 => StepKind::Task,
            _ => return Err(unknown),
        };
        let (seq, attempt, at_ms) = (take_u32(from)?, take_u32(from)?, from.varint()?);
        Ok(Step { seq, kind, attempt, at_ms, outcome: Outcome::take(from)? })
    }
}

impl Row for Outcome {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Outcome::Value(value) => {
                out.put_u8(0);
                out.put_prefixed(value);
            }
            Outcome::Failed { failure, retry_at_ms } => {
                out.put_u8(1);
                failure.put(out);
                put_opt(out, *retry_at_ms, put_ms);
            }
            Outcome::Cancelled => out.put_u8(2),
            Outcome::TimedOut => out.put_u8(3),
        }
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Outcome> {
        let unknown = from.error("an unknown outcome of a step");
        Ok(match from.u8()? {
            0 => Outcome::Value(take_json(from)?),
            1 => Outcome::Failed { failure: Failure::take(from)?, retry_at_ms: take_opt(from, Reader::varint)? },
            2 => Outcome::Cancelled,
            3 => Outcome::TimedOut,
            _ => return Err(unknown),
        })
    }
}

impl Row for Failure {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, &self.kind);
        put_text(out, &self.message);
        put_opt(out, self.detail.as_deref(), |out, detail| out.put_prefixed(detail));
        out.put_u8(u8::from(self.retryable));
    }

    fn take(from: &mut Reader<'_>) -> Decoded<Failure> {
        Ok(Failure {
            kind: take_text(from)?,
            message: take_text(from)?,
            detail: take_opt(from, take_json)?,
            retryable: take_bool(from)?,
        })
    }
}

/// The row of a wait; its id stands in the key.
pub fn encode_wait(wait: &Wait) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_opt(&mut out, wait.group.as_deref(), put_text);
    put_opt(&mut out, wait.timeout_at_ms, put_ms);
    match &wait.target {
        Target::Timer(until_ms) => {
            out.put_u8(0);
            put_ms(&mut out, *until_ms);
        }
        Target::Event(name) => {
            out.put_u8(1);
            put_text(&mut out, name);
        }
        Target::Task(id) => {
            out.put_u8(2);
            out.extend_from_slice(id.as_bytes());
        }
    }
    out
}

/// The wait of this id that a row holds.
///
/// # Errors
/// What does not decode, and where.
pub fn decode_wait(id: StepId, row: &[u8]) -> Result<Wait, DecodeError> {
    let mut from = Reader::new(row);
    let newer = from.error("a wait of a version that this build does not know (use a newer cairn)");
    if from.u8()? != VERSION {
        return Err(newer);
    }
    let group = take_opt(&mut from, take_text)?;
    let timeout_at_ms = take_opt(&mut from, Reader::varint)?;
    let unknown = from.error("an unknown target of a wait");
    let target = match from.u8()? {
        0 => Target::Timer(from.varint()?),
        1 => Target::Event(take_text(&mut from)?),
        2 => Target::Task(TaskId::from_bytes(take_id(&mut from)?)),
        _ => return Err(unknown),
    };
    from.finish()?;
    Ok(Wait { id, group, target, timeout_at_ms })
}

#[cfg(test)]
mod tests;
