//! Marks on expressions, for the time of opening a file.
//!
//! The adapter of a file rewrites all expressions alike, and cannot tell for what they are. A marked one evaluates like what it
//! holds, and the adapter takes the mark off and does what is right for its use.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, FieldRef, Schema},
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::ColumnarValue,
    physical_expr::PhysicalExpr,
};

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// A predicate, of which NULL and false are the same: [`condition`](super::condition).
    Condition,
    /// An output column: conditions on text in it are asked of values ([`OnValues`](super::on_values::OnValues)), and one that is NULL
    /// is written out once ([`Nulls`](super::nulls::Nulls)).
    Shown,
    /// The output column with what is left of the conditions of a scan: [`remainder`](super::remainder).
    Remainder {
        /// Whether decoding chooses rows.
        chooses_rows: bool,
    },
}

/// An expression that says what it is for.
#[derive(Debug)]
pub(crate) struct Marked {
    expr: Arc<dyn PhysicalExpr>,
    is_for: Use,
}

impl Marked {
    pub(crate) fn mark(expr: &Arc<dyn PhysicalExpr>, is_for: Use) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { expr: Arc::clone(expr), is_for })
    }

    pub(crate) fn expr(&self) -> &Arc<dyn PhysicalExpr> {
        &self.expr
    }

    pub(crate) fn is_for(&self) -> Use {
        self.is_for
    }
}

impl PartialEq for Marked {
    fn eq(&self, other: &Self) -> bool {
        self.expr.as_ref() == other.expr.as_ref() && self.is_for == other.is_for
    }
}

impl Eq for Marked {}

impl Hash for Marked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
        self.is_for.hash(state);
    }
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl PhysicalExpr for Marked {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expr.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expr.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.expr.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.expr.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expr]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(expr), true) => Ok(Arc::new(Self { expr, is_for: self.is_for })),
            _ => exec_err!("a mark holds one expression"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}
