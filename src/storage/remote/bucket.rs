//! Requests to a bucket: counted, and for parts of files bounded in number and sent again when they are slow.

use std::{
    future::Future,
    ops::Range,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    future::{Either, select},
    stream::BoxStream,
};
use object_store::{Error as ObjectError, GetOptions, GetRange, ObjectStore, Result, path::Path};
use tokio::sync::Semaphore;

use super::ReadCounters;
use crate::{config::StoreSettings, metrics::Metrics};

/// One read in this many may be sent twice.
const READS_PER_HEDGE: u64 = 20;

/// Part of an object.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The bytes; fewer than asked for at the object's end.
    pub(super) bytes: Bytes,
    /// Length of the whole object.
    pub(super) object_bytes: u64,
}

/// The client of a bucket, and the account of what is asked of it.
#[derive(Debug)]
pub(in crate::storage) struct BucketAccess {
    objects: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    reads: Semaphore,
    hedge_after: Option<Duration>,
    reads_started: AtomicU64,
    hedges_started: AtomicU64,
}

impl BucketAccess {
    pub(in crate::storage) fn new(
        objects: Arc<dyn ObjectStore>,
        settings: &StoreSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let hedge_after = settings.hedge_after.get();
        Self {
            objects,
            metrics,
            reads: Semaphore::new(settings.reads_max),
            hedge_after: (!hedge_after.is_zero()).then_some(hedge_after),
            reads_started: AtomicU64::new(0),
            hedges_started: AtomicU64::new(0),
        }
    }

    /// The client, for requests that are counted by the caller.
    pub(super) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs a request and counts how it ended.
    pub(super) async fn counted<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outcome = request.await;
        self.metrics.count_store_request(operation, outcome_of(outcome.as_ref().map(|_| ())));
        outcome
    }

    /// Counts a stream as one request.
    pub(super) fn count_stream<T: Send + 'static>(
        &self,
        operation: &'static str,
        stream: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let metrics = Arc::clone(&self.metrics);
        metrics.count_store_request(operation, "started");
        stream
            .inspect(move |item| {
                if let Err(error) = item {
                    metrics.count_store_request(operation, outcome_of(Err(error)));
                }
            })
            .boxed()
    }

    /// Reads part of an object, which begins before the object's end.
    pub(super) async fn read(&self, location: &Path, range: Range<u64>, counters: &ReadCounters) -> Result<Part> {
        let _permit = self.reads.acquire().await.map_err(|closed| generic(closed.to_string()))?;
        self.reads_started.fetch_add(1, Ordering::Relaxed);
        let mut first = pin!(self.read_once(location, range.clone(), counters));
        let Some(after) = self.hedge_after else { return first.await };
        if let Ok(outcome) = tokio::time::timeout(after, &mut first).await {
            return outcome;
        }
        if !self.may_hedge() {
            return first.await;
        }
        self.metrics.store_hedged_reads.inc();
        let second = pin!(self.read_once(location, range, counters));
        match select(first, second).await {
            Either::Left((Ok(part), _)) | Either::Right((Ok(part), _)) => Ok(part),
            Either::Left((Err(_), second)) => second.await,
            Either::Right((Err(_), first)) => first.await,
        }
    }

    async fn read_once(&self, location: &Path, range: Range<u64>, counters: &ReadCounters) -> Result<Part> {
        ReadCounters::add(&counters.requests, 1);
        let asked = range.end - range.start;
        let request = async {
            let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
            let found = self.objects.get_opts(location, options).await?;
            let (object_bytes, given) = (found.meta.size, found.range.clone());
            let bytes = found.bytes().await?;
            // A body that ends early without an error would be taken for the object's end.
            let expected = asked.min(object_bytes.saturating_sub(given.start));
            if bytes.len() as u64 != expected {
                return Err(generic(format!("{} of {expected} bytes of {location} arrived", bytes.len())));
            }
            Ok(Part { bytes, object_bytes })
        };
        let part = self.counted("read", request).await?;
        ReadCounters::add(&counters.request_bytes, part.bytes.len() as u64);
        self.metrics.store_read_bytes.inc_by(part.bytes.len() as u64);
        Ok(part)
    }

    fn may_hedge(&self) -> bool {
        let allowed = self.reads_started.load(Ordering::Relaxed) / READS_PER_HEDGE + 1;
        let take = |started: u64| (started < allowed).then_some(started + 1);
        self.hedges_started.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

fn outcome_of(outcome: std::result::Result<(), &ObjectError>) -> &'static str {
    match outcome {
        Ok(()) => "ok",
        Err(ObjectError::NotFound { .. }) => "not_found",
        Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => "exists",
        Err(_) => "failed",
    }
}

fn generic(message: String) -> ObjectError {
    ObjectError::Generic { store: "bucket", source: message.into() }
}
