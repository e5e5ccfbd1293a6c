//! What cannot be read, and is set aside until it can be.
//!
//! A record that is damaged, or that a newer build wrote, harms only itself: whoever meets it on a list passes over it,
//! goes on with what stands behind it, and notes here that there was something. Memory keeps no more of it than that.
//! Some time later the lists are read anew from their beginning; so what can be read by then gets its turn.
//!
//! A waiting task that cannot be read is told later what it waited for. What that is may be gone by then, and another
//! event may have come under its name: so it is kept in a row of its own ([`key::of_untold`]), in place of the entry
//! under which the task waits.
//!
//! Owns when it is tried again. Refuses to repair anything, or to remove what it cannot read.

use std::ops::ControlFlow;
use std::time::Duration;

use cairn_store::{Batch, Store};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Millis, TaskId};
use crate::key::{self, Entry};
use crate::machine::Command;
use crate::owner::{Owner, Turn};
use crate::rows::Row;
use crate::step::Outcome;
use crate::wait::Target;
use crate::worker::LEASE;

/// What could not be read is tried again after so long.
const AGAIN: Duration = Duration::from_secs(600);
/// A task that was in a worker's hands belongs to nobody when it can be read at last: its worker was told before.
const _: () = assert!(AGAIN.as_secs() > LEASE.as_secs());
/// So many waiting tasks are tried again before other calls get their turn.
const AT_ONCE: usize = 64;
/// And so many bytes of what they are told.
const BYTES_AT_ONCE: usize = 4 << 20;

/// What is known of what was set aside.
#[derive(Debug)]
pub(crate) struct Aside {
    /// Something on a list was passed over since the lists were last read from their beginning.
    lists: bool,
    /// There are waiting tasks that have not been told.
    untold: bool,
    /// When it is tried again.
    at: Option<Duration>,
    /// Up to here they have been tried, in the round that is under way.
    after: Option<Vec<u8>>,
}

impl Aside {
    /// An earlier process may have left somebody untold.
    pub(crate) fn new() -> Aside {
        Aside { lists: false, untold: true, at: Some(Duration::ZERO), after: None }
    }

    /// Something on a list is passed over.
    pub(crate) fn passed_over(&mut self) {
        self.lists = true;
    }

    /// A waiting task is left untold.
    pub(crate) fn left_untold(&mut self) {
        self.untold = true;
    }
}

impl<S: Store> Owner<S> {
    /// Takes a waiting task that cannot be read from among those who wait for a target. What it is told is kept for it,
    /// if it is there at all.
    pub(crate) fn leave_untold(
        &self,
        turn: &mut Turn<S>,
        queue: &str,
        target: &Target,
        task: TaskId,
        outcome: &Outcome,
        why: &Error,
    ) {
        self.wait_no_longer(turn, queue, target, task);
        if why.kind() != ErrorKind::NotFound
            && !cairn_env::mutant("untold-not-kept")
            && let Some(untold) = key::of_untold(task, target)
        {
            turn.batch.put(&self.shelf.index, &untold, &outcome.encode());
            turn.untold = true;
        }
    }

    /// Takes a task from among those who wait for a target.
    pub(crate) fn wait_no_longer(&self, turn: &mut Turn<S>, queue: &str, target: &Target, task: TaskId) {
        let entry = match target {
            Target::Timer(_) => return,
            Target::Event(event) => Entry::ForEvent { queue: queue.to_owned(), event: event.clone(), task },
            Target::Task(target) => Entry::ForTask { target: *target, task },
        };
        turn.batch.delete(&self.shelf.index, &entry.key());
    }

    /// Tries again what was set aside, if it is time. Says whether there is more of it at once.
    pub(crate) fn try_again(&mut self, now: Duration, now_ms: Millis) -> Result<bool> {
        let Aside { lists, untold, at, after } = &mut self.aside;
        if at.is_none() && (*lists || *untold) {
            *at = Some(now + AGAIN);
        }
        if at.is_none_or(|at| now < at) {
            return Ok(false);
        }
        let (mut read, begins) = (Ok(()), after.is_none());
        if begins {
            *after = std::mem::take(untold).then(Vec::new);
            if std::mem::take(lists) {
                read = self.read_lists();
            }
        }
        let told = match self.aside.after.take() {
            Some(after) => self.tell_untold(&after, now_ms),
            None => Ok(false),
        };
        self.aside.lists |= read.is_err();
        self.aside.untold |= told.is_err();
        if !matches!(told, Ok(true)) {
            self.aside.at = None;
        }
        read.and(told)
    }

    /// Tells the next of those who could not be read. Says whether there are more.
    fn tell_untold(&mut self, after: &[u8], now_ms: Millis) -> Result<bool> {
        let (mut met, mut bytes) = (Vec::new(), 0);
        self.shelf.visit(&self.shelf.index, key::UNTOLD, after, |key, row| {
            if met.len() == AT_ONCE || bytes >= BYTES_AT_ONCE {
                return Ok(ControlFlow::Break(()));
            }
            bytes += row.len();
            met.push((key.to_vec(), Outcome::decode(row)));
            Ok(ControlFlow::Continue(()))
        })?;
        let Some((last, _)) = met.last() else { return Ok(false) };
        let last = last.clone();
        for (key, outcome) in met {
            let (Some((task, target)), Ok(outcome)) = (key::untold(&key), outcome) else {
                self.aside.untold = true;
                continue;
            };
            let mut turn = self.turn(now_ms);
            turn.batch.delete(&self.shelf.index, &key);
            match self.decide(&mut turn, task, Command::Resolve { target, outcome }, now_ms) {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    self.aside.untold = true;
                    continue;
                }
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                // One that is not there any more waits for nothing.
                _ => self.commit(turn)?,
            };
        }
        self.aside.after = Some(last);
        Ok(true)
    }
}
