//! `cairn task list`: tasks, the newest first.

use std::process::ExitCode;

use cairn_client::wire::Task;
use cairn_client::{Listing, Paging};
use cairn_env::Env;
use clap::Args;

use crate::cmd::task::words::{begun, why};
use crate::failure::Failure;
use crate::output::{self, Lines};
use crate::session::{Session, json_text};
use crate::table::{Side, aligned};
use crate::target::ServerArgs;
use crate::text::plain;
use crate::when;

/// List tasks, the newest first
///
///     cairn task list --status failed
///     cairn task list --queue mail --tag customer=17
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct List {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this name
    #[arg(long)]
    name: Option<String>,
    /// queued, running, waiting, completed, failed or cancelled; several with commas between them
    #[arg(long, value_parser = statuses)]
    status: Option<String>,
    /// With this tag, whatever its value, or with this value
    #[arg(long, value_name = "NAME[=VALUE]")]
    tag: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// From behind this task on: what a list that was cut says at its end
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let session = Session::open(&self.server)?;
        let List { queue, name, status, tag, after, .. } = self;
        let which = Listing { queue, name, status, tag, paging: Paging::default() };
        let (tasks, after) = session
            .list(self.limit, after, async |client, paging| client.tasks(&Listing { paging, ..which.clone() }).await)?;
        let mut lines = Lines::new();
        if self.json {
            tasks.iter().try_for_each(|task| lines.text(&json_text(task)?))?;
        } else {
            let now_ms = Env::real().unix_time_ms();
            table(&tasks, now_ms).iter().try_for_each(|line| lines.text(line))?;
        }
        lines.finish()?;
        match after {
            Some(after) => output::message(&format!("there may be more: --after {after}")),
            None if tasks.is_empty() => output::message("there is no such task"),
            None => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One or several; which there are says the server.
fn statuses(text: &str) -> Result<String, String> {
    match text.split(',').any(str::is_empty) {
        true => Err("expected one status, or several with a comma between each two, such as queued,waiting".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn table(tasks: &[Task], now_ms: u64) -> Vec<String> {
    if tasks.is_empty() {
        return Vec::new();
    }
    let head = ["ID", "STATUS", "MADE", "NAME", "QUEUE", "TRY", "WHY"].map(str::to_owned).to_vec();
    let row = |task: &Task| {
        vec![
            task.id.clone(),
            task.status.clone(),
            when::from_now(task.created_at_ms, now_ms),
            plain(&task.name),
            plain(&task.queue),
            format!("{}/{}", begun(task), task.max_attempts),
            why(task, now_ms),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(tasks.iter().map(row)).collect();
    aligned(&rows, &[Side::Left, Side::Left, Side::Right, Side::Left, Side::Left, Side::Right])
}
