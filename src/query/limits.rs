//! The limits that every query runs under. Each has a name that the error shows with its value.

use std::time::Duration;

use crate::{
    config::QuerySettings,
    error::{Error, ErrorKind, Result},
    query::{request::LimitOverrides, stats::QueryStats},
};

/// Limits of the engine. All are finite.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// Most memory of all running queries together, in bytes.
    pub memory_bytes_max: usize,
    /// Most memory of one query, in bytes; by default half of that, so that one query never takes all of it. What can
    /// spill does so before the query fails.
    pub query_memory_bytes_max: usize,
    /// Most bytes that one query may spill to disk at a time.
    pub query_spill_bytes_max: u64,
    /// Most memory for the filters of trace ids of files, in bytes.
    pub trace_filter_bytes_max: usize,
    /// Most memory for the rows of traces in files, in bytes.
    pub trace_rows_bytes_max: usize,
    /// Longest run of a query: waiting, planning and producing the answer. Time that the client takes to accept a
    /// batch does not count.
    pub timeout: Duration,
    /// Longest time that a client may take to accept a batch.
    pub client_idle_max: Duration,
    /// Most rows in an answer.
    pub result_rows_max: u64,
    /// Most bytes of Arrow data in an answer.
    pub result_bytes_max: u64,
    /// Most bytes that a query reads of files; looked at while it runs and when it ends.
    pub scanned_bytes_max: u64,
    /// Most spans that scans give to the operators of a query, likewise.
    pub scanned_rows_max: u64,
    /// Most queries that run at once.
    pub concurrency_max: usize,
    /// Most queries that wait for one of those to end.
    pub queue_max: usize,
    /// Longest text of a query, in bytes.
    pub text_bytes_max: usize,
    /// Most words and operators in a SQL statement. Literals, commas and parentheses do not count, so that a long `IN`
    /// list is cheap; what does count can nest.
    pub sql_words_max: usize,
    /// Most operators in a SQL statement, words such as `AND` and `JOIN` among them: chains of them are deep trees.
    pub sql_operators_max: usize,
    /// Deepest nesting in a SQL statement.
    pub sql_depth_max: usize,
    /// How far from the asked range the other spans of a matching trace may start, in nanoseconds.
    pub trace_extent_max_nano: i64,
    /// Most spans of a trace that are looked at as a whole.
    pub trace_spans_max: usize,
    /// Traces in a search answer where the client names no limit.
    pub search_limit_default: usize,
    /// Most traces in a search answer.
    pub search_limit_max: usize,
    /// Spans shown per trace in a search answer where the client names no number.
    pub search_spans_default: usize,
    /// Most spans shown per trace in a search answer.
    pub search_spans_max: usize,
    /// Most samples of a series.
    pub metrics_intervals_max: usize,
    /// Most series in a metrics answer.
    pub metrics_series_max: usize,
    /// Most samples of all series of a metrics function together.
    pub metrics_samples_max: usize,
    /// Most exemplars in a metrics answer.
    pub metrics_exemplars_max: usize,
    /// How long before now metrics end, in nanoseconds; 0 for no such cut.
    pub metrics_end_cutoff_nano: i64,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self::from(&QuerySettings::default())
    }
}

impl From<&QuerySettings> for QueryLimits {
    fn from(settings: &QuerySettings) -> Self {
        let memory_bytes_max = settings.memory_bytes_max.as_usize();
        let query_memory_bytes_max = match settings.query_memory_bytes_max.as_usize() {
            0 => memory_bytes_max / 2,
            limit => limit,
        };
        let unless_zero = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Self {
            memory_bytes_max,
            query_memory_bytes_max,
            query_spill_bytes_max: settings.spill_bytes_max.bytes(),
            trace_filter_bytes_max: settings.trace_filter_bytes_max.as_usize(),
            trace_rows_bytes_max: settings.trace_rows_bytes_max.as_usize(),
            timeout: settings.timeout.get(),
            client_idle_max: Duration::from_secs(60),
            result_rows_max: settings.result_rows_max as u64,
            result_bytes_max: settings.result_bytes_max.bytes(),
            scanned_bytes_max: unless_zero(settings.scanned_bytes_max.bytes()),
            scanned_rows_max: unless_zero(settings.scanned_rows_max as u64),
            concurrency_max: settings.concurrency_max,
            queue_max: settings.queue_max,
            text_bytes_max: settings.expression_bytes_max.as_usize(),
            sql_words_max: 10_000,
            sql_operators_max: 1_000,
            sql_depth_max: 64,
            trace_extent_max_nano: settings.trace_extent_max.as_nanos(),
            trace_spans_max: settings.trace_spans_max,
            search_limit_default: settings.search_limit_default,
            search_limit_max: settings.search_limit_max,
            search_spans_default: settings.search_spans_default,
            search_spans_max: settings.search_spans_max,
            metrics_intervals_max: settings.metrics_intervals_max,
            metrics_series_max: settings.metrics_series_max,
            metrics_samples_max: settings.metrics_samples_max,
            metrics_exemplars_max: settings.metrics_exemplars_max,
            metrics_end_cutoff_nano: settings.metrics_end_cutoff.as_nanos(),
        }
    }
}

/// The limits of one run: the engine's, lowered by the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunLimits {
    pub(crate) timeout: Duration,
    pub(crate) client_idle_max: Duration,
    pub(crate) result_rows_max: u64,
    pub(crate) result_bytes_max: u64,
    pub(crate) scanned_bytes_max: u64,
    pub(crate) scanned_rows_max: u64,
}

impl RunLimits {
    /// The error of a run that read this much, if that is too much.
    pub(crate) fn check_scanned(&self, stats: &QueryStats) -> Result<()> {
        let found = [
            ("bytes of files", "query.scanned_bytes_max", stats.scanned_bytes, self.scanned_bytes_max),
            ("spans", "query.scanned_rows_max", stats.scanned_rows, self.scanned_rows_max),
        ];
        for (what, setting, read, limit) in found {
            if read > limit {
                let message = format!(
                    "the query read {read} {what}, more than the limit {setting} = {limit}; ask for a shorter time range or fewer columns"
                );
                return Err(Error::new(ErrorKind::TooLarge, message));
            }
        }
        Ok(())
    }
}

impl QueryLimits {
    pub(crate) fn of_run(&self, overrides: &LimitOverrides) -> RunLimits {
        let lower = |ours: u64, asked: Option<u64>| asked.map_or(ours, |asked| asked.min(ours));
        RunLimits {
            timeout: overrides.timeout.map_or(self.timeout, |asked| asked.min(self.timeout)),
            client_idle_max: self.client_idle_max,
            result_rows_max: lower(self.result_rows_max, overrides.result_rows_max),
            result_bytes_max: lower(self.result_bytes_max, overrides.result_bytes_max),
            scanned_bytes_max: self.scanned_bytes_max,
            scanned_rows_max: self.scanned_rows_max,
        }
    }
}
