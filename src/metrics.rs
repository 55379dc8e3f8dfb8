//! What the process tells Prometheus: every family, its labels and its buckets, in one struct.
//!
//! There is one [`Metrics`] per process, made by the server and passed down by `Arc`; nothing is global, so tests look at
//! their own. Modules set gauges and observe histograms directly; what carries labels goes through a method, whose
//! `&'static str` labels keep the number of series bounded by the source code and not by what senders write.
//!
//! [`Metrics::encode`] gives the text that `/metrics` answers. Values that change without an event, such as the age of
//! the oldest unflushed span or the memory of the process, are read at that moment.

use std::{
    fs,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
    core::Collector,
    proto::{Metric, MetricFamily, MetricType},
};

/// From a quick sync of a good disk to one that hangs.
const SYNC_SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// From a lookup in memory to the longest query that is allowed by default.
const QUERY_SECONDS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// From a small flush to one against a slow bucket.
const FLUSH_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Stands for "nothing is unflushed".
const NOTHING_UNFLUSHED: i64 = i64::MAX;

/// The kernel reports CPU time to programs in ticks of this length on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// All metric families of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ingest_requests: IntCounterVec,
    ingest_spans: IntCounterVec,
    ingest_rejected_spans: IntCounterVec,
    ingest_bytes: IntCounterVec,
    /// Bytes of requests between arrival and acknowledgement.
    pub ingest_in_flight_bytes: IntGauge,
    /// Seconds that a sync of the write-ahead log took.
    pub wal_sync_seconds: Histogram,
    /// Syncs or writes of the log that failed; above zero the process does not acknowledge any more.
    pub wal_failures: IntCounter,
    /// Bytes of the log on disk.
    pub wal_bytes: IntGauge,
    /// 1 if spans are acknowledged before they are synced.
    pub wal_sync_relaxed: IntGauge,
    /// Spans in memory that are in no file yet.
    pub buffer_spans: IntGauge,
    /// Memory of those spans in bytes.
    pub buffer_bytes: IntGauge,
    oldest_unflushed_unix_nano: AtomicI64,
    flush_lag_seconds: Gauge,
    /// Seconds from the start of a flush to its commit.
    pub flush_seconds: Histogram,
    /// Flushes that failed and will be tried again.
    pub flush_failures: IntCounter,
    /// Spans that were flushed to files.
    pub flush_spans: IntCounter,
    /// Bytes of the files that were written by flushes.
    pub flush_bytes: IntCounter,
    /// Merges of files that were committed.
    pub compaction_merges: IntCounter,
    /// Merges that failed; their files are left alone for a while.
    pub compaction_failures: IntCounter,
    /// Merges that were given up because another writer replaced their files first.
    pub compaction_conflicts: IntCounter,
    /// Bytes of the files that merges replaced.
    pub compaction_bytes_read: IntCounter,
    /// Bytes of the files that merges made.
    pub compaction_bytes_written: IntCounter,
    /// Spans that merges dropped because an equal one stays.
    pub compaction_duplicates: IntCounter,
    /// Files that were in no table for longer than the grace, and were deleted.
    pub swept_files: IntCounter,
    /// Their bytes.
    pub swept_bytes: IntCounter,
    retention_files: IntCounterVec,
    retention_bytes: IntCounterVec,
    retention_rewritten: IntCounterVec,
    unreadable_files: IntCounterVec,
    /// Live files of all tables.
    pub catalog_files: IntGauge,
    /// Bytes of the live files.
    pub catalog_bytes: IntGauge,
    /// Commits to tables.
    pub catalog_commits: IntCounter,
    /// Commits that lost against another writer and were tried again.
    pub catalog_conflicts: IntCounter,
    store_requests: IntCounterVec,
    /// Bytes that were read from a bucket.
    pub store_read_bytes: IntCounter,
    /// Reads that took so long that they were sent a second time.
    pub store_hedged_reads: IntCounter,
    cache_blocks: IntCounterVec,
    /// Files that wait on this machine for their upload to a bucket.
    pub staged_files: IntGauge,
    /// Their size in bytes.
    pub staged_bytes: IntGauge,
    /// Uploads that failed and will be tried again.
    pub upload_failures: IntCounter,
    query_seconds: HistogramVec,
    /// Queries that run now.
    pub queries_running: IntGauge,
    resident_bytes: IntGauge,
    resident_bytes_peak: IntGauge,
    cpu_seconds: Gauge,
}

impl Metrics {
    /// All families, at zero.
    ///
    /// # Errors
    /// Only a defect in this file: a name that is used twice or is not a metric name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let build_info = register(
            r,
            IntGaugeVec::new(Opts::new("tracehouse_build_info", "The version that runs; always 1"), &["version"])?,
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let unreadable_files = counters(
            r,
            "tracehouse_unreadable_files_total",
            "Damaged or unreadable files that a rewrite left as they are; tried again every 10 minutes, and counted again",
            &["by"],
        )?;
        // An alert on growth needs the zero before the first one.
        for by in ["compaction", "deletion", "retention"] {
            unreadable_files.with_label_values(&[by]);
        }
        let protocol = "protocol";
        Ok(Self {
            ingest_requests: counters(
                r,
                "tracehouse_ingest_requests_total",
                "Export requests by outcome",
                &[protocol, "outcome"],
            )?,
            ingest_spans: counters(
                r,
                "tracehouse_ingest_spans_total",
                "Spans by outcome: accepted, rejected, duplicate",
                &[protocol, "outcome"],
            )?,
            ingest_rejected_spans: counters(
                r,
                "tracehouse_ingest_rejected_spans_total",
                "Spans that were rejected, by reason",
                &[protocol, "reason"],
            )?,
            ingest_bytes: counters(
                r,
                "tracehouse_ingest_bytes_total",
                "Bytes of accepted export requests after decompression",
                &[protocol],
            )?,
            ingest_in_flight_bytes: gauge(
                r,
                "tracehouse_ingest_in_flight_bytes",
                "Bytes of requests between arrival and acknowledgement",
            )?,
            wal_sync_seconds: histogram(
                r,
                "tracehouse_wal_sync_seconds",
                "Time that a sync of the write-ahead log took",
                SYNC_SECONDS,
            )?,
            wal_failures: counter(
                r,
                "tracehouse_wal_failures_total",
                "Failed writes and syncs of the log; above zero nothing is acknowledged any more",
            )?,
            wal_bytes: gauge(r, "tracehouse_wal_bytes", "Size of the write-ahead log on disk")?,
            wal_sync_relaxed: gauge(
                r,
                "tracehouse_wal_sync_relaxed",
                "1 if spans are acknowledged before they are synced to disk (wal.sync = relaxed), else 0",
            )?,
            buffer_spans: gauge(r, "tracehouse_buffer_spans", "Spans in memory that are in no file yet")?,
            buffer_bytes: gauge(r, "tracehouse_buffer_bytes", "Memory of the spans that are in no file yet")?,
            oldest_unflushed_unix_nano: AtomicI64::new(NOTHING_UNFLUSHED),
            flush_lag_seconds: register(
                r,
                Gauge::new("tracehouse_flush_lag_seconds", "Age of the oldest span that is in no file yet")?,
            )?,
            flush_seconds: histogram(
                r,
                "tracehouse_flush_seconds",
                "Time from the start of a flush to its commit",
                FLUSH_SECONDS,
            )?,
            flush_failures: counter(r, "tracehouse_flush_failures_total", "Flushes that failed and are tried again")?,
            flush_spans: counter(r, "tracehouse_flush_spans_total", "Spans that were flushed to files")?,
            flush_bytes: counter(r, "tracehouse_flush_bytes_total", "Size of the files that flushes wrote")?,
            compaction_merges: counter(r, "tracehouse_compaction_merges_total", "Merges of files that were committed")?,
            compaction_failures: counter(
                r,
                "tracehouse_compaction_failures_total",
                "Merges that failed; their files are left alone for a while",
            )?,
            compaction_conflicts: counter(
                r,
                "tracehouse_compaction_conflicts_total",
                "Merges that were given up because another writer replaced their files first",
            )?,
            compaction_bytes_read: counter(
                r,
                "tracehouse_compaction_read_bytes_total",
                "Size of the files that merges replaced",
            )?,
            compaction_bytes_written: counter(
                r,
                "tracehouse_compaction_written_bytes_total",
                "Size of the files that merges made",
            )?,
            compaction_duplicates: counter(
                r,
                "tracehouse_compaction_duplicate_spans_total",
                "Spans that merges dropped because an equal one stays",
            )?,
            swept_files: counter(
                r,
                "tracehouse_swept_files_total",
                "Files that were in no table for longer than the grace, and were deleted",
            )?,
            swept_bytes: counter(r, "tracehouse_swept_bytes_total", "Size of the files that sweeps deleted")?,
            retention_files: counters(
                r,
                "tracehouse_retention_files_total",
                "Files that retention removed whole, by the limit: age_max, bytes_max, total_bytes_max",
                &["limit"],
            )?,
            retention_bytes: counters(
                r,
                "tracehouse_retention_bytes_total",
                "Size of the files that retention removed whole",
                &["limit"],
            )?,
            retention_rewritten: counters(
                r,
                "tracehouse_retention_rewritten_files_total",
                "Files that retention wrote anew without their expired spans",
                &["limit"],
            )?,
            unreadable_files,
            catalog_files: gauge(r, "tracehouse_catalog_files", "Live files of all tables")?,
            catalog_bytes: gauge(r, "tracehouse_catalog_bytes", "Size of the live files of all tables")?,
            catalog_commits: counter(r, "tracehouse_catalog_commits_total", "Commits to tables")?,
            catalog_conflicts: counter(
                r,
                "tracehouse_catalog_conflicts_total",
                "Commits that lost against another writer and were tried again",
            )?,
            store_requests: counters(
                r,
                "tracehouse_store_requests_total",
                "Requests to a bucket, by outcome; read is part of a file",
                &["operation", "outcome"],
            )?,
            store_read_bytes: counter(r, "tracehouse_store_read_bytes_total", "Bytes read from a bucket")?,
            store_hedged_reads: counter(
                r,
                "tracehouse_store_hedged_reads_total",
                "Slow reads from a bucket that were sent a second time",
            )?,
            cache_blocks: counters(
                r,
                "tracehouse_cache_blocks_total",
                "Blocks of files that queries read, by where they were: memory, disk, bucket",
                &["from"],
            )?,
            staged_files: gauge(r, "tracehouse_staged_files", "Files that wait for their upload to a bucket")?,
            staged_bytes: gauge(r, "tracehouse_staged_bytes", "Size of the files that wait for their upload")?,
            upload_failures: counter(
                r,
                "tracehouse_upload_failures_total",
                "Uploads to a bucket that failed and are tried again",
            )?,
            query_seconds: register(
                r,
                HistogramVec::new(
                    HistogramOpts::new("tracehouse_query_seconds", "Time of queries, by kind and outcome")
                        .buckets(QUERY_SECONDS.to_vec()),
                    &["kind", "outcome"],
                )?,
            )?,
            queries_running: gauge(r, "tracehouse_queries_running", "Queries that run now")?,
            resident_bytes: gauge(r, "process_resident_memory_bytes", "Resident memory of the process")?,
            resident_bytes_peak: gauge(
                r,
                "process_resident_memory_peak_bytes",
                "Highest resident memory since the process started",
            )?,
            cpu_seconds: register(
                r,
                Gauge::new("process_cpu_seconds_total", "User and system CPU time of the process")?,
            )?,
            registry,
        })
    }

    /// Counts an export request. `protocol` and `outcome` are names from the source code, never from the wire.
    pub fn count_request(&self, protocol: &'static str, outcome: &'static str) {
        self.ingest_requests.with_label_values(&[protocol, outcome]).inc();
    }

    /// Counts spans that were stored, from a request of `bytes` after decompression.
    pub fn count_accepted(&self, protocol: &'static str, spans: usize, bytes: usize) {
        self.ingest_spans.with_label_values(&[protocol, "accepted"]).inc_by(spans as u64);
        self.ingest_bytes.with_label_values(&[protocol]).inc_by(bytes as u64);
    }

    /// Counts spans that were rejected for `reason`.
    pub fn count_rejected(&self, protocol: &'static str, reason: &'static str, spans: usize) {
        self.ingest_spans.with_label_values(&[protocol, "rejected"]).inc_by(spans as u64);
        self.ingest_rejected_spans.with_label_values(&[protocol, reason]).inc_by(spans as u64);
    }

    /// Counts spans of a retry that was recognised and not stored again.
    pub fn count_duplicates(&self, protocol: &'static str, spans: usize) {
        self.ingest_spans.with_label_values(&[protocol, "duplicate"]).inc_by(spans as u64);
    }

    /// Records a finished query of a `kind` such as `sql`, with an `outcome` such as `ok` or `timeout`.
    pub fn observe_query(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.query_seconds.with_label_values(&[kind, outcome]).observe(took.as_secs_f64());
    }

    /// Counts what left the tables by a `limit`, such as `age_max`.
    pub fn count_retention(&self, limit: &'static str, files: usize, bytes: u64, rewritten: usize) {
        self.retention_files.with_label_values(&[limit]).inc_by(files as u64);
        self.retention_bytes.with_label_values(&[limit]).inc_by(bytes);
        self.retention_rewritten.with_label_values(&[limit]).inc_by(rewritten as u64);
    }

    /// Counts a file that `by` (`compaction`, `deletion`, `retention`) could not rewrite.
    pub fn count_unreadable_file(&self, by: &'static str) {
        self.unreadable_files.with_label_values(&[by]).inc();
    }

    /// The same so far.
    pub fn unreadable_files(&self, by: &'static str) -> u64 {
        self.unreadable_files.with_label_values(&[by]).get()
    }

    /// Counts a request to a bucket. `operation` and `outcome` are names from the source code.
    pub fn count_store_request(&self, operation: &'static str, outcome: &'static str) {
        self.store_requests.with_label_values(&[operation, outcome]).inc();
    }

    /// Requests to a bucket so far, of one operation and outcome.
    pub fn store_requests(&self, operation: &'static str, outcome: &'static str) -> u64 {
        self.store_requests.with_label_values(&[operation, outcome]).get()
    }

    /// Counts blocks of files that were read `from` memory, disk or bucket.
    pub fn count_cache_blocks(&self, from: &'static str, blocks: usize) {
        self.cache_blocks.with_label_values(&[from]).inc_by(blocks as u64);
    }

    /// Says when the oldest span arrived that is in no file yet, in Unix nanoseconds; `None` if all are.
    pub fn set_oldest_unflushed(&self, unix_nano: Option<i64>) {
        self.oldest_unflushed_unix_nano.store(unix_nano.unwrap_or(NOTHING_UNFLUSHED), Ordering::Relaxed);
    }

    /// All families in the Prometheus text format, as of `now_unix_nano`.
    ///
    /// # Errors
    /// Only a defect: a family that cannot be written as text.
    pub fn encode(&self, now_unix_nano: i64) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.gather(now_unix_nano))
    }

    /// The same as rows, without the buckets of histograms.
    pub fn samples(&self, now_unix_nano: i64) -> Vec<Sample> {
        self.gather(now_unix_nano)
            .iter()
            .flat_map(|family| family.get_metric().iter().flat_map(|metric| samples_of(family, metric)))
            .collect()
    }

    fn gather(&self, now_unix_nano: i64) -> Vec<MetricFamily> {
        self.flush_lag_seconds.set(self.flush_lag(now_unix_nano).as_secs_f64());
        if let Some(process) = ProcessFigures::read() {
            self.resident_bytes.set(process.resident_bytes);
            self.resident_bytes_peak.set(process.resident_bytes_peak);
            self.cpu_seconds.set(process.cpu_seconds);
        }
        self.registry.gather()
    }

    /// The content type of [`Metrics::encode`].
    pub fn content_type() -> String {
        TextEncoder::new().format_type().to_owned()
    }

    /// How long the oldest span waits that is in no file yet.
    pub fn flush_lag(&self, now_unix_nano: i64) -> Duration {
        let waiting = now_unix_nano.saturating_sub(self.oldest_unflushed_unix_nano.load(Ordering::Relaxed));
        Duration::from_nanos(u64::try_from(waiting).unwrap_or(0))
    }
}

/// One value of a family at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name; of a histogram with `_count` or `_sum`.
    pub name: String,
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What the family counts.
    pub help: String,
}

fn samples_of(family: &MetricFamily, metric: &Metric) -> Vec<Sample> {
    let labels = metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
    let labels: Vec<_> = labels.collect();
    let sample = |suffix: &str, value, kind| Sample {
        name: format!("{}{suffix}", family.name()),
        labels: labels.clone(),
        value,
        kind,
        help: family.help().to_owned(),
    };
    match family.get_field_type() {
        MetricType::COUNTER => vec![sample("", metric.get_counter().get_value(), "counter")],
        MetricType::GAUGE => vec![sample("", metric.get_gauge().get_value(), "gauge")],
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let count = histogram.get_sample_count() as f64;
            vec![sample("_count", count, "histogram"), sample("_sum", histogram.get_sample_sum(), "histogram")]
        }
        // No family is made of the others.
        MetricType::SUMMARY | MetricType::UNTYPED => Vec::new(),
    }
}

/// What the kernel says about this process.
#[derive(Debug, PartialEq)]
struct ProcessFigures {
    resident_bytes: i64,
    resident_bytes_peak: i64,
    cpu_seconds: f64,
}

impl ProcessFigures {
    /// Reads `/proc`; `None` where there is none.
    fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&status, &stat)
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<i64>().ok()
        };
        // The second field is the program's name in parentheses, and the name may hold spaces and parentheses.
        let (_, fields) = stat.rsplit_once(") ")?;
        let ticks = |at: usize| fields.split(' ').nth(at)?.parse::<f64>().ok();
        let (user, system) = (ticks(11)?, ticks(12)?);
        Some(Self {
            resident_bytes: kib("VmRSS:")? * 1024,
            resident_bytes_peak: kib("VmHWM:")? * 1024,
            cpu_seconds: (user + system) / TICKS_PER_SECOND,
        })
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_holds_what_was_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.count_request("otlp_grpc", "ok");
        metrics.count_accepted("otlp_grpc", 7, 900);
        metrics.count_rejected("otlp_http_json", "bad_trace_id", 2);
        metrics.count_duplicates("otlp_grpc", 3);
        metrics.observe_query("sql", "ok", Duration::from_millis(3));
        metrics.wal_sync_seconds.observe(0.000_2);
        metrics.set_oldest_unflushed(Some(2_000_000_000));
        let text = metrics.encode(5_000_000_000).unwrap();
        for line in [
            "tracehouse_ingest_requests_total{outcome=\"ok\",protocol=\"otlp_grpc\"} 1",
            "tracehouse_ingest_spans_total{outcome=\"accepted\",protocol=\"otlp_grpc\"} 7",
            "tracehouse_ingest_spans_total{outcome=\"duplicate\",protocol=\"otlp_grpc\"} 3",
            "tracehouse_ingest_spans_total{outcome=\"rejected\",protocol=\"otlp_http_json\"} 2",
            "tracehouse_ingest_rejected_spans_total{protocol=\"otlp_http_json\",reason=\"bad_trace_id\"} 2",
            "tracehouse_ingest_bytes_total{protocol=\"otlp_grpc\"} 900",
            "tracehouse_query_seconds_bucket{kind=\"sql\",outcome=\"ok\",le=\"0.005\"} 1",
            "tracehouse_wal_sync_seconds_bucket{le=\"0.00025\"} 1",
            "tracehouse_flush_lag_seconds 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn there_is_no_lag_when_nothing_waits() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(metrics.flush_lag(i64::MAX), Duration::ZERO);
        metrics.set_oldest_unflushed(Some(10));
        assert_eq!(metrics.flush_lag(5), Duration::ZERO);
        assert_eq!(metrics.flush_lag(25), Duration::from_nanos(15));
        metrics.set_oldest_unflushed(None);
        assert_eq!(metrics.flush_lag(15), Duration::ZERO);
    }

    #[test]
    fn process_figures_are_read_from_proc() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "1 (a) b) S 0 1 2 3 4 5 6 7 8 9 150 50 0 0 20";
        let figures = ProcessFigures { resident_bytes: 1 << 20, resident_bytes_peak: 2 << 20, cpu_seconds: 2.0 };
        assert_eq!(ProcessFigures::parse(status, stat), Some(figures));
        assert_eq!(ProcessFigures::parse("", ""), None);
    }
}
