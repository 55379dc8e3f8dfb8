//! Rows are grouped by the numbers of their ids ([`IdNumber`]).
//!
//! ```text
//!  Aggregate: by trace_id, count(DISTINCT span_id)       Projection: id_hex(number_id(__id_1)) AS trace_id, ...
//!    Projection: id_hex(trace_id) AS trace_id, ...  ->     Aggregate: by __id_1, count(DISTINCT __id_2)
//!                                                            Projection: ..., id_number(trace_id) AS __id_1, ...
//! ```
//!
//! Ids that are grouped as bytes already, as `traces` does, become numbers as well.

use std::sync::Arc;

use datafusion::{
    common::{Column, Result, alias::AliasGenerator},
    logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, expr::AggregateFunction},
};

use super::{Form, id_of, with_id};
use crate::{
    functions::{IdNumber, scalar_function},
    query::rewriting::Rewriting,
};

/// Replaces ids that are keys of groups, or counted without repetition, by their numbers.
pub(crate) const GROUPED_IDS: Rewriting = Rewriting {
    name: "grouped_ids",
    rewrite: |plan, names| match plan {
        LogicalPlan::Aggregate(aggregate) => by_numbers(aggregate, names),
        _ => Ok(None),
    },
};

/// How a column of the rewritten aggregate becomes what it was.
#[derive(Clone, Copy)]
enum Shown {
    Same,
    Id,
    Text,
}

fn by_numbers(aggregate: &Aggregate, names: &AliasGenerator) -> Result<Option<LogicalPlan>> {
    // Grouping sets put NULL in place of keys that they leave out, and refer to keys by what they are.
    if aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) {
        return Ok(None);
    }
    let Some(id_hex) = scalar_function("id_hex") else { return Ok(None) };
    let mut input = Arc::clone(&aggregate.input);
    let mut columns = Vec::with_capacity(aggregate.schema.fields().len());
    let mut keys = Vec::with_capacity(aggregate.group_expr.len());
    for key in &aggregate.group_expr {
        let (key, shown) = match number(key, &mut input, names)? {
            Some(number) => number,
            None => (key.clone(), Shown::Same),
        };
        keys.push(key);
        columns.push(shown);
    }
    let mut aggregates = Vec::with_capacity(aggregate.aggr_expr.len());
    let mut is_changed = columns.iter().any(|shown| !matches!(shown, Shown::Same));
    for counted in &aggregate.aggr_expr {
        let rewritten = distinct_ids(counted, &mut input, names)?;
        is_changed |= rewritten.is_some();
        aggregates.push(rewritten.unwrap_or_else(|| counted.clone()));
        columns.push(Shown::Same);
    }
    if !is_changed {
        return Ok(None);
    }
    let grouped = Aggregate::try_new(input, keys, aggregates)?;
    let shown = grouped.schema.iter().zip(aggregate.schema.iter()).zip(columns);
    let shown = shown.map(|((field, (qualifier, was)), shown)| {
        let column = Column::from(field);
        let is_same =
            matches!(shown, Shown::Same) && column.relation.as_ref() == qualifier && column.name == *was.name();
        let value = match shown {
            Shown::Same => Expr::Column(column),
            Shown::Id => IdNumber::to_id(Expr::Column(column)),
            Shown::Text => id_hex.call(vec![IdNumber::to_id(Expr::Column(column))]),
        };
        if is_same { value } else { value.alias_qualified(qualifier.cloned(), was.name()) }
    });
    let shown = shown.collect();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(LogicalPlan::Aggregate(grouped)))?)))
}

/// The number of the id that `key` is, and how to undo it. The input may get another column for it.
fn number(key: &Expr, input: &mut Arc<LogicalPlan>, names: &AliasGenerator) -> Result<Option<(Expr, Shown)>> {
    let data_type = key.get_type(input.schema())?;
    if let Some(number) = IdNumber::of_id(key.clone(), &data_type) {
        return Ok(Some((number, Shown::Id)));
    }
    if let Some(id) = id_of(key) {
        let data_type = id.get_type(input.schema())?;
        return Ok(IdNumber::of_id(id.clone(), &data_type).map(|number| (number, Shown::Text)));
    }
    let Expr::Column(text) = key else { return Ok(None) };
    let Some((with_number, number)) = with_id(input, text, Form::Number, names)? else { return Ok(None) };
    *input = Arc::new(with_number);
    Ok(Some((Expr::Column(number), Shown::Text)))
}

/// `count(DISTINCT id)`, counting numbers.
fn distinct_ids(counted: &Expr, input: &mut Arc<LogicalPlan>, names: &AliasGenerator) -> Result<Option<Expr>> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = counted else { return Ok(None) };
    let [id] = params.args.as_slice() else { return Ok(None) };
    if func.name() != "count" || !params.distinct || !params.order_by.is_empty() {
        return Ok(None);
    }
    let Some((number, _)) = number(id, input, names)? else { return Ok(None) };
    let mut params = params.clone();
    params.args = vec![number];
    Ok(Some(Expr::AggregateFunction(AggregateFunction { func: Arc::clone(func), params })))
}
