//! A server as the commands about tasks use it, and the JSON that they say and are told.

use cairn_client::wire::Page;
use cairn_client::{Client, Error, Paging};
use cairn_env::Env;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use crate::failure::Failure;
use crate::target::{self, ServerArgs};

/// A page of the server has at most so many items.
const PAGE_MAX: usize = 1_000;

/// A server, and what waits for its answers.
pub(crate) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    pub(crate) fn open(server: &ServerArgs) -> Result<Session, Failure> {
        let address = server.address(&Env::real())?;
        Ok(Session { client: Client::new(&address.url, address.token.as_deref())?, runtime: target::runtime()? })
    }

    /// Runs something that makes many calls, and may fail otherwise too.
    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Failure>) -> Result<T, Failure> {
        self.runtime.block_on(work(&self.client))
    }

    /// The first `limit` items of a list behind a cursor, in as many pages as that takes; and the cursor behind them,
    /// if there may be more.
    pub(crate) fn list<T>(
        &self,
        limit: u32,
        mut after: Option<String>,
        page: impl AsyncFn(&Client, Paging) -> Result<Page<T>, Error>,
    ) -> Result<(Vec<T>, Option<String>), Failure> {
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut items = Vec::new();
        while left > 0 {
            let paging = Paging { after, limit: Some(left.min(PAGE_MAX)) };
            let page = self.call(async |client| page(client, paging).await)?;
            left = left.saturating_sub(page.items.len());
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok((items, after))
    }

    /// Makes one call.
    pub(crate) fn call<T>(&self, call: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Failure> {
        Ok(self.runtime.block_on(call(&self.client))?)
    }
}

/// A value as JSON on one line.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))
}

/// JSON that somebody wrote on the command line.
pub(crate) fn json_value(what: &str, text: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::new(format!("{what} is not JSON: {e}; write a text as '\"text\"'")))
}
