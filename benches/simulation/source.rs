//! Spans without end from a pool of decoded ones.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use prost::Message;
use tracehouse::{
    demo::{Timeline, Workload, WorkloadSettings},
    model::{batch::SpanBatch, ids::TraceId, promotion, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
};

/// Decoded requests of some time, which come back again and again: later, and of other traces.
///
/// Everything else repeats after the length of the pool, which is longer than a row group lasts, so that files do not
/// become smaller by it.
#[derive(Debug)]
pub(crate) struct Pool {
    requests: Vec<SpanBatch>,
    length: Duration,
}

impl Pool {
    /// The reference workload of `length` from `start` on.
    pub(crate) fn of(start_unix_nano: i64, length: Duration, rate: u64, request_spans: usize) -> Self {
        let timeline = Timeline::Period {
            start_unix_nano: start_unix_nano.cast_unsigned(),
            duration: length,
            spans_total: rate * length.as_secs(),
        };
        let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
        let requests = Workload::new(WorkloadSettings { seed: 1, timeline, request_spans });
        let decoded = requests
            .map(|request| decode_protobuf(&request.encode_to_vec(), &promotion::standard(), &rules).unwrap().batch);
        Self { requests: decoded.collect(), length }
    }

    /// Requests until they begin again.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// The request with this number, counted from the beginning of time.
    pub(crate) fn request(&self, number: u64) -> SpanBatch {
        self.request_later(number, 0)
    }

    /// The same, some nanoseconds later.
    pub(crate) fn request_later(&self, number: u64, nanos: i64) -> SpanBatch {
        let (round, index) = (number / self.requests(), number % self.requests());
        let batch = &self.requests[index as usize];
        let later = self.length.as_nanos() as i64 * round as i64 + nanos;
        let spans = batch.spans();
        let columns = spans.schema_ref().fields().iter().zip(spans.columns()).map(|(field, column)| -> ArrayRef {
            match field.name().as_str() {
                "trace_id" | "span_id" | "parent_span_id" => Arc::new(of_round(column.as_fixed_size_binary(), round)),
                "start_time_unix_nano" => {
                    let starts = column.as_primitive::<Int64Type>();
                    Arc::new(Int64Array::from_iter_values(starts.values().iter().map(|start| start + later)))
                }
                _ => Arc::clone(column),
            }
        });
        let spans = RecordBatch::try_new(spans.schema(), columns.collect()).unwrap();
        SpanBatch::try_new(batch.resources().clone(), batch.scopes().clone(), spans).unwrap()
    }

    /// The first trace of a request.
    pub(crate) fn trace(&self, number: u64) -> TraceId {
        let batch = self.request(number);
        TraceId::from_bytes(batch.spans()["trace_id"].as_fixed_size_binary().value(0).try_into().unwrap())
    }
}

/// The same ids in another round, where no two are alike.
fn of_round(ids: &FixedSizeBinaryArray, round: u64) -> FixedSizeBinaryArray {
    let mask = round.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let width = ids.value_length() as usize;
    let mut shifted = FixedSizeBinaryBuilder::with_capacity(ids.len(), ids.value_length());
    for id in ids {
        let Some(id) = id else {
            shifted.append_null();
            continue;
        };
        let mut id = id.to_vec();
        id[width - 8..].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        shifted.append_value(id).unwrap();
    }
    shifted.finish()
}
