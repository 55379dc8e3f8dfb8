//! Comparisons of stored text within aggregates are made by the scan.
//!
//! ```text
//!  Aggregate: count(*) FILTER (WHERE status_code = 'error')       Aggregate: count(*) FILTER (WHERE __is_1)
//!    Projection: status_code, ..                             ->     Projection: status_code = 'error' AS __is_1, ..
//! ```

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Column, DFSchema, Result,
        alias::AliasGenerator,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Aggregate, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection, expr::InList},
};

use super::{Added, Text, is_stored_text, with_columns};
use crate::query::rewriting::Rewriting;

/// Replaces comparisons of stored text within aggregates by columns.
pub(crate) const COMPARED_TEXT: Rewriting = Rewriting {
    name: "compared_text",
    rewrite: |plan, names| match plan {
        LogicalPlan::Aggregate(aggregate) => by_columns(aggregate, names),
        _ => Ok(None),
    },
};

fn by_columns(aggregate: &Aggregate, names: &AliasGenerator) -> Result<Option<LogicalPlan>> {
    // Grouping sets refer to keys by what they are.
    if aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) {
        return Ok(None);
    }
    let mut comparisons = Vec::new();
    for asked in &aggregate.aggr_expr {
        asked.apply(|node| {
            if text_of(node, aggregate.input.schema()).is_some() && !comparisons.contains(node) {
                comparisons.push(node.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let texts: Vec<Text> = comparisons
        .iter()
        .enumerate()
        .filter_map(|(place, comparison)| {
            Some(Text { place, expr: text_of(comparison, aggregate.input.schema())?.clone() })
        })
        .collect();
    let verdicts = |texts: &[Text]| {
        let verdict = |text: &Text| {
            let column = Column::new_unqualified(names.next("__is"));
            (Added { column, is_for: text.place }, with_text(&comparisons[text.place], &text.expr))
        };
        texts.iter().map(verdict).collect()
    };
    let (input, added) = with_columns(&aggregate.input, &texts, &verdicts)?;
    if added.is_empty() {
        return Ok(None);
    }
    let verdict_of = |node: &Expr| {
        let place = comparisons.iter().position(|comparison| comparison == node)?;
        added.iter().find(|added| added.is_for == place).map(|added| Expr::Column(added.column.clone()))
    };
    let asked = aggregate.aggr_expr.iter().cloned().map(|asked| {
        asked
            .transform_down(|node| match verdict_of(&node) {
                Some(verdict) => Ok(Transformed::yes(verdict)),
                None => Ok(Transformed::no(node)),
            })
            .data()
    });
    let asked = asked.collect::<Result<Vec<_>>>()?;
    let asked = Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), asked)?;
    let shown = aggregate.schema.iter().zip(asked.schema.iter()).map(|((qualifier, was), is)| {
        let column = Expr::Column(Column::from(is));
        match is.1.name() == was.name() {
            true => column,
            false => column.alias_qualified(qualifier.cloned(), was.name()),
        }
    });
    let shown = shown.collect();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(LogicalPlan::Aggregate(asked)))?)))
}

/// The text that an expression compares with literals.
fn text_of<'a>(expr: &'a Expr, schema: &DFSchema) -> Option<&'a Expr> {
    let is_literal = |expr: &Expr| matches!(expr, Expr::Literal(..));
    let text = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq | Operator::NotEq, right }) => {
            if is_literal(right) {
                left
            } else {
                Some(right).filter(|_| is_literal(left))?
            }
        }
        Expr::InList(InList { expr, list, .. }) if list.iter().all(is_literal) => expr,
        _ => return None,
    };
    (is_stored_text(text) && text.get_type(schema).ok()? == DataType::Utf8).then_some(text)
}

/// The comparison of another text with the same literals.
fn with_text(comparison: &Expr, text: &Expr) -> Expr {
    let text = || Box::new(text.clone());
    match comparison.clone() {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            Expr::BinaryExpr(match matches!(*right, Expr::Literal(..)) {
                true => BinaryExpr { left: text(), op, right },
                false => BinaryExpr { left, op, right: text() },
            })
        }
        Expr::InList(list) => Expr::InList(InList { expr: text(), ..list }),
        other => other,
    }
}
