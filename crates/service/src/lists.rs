//! Lists: of tasks and of events, and what their parameters mean.

use std::collections::BTreeSet;

use cairn_api::{EventListing, Listing, tasks as wire};
use cairn_durable::Filter;
use cairn_durable::id::TaskId;
use cairn_durable::queue::Event;
use cairn_durable::task::State;
use cairn_store::Store;

use crate::refused::{Refused, invalid};
use crate::to_wire::{queue_to, raw};
use crate::{LIMIT, LIMIT_MAX, Place, Service};

impl<S: Store, P: Place> Service<S, P> {
    /// A page of tasks, the newest first.
    pub async fn list(&self, listing: Listing) -> Result<wire::Page<wire::Task>, Refused> {
        let Listing { queue, name, status, tag, paging } = listing;
        let filter = Filter { queue, name, states: states(status.as_deref())?, tag };
        let after = paging.after.as_deref().map(cursor).transpose()?;
        let limit = paging.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let page = self.call(move |tasks| tasks.list(&filter, after, limit)).await?;
        let items = page.items.iter().map(|view| self.shown(view));
        Ok(wire::Page { items: items.collect(), next: page.next.map(|id| id.to_string()) })
    }

    /// A page of the events of a queue, in the order of their names.
    pub async fn events(&self, queue: &str, listing: EventListing) -> Result<wire::Page<wire::Event>, Refused> {
        let EventListing { prefix, paging } = listing;
        let (queue, prefix) = (queue.to_owned(), prefix.unwrap_or_default());
        let limit = paging.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let page = self.call(move |tasks| tasks.events(&queue, &prefix, paging.after.as_deref(), limit)).await?;
        let shown =
            |(name, Event { at_ms, payload }): (String, Event)| wire::Event { name, payload: raw(&payload), at_ms };
        Ok(wire::Page { items: page.items.into_iter().map(shown).collect(), next: page.next })
    }

    /// Deletes a queue whose tasks have all ended, and shows it as it was.
    pub async fn delete_queue(&self, name: &str) -> Result<wire::Queue, Refused> {
        let asked = name.to_owned();
        let queue = self.call(move |tasks| tasks.delete_queue(&asked)).await?;
        Ok(queue_to(name, &queue))
    }
}

/// The states of a list such as `queued,running`.
fn states(list: Option<&str>) -> Result<BTreeSet<State>, Refused> {
    let state = |name: &str| {
        let state = State::ALL.into_iter().find(|state| state.name() == name);
        let all = State::ALL.map(State::name).join(", ");
        let text = || format!("\"{}\" is no status of a task; there are {all}", name.escape_debug());
        state.ok_or_else(|| invalid(text()).at("status"))
    };
    list.map_or_else(|| Ok(BTreeSet::new()), |list| list.split(',').map(state).collect())
}

fn cursor(text: &str) -> Result<TaskId, Refused> {
    let none = |_| {
        let text = format!("after: \"{}\" is no cursor that a list of tasks gave", text.escape_debug());
        invalid(text).at("after")
    };
    text.parse().map_err(none)
}
