//! The stage `kills`: processes are killed (SIGKILL) again and again, first one with an embedded database,
//! then the server.

mod embedded;
mod served;

use std::time::Duration;

use super::ledger::Counts;
use super::stage::{Context, Figure, Stop};

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    kills: u64,
    while_opening: u64,
    checks: u64,
    counts: Counts,
}

/// Half of the time each, and at least so many kills each.
pub(crate) fn run(context: &Context<'_>, share: Duration, least: u64) -> Result<Vec<Figure>, String> {
    let embedded = embedded::embedded(context, &Stop::after(share / 2), least)?;
    let served = served::served(context, &Stop::after(share / 2), least)?;
    let mut figures = vec![Figure::new("kills", embedded.kills + served.kills)];
    for (who, kills) in [("embedded", embedded), ("served", served)] {
        let mut add = |what: &str, value: u64| figures.push(Figure::new(&format!("{who}: {what}"), value));
        add("kills", kills.kills);
        add("kills before the opening was done", kills.while_opening);
        add("writes acknowledged", kills.counts.acknowledged);
        add("acknowledged writes checked", kills.counts.checked);
        add("reads noted", kills.counts.reads);
        add("refused batches", kills.counts.refused);
        add("checks of all files", kills.checks);
    }
    Ok(figures)
}
