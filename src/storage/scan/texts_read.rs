//! What expressions ask of stored text: whether its codes will do, and which texts they compare.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::tree_node::TreeNode,
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, Column, InListExpr, LikeExpr, Literal},
    },
};

use crate::functions::{AttrGet, CodedText, TextKey, TextMeets};

/// Whether an output column is made of codes of text: it is coded text, a key for grouping by text, or whether text meets a
/// pattern.
pub(crate) fn takes_codes(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let is_taken = |node: &Arc<dyn PhysicalExpr>| {
        let key = ScalarFunctionExpr::try_downcast_func::<TextKey>(node.as_ref());
        key.and_then(|call| call.fun().inner().downcast_ref::<TextKey>()).is_some_and(TextKey::makes_keys)
            || ScalarFunctionExpr::try_downcast_func::<CodedText>(node.as_ref()).is_some()
            || ScalarFunctionExpr::try_downcast_func::<TextMeets>(node.as_ref()).is_some()
    };
    expr.exists(|node| Ok(is_taken(node))).unwrap_or(false)
}

/// The stored texts, columns or attributes, that an expression compares with a literal or a pattern.
pub(crate) fn compared_texts(expr: &Arc<dyn PhysicalExpr>) -> Vec<&Arc<dyn PhysicalExpr>> {
    let is_text = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Literal>().is_some_and(|literal| literal.value().data_type() == DataType::Utf8)
    };
    let is_stored = |expr: &Arc<dyn PhysicalExpr>| expr.is::<Column>() || is_attribute(expr);
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
        && is_text_comparison(*binary.op())
    {
        for (stored, text) in [(binary.left(), binary.right()), (binary.right(), binary.left())] {
            if is_stored(stored) && is_text(text) {
                return vec![stored];
            }
        }
    }
    if let Some(like) = expr.downcast_ref::<LikeExpr>()
        && is_stored(like.expr())
        && is_text(like.pattern())
    {
        return vec![like.expr()];
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>()
        && is_stored(list.expr())
        && list.list().iter().all(is_text)
    {
        return vec![list.expr()];
    }
    if let Some(meets) = ScalarFunctionExpr::try_downcast_func::<TextMeets>(expr.as_ref())
        && let [text, ..] = meets.args()
        && is_stored(text)
    {
        return vec![text];
    }
    expr.children().into_iter().flat_map(compared_texts).collect()
}

/// Whether an operator compares a text with another one or with a pattern.
fn is_text_comparison(op: Operator) -> bool {
    use Operator::{Eq, NotEq, RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(op, Eq | NotEq | RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// Whether an expression reads an attribute.
pub(crate) fn is_attribute(expr: &Arc<dyn PhysicalExpr>) -> bool {
    ScalarFunctionExpr::try_downcast_func::<AttrGet>(expr.as_ref()).is_some()
}
