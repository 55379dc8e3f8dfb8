//! Conditions that a file's decoder does not judge, judged on its output.
//!
//! A scan of spans answers for conditions exactly, so that nothing above it looks at them again. But which of them can choose
//! rows while a file is decoded, the file decides: in one that promotes the attribute the condition reads a plain column, in
//! another a map, which the decoder passes over silently. So the output of every file gets one more [`column()`]: what
//! is left of the conditions there, which the file's adapter finds out. [`kept`] keeps the rows for which it is true, and takes
//! the column off.
//!
//! ```text
//!  predicate=  kind = 'server' AND attr_int(span_attributes, 'k') = 5
//!  decoder     chooses rows by both            remainder: true                (the file promotes k, and decoding chooses rows)
//!              chooses rows by the first       remainder: attr_int(.., 'k') = 5        (it does not)
//!              chooses none                    remainder: both of them        (too many rows to pay for choosing)
//! ```

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::{BatchCoalescer, prep_null_mask_filter},
    datatypes::{Schema, SchemaRef},
};
use datafusion::{
    common::{Result, exec_err, tree_node::TreeNode},
    datasource::physical_plan::parquet::can_expr_be_pushed_down_with_schemas,
    physical_expr::{PhysicalExpr, conjunction, projection::ProjectionExpr, split_conjunction},
    physical_plan::metrics::Count,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::storage::scan::{
    marked::{Marked, Use},
    morsels::Batches,
    sparse_items::KeptList,
};

/// The metric that counts rows which were read and not kept.
pub(crate) const ROWS_DROPPED: &str = "remainder_rows_dropped";

/// The column's name; no query sees it.
const NAME: &str = "__remainder";

/// The output column for conditions of a scan, where decoding chooses rows or not.
pub(crate) fn column(predicate: &Arc<dyn PhysicalExpr>, chooses_rows: bool) -> ProjectionExpr {
    ProjectionExpr { expr: Marked::mark(predicate, Use::Remainder { chooses_rows }), alias: NAME.to_owned() }
}

/// What is left of conditions in a file, given what they are over its columns and that decoding chooses rows. The decoder asks
/// the same question of each condition.
pub(crate) fn of_file(conditions: &Arc<dyn PhysicalExpr>, physical: &Schema) -> Arc<dyn PhysicalExpr> {
    let is_judged = |condition: &Arc<dyn PhysicalExpr>| {
        can_expr_be_pushed_down_with_schemas(condition, physical)
            // The decoder is not asked by numbers of rows.
            && !condition.exists(|node| Ok(node.is::<KeptList>())).unwrap_or(true)
    };
    conjunction(split_conjunction(conditions).into_iter().filter(|condition| !is_judged(condition)).map(Arc::clone))
}

/// The rows whose last column says that they are kept, without it, in batches of this schema and of this many rows at most;
/// `dropped` counts the others.
pub(crate) fn kept(batches: Batches, schema: &SchemaRef, rows_max: usize, dropped: &Count) -> Batches {
    let kept =
        BatchCoalescer::new(Arc::clone(schema), rows_max).with_biggest_coalesce_batch_size(Some((rows_max / 2).max(1)));
    let (schema, dropped) = (Arc::clone(schema), dropped.clone());
    let rows = Rows { input: batches, schema, kept, dropped, is_over: false };
    stream::try_unfold(rows, |mut rows| async move { Ok(rows.next().await?.map(|batch| (batch, rows))) }).boxed()
}

/// The rows of a part of a file that are kept.
struct Rows {
    input: Batches,
    schema: SchemaRef,
    kept: BatchCoalescer,
    dropped: Count,
    is_over: bool,
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.kept.next_completed_batch() {
                return Ok(Some(batch));
            }
            if self.is_over {
                return Ok(None);
            }
            // However many batches have no row to keep, others get their turn.
            tokio::task::coop::consume_budget().await;
            let Some(batch) = self.input.try_next().await? else {
                self.is_over = true;
                self.kept.finish_buffered_batch()?;
                continue;
            };
            let Some((last, columns)) = batch.columns().split_last() else {
                return exec_err!("the output of a file has no remainder");
            };
            let Some(is_kept) = last.as_boolean_opt() else {
                return exec_err!("a remainder has the type {}", last.data_type());
            };
            let kept = is_kept.true_count();
            self.dropped.add(batch.num_rows() - kept);
            let rows = match columns.is_empty() {
                true => kept,
                false => batch.num_rows(),
            };
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.to_vec(), &options)?;
            match () {
                () if kept == 0 => {}
                () if columns.is_empty() => return Ok(Some(rows)),
                () if kept == rows.num_rows() => self.kept.push_batch(rows)?,
                () => self.kept.push_batch_with_filter(rows, &without_nulls(is_kept))?,
            }
        }
    }
}

fn without_nulls(is_kept: &BooleanArray) -> BooleanArray {
    if is_kept.null_count() > 0 { prep_null_mask_filter(is_kept) } else { is_kept.clone() }
}
