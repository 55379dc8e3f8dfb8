//! The order of rows in a file, and which file a row belongs to.
//!
//! A file holds spans of one UTC day. Inside it the spans of a trace lie together, traces come in the order of their
//! first span in that file, and the spans of a trace in the order of their start. So start times are nearly sorted, which
//! is what statistics of row groups and pages need, and a trace is one short run of rows.

use std::collections::{BTreeMap, HashMap};

use arrow::{
    array::{AsArray, FixedSizeBinaryArray},
    datatypes::Int64Type,
};

use crate::model::{batch::SpanBatch, schema::column};

const NANOS_PER_DAY: i64 = 86_400 * 1_000_000_000;

/// How rows of a file are sorted, as its footer says it.
pub const SORT_ORDER: &str = "trace start, trace_id, start_time_unix_nano, span_id";

/// Days since the Unix epoch of an instant, by UTC.
pub fn date_of(start_time_unix_nano: i64) -> i32 {
    // A 64-bit count of nanoseconds spans 106,751 days around the epoch.
    start_time_unix_nano.div_euclid(NANOS_PER_DAY) as i32
}

/// Rows of a batch that start on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRows {
    /// Days since the Unix epoch.
    pub date: i32,
    /// Rows of the batch.
    pub rows: Vec<u32>,
}

/// The rows of a batch by the day of their start, earliest day first, each day's in the order of a file.
pub fn days(batch: &SpanBatch) -> Vec<DayRows> {
    let mut days: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    let starts = batch.start_times().values();
    let mut run: Option<(i32, usize)> = None;
    let mut close = |date: i32, rows: std::ops::Range<usize>| {
        days.entry(date).or_default().extend(rows.start as u32..rows.end as u32);
    };
    for (row, start) in starts.iter().enumerate() {
        let date = date_of(*start);
        match run {
            Some((current, _)) if current == date => {}
            Some((current, first)) => {
                close(current, first..row);
                run = Some((date, row));
            }
            None => run = Some((date, row)),
        }
    }
    if let Some((current, first)) = run {
        close(current, first..starts.len());
    }
    days.into_iter().map(|(date, rows)| DayRows { date, rows: sorted(batch, &rows) }).collect()
}

fn sorted(batch: &SpanBatch, rows: &[u32]) -> Vec<u32> {
    let spans = batch.spans();
    let traces = spans[column::TRACE_ID].as_fixed_size_binary();
    let ids = spans[column::SPAN_ID].as_fixed_size_binary();
    let starts = spans[column::START_TIME].as_primitive::<Int64Type>().values();

    let trace = |row: u32| u128_at(traces, row as usize);
    let mut trace_starts: HashMap<u128, i64> = HashMap::new();
    for row in rows {
        let start = starts[*row as usize];
        trace_starts.entry(trace(*row)).and_modify(|first| *first = start.min(*first)).or_insert(start);
    }
    let mut keyed: Vec<(i64, u128, i64, u64, u32)> = rows
        .iter()
        .map(|row| {
            let trace = trace(*row);
            (trace_starts[&trace], trace, starts[*row as usize], u64_at(ids, *row as usize), *row)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., row)| row).collect()
}

fn u128_at(ids: &FixedSizeBinaryArray, row: usize) -> u128 {
    ids.value(row).iter().fold(0, |id, byte| id << 8 | u128::from(*byte))
}

fn u64_at(ids: &FixedSizeBinaryArray, row: usize) -> u64 {
    ids.value(row).iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
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
