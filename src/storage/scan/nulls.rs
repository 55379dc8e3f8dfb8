//! Output columns that are NULL in every row of a file, as attributes are that no span of it has.
//!
//! A literal would be written out for each batch anew, and those who group by an attribute ask for a column of each type that
//! its values can have. Here all batches share one array.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, new_empty_array, new_null_array},
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::Result,
    logical_expr::ColumnarValue,
    physical_expr::{PhysicalExpr, expressions::Literal},
};
use parking_lot::Mutex;

/// NULL of a type, for as many rows as a batch has.
#[derive(Debug)]
pub(crate) struct Nulls {
    data_type: DataType,
    /// The longest array so far.
    longest: Mutex<ArrayRef>,
}

impl Nulls {
    /// The expression, with one array for all batches if it is NULL.
    pub(crate) fn shared(expr: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        match expr.downcast_ref::<Literal>() {
            Some(literal) if literal.value().is_null() => {
                let data_type = literal.value().data_type();
                let longest = Mutex::new(new_empty_array(&data_type));
                Arc::new(Self { data_type, longest })
            }
            _ => expr,
        }
    }
}

impl PartialEq for Nulls {
    fn eq(&self, other: &Self) -> bool {
        self.data_type == other.data_type
    }
}

impl Eq for Nulls {}

impl Hash for Nulls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.data_type.hash(state);
    }
}

impl fmt::Display for Nulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NULL")
    }
}

impl PhysicalExpr for Nulls {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let mut longest = self.longest.lock();
        if longest.len() < rows {
            *longest = new_null_array(&self.data_type, rows);
        }
        Ok(ColumnarValue::Array(longest.slice(0, rows)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NULL")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatchOptions;
    use datafusion::{common::ScalarValue, physical_expr::expressions::lit};

    use super::*;

    #[test]
    fn batches_share_one_array_that_is_as_long_as_the_longest() {
        let nulls = Nulls::shared(lit(ScalarValue::Int64(None)));
        let of = |rows: usize| {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
            nulls.evaluate(&batch).unwrap().into_array(rows).unwrap()
        };
        let place = |array: &ArrayRef| array.to_data().buffers()[0].as_ptr();
        let all = [of(7), of(7), of(3)];
        assert_eq!(all.each_ref().map(|array| (array.len(), array.null_count())), [(7, 7), (7, 7), (3, 3)]);
        assert!(all.iter().all(|array| place(array) == place(&all[0])));
        assert_eq!((of(9).len(), of(9).null_count()), (9, 9));
        let one = lit(1_i64);
        assert!(Arc::ptr_eq(&Nulls::shared(Arc::clone(&one)), &one));
    }
}
