//! Which attributes there are, and which values one has: what editors complete.
//!
//! ```text
//!  TagNamesQuery  -> names in the lists of keys of files and buffered batches, without a scan;
//!                    with a filter: keys of the spans that match     -> scope, name
//!  TagValuesQuery -> values in the dictionaries of files and the columns of their maps, without a scan of their rows;
//!                    with a filter: values of the spans that match, at most so many -> type, value
//! ```
//!
//! The values of an array are its elements, each of which a comparison in TraceQL looks at; maps and bytes have none.
//! Answers are exact: what the spans of the range have, and nothing else. A file or batch that lies in the range as a whole
//! is told by its lists. One that reaches out of it is scanned, unless its lists have nothing that is not known already
//! ([`known`]).
//!
//! Answers are in order: names by scope and name, values by type and value. Filters come from half-written queries, so
//! they are read leniently ([`lenient`]); what cannot be read does not filter.

mod buffered;
pub(crate) mod known;
pub(crate) mod lenient;
pub(crate) mod names;
pub(crate) mod values;

use datafusion::{
    common::Result,
    functions::core::expr_fn::get_field,
    logical_expr::{Expr, LogicalPlanBuilder, col, lit},
};

use crate::{functions::scalar_function, model::attributes::AttributeScope, model::schema::column};

/// The attribute map of each row in a column, for a scope. Events and links give a row each.
fn maps(spans: LogicalPlanBuilder, scope: AttributeScope) -> Result<(LogicalPlanBuilder, Expr)> {
    let list = match scope {
        AttributeScope::Event => column::EVENTS,
        AttributeScope::Link => column::LINKS,
        AttributeScope::Resource => return Ok((spans, col(column::RESOURCE_ATTRIBUTES))),
        AttributeScope::Scope => return Ok((spans, col(column::SCOPE_ATTRIBUTES))),
        AttributeScope::Span => return Ok((spans, col(column::SPAN_ATTRIBUTES))),
    };
    Ok((items(spans, list)?, get_field(col(list), "attributes")))
}

/// One row per event or link.
fn items(spans: LogicalPlanBuilder, list: &str) -> Result<LogicalPlanBuilder> {
    spans.project([col(list)])?.unnest_column(list)
}

fn call(function: &str, args: Vec<Expr>) -> Result<Expr> {
    match scalar_function(function) {
        Some(function) => Ok(function.call(args)),
        None => datafusion::common::internal_err!("{function} is not there"),
    }
}

fn text(value: &str) -> Expr {
    lit(value)
}
