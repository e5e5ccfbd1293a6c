//! The routes of tasks: paths with names in them, and their parameters.
//!
//! A name in a path is percent-decoded UTF-8, so that a queue or an event may be called anything. A route of the
//! protocol that is not built yet is known as such, so that it is refused as that and not as a mistake.

use crate::error::ErrorKind;
use crate::target::{TargetError, decode, encode};

/// A route under `/v1/tasks`, `/v1/queues`, `/v1/workers` or `/v1/test`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/tasks`: spawns; `GET`: a list.
    Tasks(Listing),
    /// `GET /v1/tasks/{id}`.
    Task(String),
    /// `GET /v1/tasks/{id}/result?wait_ms`.
    Result(String, u64),
    /// `GET /v1/tasks/{id}/steps?after&limit`.
    Steps(String, Paging),
    /// `GET /v1/tasks/{id}/runs?after&limit`.
    Runs(String, Paging),
    /// `POST /v1/tasks/{id}/cancel`.
    Cancel(String),
    /// `POST /v1/tasks/{id}/retry`.
    Retry(String),
    /// `GET /v1/queues`.
    Queues,
    /// `PUT|GET|DELETE /v1/queues/{q}`.
    Queue(String),
    /// `POST /v1/queues/{q}/pause`.
    Pause(String),
    /// `POST /v1/queues/{q}/resume`.
    Resume(String),
    /// `POST /v1/queues/{q}/events`: emits; `GET`: a list.
    Events(String, EventListing),
    /// `GET /v1/queues/{q}/events/{name}`.
    Event(String, String),
    /// `GET /v1/workers`.
    Workers,
    /// `POST /v1/workers/hello`.
    Hello,
    /// `POST /v1/workers/poll`.
    Poll,
    /// `POST /v1/workers/beat`.
    Beat,
    /// `POST /v1/workers/ops`.
    Ops,
    /// `POST /v1/workers/bye`.
    Bye,
    /// `POST /v1/test/clock`.
    Clock,
    /// A part of the protocol that is to come.
    NotBuilt(&'static str),
}

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// Behind this cursor.
    pub after: Option<String>,
    /// So many at most.
    pub limit: Option<usize>,
}

/// Which tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// In this state, or in one of several with commas between them.
    pub status: Option<String>,
    /// With this tag: `key`, whatever its value, or `key=value`.
    pub tag: Option<String>,
    /// Which page.
    pub paging: Paging,
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventListing {
    /// Whose names begin so.
    pub prefix: Option<String>,
    /// Which page.
    pub paging: Paging,
}

impl Listing {
    /// What stands behind the path: nothing, or a question mark and the parameters.
    pub fn query(&self) -> String {
        let Listing { queue, name, status, tag, paging } = self;
        query(&[("queue", queue), ("name", name), ("status", status), ("tag", tag)], paging)
    }
}

impl EventListing {
    /// What stands behind the path: nothing, or a question mark and the parameters.
    pub fn query(&self) -> String {
        query(&[("prefix", &self.prefix)], &self.paging)
    }
}

fn query(parameters: &[(&str, &Option<String>)], paging: &Paging) -> String {
    let limit = paging.limit.map(|limit| limit.to_string());
    let paging = [("after", &paging.after), ("limit", &limit)];
    let given = parameters.iter().chain(&paging).filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let mut text = String::new();
    for (name, value) in given {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&format!("{name}={}", encode(value.as_bytes())));
    }
    text
}

/// No route has more segments behind `/v1/`.
const SEGMENTS_MAX: usize = 4;
/// No route takes more parameters.
const PARAMETERS_MAX: usize = 8;

/// The parts of the protocol that are to come, by how their paths begin.
const TO_COME: [(&str, &str); 4] =
    [("schedules", "schedules"), ("promises", "promises"), ("hooks", "hooks"), ("public", "promises and hooks")];

impl Route {
    /// The route of a path under `/v1/`, if it is one of tasks.
    ///
    /// # Errors
    /// A name that does not decode, or a parameter that the route does not take.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Option<Route>, TargetError> {
        let Some(path) = path.strip_prefix("/v1/") else { return Ok(None) };
        // No route has more; whatever stands behind them makes it none.
        let segments: Vec<&str> = path.splitn(SEGMENTS_MAX + 1, '/').collect();
        if let Some((_, what)) = TO_COME.iter().find(|(start, _)| segments.first() == Some(start)) {
            return Ok(Some(Route::NotBuilt(what)));
        }
        let mut parameters = Parameters::parse(query)?;
        let route = match segments.as_slice() {
            ["tasks"] => Route::Tasks(Listing {
                queue: parameters.take("queue"),
                name: parameters.take("name"),
                status: parameters.take("status"),
                tag: parameters.take("tag"),
                paging: parameters.paging()?,
            }),
            ["tasks", id] => Route::Task(name(id)?),
            ["tasks", id, "result"] => Route::Result(name(id)?, parameters.number("wait_ms")?.unwrap_or(0)),
            ["tasks", id, "steps"] => Route::Steps(name(id)?, parameters.paging()?),
            ["tasks", id, "runs"] => Route::Runs(name(id)?, parameters.paging()?),
            ["tasks", id, "cancel"] => Route::Cancel(name(id)?),
            ["tasks", id, "retry"] => Route::Retry(name(id)?),
            ["tasks", _, "watch"] => Route::NotBuilt("server-sent events"),
            ["queues"] => Route::Queues,
            ["queues", queue] => Route::Queue(name(queue)?),
            ["queues", queue, "pause"] => Route::Pause(name(queue)?),
            ["queues", queue, "resume"] => Route::Resume(name(queue)?),
            ["queues", queue, "events"] => {
                let (prefix, paging) = (parameters.take("prefix"), parameters.paging()?);
                Route::Events(name(queue)?, EventListing { prefix, paging })
            }
            ["queues", queue, "events", event] => Route::Event(name(queue)?, name(event)?),
            ["workers"] => Route::Workers,
            ["workers", "hello"] => Route::Hello,
            ["workers", "poll"] => Route::Poll,
            ["workers", "beat"] => Route::Beat,
            ["workers", "ops"] => Route::Ops,
            ["workers", "bye"] => Route::Bye,
            ["test", "clock"] => Route::Clock,
            _ => return Ok(None),
        };
        parameters.finish()?;
        Ok(Some(route))
    }
}

fn invalid(message: String) -> TargetError {
    TargetError { kind: ErrorKind::Invalid, message }
}

fn name(segment: &str) -> Result<String, TargetError> {
    if segment.is_empty() {
        return Err(invalid("a name in the path is empty".to_owned()));
    }
    String::from_utf8(decode(segment)?).map_err(|_| invalid("a name in the path is not UTF-8".to_owned()))
}

/// What stands behind the question mark.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: Option<&str>) -> Result<Parameters, TargetError> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        if pairs.clone().nth(PARAMETERS_MAX).is_some() {
            return Err(invalid(format!("more than {PARAMETERS_MAX} parameters")));
        }
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = String::from_utf8(decode(value)?).map_err(|_| invalid(format!("{key} is not UTF-8")))?;
            Ok((key.to_owned(), value))
        });
        Ok(Parameters(decoded.collect::<Result<_, TargetError>>()?))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, TargetError> {
        let parse = |text: String| {
            text.parse().map_err(|_| invalid(format!("{key} must be a number, not \"{}\"", text.escape_debug())))
        };
        self.take(key).map(parse).transpose()
    }

    fn paging(&mut self) -> Result<Paging, TargetError> {
        let limit = self.number("limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if limit == Some(0) {
            return Err(invalid("limit must be at least 1".to_owned()));
        }
        Ok(Paging { after: self.take("after"), limit })
    }

    fn finish(self) -> Result<(), TargetError> {
        match self.0.first() {
            Some((key, _)) => Err(invalid(format!("unknown or repeated parameter \"{}\"", key.escape_debug()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Option<Route>, TargetError> {
        match target.split_once('?') {
            Some((path, query)) => Route::parse(path, Some(query)),
            None => Route::parse(target, None),
        }
    }

    #[test]
    fn names_are_decoded_and_parameters_read() {
        let id = "0199b9a0-0000-7000-8000-000000000000".to_owned();
        let paging = Paging { after: Some("a/b".to_owned()), limit: Some(5) };
        for (target, route) in [
            ("/v1/queues/a%2Fb/events/packed%3A1", Route::Event("a/b".to_owned(), "packed:1".to_owned())),
            ("/v1/tasks/0199b9a0-0000-7000-8000-000000000000", Route::Task(id.clone())),
            ("/v1/tasks/0199b9a0-0000-7000-8000-000000000000/result?wait_ms=5", Route::Result(id.clone(), 5)),
            ("/v1/tasks/0199b9a0-0000-7000-8000-000000000000/steps?after=a%2Fb&limit=5", Route::Steps(id, paging)),
            (
                "/v1/tasks/x/runs?after=2",
                Route::Runs("x".to_owned(), Paging { after: Some("2".to_owned()), limit: None }),
            ),
            ("/v1/workers/hello", Route::Hello),
            ("/v1/schedules/nightly", Route::NotBuilt("schedules")),
            ("/v1/tasks/x/watch", Route::NotBuilt("server-sent events")),
        ] {
            assert_eq!(parse(target), Ok(Some(route)), "{target}");
        }
        let paging = Paging { after: Some("&?=%/ ".to_owned()), limit: Some(7) };
        let some = |text: &str| Some(text.to_owned());
        let listing = Listing {
            queue: some("a&b"),
            name: some("\u{e9}"),
            status: some("queued,running"),
            tag: some("k=v=w"),
            paging: paging.clone(),
        };
        let mut target = format!("/v1/tasks{}", listing.query());
        assert_eq!(parse(&target), Ok(Some(Route::Tasks(listing))));
        let events = EventListing { prefix: some("packed:"), paging };
        target = format!("/v1/queues/q/events{}", events.query());
        assert_eq!(parse(&target), Ok(Some(Route::Events("q".to_owned(), events))));
        assert_eq!((Listing::default().query(), EventListing::default().query()), (String::new(), String::new()));
        for target in ["/v1/batch", "/v1/tasksx", "/v1/workers/fly", "/v1/queues/a/events/b/c", "/a"] {
            assert_eq!(parse(target), Ok(None), "{target}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for target in [
            "/v1/tasks/",
            "/v1/tasks/%ff",
            "/v1/tasks/%4",
            "/v1/tasks?limit=0",
            "/v1/tasks?limit=x",
            "/v1/tasks?colour=blue",
            "/v1/tasks?queue=a&queue=b",
            "/v1/queues?x",
            "/v1/tasks?a&b&c&d&e&f&g&h&i",
            "/v1/queues/q/events?limit=0",
            "/v1/queues/q/events?prefx=a",
        ] {
            assert_eq!(parse(target).unwrap_err().kind, ErrorKind::Invalid, "{target}");
        }
    }
}
