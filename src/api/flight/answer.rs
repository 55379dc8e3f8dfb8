//! Batches as Flight messages.

use std::{pin::Pin, sync::Arc, vec};

use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket,
    encode::{DictionaryHandling, FlightDataEncoder, FlightDataEncoderBuilder},
    error::FlightError,
    sql::Any,
};
use datafusion::arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    compute::cast,
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Response, Status};

use crate::{
    api::flight::{pieces::pieces, status},
    query::{QueryEngine, QueryRequest, QueryStats, QueryStream},
};

/// Most bytes of rows in a message: with padding and header it stays below 2 MiB, unless a single row is larger.
const MESSAGE_ROW_BYTES: u64 = (2 << 20) - (128 << 10);

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

/// The schema that is announced for rows of this schema: every column may be NULL, whatever the planner found out.
pub(super) fn announced(schema: &Schema) -> SchemaRef {
    let nullable = |field: &Arc<Field>| Field::clone(field).with_nullable(true);
    Arc::new(Schema::new(schema.fields().iter().map(nullable).collect::<Vec<_>>()))
}

/// One batch, for metadata.
pub(super) fn of_batch(batch: RecordBatch) -> Response<FlightStream> {
    let schema = batch.schema();
    let encoder = encoder(schema, stream::iter([Ok(batch)]));
    Response::new(encoder.map_err(Status::from).boxed())
}

/// The engine's answers to some requests, one after the other, as one answer: a statement is a request for each row of
/// its parameters. The last message carries the statistics as JSON in its application metadata.
pub(super) async fn of_requests(engine: Arc<QueryEngine>, requests: Vec<QueryRequest>) -> Result<FlightStream, Status> {
    let mut rest = requests.into_iter();
    let first = rest.next().ok_or_else(|| Status::internal("there is nothing to run"))?;
    // The first one fails before there is a stream.
    let current = engine.execute(first).await.map_err(|error| status(&error))?;
    let schema = announced(&current.schema());
    let (tell, told) = oneshot::channel();
    let runs = Runs { engine, current, rest, total: QueryStats::default(), tell, schema: Arc::clone(&schema) };
    let batches = stream::try_unfold(Some(runs), |runs| async move {
        let Some(runs) = runs else { return Ok(None) };
        runs.next().await
    });
    Ok(with_stats(encoder(schema, batches), told))
}

/// The runs of one answer.
struct Runs {
    engine: Arc<QueryEngine>,
    current: QueryStream,
    rest: vec::IntoIter<QueryRequest>,
    /// What the ended ones cost.
    total: QueryStats,
    tell: oneshot::Sender<QueryStats>,
    schema: SchemaRef,
}

impl Runs {
    async fn next(mut self) -> Result<Option<(RecordBatch, Option<Self>)>, FlightError> {
        loop {
            if let Some(batch) = self.current.next().await {
                let batch = batch.map_err(|error| FlightError::Tonic(Box::new(status(&error))))?;
                return Ok(Some((fitted(batch, &self.schema)?, Some(self))));
            }
            self.total.add(&self.current.stats());
            let Some(request) = self.rest.next() else {
                // Nobody listens if the client is gone.
                let _ = self.tell.send(self.total);
                return Ok(None);
            };
            let next = self.engine.execute(request).await;
            self.current = next.map_err(|error| FlightError::Tonic(Box::new(status(&error))))?;
        }
    }
}

/// The same rows in the announced types: those of the planner and of the operators can differ.
fn fitted(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let fit = |(column, field): (&ArrayRef, &Arc<Field>)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(fit).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn with_stats(messages: FlightDataEncoder, told: oneshot::Receiver<QueryStats>) -> FlightStream {
    let state = (messages, None::<FlightData>, Some(told));
    stream::unfold(state, |(mut messages, mut held, mut told)| async move {
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
    })
    .boxed()
}

fn encoder(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> FlightDataEncoder {
    let pieces = batches.map_ok(|batch| stream::iter(pieces(batch, MESSAGE_ROW_BYTES)).map(Ok)).try_flatten();
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(usize::MAX)
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(pieces)
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
        "files_skipped": stats.files_skipped,
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
