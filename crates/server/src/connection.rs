//! One connection: its socket, its patience, its end.
//!
//! ```text
//! Idle  -> Head   the first byte of a request arrives
//! Head  -> Busy   its head is complete
//! Busy  -> Idle   its answer has been handed to the socket
//! ```
//!
//! Idle and Head each have a deadline; a Busy request has those of its body. In any phase the client
//! must take some of what is sent to it within the write timeout. A connection that misses a
//! deadline is dropped. The HTTP library's own timeout is off: it takes Idle for Head.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::HEAD_BYTES_MAX;
use crate::dispatch::{self, App};

/// How far the server's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Serving.
    Open,
    /// Requests in flight are finished, no new ones taken.
    Draining,
    /// What is left is dropped.
    Dropping,
}

/// Serves one connection to its end.
pub(crate) async fn serve(app: Arc<App>, stream: TcpStream, mut stage: watch::Receiver<Stage>) {
    let patience = Arc::new(Patience::new(app));
    let socket = Socket { stream, patience: patience.clone() };
    let service = service_fn(|request| {
        let in_flight = InFlight::new(patience.clone());
        // Requests of all connections share the application: their threads would pass its count to and fro.
        let patience = patience.clone();
        async move { Ok::<_, std::convert::Infallible>(dispatch::answer(&patience.app, request, in_flight).await) }
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut alarm = pin!(sleep_until(patience.deadline().unwrap_or_else(Instant::now)));
    loop {
        let event = {
            let mut staged = pin!(stage.changed());
            poll_fn(|cx| {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Ended);
                }
                if patience.poll_expired(alarm.as_mut(), cx).is_ready() {
                    return Poll::Ready(Event::Expired);
                }
                staged.as_mut().poll(cx).map(|_| Event::Staged)
            })
            .await
        };
        match event {
            Event::Ended => return,
            Event::Expired => return patience.app.metrics.connection_timed_out(),
            Event::Staged => {}
        }
        // A server that is gone (the sender dropped) leaves nothing to serve for.
        let now = if stage.has_changed().is_err() { Stage::Dropping } else { *stage.borrow() };
        match now {
            Stage::Open => {}
            // The library waits for the first request of a connection that never sent one.
            Stage::Draining if patience.has_no_request() => return,
            Stage::Draining => connection.as_mut().graceful_shutdown(),
            Stage::Dropping => return,
        }
    }
}

enum Event {
    Ended,
    Expired,
    Staged,
}

/// A request between its head and the end of its answer.
pub(crate) struct InFlight {
    patience: Arc<Patience>,
}

impl InFlight {
    fn new(patience: Arc<Patience>) -> InFlight {
        patience.app.metrics.request_began();
        patience.state().phase = Phase::Busy;
        InFlight { patience }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.patience.app.metrics.request_ended();
        self.patience.state().phase = Phase::Idle { since: Instant::now() };
    }
}

/// What a connection waits for, and since when.
struct Patience {
    app: Arc<App>,
    /// Held for a few loads and stores; nothing else is called under it.
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Bytes could not be sent since then.
    write_blocked: Option<Instant>,
}

enum Phase {
    Idle { since: Instant },
    Head { since: Instant },
    Busy,
}

impl Patience {
    fn new(app: Arc<App>) -> Patience {
        let state = State { phase: Phase::Idle { since: Instant::now() }, write_blocked: None };
        Patience { app, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_no_request(&self) -> bool {
        let state = self.state();
        !matches!(state.phase, Phase::Busy) && state.write_blocked.is_none()
    }

    fn deadline(&self) -> Option<Instant> {
        let (state, limits) = (self.state(), &self.app.limits);
        let phase = match state.phase {
            Phase::Idle { since } => Some(since + limits.idle_timeout),
            Phase::Head { since } => Some(since + limits.head_timeout),
            Phase::Busy => None,
        };
        let write = state.write_blocked.map(|since| since + limits.write_timeout);
        [phase, write].into_iter().flatten().min()
    }

    /// Ready once a deadline has passed. The alarm is moved when it must ring earlier, or has rung
    /// too early; not for each request, whose deadlines nearly always move away unmet.
    fn poll_expired(&self, mut alarm: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline() else { return Poll::Pending };
        if deadline < alarm.deadline() {
            alarm.as_mut().reset(deadline);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The stream, watched for progress.
struct Socket {
    stream: TcpStream,
    patience: Arc<Patience>,
}

impl Socket {
    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let mut state = self.patience.state();
        match result {
            Poll::Pending => {
                state.write_blocked.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => state.write_blocked = None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > filled {
            let mut state = self.patience.state();
            if matches!(state.phase, Phase::Idle { .. }) {
                state.phase = Phase::Head { since: Instant::now() };
            }
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
