//! What a span costs on the disk, on the spans of the demo.

use std::sync::Arc;

use tracehouse::model::batch::SpanBatch;

use super::{
    compact_all,
    house::{House, demo},
};

/// Enough for what a file and a column cost by themselves to be little beside the spans.
const SPANS: u64 = 32_000;

/// Most bytes of a span in merged files, in all of a file: ids, indexes and filters with the columns.
const MERGED_BYTES_MAX: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_span_of_the_demo_takes_less_than_fifty_bytes_once_merged() {
    let house = House::open().await;
    let batches = demo(SPANS);
    let spans: usize = batches.iter().map(SpanBatch::num_spans).sum();
    assert_eq!(spans as u64, SPANS);
    // Several flushes, so that attributes get columns by themselves.
    for part in batches.chunks(batches.len().div_ceil(4)) {
        house.store(SpanBatch::concat(part).unwrap()).await;
    }
    let stored = |house: &House| {
        let table = Arc::clone(&house.catalog);
        async move {
            let snapshot = table.table(&tracehouse::model::tenant::TenantId::single()).await.unwrap().snapshot();
            (snapshot.files().len(), snapshot.rows(), snapshot.size_bytes())
        }
    };
    let (files, rows, flushed) = stored(&house).await;
    assert_eq!((files, rows), (4, SPANS));
    compact_all(&house.catalog, &house.shared_clock()).await;
    let (files, rows, merged) = stored(&house).await;
    assert_eq!((files, rows), (1, SPANS));
    let per_span = |bytes: u64| bytes as f64 / SPANS as f64;
    assert!(merged < flushed, "{} bytes per span as flushed, {} as merged", per_span(flushed), per_span(merged));
    assert!(merged < MERGED_BYTES_MAX * SPANS, "{} bytes per span", per_span(merged));
}
