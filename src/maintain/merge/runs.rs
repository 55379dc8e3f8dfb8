//! Where the rows of a merge come from, in the order in which they are written.
//!
//! Only trace ids and start times are read for this. Rows of one trace that lie behind each other in a file are one
//! [`Run`]; the runs of all files are sorted as a file is ([`order`](crate::storage::order)), which brings a trace
//! together whose spans lie in several files. What is kept in memory is a few words per run, not per row.

use std::ops::Range;

use arrow::{
    array::{AsArray, BooleanBufferBuilder, RecordBatch},
    buffer::BooleanBuffer,
    datatypes::Int64Type,
};

use crate::model::schema::column;

/// Which rows of a file are kept.
#[derive(Clone, Debug)]
pub(crate) enum Keep {
    /// All of them.
    All,
    /// Spans that start at this instant or later, in Unix nanoseconds.
    StartingFrom(i64),
    /// The rows with a set bit.
    Rows(BooleanBuffer),
}

impl Keep {
    /// The rows that are not set in `dropped`.
    pub(crate) fn all_but(dropped: &BooleanBuffer) -> Self {
        let mut kept = BooleanBufferBuilder::new(dropped.len());
        kept.append_buffer(&!dropped);
        Keep::Rows(kept.finish())
    }

    fn keeps(&self, row: u32, start_unix_nano: i64) -> bool {
        match self {
            Keep::All => true,
            Keep::StartingFrom(first) => start_unix_nano >= *first,
            // A row beyond the end was never looked at, and stays.
            Keep::Rows(rows) => rows.len() <= row as usize || rows.value(row as usize),
        }
    }
}

/// Neighbouring rows of one file that belong to one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The start of the trace's first span among all files, in Unix nanoseconds.
    pub(super) trace_start: i64,
    pub(super) trace: u128,
    /// Place of the file among the inputs.
    pub(super) file: u32,
    pub(super) first_row: u32,
    pub(super) rows: u32,
}

impl Run {
    pub(super) fn row_range(&self) -> Range<usize> {
        self.first_row as usize..(self.first_row + self.rows) as usize
    }
}

/// Collects the runs of files, which are read one after the other.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
    rows_dropped: u64,
}

impl Runs {
    /// Notes the next rows of `file`, of which the first is `first_row`.
    pub(super) fn add(&mut self, file: u32, first_row: u32, rows: &RecordBatch, keep: &Keep) {
        let traces = rows[column::TRACE_ID].as_fixed_size_binary();
        let starts = rows[column::START_TIME].as_primitive::<Int64Type>().values();
        for (at, start) in starts.iter().enumerate() {
            let row = first_row + at as u32;
            if !keep.keeps(row, *start) {
                self.rows_dropped += 1;
                continue;
            }
            let trace = traces.value(at).iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
            match self.runs.last_mut() {
                Some(last) if last.file == file && last.trace == trace && last.first_row + last.rows == row => {
                    last.rows += 1;
                    last.trace_start = last.trace_start.min(*start);
                }
                _ => self.runs.push(Run { trace_start: *start, trace, file, first_row: row, rows: 1 }),
            }
        }
    }

    /// Rows that were not kept.
    pub(super) fn rows_dropped(&self) -> u64 {
        self.rows_dropped
    }

    /// The runs in the order of the merged file.
    pub(super) fn into_sorted(mut self) -> Vec<Run> {
        self.runs.sort_unstable_by_key(|run| run.trace);
        for trace in self.runs.chunk_by_mut(|a, b| a.trace == b.trace) {
            let start = trace.iter().map(|run| run.trace_start).min().unwrap_or_default();
            for run in trace {
                run.trace_start = start;
            }
        }
        self.runs.sort_unstable_by_key(|run| (run.trace_start, run.trace, run.file, run.first_row));
        self.runs
    }
}

/// Most that is decoded at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    pub(super) rows_max: u64,
    pub(super) bytes_max: u64,
}

/// Cuts sorted runs into groups within `limits`, each a row group of the output. A trace lies in one group unless it is
/// larger than a group. `row_bytes` estimates the bytes of a row of a file.
pub(super) fn groups(runs: &[Run], limits: GroupLimits, row_bytes: impl Fn(&Run) -> u64) -> Vec<Vec<Run>> {
    let mut groups: Vec<Vec<Run>> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for trace in runs.chunk_by(|a, b| a.trace == b.trace) {
        let trace_rows: u64 = trace.iter().map(|run| u64::from(run.rows)).sum();
        let trace_bytes: u64 = trace.iter().map(|run| u64::from(run.rows) * row_bytes(run)).sum();
        let fits = |rows: u64, bytes: u64| rows <= limits.rows_max && bytes <= limits.bytes_max;
        if groups.is_empty() || !fits(rows + trace_rows, bytes + trace_bytes) {
            groups.push(Vec::new());
            (rows, bytes) = (0, 0);
        }
        for run in trace {
            let mut rest = *run;
            while rest.rows > 0 {
                let row_bytes = row_bytes(run).max(1);
                let room_rows = limits.rows_max.saturating_sub(rows);
                let room = room_rows.min(limits.bytes_max.saturating_sub(bytes) / row_bytes);
                // An empty group takes at least one row, however large.
                let room = if rows == 0 { room.max(1) } else { room };
                let taken = u64::from(rest.rows).min(room) as u32;
                if taken == 0 {
                    groups.push(Vec::new());
                    (rows, bytes) = (0, 0);
                    continue;
                }
                if let Some(group) = groups.last_mut() {
                    group.push(Run { rows: taken, ..rest });
                }
                rows += u64::from(taken);
                bytes += u64::from(taken) * row_bytes;
                rest.first_row += taken;
                rest.rows -= taken;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trace: u128, trace_start: i64, file: u32, first_row: u32, rows: u32) -> Run {
        Run { trace_start, trace, file, first_row, rows }
    }

    #[test]
    fn a_trace_of_two_files_comes_together_at_its_first_span() {
        let runs = vec![run(1, 50, 0, 0, 2), run(2, 20, 0, 2, 1), run(1, 10, 1, 0, 3)];
        let sorted = Runs { runs, rows_dropped: 0 }.into_sorted();
        assert_eq!(sorted, [run(1, 10, 0, 0, 2), run(1, 10, 1, 0, 3), run(2, 20, 0, 2, 1)]);
    }

    #[test]
    fn groups_keep_traces_whole_until_one_is_larger_than_a_group() {
        let limits = GroupLimits { rows_max: 4, bytes_max: 1_000 };
        let runs = [run(1, 0, 0, 0, 3), run(2, 1, 0, 3, 2), run(3, 2, 0, 5, 6), run(4, 3, 1, 0, 1)];
        let groups = groups(&runs, limits, |_| 1);
        let expected = [
            vec![run(1, 0, 0, 0, 3)],
            vec![run(2, 1, 0, 3, 2)],
            vec![run(3, 2, 0, 5, 4)],
            vec![run(3, 2, 0, 9, 2), run(4, 3, 1, 0, 1)],
        ];
        assert_eq!(groups, expected);
    }

    #[test]
    fn rows_that_are_larger_than_a_group_get_one_each() {
        let limits = GroupLimits { rows_max: 10, bytes_max: 5 };
        let groups = groups(&[run(1, 0, 0, 0, 2)], limits, |_| 7);
        assert_eq!(groups, [vec![run(1, 0, 0, 0, 1)], vec![run(1, 0, 0, 1, 1)]]);
    }
}
