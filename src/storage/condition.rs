//! Marking a predicate as one, for the time of opening a file.
//!
//! The adapter of a file rewrites predicates and output columns alike, and cannot tell them apart. Where a file lacks an
//! attribute, `attr_int(map, 'k') = 5` is NULL; as an output column it has to stay NULL, as a predicate it means that the
//! whole file can be skipped, which pruning only sees if the predicate is the literal false. [`Condition`] is the mark: it
//! evaluates like what it holds, and the adapter takes it off.

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
    common::{Result, ScalarValue, exec_err, tree_node::TreeNode},
    logical_expr::{ColumnarValue, Operator},
    physical_expr::{
        PhysicalExpr,
        expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, Literal, lit},
    },
};

use crate::model::{attributes::AttributeScope, schema::column};

/// A predicate of which NULL and false are the same.
#[derive(Debug)]
pub(crate) struct Condition {
    expr: Arc<dyn PhysicalExpr>,
}

impl Condition {
    /// Marks a predicate that reads attributes; others come back as they are. So do dynamic ones, whose value is not known
    /// when a file is opened.
    pub(crate) fn mark(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        let contains = |found: fn(&Arc<dyn PhysicalExpr>) -> bool| expr.exists(|node| Ok(found(node))).unwrap_or(true);
        let reads_attributes = contains(|node| {
            let Some(column) = node.downcast_ref::<Column>() else { return false };
            let lists = [column::EVENTS, column::LINKS];
            lists.contains(&column.name()) || AttributeScope::of_map_column(column.name()).is_some()
        });
        if !reads_attributes || contains(|node| node.is::<DynamicFilterPhysicalExpr>()) {
            return Arc::clone(expr);
        }
        Arc::new(Self { expr: Arc::clone(expr) })
    }

    pub(crate) fn expr(&self) -> &Arc<dyn PhysicalExpr> {
        &self.expr
    }

    /// Writes false where a simplified predicate is certainly not true.
    pub(crate) fn fold(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        if is_not_true(expr) {
            return lit(false);
        }
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Arc::clone(expr) };
        let (left, right) = match binary.op() {
            Operator::And | Operator::Or => (Self::fold(binary.left()), Self::fold(binary.right())),
            _ => return Arc::clone(expr),
        };
        match (binary.op(), is_not_true(&left), is_not_true(&right)) {
            (Operator::And, true, _) | (Operator::And, _, true) => lit(false),
            (Operator::Or, true, _) => right,
            (Operator::Or, _, true) => left,
            _ => Arc::new(BinaryExpr::new(left, *binary.op(), right)),
        }
    }
}

/// Whether this is the literal false or a NULL.
pub(crate) fn is_not_true(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(literal) = expr.downcast_ref::<Literal>() else { return false };
    literal.value().is_null() || *literal.value() == ScalarValue::Boolean(Some(false))
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.expr.as_ref() == other.expr.as_ref()
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl PhysicalExpr for Condition {
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
            (Some(expr), true) => Ok(Arc::new(Self { expr })),
            _ => exec_err!("a condition holds one expression"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}
