//! The order of rows in a file, and which file a row belongs to.
//!
//! A file holds spans of one UTC day. Inside it the spans of a trace lie together, traces come in the order of their
//! first span in that file, and the spans of a trace in the order of their start. So start times are nearly sorted, which
//! is what statistics of row groups and pages need, and a trace is one short run of rows.

use std::collections::BTreeMap;

use arrow::{
    array::{AsArray, FixedSizeBinaryArray},
    datatypes::Int64Type,
};
use datafusion::common::HashMap;
use itertools::Itertools;

use crate::model::{batch::SpanBatch, gather::Place, schema::column};

const NANOS_PER_DAY: i64 = 86_400 * 1_000_000_000;

/// How rows of a file are sorted, as its footer says it.
pub const SORT_ORDER: &str = "trace start, trace_id, start_time_unix_nano, span_id";

/// Days since the Unix epoch of an instant, by UTC.
pub fn date_of(start_time_unix_nano: i64) -> i32 {
    // A 64-bit count of nanoseconds spans 106,751 days around the epoch.
    start_time_unix_nano.div_euclid(NANOS_PER_DAY) as i32
}

/// Rows of some batches that start on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRows {
    /// Days since the Unix epoch.
    pub date: i32,
    /// Where they are.
    pub rows: Vec<Place>,
}

/// The rows of some batches by the day of their start, earliest day first, each day's in the order of a file.
pub fn days(batches: &[SpanBatch]) -> Vec<DayRows> {
    let mut days: BTreeMap<i32, Vec<Place>> = BTreeMap::new();
    for (number, batch) in batches.iter().enumerate() {
        let starts = batch.start_times().values().iter().enumerate();
        for (date, run) in &starts.chunk_by(|(_, start)| date_of(**start)) {
            days.entry(date).or_default().extend(run.map(|(row, _)| (number, row)));
        }
    }
    days.into_iter().map(|(date, rows)| DayRows { date, rows: sorted(batches, &rows) }).collect()
}

/// What rows of one batch are sorted by.
struct Keys<'a> {
    traces: &'a FixedSizeBinaryArray,
    spans: &'a FixedSizeBinaryArray,
    starts: &'a [i64],
}

impl<'a> Keys<'a> {
    fn of(batch: &'a SpanBatch) -> Self {
        let spans = batch.spans();
        Self {
            traces: spans[column::TRACE_ID].as_fixed_size_binary(),
            spans: spans[column::SPAN_ID].as_fixed_size_binary(),
            starts: spans[column::START_TIME].as_primitive::<Int64Type>().values(),
        }
    }
}

/// A trace of some rows.
struct Trace {
    start: i64,
    id: u128,
    /// Its place in the order of traces.
    rank: u32,
}

fn sorted(batches: &[SpanBatch], rows: &[Place]) -> Vec<Place> {
    let keys: Vec<Keys<'_>> = batches.iter().map(Keys::of).collect();
    let mut by_id: HashMap<u128, u32> = HashMap::new();
    let mut traces: Vec<Trace> = Vec::new();
    let of_rows: Vec<u32> = rows
        .iter()
        .map(|(batch, row)| {
            let start = keys[*batch].starts[*row];
            let id = u128_at(keys[*batch].traces, *row);
            let trace = *by_id.entry(id).or_insert_with(|| {
                traces.push(Trace { start, id, rank: 0 });
                (traces.len() - 1) as u32
            });
            let first = &mut traces[trace as usize].start;
            *first = start.min(*first);
            trace
        })
        .collect();
    let mut in_order: Vec<u32> = (0..traces.len() as u32).collect();
    in_order.sort_unstable_by_key(|trace| (traces[*trace as usize].start, traces[*trace as usize].id));
    for (rank, trace) in in_order.into_iter().enumerate() {
        traces[trace as usize].rank = rank as u32;
    }
    // Ranks and places as numbers of half the width: what is sorted is moved often.
    let mut keyed: Vec<(u32, i64, u64, u32, u32)> = rows
        .iter()
        .zip(of_rows)
        .map(|((batch, row), trace)| {
            let Keys { spans, starts, .. } = &keys[*batch];
            (traces[trace as usize].rank, starts[*row], u64_at(spans, *row), *batch as u32, *row as u32)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., batch, row)| (batch as usize, row as usize)).collect()
}

fn u128_at(ids: &FixedSizeBinaryArray, row: usize) -> u128 {
    ids.value(row).first_chunk().map_or(0, |id| u128::from_be_bytes(*id))
}

fn u64_at(ids: &FixedSizeBinaryArray, row: usize) -> u64 {
    ids.value(row).first_chunk().map_or(0, |id| u64::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_at_midnight_before_and_after_the_epoch() {
        assert_eq!(date_of(0), 0);
        assert_eq!(date_of(-1), -1);
        assert_eq!(date_of(NANOS_PER_DAY - 1), 0);
        assert_eq!(date_of(NANOS_PER_DAY), 1);
        assert_eq!(date_of(i64::MAX), 106_751);
        assert_eq!(date_of(i64::MIN), -106_752);
    }
}
