//! Which predicates few rows meet, by their form, so that it pays to decode their columns first.

use std::sync::Arc;

use datafusion::{
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, Column, InListExpr, IsNotNullExpr, Literal},
    },
};

use crate::{
    model::schema::{STATUS_CODES, column},
    storage::{
        scan::{by_row_number::is_column, texts_read::is_attribute},
        start_set::STARTS_AT,
        trace_set::IN_TRACES,
    },
};

/// What stands beside comparisons of TraceQL: for arrays, and for events and links that have the key.
const BESIDE_OTHERS: [&str; 2] = ["traceql_array", "item_has"];

/// How many rows meet a predicate, by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    /// Few: equality on an id, a start, an attribute, or text, an attribute that is there, or one of the traces that a query has
    /// found.
    Few,
    /// Next to none, beside another predicate that decides.
    None,
    /// Perhaps many.
    Many,
}

/// Whether few rows meet a predicate, so that it pays to decode its columns first. For predicates that many rows meet, such
/// as comparisons, decoding twice costs more than it saves.
pub(crate) fn is_selective(predicate: &Arc<dyn PhysicalExpr>) -> bool {
    share(predicate) == Share::Few
}

/// Whether a predicate is a list of traces.
pub(crate) fn names_traces(predicate: &Arc<dyn PhysicalExpr>) -> bool {
    if let Some(list) = predicate.downcast_ref::<InListExpr>() {
        return !list.negated() && is_column(list.expr(), column::TRACE_ID);
    }
    predicate.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| call.name() == IN_TRACES)
}

fn share(predicate: &Arc<dyn PhysicalExpr>) -> Share {
    let few_if = |is_few| if is_few { Share::Few } else { Share::Many };
    let is_rare = |expr: &Arc<dyn PhysicalExpr>| {
        let rare = [column::TRACE_ID, column::SPAN_ID, column::START_TIME];
        let is_column = expr.downcast_ref::<Column>().is_some_and(|column| rare.contains(&column.name()));
        is_column || is_attribute(expr)
    };
    let is_text = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Literal>().is_some_and(|literal| literal.value().try_as_str().flatten().is_some())
    };
    if let Some(list) = predicate.downcast_ref::<InListExpr>() {
        return few_if(!list.negated() && is_rare(list.expr()));
    }
    if let Some(test) = predicate.downcast_ref::<IsNotNullExpr>() {
        return few_if(is_attribute(test.arg()));
    }
    if let Some(call) = predicate.downcast_ref::<ScalarFunctionExpr>() {
        return match call.name() {
            _ if is_attribute(predicate) => Share::Few,
            name if BESIDE_OTHERS.contains(&name) => Share::None,
            name => few_if([IN_TRACES, STARTS_AT].contains(&name)),
        };
    }
    let Some(binary) = predicate.downcast_ref::<BinaryExpr>() else { return Share::Many };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => share(left).min(share(right)),
        Operator::Or => match (share(left), share(right)) {
            (Share::Many, _) | (_, Share::Many) => Share::Many,
            (one, other) => one.min(other),
        },
        Operator::Eq => few_if(
            (is_text(left) && !is_common(right, left))
                || (is_text(right) && !is_common(left, right))
                || (is_rare(left) && right.is::<Literal>())
                || (is_rare(right) && left.is::<Literal>()),
        ),
        _ => Share::Many,
    }
}

/// Whether many spans have this text in a column: any kind, and any status but an error.
fn is_common(compared: &Arc<dyn PhysicalExpr>, text: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(compared) = compared.downcast_ref::<Column>() else { return false };
    let text = text.downcast_ref::<Literal>().and_then(|literal| literal.value().try_as_str().flatten());
    match compared.name() {
        column::KIND => true,
        column::STATUS_CODE => text != Some(STATUS_CODES[STATUS_CODES.len() - 1]),
        _ => false,
    }
}
