//! The last row of `EXPLAIN ANALYZE`: how far the query went into the files of its table.
//!
//! The plan shows a scan of the files that planning has left, and sums over all of them. Which files were ruled out before,
//! and how many of the others went with one look at their footer, is not in it.

use std::sync::Arc;

use datafusion::{
    arrow::array::{RecordBatch, StringArray},
    catalog::TableProvider,
    common::Result as DfResult,
};

use crate::query::{
    search::{explained_schema, rounds::RanPlans},
    spans_table::SpansTable,
    stats::{QueryStats, add_ran_plans},
};

/// The row, after the plans have run.
pub(crate) fn files(ran: &RanPlans, base: &dyn TableProvider) -> DfResult<RecordBatch> {
    let mut stats = QueryStats::default();
    add_ran_plans(&mut stats, ran);
    if let Some(spans) = SpansTable::of(base) {
        spans.add_to(&mut stats);
    }
    let columns = ["Files".to_owned(), line(&stats)].map(|text| Arc::new(StringArray::from(vec![text])) as _);
    Ok(RecordBatch::try_new(explained_schema(), columns.to_vec())?)
}

fn line(stats: &QueryStats) -> String {
    format!(
        "ruled out by the catalogue: {}, by filters of trace ids: {}, by footers (keys, statistics, bloom filters): {}; read: {}",
        stats.files_pruned.saturating_sub(stats.files_without_trace),
        stats.files_without_trace,
        stats.files_skipped,
        stats.files_scanned.saturating_sub(stats.files_skipped),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_in_one_place() {
        let stats = QueryStats {
            files_scanned: 5,
            files_pruned: 9,
            files_without_trace: 7,
            files_skipped: 4,
            ..QueryStats::default()
        };
        assert_eq!(
            line(&stats),
            "ruled out by the catalogue: 2, by filters of trace ids: 7, by footers (keys, statistics, bloom filters): 4; read: 1"
        );
    }
}
