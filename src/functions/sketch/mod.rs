//! Quantiles that merge: what a day's percentile is can be computed from the sketches of its minutes, exactly as if all
//! values had been seen at once.
//!
//! | function | answer |
//! |---|---|
//! | `sketch(number)` (aggregate) | a sketch of the numbers, as binary |
//! | `sketch_merge(sketch)` (aggregate) | one sketch of all that the sketches saw |
//! | `sketch_quantile(sketch, q)` | the number below which a share `q` of them lies, within 1 % of its size |
//! | `sketch_count(sketch)` | how many numbers it saw |
//!
//! The sketch is DDSketch: a histogram whose buckets grow by a constant factor, so that every answer is within the same
//! relative error. Counts are integers and buckets are the same for everybody, so merging is adding, and neither the order of
//! rows nor the way they are spread over threads and files changes an answer.

mod aggregate;
mod histogram;
mod read;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// The scalar functions on sketches.
pub(super) fn scalar() -> impl Iterator<Item = ScalarUDF> {
    read::SketchRead::all().into_iter().map(ScalarUDF::from)
}

/// The aggregates that make sketches.
pub(super) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    aggregate::SketchOf::all().into_iter().map(|function| Arc::new(AggregateUDF::from(function))).collect()
}
