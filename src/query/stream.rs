//! The answer on its way: batches from the query's own threads to whoever renders them.
//!
//! The producer runs on the engine's runtime and stays at most a few batches ahead. It ends by itself when the plan is
//! done, a limit is reached, or the consumer is gone; dropping the stream is how a query is cancelled.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use datafusion::arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    error::{Error, ErrorKind, Result},
    query::{
        failure,
        limits::RunLimits,
        row_bytes::row_bytes,
        stats::{QueryStats, SharedStats},
    },
};

/// Batches that the producer may be ahead of the consumer.
const BATCHES_AHEAD: usize = 2;

/// How often a running query is asked how much it has read.
const SCAN_LOOK: Duration = Duration::from_millis(50);

/// The answer to a [`QueryRequest`](crate::query::QueryRequest): a schema, batches, and what they cost.
#[derive(Debug)]
pub struct QueryStream {
    id: u64,
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch>>,
    stats: SharedStats,
}

impl QueryStream {
    /// The number of the query in `system.queries`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// What the run cost so far; complete once the stream has ended.
    pub fn stats(&self) -> QueryStats {
        self.stats.get()
    }

    /// All batches and the final statistics.
    pub async fn collect(mut self) -> Result<(Vec<RecordBatch>, QueryStats)> {
        let batches = self.by_ref().try_collect().await?;
        let stats = self.stats();
        Ok((batches, stats))
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(context)
    }
}

/// The producing end, with the limits on the answer.
#[derive(Debug)]
pub(crate) struct Producer {
    batches: mpsc::Sender<Result<RecordBatch>>,
    stats: SharedStats,
    limits: RunLimits,
    deadline: Instant,
}

/// A stream and its producer.
pub(crate) fn channel(
    id: u64,
    schema: SchemaRef,
    stats: SharedStats,
    limits: RunLimits,
    deadline: Instant,
) -> (Producer, QueryStream) {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let stream = QueryStream { id, schema, batches: receiver, stats: stats.clone() };
    (Producer { batches: sender, stats, limits, deadline }, stream)
}

/// Tells the consumer of an end that the producer itself cannot tell of.
#[derive(Debug)]
pub(crate) struct LastWords {
    batches: mpsc::Sender<Result<RecordBatch>>,
    patience: Duration,
}

impl LastWords {
    pub(crate) async fn say(self, error: &Error) {
        let error = failure::copy(error);
        // The consumer may be gone, and then nobody asks.
        let _ = tokio::time::timeout(self.patience, self.batches.send(Err(error))).await;
    }
}

impl Producer {
    /// Where the run's figures are.
    pub(crate) fn stats(&self) -> SharedStats {
        self.stats.clone()
    }

    /// A way to end the stream with an error if the producer is lost. The stream does not end before it is dropped.
    pub(crate) fn last_words(&self) -> LastWords {
        LastWords { batches: self.batches.clone(), patience: self.limits.client_idle_max }
    }

    /// Sends every batch of `source` until its end, a limit, or the consumer's. The error is also sent.
    ///
    /// `scanned` are the figures of the scans at the moment of the call.
    pub(crate) async fn drive(
        mut self,
        source: impl Stream<Item = Result<RecordBatch>>,
        scanned: impl Fn() -> QueryStats,
        at_end: impl FnOnce(&SharedStats),
    ) -> Result<()> {
        let outcome = self.produce(source, scanned).await;
        at_end(&self.stats);
        if let Err(error) = &outcome {
            self.last_words().say(error).await;
        }
        outcome
    }

    async fn produce(
        &mut self,
        source: impl Stream<Item = Result<RecordBatch>>,
        scanned: impl Fn() -> QueryStats,
    ) -> Result<()> {
        let mut source = std::pin::pin!(source);
        let mut looks = tokio::time::interval(SCAN_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_limited = self.limits.scanned_bytes_max < u64::MAX || self.limits.scanned_rows_max < u64::MAX;
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout_at(self.deadline, source.next()) => next,
                _ = looks.tick(), if is_limited => {
                    self.limits.check_scanned(&scanned())?;
                    continue;
                }
                () = self.batches.closed() => return Err(cancelled()),
            };
            match next {
                Err(_) => return Err(timed_out(self.limits.timeout)),
                // What a quick query read counts too, so that the same query always ends in the same way.
                Ok(None) if is_limited => return self.limits.check_scanned(&scanned()),
                Ok(None) => return Ok(()),
                Ok(Some(batch)) => {
                    let batch = batch?;
                    if is_limited {
                        self.limits.check_scanned(&scanned())?;
                    }
                    self.send(batch).await?;
                }
            }
        }
    }

    async fn send(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (batch, limit) = self.count(&batch);
        if batch.num_rows() > 0 {
            self.hand_over(batch).await?;
        }
        limit.map_or(Ok(()), Err)
    }

    async fn hand_over(&mut self, batch: RecordBatch) -> Result<()> {
        let waiting = Instant::now();
        let idle = self.limits.client_idle_max;
        match tokio::time::timeout(idle, self.batches.send(Ok(batch))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(cancelled()),
            Err(_) => {
                return Err(Error::new(ErrorKind::Cancelled, format!("client took no batch for {}", seconds(idle))));
            }
        }
        self.deadline += waiting.elapsed();
        Ok(())
    }

    /// The rows that still fit into the answer, and the limit that keeps the others out.
    fn count(&self, batch: &RecordBatch) -> (RecordBatch, Option<Error>) {
        let RunLimits { result_rows_max, result_bytes_max, .. } = self.limits;
        let (rows, bytes) = (batch.num_rows() as u64, row_bytes(batch));
        let so_far = self.stats.get();
        let rows_left = result_rows_max.saturating_sub(so_far.rows);
        let bytes_left = result_bytes_max.saturating_sub(so_far.result_bytes);
        let (rows_fit, limit) = if rows > rows_left {
            let limit = format!(
                "the answer has more rows than the limit query.result_rows_max = {result_rows_max}; add a LIMIT or a filter"
            );
            (rows_left, Some(too_large(limit)))
        } else if bytes > bytes_left {
            let limit = format!(
                "the answer has more bytes than the limit query.result_bytes_max = {result_bytes_max}; select fewer columns or rows"
            );
            // As many as fit if all of them were of one size.
            (bytes_left.saturating_mul(rows) / bytes.max(1), Some(too_large(limit)))
        } else {
            (rows, None)
        };
        let fit = usize::try_from(rows_fit.min(rows)).unwrap_or_default();
        let batch = batch.slice(0, fit);
        self.stats.update(|stats| {
            stats.rows += fit as u64;
            stats.result_bytes += row_bytes(&batch);
        });
        (batch, limit)
    }
}

fn too_large(message: String) -> Error {
    Error::new(ErrorKind::TooLarge, message)
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the client went away before the answer was complete")
}

/// The error of a query that reached its time limit.
pub(crate) fn timed_out(limit: Duration) -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        format!("query took longer than the limit query.timeout = {}", seconds(limit)),
    )
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
