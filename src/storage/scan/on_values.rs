//! Conditions on text that is read as codes are evaluated once for each value of the dictionary.
//!
//! A row group has few values and many rows, so a condition on one coded column is a table of as many verdicts as there are
//! values, and a row's verdict a look-up by its code. No text is written out for it, whatever the condition is: a comparison,
//! `LIKE`, a list or a function.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, RecordBatch, StringArray},
    compute::{cast, kernels::zip::zip, take},
    datatypes::{DataType, Field, FieldRef, Int32Type, Schema, SchemaRef},
};
use datafusion::{
    common::{
        Result, exec_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::ColumnarValue,
    physical_expr::{
        PhysicalExpr,
        expressions::{CastExpr, Column, DynamicFilterPhysicalExpr, IsNotNullExpr, IsNullExpr},
        utils::collect_columns,
    },
    physical_expr_common::physical_expr::is_volatile,
};
use parking_lot::Mutex;

use crate::functions::{coded_text_type, is_same_dictionary};

/// The one column that a condition reads when it is evaluated.
static VALUES: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)])));

/// A condition on the values of one coded column.
#[derive(Debug)]
pub(crate) struct OnValues {
    /// The coded column.
    codes: Arc<dyn PhysicalExpr>,
    /// The condition over [`VALUES`].
    condition: Arc<dyn PhysicalExpr>,
    last: Mutex<Option<Arc<Verdicts>>>,
}

/// What the condition says of the values of one dictionary.
#[derive(Debug)]
struct Verdicts {
    values: StringArray,
    of_values: BooleanArray,
    of_null: Option<bool>,
}

impl OnValues {
    /// The expression with the conditions in it that read one coded column each evaluated on values.
    pub(crate) fn rewrite(expr: Arc<dyn PhysicalExpr>, physical: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform_down(|node| match Self::of(&node, physical)? {
            Some(on_values) => Ok(Transformed::new(on_values, true, TreeNodeRecursion::Jump)),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn of(condition: &Arc<dyn PhysicalExpr>, physical: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        // Tests for NULL need no values.
        if condition.is::<IsNullExpr>() || condition.is::<IsNotNullExpr>() {
            return Ok(None);
        }
        let columns = collect_columns(condition);
        let mut columns = columns.iter();
        let (Some(column), None) = (columns.next(), columns.next()) else { return Ok(None) };
        let is_coded = *physical.field(column.index()).data_type() == coded_text_type();
        let changes = || condition.exists(|node| Ok(node.is::<DynamicFilterPhysicalExpr>()));
        if !is_coded || condition.data_type(physical)? != DataType::Boolean || is_volatile(condition) || changes()? {
            return Ok(None);
        }
        let value: Arc<dyn PhysicalExpr> = Arc::new(Column::new("value", 0));
        let over_values = Arc::clone(condition).transform_down(|node| {
            let is_text = |cast: &CastExpr| cast.expr().is::<Column>() && *cast.cast_type() == DataType::Utf8;
            match node.is::<Column>() || node.downcast_ref::<CastExpr>().is_some_and(is_text) {
                true => Ok(Transformed::new(Arc::clone(&value), true, TreeNodeRecursion::Jump)),
                false => Ok(Transformed::no(node)),
            }
        });
        let condition = over_values.data()?;
        Ok(Some(Arc::new(Self { codes: Arc::new(column.clone()), condition, last: Mutex::default() })))
    }

    fn judge(&self, values: ArrayRef) -> Result<BooleanArray> {
        let batch = RecordBatch::try_new(Arc::clone(&VALUES), vec![values])?;
        let verdicts = self.condition.evaluate(&batch)?.into_array(batch.num_rows())?;
        match verdicts.as_boolean_opt() {
            Some(verdicts) => Ok(verdicts.clone()),
            None => exec_err!("a condition has the type {}", verdicts.data_type()),
        }
    }

    /// The verdicts of a dictionary; batches of one row group share it.
    fn verdicts(&self, values: &StringArray) -> Result<Arc<Verdicts>> {
        let mut last = self.last.lock();
        if let Some(last) = last.as_ref()
            && is_same_dictionary(&last.values, values)
        {
            return Ok(Arc::clone(last));
        }
        let of_values = self.judge(Arc::new(values.clone()))?;
        let of_null = self.judge(Arc::new(StringArray::new_null(1)))?.iter().next().flatten();
        let verdicts = Arc::new(Verdicts { values: values.clone(), of_values, of_null });
        *last = Some(Arc::clone(&verdicts));
        Ok(verdicts)
    }
}

impl Verdicts {
    fn of_rows(&self, rows: &DictionaryArray<Int32Type>) -> Result<BooleanArray> {
        let verdicts = take(&self.of_values, rows.keys(), None)?;
        let verdicts = match (self.of_null, rows.nulls()) {
            (Some(of_null), Some(is_there)) => {
                let is_there = BooleanArray::new(is_there.inner().clone(), None);
                zip(&is_there, &verdicts, &BooleanArray::new_scalar(of_null))?
            }
            _ => verdicts,
        };
        Ok(verdicts.as_boolean().clone())
    }
}

impl PartialEq for OnValues {
    fn eq(&self, other: &Self) -> bool {
        self.codes.as_ref() == other.codes.as_ref() && self.condition.as_ref() == other.condition.as_ref()
    }
}

impl Eq for OnValues {}

impl Hash for OnValues {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.codes.hash(state);
        self.condition.hash(state);
    }
}

impl fmt::Display for OnValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on_values({}, {})", self.codes, self.condition)
    }
}

impl PhysicalExpr for OnValues {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::new(Field::new("on_values", DataType::Boolean, true)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = self.codes.evaluate(batch)?.into_array(batch.num_rows())?;
        let coded = rows.as_dictionary_opt::<Int32Type>();
        let coded = coded.and_then(|coded| Some((coded, coded.values().as_string_opt::<i32>()?)));
        // A function that fails may fail for values that no row has.
        if let Some((coded, values)) = coded
            && values.null_count() == 0
            && let Ok(verdicts) = self.verdicts(values)
        {
            return Ok(ColumnarValue::Array(Arc::new(verdicts.of_rows(coded)?)));
        }
        Ok(ColumnarValue::Array(Arc::new(self.judge(cast(&rows, &DataType::Utf8)?)?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.codes]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(codes), true) => {
                let condition = Arc::clone(&self.condition);
                Ok(Arc::new(Self { codes, condition, last: Mutex::default() }))
            }
            _ => exec_err!("a condition on values reads one column"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::Int32Array, compute::concat};
    use datafusion::{
        logical_expr::Operator,
        physical_expr::expressions::{BinaryExpr, CaseExpr, InListExpr, lit},
    };

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![Field::new("text", coded_text_type(), true), Field::new("number", DataType::Int32, true)])
    }

    fn rows(codes: &[Option<i32>], values: &[&str]) -> RecordBatch {
        let codes = Int32Array::from(codes.to_vec());
        let texts = DictionaryArray::new(codes, Arc::new(StringArray::from(values.to_vec())));
        let numbers = Int32Array::from_iter_values(0..texts.len() as i32);
        RecordBatch::try_new(Arc::new(schema()), vec![Arc::new(texts), Arc::new(numbers)]).unwrap()
    }

    fn text() -> Arc<dyn PhysicalExpr> {
        Arc::new(CastExpr::new(Arc::new(Column::new("text", 0)), DataType::Utf8, None))
    }

    fn compared(op: Operator, with: &str) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(text(), op, lit(with)))
    }

    fn evaluated(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> ArrayRef {
        expr.evaluate(rows).unwrap().into_array(rows.num_rows()).unwrap()
    }

    #[test]
    fn verdicts_of_values_are_those_of_rows_whichever_dictionary_comes_next() {
        let batches = [
            rows(&[Some(0), None, Some(2), Some(1), Some(0)], &["b", "a", ""]),
            rows(&[Some(1), Some(1), Some(0)], &["b", "a", ""]),
            rows(&[Some(1), Some(1), Some(0)], &["c", "b"]),
            rows(&[None, None], &[]),
            rows(&[], &["a"]),
        ];
        let is_b = compared(Operator::Eq, "b");
        let listed = InListExpr::try_new(text(), vec![lit("a"), lit("c")], true, &schema()).unwrap();
        // What is NULL for some of the values.
        let null = lit(datafusion::common::ScalarValue::Boolean(None));
        let unknown = CaseExpr::try_new(None, vec![(compared(Operator::Gt, "a"), null)], Some(lit(true))).unwrap();
        for condition in [is_b, compared(Operator::LtEq, "b"), Arc::new(listed) as _, Arc::new(unknown) as _] {
            let on_values = OnValues::rewrite(Arc::clone(&condition), &schema()).unwrap();
            assert!(on_values.is::<OnValues>(), "{on_values}");
            for rows in &batches {
                assert_eq!(&evaluated(&on_values, rows), &evaluated(&condition, rows), "{condition}");
            }
        }
    }

    #[test]
    fn what_reads_more_than_one_text_stays_and_a_value_that_no_row_has_fails_nothing() {
        let of_number = Arc::new(BinaryExpr::new(Arc::new(Column::new("number", 1)), Operator::Gt, lit(1_i32)));
        let both =
            Arc::new(BinaryExpr::new(compared(Operator::Eq, "7"), Operator::Or, of_number)) as Arc<dyn PhysicalExpr>;
        let rewritten = OnValues::rewrite(Arc::clone(&both), &schema()).unwrap();
        assert!(rewritten.is::<BinaryExpr>() && rewritten.exists(|node| Ok(node.is::<OnValues>())).unwrap());
        let numbers = Arc::new(CastExpr::new(text(), DataType::Int32, None));
        let is_seven = Arc::new(BinaryExpr::new(numbers, Operator::Eq, lit(7_i32))) as Arc<dyn PhysicalExpr>;
        let is_seven = OnValues::rewrite(is_seven, &schema()).unwrap();
        let rows = rows(&[Some(0), Some(0), Some(2)], &["7", "seven", "8"]);
        let expected: ArrayRef = Arc::new(BooleanArray::from(vec![true, true, false]));
        assert!(is_seven.is::<OnValues>() && evaluated(&is_seven, &rows) == Arc::clone(&expected));
        let twice = concat(&[&evaluated(&rewritten, &rows), &expected]).unwrap();
        assert_eq!(twice.as_boolean().true_count(), 5);
    }
}
