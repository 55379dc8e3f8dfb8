//! Marking a predicate as one, for the time of opening a file.
//!
//! Where a file lacks an attribute, `attr_int(map, 'k') = 5` is NULL; as an output column it has to stay NULL, as a predicate it
//! means that the whole file can be skipped, which pruning only sees if the predicate is the literal false. So predicates carry
//! a [mark](Use::Condition), by which the adapter of a file folds them.

use std::sync::Arc;

use datafusion::{
    common::{ScalarValue, tree_node::TreeNode},
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr,
        expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, Literal, lit},
    },
};

use crate::{
    model::{attributes::AttributeScope, schema::column},
    storage::scan::marked::{Marked, Use},
};

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
    Marked::mark(expr, Use::Condition)
}

/// Writes false where a simplified predicate is certainly not true.
pub(crate) fn fold(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    if is_not_true(expr) {
        return lit(false);
    }
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Arc::clone(expr) };
    let (left, right) = match binary.op() {
        Operator::And | Operator::Or => (fold(binary.left()), fold(binary.right())),
        _ => return Arc::clone(expr),
    };
    match (binary.op(), is_not_true(&left), is_not_true(&right)) {
        (Operator::And, true, _) | (Operator::And, _, true) => lit(false),
        (Operator::Or, true, _) => right,
        (Operator::Or, _, true) => left,
        _ => Arc::new(BinaryExpr::new(left, *binary.op(), right)),
    }
}

/// Whether this is the literal false or a NULL.
pub(crate) fn is_not_true(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(literal) = expr.downcast_ref::<Literal>() else { return false };
    literal.value().is_null() || *literal.value() == ScalarValue::Boolean(Some(false))
}
