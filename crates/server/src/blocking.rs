//! The bounded way from the runtime to calls that may wait for a disk.
//!
//! A job keeps its permit until it has really ended, also when the request that asked for it is
//! gone: the bound is on threads, not on requests. Jobs that wait for a permit are bounded by the
//! connections.

use std::sync::Arc;

use cairn_api::ErrorKind;
use cairn_service::{Place, Refused};
use tokio::sync::Semaphore;

/// A number of threads for blocking work. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Blocking {
    permits: Arc<Semaphore>,
}

impl Blocking {
    pub(crate) fn new(jobs_max: usize) -> Blocking {
        Blocking { permits: Arc::new(Semaphore::new(jobs_max)) }
    }
}

impl Place for Blocking {
    /// Runs `job` on a blocking thread, once one is free.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let closing = |_| Refused::new(ErrorKind::Closed, "the server is shutting down");
        let permit = self.permits.clone().acquire_owned().await.map_err(closing)?;
        let running = tokio::task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        });
        running.await.map_err(|_| Refused::new(ErrorKind::Internal, "the request failed by a defect of the server"))
    }
}
