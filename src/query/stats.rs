//! What a query cost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datafusion::physical_plan::{
    ExecutionPlan,
    metrics::{MetricValue, MetricsSet},
};

use crate::{
    query::spansets::{TRACES_CUT, cut_text},
    storage::{apart::CHUNKS_APART, remote::ReadCounters, scan::ROWS_DROPPED},
};

/// The label of a scan's metrics that names the file.
const FILE_LABEL: &str = "filename";

/// Row groups of one file.
#[derive(Clone, Copy, Debug, Default)]
struct RowGroups {
    pruned: u64,
    left: u64,
}

/// Figures of one run. Those of the plan are complete when the stream has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Whether the run has ended, so that nothing here changes any more.
    pub finished: bool,
    /// Why the answer is not all that was asked for, where a limit cut it.
    pub partial: Option<String>,
    /// How often a trace was too large to be looked at as a whole, so that only its earliest spans were.
    pub traces_cut: u64,
    /// Rows in the answer so far.
    pub rows: u64,
    /// Bytes of Arrow data in the answer so far.
    pub result_bytes: u64,
    /// Spans that scans have read, whether or not they meet the conditions; those passed over while a file was decoded do not count.
    pub scanned_rows: u64,
    /// Bytes read from files.
    pub scanned_bytes: u64,
    /// Files that scans had to look into; a file counts for each scan of it.
    pub files_scanned: u64,
    /// Files that scans ruled out before they were opened: by the catalogue's statistics, or because no trace that was asked
    /// for is in them.
    pub files_pruned: u64,
    /// Those of them that have none of the traces.
    pub files_without_trace: u64,
    /// Files, of those that scans had to look into, of which the footer and bloom filters ruled out every row group: the key
    /// is not in the file's list, or the value not in its statistics.
    pub files_skipped: u64,
    /// Row groups that were read.
    pub row_groups_scanned: u64,
    /// Row groups that statistics or bloom filters ruled out.
    pub row_groups_pruned: u64,
    /// Columns of row groups whose values were counted by their codes, beside the scan.
    pub chunks_apart: u64,
    /// Requests that were sent to a bucket for parts of files.
    pub store_requests: u64,
    /// Bytes that they brought.
    pub store_bytes: u64,
    /// Blocks of files in a bucket that were in memory.
    pub cache_memory_blocks: u64,
    /// Blocks of files in a bucket that were on the disk of this machine.
    pub cache_disk_blocks: u64,
    /// Blocks of files in a bucket that had to be fetched.
    pub cache_missed_blocks: u64,
    /// Bytes that operators spilled to disk.
    pub spilled_bytes: u64,
    /// Most memory that operators held at a time, in bytes.
    pub peak_memory_bytes: u64,
    /// Time from the request to the first operator running.
    pub planning: Duration,
    /// Time from the request to now, or to the end.
    pub elapsed: Duration,
}

impl QueryStats {
    /// Says of an answer from traces that were cut that it is not complete.
    pub(crate) fn tell_of_cut_traces(&mut self, trace_spans_max: usize) {
        if self.traces_cut == 0 {
            return;
        }
        let cut = cut_text(trace_spans_max);
        self.partial = Some(match self.partial.take() {
            Some(partial) => format!("{partial}; {cut}"),
            None => cut,
        });
    }

    /// Adds what a later run for the same answer cost.
    pub fn add(&mut self, later: &Self) {
        self.finished = later.finished;
        self.partial = self.partial.take().or_else(|| later.partial.clone());
        self.rows += later.rows;
        self.result_bytes += later.result_bytes;
        self.scanned_rows += later.scanned_rows;
        self.scanned_bytes += later.scanned_bytes;
        self.files_scanned += later.files_scanned;
        self.files_pruned += later.files_pruned;
        self.files_without_trace += later.files_without_trace;
        self.files_skipped += later.files_skipped;
        self.row_groups_scanned += later.row_groups_scanned;
        self.row_groups_pruned += later.row_groups_pruned;
        self.chunks_apart += later.chunks_apart;
        self.store_requests += later.store_requests;
        self.store_bytes += later.store_bytes;
        self.cache_memory_blocks += later.cache_memory_blocks;
        self.cache_disk_blocks += later.cache_disk_blocks;
        self.cache_missed_blocks += later.cache_missed_blocks;
        self.spilled_bytes += later.spilled_bytes;
        self.peak_memory_bytes = self.peak_memory_bytes.max(later.peak_memory_bytes);
        self.planning += later.planning;
        self.elapsed += later.elapsed;
    }

    /// Adds what scans read of a bucket.
    pub(crate) fn add_reads(&mut self, reads: &ReadCounters) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.store_requests += count(&reads.requests);
        self.store_bytes += count(&reads.request_bytes);
        self.cache_memory_blocks += count(&reads.memory_blocks);
        self.cache_disk_blocks += count(&reads.disk_blocks);
        self.cache_missed_blocks += count(&reads.bucket_blocks);
    }
}

/// Where the run writes and the stream reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedStats(Arc<Mutex<QueryStats>>);

impl SharedStats {
    pub(crate) fn get(&self) -> QueryStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut QueryStats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Adds up what the operators of all plans that ran have counted so far.
pub(crate) fn add_ran_plans(stats: &mut QueryStats, ran: &Mutex<Vec<Arc<dyn ExecutionPlan>>>) {
    for plan in ran.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        add_plan_metrics(stats, plan.as_ref());
    }
}

fn add_plan_metrics(stats: &mut QueryStats, plan: &dyn ExecutionPlan) {
    if let Some(metrics) = plan.metrics() {
        let is_leaf = plan.children().is_empty();
        if is_leaf {
            stats.scanned_rows += metrics.output_rows().unwrap_or_default() as u64;
        }
        add_metrics(stats, &metrics);
    }
    for child in plan.children() {
        add_plan_metrics(stats, child.as_ref());
    }
}

fn add_metrics(stats: &mut QueryStats, metrics: &MetricsSet) {
    // Threads that share a file count for themselves, under its name.
    let mut row_groups: HashMap<&str, RowGroups> = HashMap::new();
    for metric in metrics.iter() {
        let file = metric.labels().iter().find(|label| label.name() == FILE_LABEL);
        let of_file = || file.map(|label| label.value()).unwrap_or_default();
        match metric.value() {
            MetricValue::SpilledBytes(bytes) => stats.spilled_bytes += bytes.value() as u64,
            MetricValue::Count { name, count } if name == "bytes_scanned" => {
                stats.scanned_bytes += count.value() as u64;
            }
            MetricValue::Count { name, count } if name == CHUNKS_APART => stats.chunks_apart += count.value() as u64,
            MetricValue::Count { name, count } if name == ROWS_DROPPED => stats.scanned_rows += count.value() as u64,
            MetricValue::Count { name, count } if name == TRACES_CUT => stats.traces_cut += count.value() as u64,
            MetricValue::PruningMetrics { name, pruning_metrics } => {
                let (pruned, matched) = (pruning_metrics.pruned() as u64, pruning_metrics.matched() as u64);
                match name.as_ref() {
                    // The bloom filters come after the statistics, so what they leave is what is read.
                    "row_groups_pruned_statistics" => {
                        stats.row_groups_pruned += pruned;
                        row_groups.entry(of_file()).or_default().pruned += pruned;
                    }
                    "row_groups_pruned_bloom_filter" => {
                        stats.row_groups_pruned += pruned;
                        stats.row_groups_scanned += matched;
                        let of_file = row_groups.entry(of_file()).or_default();
                        of_file.pruned += pruned;
                        of_file.left += matched;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    stats.files_skipped += row_groups.values().filter(|of_file| of_file.pruned > 0 && of_file.left == 0).count() as u64;
}
