//! Request bodies: read under a limit, a budget and a deadline, or read past.
//!
//! Invariant: no more is held than has arrived. A declared length reserves nothing: else four
//! clients that declare much and send nothing would keep everyone from writing.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use cairn_api::ErrorKind;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use tokio::time::{Duration, Instant, timeout_at};

use crate::reply::Refusal;

/// The bytes of bodies and values that may be in memory at once. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Bounded>);

struct Bounded {
    used: AtomicUsize,
    bytes_max: usize,
}

/// A part of the budget, until dropped.
pub(crate) struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Budget {
        Budget(Arc::new(Bounded { used: AtomicUsize::new(0), bytes_max }))
    }

    /// Takes `bytes` of what is left, or says that it is too little.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Reservation, Refusal> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    pub(crate) fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }
}

impl Reservation {
    /// Takes `bytes` more, or says that too little is left.
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > 0 {
            let Bounded { used, bytes_max } = &*self.budget.0;
            // A count and nothing else: no memory is published by it.
            used.try_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|used| used <= bytes_max))
                .map_err(|_| {
                    Refusal::new(ErrorKind::Busy, format!("requests in flight hold the {bytes_max} bytes there are"))
                })?;
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.0.used.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// Bytes that count against the budget while they live.
pub(crate) struct Held<T> {
    pub(crate) bytes: T,
    reservation: Reservation,
}

impl<T> Held<T> {
    pub(crate) fn new(bytes: T, reservation: Reservation) -> Held<T> {
        Held { bytes, reservation }
    }

    /// Adds to what these bytes count for.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.reservation.grow(bytes)
    }
}

impl<T: std::ops::Deref<Target = [u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: std::ops::Deref<Target = [u8]> + Send + 'static> Held<T> {
    /// The bytes where they are, the reservation with them.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// First allocation for a body, whatever it declares; then it doubles with what arrives.
const FIRST_BYTES: usize = 16 << 10;

/// How much of a refused body is read past, so that a client that sends all before it listens hears
/// the refusal instead of a reset. Twice the largest value.
const DISCARD_BYTES_MAX: usize = 2 * cairn::VALUE_BYTES_MAX;

/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A request's body, not yet read.
pub(crate) struct Upload {
    body: Incoming,
    deadline: Instant,
    /// The client waits for a sign before it sends: reading is the sign.
    waits: bool,
}

impl Upload {
    pub(crate) fn new(body: Incoming, waits: bool, timeout: Duration) -> Upload {
        Upload { body, deadline: Instant::now() + timeout, waits }
    }

    /// Reads it all.
    pub(crate) async fn read(&mut self, bytes_max: usize, budget: &Budget) -> Result<Held<Vec<u8>>, Refusal> {
        let declared = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        let too_large = || Refusal::new(ErrorKind::TooLarge, format!("the body is over {bytes_max} bytes"));
        if declared > bytes_max {
            return Err(too_large());
        }
        self.waits = false;
        let mut held = Held::new(Vec::with_capacity(declared.min(FIRST_BYTES)), budget.reserve(0)?);
        while let Some(part) = self.part(self.deadline).await? {
            if held.bytes.len() + part.len() > bytes_max {
                return Err(too_large());
            }
            held.grow(part.len())?;
            append(&mut held.bytes, &part, declared);
        }
        Ok(held)
    }

    /// Reads past what is left of it, within bounds; where they end, the connection is closed.
    pub(crate) async fn discard(&mut self) {
        let declared = self.body.size_hint().lower();
        if self.body.is_end_stream() || self.waits || usize::try_from(declared).map_or(true, |n| n > DISCARD_BYTES_MAX)
        {
            return;
        }
        let deadline = self.deadline.min(Instant::now() + DISCARD_TIMEOUT);
        let mut discarded = 0;
        while let Ok(Some(part)) = self.part(deadline).await {
            discarded += part.len();
            if discarded > DISCARD_BYTES_MAX {
                return;
            }
        }
    }

    async fn part(&mut self, deadline: Instant) -> Result<Option<Bytes>, Refusal> {
        loop {
            match timeout_at(deadline, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    // Trailers are let pass.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(Refusal::new(ErrorKind::Invalid, format!("the body broke off: {error}")));
                }
                Ok(None) => return Ok(None),
                Err(_) => return Err(Refusal::new(ErrorKind::Timeout, "the body did not arrive in time")),
            }
        }
    }
}

/// Appends, doubling the allocation, but not beyond the declared length.
fn append(bytes: &mut Vec<u8>, part: &[u8], declared: usize) {
    if bytes.capacity() - bytes.len() < part.len() {
        let doubled = bytes.len().max(FIRST_BYTES);
        let more = declared.saturating_sub(bytes.len()).min(doubled);
        bytes.reserve_exact(if more < part.len() { doubled.max(part.len()) } else { more });
    }
    bytes.extend_from_slice(part);
}
