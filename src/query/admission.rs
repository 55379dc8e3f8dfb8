//! Who may run now: a bounded number of queries, and a bounded number that wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::error::{Error, ErrorKind, Result};

/// How long a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The door to the engine.
#[derive(Debug)]
pub(crate) struct Admission {
    running: Arc<Semaphore>,
    concurrency_max: usize,
    waiting: AtomicUsize,
    queue_max: usize,
}

impl Admission {
    pub(crate) fn new(concurrency_max: usize, queue_max: usize) -> Self {
        let running = Arc::new(Semaphore::new(concurrency_max));
        Self { running, concurrency_max, waiting: AtomicUsize::new(0), queue_max }
    }

    /// Waits for a place until the deadline. The query runs as long as the permit lives.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = self.queue()?;
        match tokio::time::timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "the query engine is shutting down")),
            Err(_) => Err(self.busy("waited until its time limit")),
        }
    }

    fn queue(&self) -> Result<Place<'_>> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(self.busy(&format!("{} others wait already", self.queue_max)));
        }
        Ok(Place(&self.waiting))
    }

    fn busy(&self, what: &str) -> Error {
        let limit = self.concurrency_max;
        Error::new(
            ErrorKind::ResourceExhausted,
            format!("too many queries: query.concurrency_max = {limit} are running, and this one {what}"),
        )
        .with_retry_after(RETRY_AFTER)
    }
}

/// A place in the queue, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_waiting_ends_at_the_deadline() {
        let admission = Arc::new(Admission::new(1, 1));
        let deadline = Instant::now() + Duration::from_secs(5);
        let running = admission.enter(deadline).await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter(deadline).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let refused = admission.enter(deadline).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
        assert!(refused.retry_after().is_some());
        let late = waiting.await.unwrap().unwrap_err();
        assert_eq!(
            late.message(),
            "too many queries: query.concurrency_max = 1 are running, and this one waited until its time limit"
        );
        drop(running);
        let _permit = admission.enter(deadline).await.unwrap();
    }
}
