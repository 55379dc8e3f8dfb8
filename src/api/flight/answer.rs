//! Batches as Flight messages.

use std::pin::Pin;

use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket,
    encode::{FlightDataEncoder, FlightDataEncoderBuilder},
    error::FlightError,
    sql::Any,
};
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::{Response, Status};

use crate::{
    api::flight::status,
    query::{QueryStats, QueryStream},
};

/// Target size of a message, in bytes.
const MESSAGE_BYTES: usize = 2 << 20;

/// The body of a DoGet answer.
pub(super) type FlightStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>;

/// Where and in which schema the answer to `ticket` is.
///
/// The descriptor is the one of the request: clients in C++ and Python refuse an answer without it.
pub(super) fn info(
    schema: &Schema,
    ticket: &Any,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.encode_to_vec()));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(error.to_string()))?
        .with_descriptor(descriptor)
        .with_endpoint(endpoint);
    Ok(Response::new(info))
}

/// One batch, for metadata.
pub(super) fn of_batch(batch: RecordBatch) -> Response<FlightStream> {
    let schema = batch.schema();
    let encoder = encoder(schema, stream::iter([Ok(batch)]));
    Response::new(encoder.map_err(Status::from).boxed())
}

/// The engine's answer. The last message carries the statistics as JSON in its application metadata.
pub(super) fn of_query(answer: QueryStream) -> Response<FlightStream> {
    let schema = answer.schema();
    let (tell, told) = tokio::sync::oneshot::channel();
    let batches = Telling { answer, tell: Some(tell) };
    let batches = batches.map_err(|error| FlightError::Tonic(Box::new(status(&error))));
    let messages = encoder(schema, batches);
    let state = (messages, None::<FlightData>, Some(told));
    let with_stats = stream::unfold(state, |(mut messages, mut held, mut told)| async move {
        loop {
            match messages.next().await {
                // Each message is held until the next is there, to know the last one.
                Some(Ok(message)) => match held.replace(message) {
                    Some(ready) => return Some((Ok(ready), (messages, held, told))),
                    None => continue,
                },
                Some(Err(error)) => return Some((Err(Status::from(error)), (messages, None, None))),
                None => {
                    let mut last = held.take()?;
                    if let Some(stats) = told.take().and_then(|mut told| told.try_recv().ok()) {
                        last.app_metadata = json(&stats).into();
                    }
                    return Some((Ok(last), (messages, None, None)));
                }
            }
        }
    });
    Response::new(with_stats.boxed())
}

fn encoder(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> FlightDataEncoder {
    FlightDataEncoderBuilder::new().with_schema(schema).with_max_flight_data_size(MESSAGE_BYTES).build(batches)
}

/// Hands the final statistics over when the answer has ended.
struct Telling {
    answer: QueryStream,
    tell: Option<tokio::sync::oneshot::Sender<QueryStats>>,
}

impl Stream for Telling {
    type Item = crate::error::Result<RecordBatch>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = self.answer.poll_next_unpin(context);
        if matches!(next, std::task::Poll::Ready(None))
            && let Some(tell) = self.tell.take()
        {
            let stats = self.answer.stats();
            // Nobody listens if the client is gone.
            let _ = tell.send(stats);
        }
        next
    }
}

fn json(stats: &QueryStats) -> Vec<u8> {
    let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    serde_json::json!({
        "rows": stats.rows,
        "result_bytes": stats.result_bytes,
        "scanned_rows": stats.scanned_rows,
        "scanned_bytes": stats.scanned_bytes,
        "files_scanned": stats.files_scanned,
        "files_pruned": stats.files_pruned,
        "row_groups_scanned": stats.row_groups_scanned,
        "row_groups_pruned": stats.row_groups_pruned,
        "store_requests": stats.store_requests,
        "store_bytes": stats.store_bytes,
        "cache_memory_blocks": stats.cache_memory_blocks,
        "cache_disk_blocks": stats.cache_disk_blocks,
        "cache_missed_blocks": stats.cache_missed_blocks,
        "spilled_bytes": stats.spilled_bytes,
        "peak_memory_bytes": stats.peak_memory_bytes,
        "planning_ms": millis(stats.planning),
        "elapsed_ms": millis(stats.elapsed),
    })
    .to_string()
    .into_bytes()
}
