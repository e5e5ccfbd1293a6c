//! What the server counts, and how counters are written for Prometheus.
//!
//! Every counter is an atomic of its own and is read without the others: a scrape may see a request
//! counted that is still in flight, never a torn number.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cairn::MetricKind;
use cairn_api::ErrorKind;
use hyper::Method;

/// Media type of the Prometheus text format.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "POST", "other"];

/// Success, then the kinds of [`ErrorKind::ALL`].
const OUTCOMES: usize = ErrorKind::ALL.len() + 1;

/// The server's counters.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: [[AtomicU64; OUTCOMES]; METHODS.len()],
    in_flight: Peak,
    connections: Peak,
    connections_accepted: AtomicU64,
    connections_refused: AtomicU64,
    connections_timed_out: AtomicU64,
    accept_failures: AtomicU64,
    scans_broken: AtomicU64,
}

/// A gauge that remembers its highest value.
#[derive(Default)]
struct Peak {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Peak {
    fn up(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        // Nearly always it is no new peak, and then nothing is written that other threads read.
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    fn down(&self) {
        self.now.fetch_sub(1, Relaxed);
    }
}

/// A named counter or gauge of the server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    help: &'static str,
    kind: MetricKind,
    pub(crate) value: u64,
}

impl Server {
    pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Server {
        Server { name, help, kind: MetricKind::Gauge, value }
    }

    fn counter(name: &'static str, help: &'static str, value: &AtomicU64) -> Server {
        Server { name, help, kind: MetricKind::Counter, value: value.load(Relaxed) }
    }
}

impl Metrics {
    pub(crate) fn request_began(&self) {
        self.in_flight.up();
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.down();
    }

    /// Counts an answer: a success if `refused` is `None`.
    pub(crate) fn answered(&self, method: &Method, refused: Option<ErrorKind>) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let outcome = refused.map_or(0, |kind| kind as usize + 1);
        if let Some(counter) = self.requests.get(method).and_then(|outcomes| outcomes.get(outcome)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn connection_opened(&self) {
        self.connections_accepted.fetch_add(1, Relaxed);
        self.connections.up();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.down();
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_timed_out(&self) {
        self.connections_timed_out.fetch_add(1, Relaxed);
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn scan_broke(&self) {
        self.scans_broken.fetch_add(1, Relaxed);
    }

    /// Everything without labels.
    pub(crate) fn list(&self) -> Vec<Server> {
        let gauge = |name, help, value: &AtomicU64| Server::gauge(name, help, value.load(Relaxed));
        vec![
            gauge("server_requests_in_flight_count", "Requests being answered.", &self.in_flight.now),
            gauge("server_requests_in_flight_peak_count", "The most there ever were.", &self.in_flight.peak),
            gauge("server_connections_open_count", "Open connections.", &self.connections.now),
            gauge("server_connections_open_peak_count", "The most there ever were.", &self.connections.peak),
            Server::counter("server_connections_accepted_count", "Connections taken.", &self.connections_accepted),
            Server::counter(
                "server_connections_refused_count",
                "Connections answered 503 for being one too many.",
                &self.connections_refused,
            ),
            Server::counter(
                "server_connections_timed_out_count",
                "Connections closed for being idle or slow.",
                &self.connections_timed_out,
            ),
            Server::counter(
                "server_accept_failures_count",
                "Connections the system could not hand over, as when out of file descriptors.",
                &self.accept_failures,
            ),
            Server::counter(
                "server_scans_broken_count",
                "Scans that failed after their answer had begun.",
                &self.scans_broken,
            ),
        ]
    }

    /// Requests by method and outcome, those that occurred.
    pub(crate) fn write_requests(&self, text: &mut String) {
        let name = "server_requests_count";
        write_head(text, name, "Requests answered.", MetricKind::Counter);
        for (method, outcomes) in METHODS.iter().zip(&self.requests) {
            let kinds = std::iter::once(None).chain(ErrorKind::ALL.into_iter().map(Some));
            for (kind, counter) in kinds.zip(outcomes) {
                let value = counter.load(Relaxed);
                if value > 0 {
                    let (status, kind) = kind.map_or((200, "ok"), |kind| (kind.status(), kind.name()));
                    put(
                        text,
                        format_args!(
                            "cairn_{name}{{method=\"{method}\",status=\"{status}\",kind=\"{kind}\"}} {value}\n"
                        ),
                    );
                }
            }
        }
    }
}

pub(crate) fn write_engine(text: &mut String, stats: &cairn::Stats) {
    for metric in stats.metrics() {
        write_head(text, metric.name, metric.help, metric.kind);
        put(text, format_args!("cairn_{} {}\n", metric.name, metric.value));
    }
    type Figure = fn(&cairn::LevelStats) -> u64;
    let figures: [(&str, &str, Figure); 3] = [
        ("level_tables_count", "Tables of a level.", |level| level.tables),
        ("level_entries_count", "Entries of a level, tombstones and old versions included.", |level| level.entries),
        ("level_bytes", "Bytes of a level's tables.", |level| level.bytes),
    ];
    for (name, help, figure) in figures {
        write_head(text, name, help, MetricKind::Gauge);
        for level in stats.levels() {
            let keyspace = escape(&level.keyspace);
            let labels = format_args!("keyspace=\"{keyspace}\",level=\"{}\"", level.level);
            put(text, format_args!("cairn_{name}{{{labels}}} {}\n", figure(level)));
        }
    }
}

pub(crate) fn write_server(text: &mut String, metrics: &[Server]) {
    for metric in metrics {
        write_head(text, metric.name, metric.help, metric.kind);
        put(text, format_args!("cairn_{} {}\n", metric.name, metric.value));
    }
}

fn write_head(text: &mut String, name: &str, help: &str, kind: MetricKind) {
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    put(text, format_args!("# HELP cairn_{name} {help}\n# TYPE cairn_{name} {kind}\n"));
}

/// A label's value, as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(arguments);
}
