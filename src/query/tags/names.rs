//! Names of attributes by scope.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, Schema, SchemaRef},
    catalog::TableProvider,
    common::Result,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, utils::conjunction},
};

use super::{call, lenient, maps, text};
use crate::{
    model::attributes::AttributeScope,
    query::{request::TagNamesQuery, search::starts_in, session::scan_base},
};

/// Column of the scope: `resource`, `instrumentation`, `span`, `event` or `link`.
const SCOPE: &str = "scope";
/// Column of the name.
const NAME: &str = "name";

/// The columns of an answer.
pub(crate) fn answer_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(SCOPE, DataType::Utf8, false), Field::new(NAME, DataType::Utf8, true)]))
}

/// The plan that reads the spans: keys of those that match.
pub(crate) fn plan(query: &TagNamesQuery, base: &Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let filter = conjunction(starts_in(query.range).into_iter().chain(lenient::condition(query.filter.as_deref())));
    let scopes = AttributeScope::ALL.into_iter().filter(|scope| query.scope.is_none_or(|asked| asked == *scope));
    let mut union: Option<LogicalPlanBuilder> = None;
    for scope in scopes {
        let names = of_scope(scope, filter.clone(), base)?;
        union = Some(match union {
            Some(union) => union.union(names.build()?)?,
            None => names,
        });
    }
    match union {
        Some(union) => union.sort([col(SCOPE).sort(true, true), col(NAME).sort(true, true)])?.build(),
        None => LogicalPlanBuilder::empty(false).build(),
    }
}

fn of_scope(scope: AttributeScope, filter: Option<Expr>, base: &Arc<dyn TableProvider>) -> Result<LogicalPlanBuilder> {
    let mut spans = scan_base(base)?;
    if let Some(filter) = filter {
        spans = spans.filter(filter)?;
    }
    let (rows, map) = maps(spans, scope)?;
    rows.project([call("attr_keys", vec![map])?.alias(NAME)])?
        .unnest_column(NAME)?
        .filter(col(NAME).is_not_null())?
        .distinct()?
        .project([text(scope.prefix()).alias(SCOPE), col(NAME)])
}
