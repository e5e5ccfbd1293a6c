//! `cairn task tail`: tasks as they are made and as they change.
//!
//! The server is asked again and again: for the newest tasks, down to a little before what was new the last time, and
//! for those that had not ended and were not among them. So a change shows within the interval, and of several
//! changes between two looks only the last. Bounded: [`FOLLOWED_MAX`] tasks, [`ASKED_MAX`] of them at a look.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use cairn_client::wire::Task;
use cairn_client::{Client, Error, ErrorKind, Listing, Paging};
use cairn_env::Env;
use clap::Args;

use crate::cmd::task::words::{is_open, why};
use crate::failure::Failure;
use crate::output;
use crate::session::{Session, json_text};
use crate::target::{self, ServerArgs};
use crate::text::{self, plain};
use crate::when;

/// So many tasks that have not ended are followed; of more, the newest.
const FOLLOWED_MAX: usize = 1_000;
/// So many of those that are not among the newest are asked for at a look, in turn.
const ASKED_MAX: usize = 100;
/// So many pages of older tasks are searched at the beginning for those that have not ended.
const SEARCHED_PAGES_MAX: usize = 10;
/// A task may show so much later than the time in its id says: its id was made by who spawned it.
const LATE_MS_MAX: u64 = 10_000;
const PAGE: usize = 100;

/// Follow tasks as they are made and as they change, a line for each change, until Ctrl-C
///
/// Looks at the server again and again; of several changes of a task between two looks it shows the last.
/// Follows the newest 1,000 tasks that have not ended.
#[derive(Args)]
pub(crate) struct Tail {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this name
    #[arg(long)]
    name: Option<String>,
    /// Begin with so many of the newest
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: u32,
    /// How often to look
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, default_value = "1s")]
    every: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object per line: the task as it then is
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        if self.every.is_zero() {
            return Err(Failure::new("--every 0s would never stop asking; give some time, such as 100ms"));
        }
        let session = Session::open(&self.server)?;
        session.run(async |client| {
            let stop = target::stop_signal()?;
            tokio::select! {
                ended = self.follow(client) => ended,
                () = stop => Ok(()),
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn follow(&self, client: &Client) -> Result<(), Failure> {
        let mut follower = Follower::new(self.queue.clone(), self.name.clone());
        let last = usize::try_from(self.last).unwrap_or(usize::MAX);
        self.print(follower.begin(client, last).await?)?;
        loop {
            tokio::time::sleep(self.every).await;
            self.print(follower.look(client).await?)?;
        }
    }

    fn print(&self, changed: Vec<Task>) -> Result<(), Failure> {
        let now_ms = Env::real().unix_time_ms();
        changed.iter().try_for_each(|task| output::line(&if self.json { json_text(task)? } else { line(task, now_ms) }))
    }
}

/// A change on a line: when it was seen, and how the task then was.
fn line(task: &Task, now_ms: u64) -> String {
    let (id, status, name) = (&task.id, &task.status, plain(&task.name));
    let attempt = if task.attempt > 1 { format!(", attempt {}", task.attempt) } else { String::new() };
    let why = why(task, now_ms);
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{} {id} {name} {status}{attempt}{why}", when::moment(now_ms))
}

/// What is known of the tasks that are followed.
struct Follower {
    which: Listing,
    known: BTreeMap<String, Known>,
    /// The server's time of the newest spawn at the last look.
    newest_ms: u64,
    /// The task that was asked for last among those that are not new.
    asked: String,
}

/// How a task was when it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    status: String,
    attempt: u32,
    lost: u32,
}

impl Follower {
    fn new(queue: Option<String>, name: Option<String>) -> Follower {
        let which = Listing { queue, name, ..Listing::default() };
        Follower { which, known: BTreeMap::new(), newest_ms: 0, asked: String::new() }
    }

    /// Notes how things are; says which tasks to begin with, the oldest first.
    async fn begin(&mut self, client: &Client, last: usize) -> Result<Vec<Task>, Error> {
        self.newest_ms = newest_ms(client).await?;
        let down_to_ms = self.newest_ms.saturating_sub(LATE_MS_MAX);
        let mut shown = Vec::new();
        let mut which = Listing { paging: Paging { after: None, limit: Some(PAGE) }, ..self.which.clone() };
        loop {
            let page = client.tasks(&which).await?;
            shown.extend(page.items);
            let behind = page.next.as_deref().is_none_or(|next| made_ms(next) < down_to_ms && shown.len() >= last);
            which.paging.after = page.next;
            if behind {
                break;
            }
        }
        shown.reverse();
        which = Listing { status: Some("queued,running,waiting".to_owned()), ..self.which.clone() };
        for _ in 0..SEARCHED_PAGES_MAX {
            let page = client.tasks(&which).await?;
            page.items.iter().for_each(|task| _ = self.note(task));
            which.paging.after = page.next;
            if which.paging.after.is_none() || self.known.len() >= FOLLOWED_MAX {
                break;
            }
        }
        // What changed between the two is told by what comes.
        shown.iter().for_each(|task| _ = self.note(task));
        shown.drain(..shown.len().saturating_sub(last));
        Ok(shown)
    }

    /// Looks again; says which tasks are new or have changed, the oldest first.
    async fn look(&mut self, client: &Client) -> Result<Vec<Task>, Error> {
        let newest_ms = newest_ms(client).await?;
        let down_to_ms = self.newest_ms.saturating_sub(LATE_MS_MAX);
        let mut seen = Vec::new();
        let mut which = Listing { paging: Paging { after: None, limit: Some(PAGE) }, ..self.which.clone() };
        loop {
            let page = client.tasks(&which).await?;
            let behind = page.next.as_deref().is_none_or(|next| made_ms(next) < down_to_ms);
            seen.extend(page.items.into_iter().filter(|task| made_ms(&task.id) >= down_to_ms));
            which.paging.after = page.next;
            if behind {
                break;
            }
        }
        for id in self.to_ask(&seen) {
            match client.task(&id).await {
                Ok(task) => seen.push(task),
                // It was not kept any longer.
                Err(e) if matches!(e.kind(), Some(ErrorKind::NotFound | ErrorKind::Gone)) => _ = self.known.remove(&id),
                Err(e) => return Err(e),
            }
            self.asked = id;
        }
        seen.sort_by(|a, b| a.id.cmp(&b.id));
        seen.retain(|task| self.note(task));
        self.newest_ms = self.newest_ms.max(newest_ms);
        self.forget();
        Ok(seen)
    }

    /// The next of the tasks that have not ended and were not seen.
    fn to_ask(&self, seen: &[Task]) -> Vec<String> {
        let open = |(id, known): (&String, &Known)| {
            (is_open(&known.status) && seen.iter().all(|task| task.id != *id)).then(|| id.clone())
        };
        let behind = self.known.range::<String, _>(&self.asked..).filter(|(id, _)| **id != self.asked);
        let rest = self.known.range::<String, _>(..=&self.asked);
        behind.chain(rest).filter_map(open).take(ASKED_MAX).collect()
    }

    /// Notes how a task is; says whether that is new.
    fn note(&mut self, task: &Task) -> bool {
        let Task { status, attempt, lost, .. } = task;
        let known = Known { status: status.clone(), attempt: *attempt, lost: *lost };
        self.known.insert(task.id.clone(), known.clone()) != Some(known)
    }

    /// Forgets what has ended and will not be seen among the newest again, and what is too much.
    fn forget(&mut self) {
        let down_to_ms = self.newest_ms.saturating_sub(LATE_MS_MAX);
        self.known.retain(|id, known| is_open(&known.status) || made_ms(id) >= down_to_ms);
        while self.known.len() > FOLLOWED_MAX && self.known.keys().next().is_some_and(|id| made_ms(id) < down_to_ms) {
            self.known.pop_first();
        }
    }
}

/// When the newest task was spawned, by the clock of the server; 0 if there is none.
async fn newest_ms(client: &Client) -> Result<u64, Error> {
    let paging = Paging { after: None, limit: Some(1) };
    let page = client.tasks(&Listing { paging, ..Listing::default() }).await?;
    Ok(page.items.first().map_or(0, |task| task.created_at_ms))
}

/// The time in an id, in milliseconds since 1970.
fn made_ms(id: &str) -> u64 {
    let digits: String = id.chars().filter(|c| *c != '-').take(12).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(made_ms: u64) -> String {
        format!("{:08x}-{:04x}-7000-8000-000000000000", made_ms >> 16, made_ms & 0xffff)
    }

    fn task(made_ms: u64, status: &str, attempt: u32) -> Task {
        let id = id(made_ms);
        let text = format!(
            r#"{{"id": "{id}", "queue": "q", "name": "order", "status": "{status}", "run_id": "R", "attempt": {attempt},
            "max_attempts": 5, "lost": 0, "input": 1, "headers": {{}}, "created_at_ms": {made_ms}, "waiting": []}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_changes_are_new() {
        let mut follower = Follower::new(None, None);
        assert!(follower.note(&task(5, "queued", 1)) && !follower.note(&task(5, "queued", 1)));
        assert!(follower.note(&task(5, "running", 1)) && follower.note(&task(5, "running", 2)));
        assert_eq!(made_ms(&id(1_763_842_500_000)), 1_763_842_500_000);
    }

    #[test]
    fn older_tasks_are_asked_for_in_turn_and_the_ended_are_forgotten() {
        let mut follower = Follower::new(None, None);
        for made_ms in 0..250 {
            follower.note(&task(made_ms, if made_ms % 10 == 0 { "failed" } else { "waiting" }, 1));
        }
        let mut asked = Vec::new();
        for _ in 0..3 {
            let next = follower.to_ask(&[task(1, "waiting", 1)]);
            assert!(next.len() <= ASKED_MAX);
            follower.asked = next.last().unwrap().clone();
            asked.extend(next);
        }
        let expected = (2..250).filter(|made_ms| made_ms % 10 != 0).map(id);
        assert_eq!(asked[..224], expected.collect::<Vec<_>>());
        assert_eq!(asked[224], id(2), "and from the beginning again");
        follower.newest_ms = LATE_MS_MAX + 100;
        follower.forget();
        assert_eq!(follower.known.len(), 225 + 15);
        for made_ms in 0..2_000 {
            follower.note(&task(made_ms, "waiting", 1));
        }
        follower.forget();
        assert_eq!(follower.known.len(), 1_900, "those that are new stay, however many they are");
        follower.newest_ms = LATE_MS_MAX + 5_000;
        follower.forget();
        assert_eq!((follower.known.len(), follower.known.keys().next()), (FOLLOWED_MAX, Some(&id(1_000))));
    }

    #[test]
    fn a_change_is_a_line() {
        assert_eq!(
            line(&task(1_763_842_500_000, "running", 2), 1_763_842_500_000),
            format!("2025-11-22T20:15:00Z {} order running, attempt 2", id(1_763_842_500_000))
        );
    }
}
