//! Several logs in one directory, and what each is believed about, when no manifest says which is in
//! force.
//!
//! An opening writes the log anew, under another origin, and removes the old one once the new one is
//! in force. A crash may leave both. If the newer one agrees with the older wherever both have a
//! number, it may be an unfinished copy: both are taken. If it disagrees, it went on from where the
//! opening cut the older one, and was in force: from its first number on the older one is of the past.

use std::collections::VecDeque;
use std::path::Path;
use std::vec;

use cairn_codec::hash64;
use cairn_env::Env;
use cairn_wal::{Item, KIND_CLOSING, Scan};

use crate::files::LOG;

use super::log::operations;

/// The segments of one log.
pub(super) struct Origin {
    /// The segment with which the log began, as its segments say.
    began: u64,
    /// Ascending.
    pub(super) segments: Vec<u64>,
    /// From this number on a newer log is in force.
    pub(super) until: u64,
}

/// Sorts segments by the log that they belong to, oldest first. `believed` if a manifest says which
/// of them is in force: the first.
pub(super) fn origins(env: &Env, dir: &Path, ids: &[u64], believed: bool) -> Vec<Origin> {
    let mut origins: Vec<Origin> = Vec::new();
    for &id in ids {
        let header = Scan::open(env, &LOG.path(dir, id), LOG).ok().and_then(|scan| scan.header().ok());
        match origins.last_mut() {
            // One without a header belongs to those before it.
            Some(last) if header.is_none_or(|header| header.origin == last.began) => last.segments.push(id),
            _ => {
                let began = header.map_or(id, |header| header.origin);
                origins.push(Origin { began, segments: vec![id], until: u64::MAX });
            }
        }
    }
    let mut rest = origins.as_mut_slice();
    while let Some((older, newer)) = rest.split_first_mut().filter(|_| !believed) {
        let superseded = newer.iter().filter_map(|newer| superseded_from(env, dir, older, newer));
        older.until = superseded.min().unwrap_or(u64::MAX);
        rest = newer;
    }
    origins
}

/// From which number on the newer log supersedes the older: its first, if they disagree about any.
fn superseded_from(env: &Env, dir: &Path, older: &Origin, newer: &Origin) -> Option<u64> {
    let (mut older, mut newer) = (Numbers::new(env, dir, older), Numbers::new(env, dir, newer));
    let (mut old, mut new) = (older.next()?, newer.next()?);
    let first = new.0;
    loop {
        if old.0 < new.0 {
            old = older.next()?;
        } else if new.0 < old.0 {
            new = newer.next()?;
        } else if old.1 != new.1 {
            return Some(first);
        } else {
            (old, new) = (older.next()?, newer.next()?);
        }
    }
}

/// The readable operations of a log: number and hash of each.
struct Numbers<'a> {
    env: &'a Env,
    dir: &'a Path,
    segments: vec::IntoIter<u64>,
    scan: Option<Scan>,
    /// Of the last group that was read.
    ready: VecDeque<(u64, u64)>,
}

impl<'a> Numbers<'a> {
    fn new(env: &'a Env, dir: &'a Path, origin: &Origin) -> Numbers<'a> {
        Numbers { env, dir, segments: origin.segments.clone().into_iter(), scan: None, ready: VecDeque::new() }
    }
}

impl Iterator for Numbers<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        loop {
            if let Some(operation) = self.ready.pop_front() {
                return Some(operation);
            }
            let Some(scan) = &mut self.scan else {
                // One that cannot be opened the walk over the log will tell.
                self.scan = Scan::open(self.env, &LOG.path(self.dir, self.segments.next()?), LOG).ok();
                continue;
            };
            match scan.next() {
                Ok(Some(Item::Group(group))) if group.kind != KIND_CLOSING => {
                    let operations = operations(&group).unwrap_or_default().into_iter().map(|op| {
                        let seed = hash64(op.key, (u64::from(op.keyspace) << 8) | u64::from(op.kind));
                        hash64(op.value, seed)
                    });
                    self.ready.extend((group.first_seq..).zip(operations));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.scan = None,
            }
        }
    }
}
