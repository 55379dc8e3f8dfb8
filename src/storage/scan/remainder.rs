//! Conditions that a file's decoder does not judge, judged on its output.
//!
//! A scan of spans answers for conditions exactly, so that nothing above it looks at them again. But which of them can choose
//! rows while a file is decoded, the file decides: in one that promotes the attribute the condition reads a plain column, in
//! another a map, which the decoder passes over silently. So the output of every file gets one more column, [`Remainder`]: what
//! is left of the conditions there, which the file's adapter finds out. [`kept`] keeps the rows for which it is true, and takes
//! the column off.
//!
//! ```text
//!  predicate=  kind = 'server' AND attr_int(span_attributes, 'k') = 5
//!  decoder     chooses rows by both            remainder: true                (the file promotes k, and decoding chooses rows)
//!              chooses rows by the first       remainder: attr_int(.., 'k') = 5        (it does not)
//!              chooses none                    remainder: both of them        (too many rows to pay for choosing)
//! ```

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::{BatchCoalescer, prep_null_mask_filter},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
};
use datafusion::{
    common::{Result, exec_err, tree_node::TreeNode},
    datasource::physical_plan::parquet::can_expr_be_pushed_down_with_schemas,
    logical_expr::ColumnarValue,
    physical_expr::{PhysicalExpr, conjunction, projection::ProjectionExpr, split_conjunction},
    physical_plan::metrics::Count,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::storage::scan::morsels::Batches;

use crate::storage::scan::sparse_items::KeptList;

/// The metric that counts rows which were read and not kept.
pub(crate) const ROWS_DROPPED: &str = "remainder_rows_dropped";

/// The column's name; no query sees it.
const NAME: &str = "__remainder";

/// Whether a row meets the conditions that choose no rows while a file is decoded.
#[derive(Debug)]
pub(crate) struct Remainder {
    /// All conditions.
    predicate: Arc<dyn PhysicalExpr>,
    /// Whether decoding chooses rows.
    chooses_rows: bool,
}

impl Remainder {
    /// The output column for conditions of a scan.
    pub(crate) fn column(predicate: Arc<dyn PhysicalExpr>, chooses_rows: bool) -> ProjectionExpr {
        ProjectionExpr { expr: Arc::new(Self { predicate, chooses_rows }), alias: NAME.to_owned() }
    }

    pub(crate) fn predicate(&self) -> &Arc<dyn PhysicalExpr> {
        &self.predicate
    }

    /// What is left of the conditions in a file, given what they are over its columns. The decoder asks the same question of
    /// each condition.
    pub(crate) fn of_file(&self, rewritten: &Arc<dyn PhysicalExpr>, physical: &Schema) -> Arc<dyn PhysicalExpr> {
        let is_judged = |condition: &Arc<dyn PhysicalExpr>| {
            self.chooses_rows
                && can_expr_be_pushed_down_with_schemas(condition, physical)
                // The decoder is not asked by numbers of rows.
                && !condition.exists(|node| Ok(node.is::<KeptList>())).unwrap_or(true)
        };
        conjunction(split_conjunction(rewritten).into_iter().filter(|condition| !is_judged(condition)).map(Arc::clone))
    }
}

impl PartialEq for Remainder {
    fn eq(&self, other: &Self) -> bool {
        self.predicate.as_ref() == other.predicate.as_ref() && self.chooses_rows == other.chooses_rows
    }
}

impl Eq for Remainder {}

impl Hash for Remainder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.predicate.hash(state);
        self.chooses_rows.hash(state);
    }
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remainder({})", self.predicate)
    }
}

impl PhysicalExpr for Remainder {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(NAME, DataType::Boolean, true)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.predicate.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.predicate]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(predicate), true) => Ok(Arc::new(Self { predicate, chooses_rows: self.chooses_rows })),
            _ => exec_err!("a remainder holds one expression"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.predicate.fmt_sql(f)
    }
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
