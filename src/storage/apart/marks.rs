//! The functions by which a query says which columns of files it reads by itself, and asks which file a row is of.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, new_null_array},
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
    },
    physical_expr::{PhysicalExpr, ScalarFunctionExpr},
};

use crate::{functions::placed_with, storage::apart::ColumnsApart};

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    /// The argument can be read apart, under this number.
    Column(usize),
    /// The number of the file, where its columns are read apart.
    File,
}

/// `apart(value)`, which is the value where nobody knows better, and `file_apart(any)`, which is NULL there.
#[derive(Debug)]
pub(crate) struct Apart {
    pub(crate) columns: Arc<ColumnsApart>,
    pub(crate) mark: Mark,
    signature: Signature,
}

impl Apart {
    /// A value that is read apart under this number from files that have it as codes; NULL in the rows of these.
    pub(crate) fn column(columns: &Arc<ColumnsApart>, number: usize, value: Expr) -> Expr {
        Self::call(columns, Mark::Column(number), value)
    }

    /// The number of the file that has the row, if columns of it are read apart, next to any column.
    pub(crate) fn file(columns: &Arc<ColumnsApart>, beside: Expr) -> Expr {
        Self::call(columns, Mark::File, beside)
    }

    fn call(columns: &Arc<ColumnsApart>, mark: Mark, arg: Expr) -> Expr {
        let function = Self { columns: Arc::clone(columns), mark, signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![arg]))
    }

    /// The mark that an expression is.
    pub(crate) fn of(expr: &dyn PhysicalExpr) -> Option<(&Self, &ScalarFunctionExpr)> {
        let call = ScalarFunctionExpr::try_downcast_func::<Self>(expr)?;
        Some((call.fun().inner().downcast_ref::<Self>()?, call))
    }
}

impl PartialEq for Apart {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.columns, &other.columns) && self.mark == other.mark
    }
}

impl Eq for Apart {}

impl Hash for Apart {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.mark.hash(state);
    }
}

impl ScalarUDFImpl for Apart {
    fn name(&self) -> &str {
        match self.mark {
            Mark::Column(_) => "apart",
            Mark::File => "file_apart",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match (self.mark, args) {
            (Mark::Column(_), [value]) => Ok(value.clone()),
            (Mark::File, _) => Ok(DataType::Int32),
            _ => exec_err!("{} takes one value", self.name()),
        }
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match (self.mark, args.args.pop()) {
            (Mark::File, _) => Ok(ColumnarValue::Scalar(ScalarValue::Int32(None))),
            (Mark::Column(_), Some(value)) => Ok(value),
            (Mark::Column(_), None) => exec_err!("{} takes one value", self.name()),
        }
    }
}

/// Rows that have no value here, since it is read apart. Batches share one array.
#[derive(Debug)]
pub(crate) struct NoValue {
    data_type: DataType,
    rows: OnceLock<ArrayRef>,
}

impl NoValue {
    pub(crate) fn of(data_type: DataType) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { data_type, rows: OnceLock::new() })
    }
}

impl PartialEq for NoValue {
    fn eq(&self, other: &Self) -> bool {
        self.data_type == other.data_type
    }
}

impl Eq for NoValue {}

impl Hash for NoValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.data_type.hash(state);
    }
}

impl fmt::Display for NoValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("read_apart()")
    }
}

impl PhysicalExpr for NoValue {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let known = self.rows.get_or_init(|| new_null_array(&self.data_type, rows));
        Ok(ColumnarValue::Array(match known.len() {
            len if len == rows => Arc::clone(known),
            len if len > rows => known.slice(0, rows),
            _ => new_null_array(&self.data_type, rows),
        }))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
