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
//! they are read leniently ([`lenient`]); what cannot be read does not filter. What they say of the trace, such as the name
//! of its root, is decided on whole traces.

mod buffered;
pub(crate) mod known;
pub(crate) mod lenient;
pub(crate) mod names;
pub(crate) mod values;

use std::sync::Arc;

use datafusion::{
    catalog::TableProvider,
    common::Result,
    functions::core::expr_fn::get_field,
    logical_expr::{Expr, LogicalPlanBuilder, col, lit, utils::conjunction},
};

use crate::{
    functions::scalar_function,
    model::{attributes::AttributeScope, schema::column, time::TimeRange},
    query::{search::starts_in, session::scan_base},
};

/// The spans of the range that a half-written query asks for, with all columns. Other spans of their traces start at most
/// `extent_nano` away from it.
fn asked(
    range: TimeRange,
    filter: Option<&str>,
    extent_nano: i64,
    base: &Arc<dyn TableProvider>,
) -> Result<LogicalPlanBuilder> {
    if let Some(spans) = lenient::spans(filter) {
        return Ok(LogicalPlanBuilder::from(spans.rows(range, extent_nano, base)?));
    }
    let spans = scan_base(base)?;
    match conjunction(starts_in(range)) {
        Some(starts) => spans.filter(starts),
        None => Ok(spans),
    }
}

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
