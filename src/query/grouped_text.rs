//! Rows are grouped by keys in place of stored text ([`TextKey`]).
//!
//! ```text
//!  Aggregate: by service_name, status_code, date_bin(..)      Projection: key_text(__key, 0) AS service_name, ...
//!    ...                                                 ->     Aggregate: by text_key(service_name, status_code) AS __key,
//!                                                                             date_bin(..)
//! ```
//!
//! Keys are made by the scan, which reads text as the dictionaries and codes that files hold
//! ([`crate::storage::parquet_source`]), so that no text is written out but that of the groups. Text that is computed has no
//! dictionary, so it stays as it is.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::{Column, Result, tree_node::Transformed},
    logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, expr::ScalarFunction},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use crate::{
    functions::{AttrFunction, AttrGet, TEXTS_MAX, TextKey, TextOfKey},
    query::session::BASE_TABLE,
};

/// Replaces stored text that groups rows by keys.
#[derive(Debug)]
pub(crate) struct GroupedText;

impl OptimizerRule for GroupedText {
    fn name(&self) -> &str {
        "grouped_text"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        Ok(match by_keys(aggregate)? {
            Some(rewritten) => Transformed::yes(rewritten),
            None => Transformed::no(plan),
        })
    }
}

fn by_keys(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let mut texts = Vec::new();
    let mut others = Vec::new();
    for (position, key) in aggregate.group_expr.iter().enumerate() {
        if matches!(key, Expr::GroupingSet(_)) {
            return Ok(None);
        }
        let is_text = key.get_type(aggregate.input.schema())? == DataType::Utf8;
        match is_text && is_stored(key, &aggregate.input) {
            true => texts.push(position),
            false => others.push(position),
        }
    }
    if texts.is_empty() {
        return Ok(None);
    }
    let mut keys = Vec::new();
    let mut sources = vec![Source { column: 0, text: None }; aggregate.group_expr.len()];
    for positions in texts.chunks(TEXTS_MAX) {
        let of_key = positions.iter().map(|position| aggregate.group_expr[*position].clone().unalias()).collect();
        let (key, back) = TextKey::of(of_key);
        let back = Arc::new(back);
        for (at, position) in positions.iter().enumerate() {
            sources[*position] = Source { column: keys.len(), text: Some((Arc::clone(&back), at)) };
        }
        keys.push(key);
    }
    for position in others {
        sources[position].column = keys.len();
        keys.push(aggregate.group_expr[position].clone());
    }
    let aggregates = keys.len()..keys.len() + aggregate.aggr_expr.len();
    sources.extend(aggregates.map(|column| Source { column, text: None }));
    let grouped = Aggregate::try_new(Arc::clone(&aggregate.input), keys, aggregate.aggr_expr.clone())?;
    let shown = aggregate.schema.iter().zip(sources).map(|((qualifier, was), source)| {
        let column = Expr::Column(Column::from(grouped.schema.qualified_field(source.column)));
        match source.text {
            Some((back, position)) => back.text(column, position).alias_qualified(qualifier.cloned(), was.name()),
            None => column,
        }
    });
    let shown = shown.collect();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(LogicalPlan::Aggregate(grouped)))?)))
}

/// Where a column of the aggregate comes from.
#[derive(Clone, Debug)]
struct Source {
    /// The column of the rewritten aggregate.
    column: usize,
    /// What gives the text back, and its position in the key, if that column is a key.
    text: Option<(Arc<TextOfKey>, usize)>,
}

/// Whether an expression over the columns of a plan is text as spans have it: a column of theirs, or an attribute.
fn is_stored(text: &Expr, plan: &LogicalPlan) -> bool {
    match text {
        Expr::Alias(alias) => is_stored(&alias.expr, plan),
        Expr::Column(column) => is_stored_column(column, plan),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let get = func.inner().downcast_ref::<AttrGet>().map(AttrGet::function);
            let is_text = matches!(get, Some(AttrFunction::Str | AttrFunction::Text));
            match args.as_slice() {
                [Expr::Column(map), Expr::Literal(..)] => is_text && is_stored_column(map, plan),
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_stored_column(column: &Column, plan: &LogicalPlan) -> bool {
    let Some(index) = plan.schema().maybe_index_of_column(column) else { return false };
    match plan {
        LogicalPlan::TableScan(scan) => scan.table_name.table() == BASE_TABLE,
        LogicalPlan::Projection(projection) => is_stored(&projection.expr[index], &projection.input),
        LogicalPlan::SubqueryAlias(alias) => {
            is_stored_column(&Column::from(alias.input.schema().qualified_field(index)), &alias.input)
        }
        LogicalPlan::Filter(filter) => is_stored_column(column, &filter.input),
        _ => false,
    }
}
