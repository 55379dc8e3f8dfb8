//! TraceQL searches: the latest traces with a matching span, each with some of those spans and a summary of the whole.
//!
//! One plan answers a search, in two steps over the base table:
//!
//! ```text
//!  candidates: spans in the range that match -> per trace its first match -> the k traces with the latest
//!  answer:     all spans of those traces, within the extent -> trace_summary() per trace -> latest start first
//! ```
//!
//! The first step reads what the filter mentions, the second only the files and pages that can hold the candidates. A
//! trace starts no later than its first match, so the answer is final if its last trace starts after the first match of
//! every candidate that was left out ([`rounds`]); else the search runs again with a larger `k`. Hence the answer is the
//! same as that of reading everything, whatever `k` is.
//!
//! The answer has one row per trace, by start from late to early, then by trace id:
//!
//! | column | type | |
//! |---|---|---|
//! | `trace_id` | 16 bytes | |
//! | `root_service_name`, `root_name` | text, NULL | of the first span without a parent; NULL where none is there |
//! | `start_time_unix_nano` | int | first start of all spans of the trace |
//! | `duration_nano` | int | from there to the last end |
//! | `matched` | int | spans that match, copies of a span counted once |
//! | `spans` | list of struct | the first of them by start, then span id |
//! | `service_stats` | list of struct | per service, by name: `service_name` (NULL where it has none), `span_count`, `error_count` |
//!
//! A struct in `spans` is `span_id` (8 bytes), `name`, `start_time_unix_nano`, `duration_nano` and `attributes`, an
//! attribute map with what the query mentions or selects, in that order, keys without scope. Rows with equal span id and
//! kind are copies of one span; the earlier one counts.

pub(crate) mod rounds;
mod schema;
mod state;
mod summary;

use std::sync::Arc;

use datafusion::{
    catalog::TableProvider,
    common::{Column, JoinType, Result},
    functions::core::expr_fn::get_field,
    functions_aggregate::expr_fn::min,
    logical_expr::{Expr, LogicalPlan, col, lit, utils::conjunction},
};

pub(crate) use self::schema::answer_schema;
use crate::{
    functions::{AttrFunction, scalar_function},
    model::{schema::column, time::TimeRange},
    query::session::scan_base,
};

/// A search in terms of the base table.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// Whether a span matches; NULL counts as false.
    pub(crate) filter: Expr,
    /// Keys and values of what is shown of a span besides ids, name and times; the values are attribute values.
    pub(crate) shown: Vec<(String, Expr)>,
    /// Where matching spans start.
    pub(crate) range: TimeRange,
    /// How far from the range other spans of their traces may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// Most traces in the answer.
    pub(crate) limit: usize,
    /// Most spans shown per trace, at least one.
    pub(crate) spans_per_trace: usize,
}

/// Relation of the candidates in the plan.
const CANDIDATES: &str = "candidates";
/// Relation of all spans in the plan.
const WHOLE: &str = "whole";

/// What it takes to start in `range`, without the bounds that the type has anyway.
pub(crate) fn starts_in(range: TimeRange) -> Vec<Expr> {
    let start = col(column::START_TIME);
    let mut bounds = Vec::new();
    if range.start_unix_nano != i64::MIN {
        bounds.push(start.clone().gt_eq(lit(range.start_unix_nano)));
    }
    if range.end_unix_nano != i64::MAX {
        bounds.push(start.lt(lit(range.end_unix_nano)));
    }
    bounds
}

/// The plan for the latest `candidates_max` candidates, or for all of them.
///
/// Its rows are those of the answer with a column more, [`schema::FIRST_MATCH`]; the rounds cut it to size.
pub(crate) fn plan(
    search: &Search,
    base: &Arc<dyn TableProvider>,
    candidates_max: Option<usize>,
) -> Result<LogicalPlan> {
    let matches = starts_in(search.range).into_iter().fold(search.filter.clone(), Expr::and);
    let latest = [col(schema::FIRST_MATCH).sort(false, false), col(column::TRACE_ID).sort(true, false)];
    let candidates = scan_base(base)?
        .filter(matches.clone())?
        .aggregate([col(column::TRACE_ID)], [min(col(column::START_TIME)).alias(schema::FIRST_MATCH)])?
        .sort_with_limit(latest, candidates_max)?
        .project([col(column::TRACE_ID)])?
        .alias(CANDIDATES)?;

    let whole = whole(search, matches, base)?;
    let of = |relation: &str| vec![Column::new(Some(relation), column::TRACE_ID)];
    let spans = candidates.join(whole, JoinType::RightSemi, (of(CANDIDATES), of(WHOLE)), None)?;

    let keys = search.shown.iter().map(|(key, _)| key.clone()).collect();
    let mut args: Vec<Expr> = summary::ARGUMENTS.iter().map(|name| whole_column(name)).collect();
    args.extend((0..search.shown.len()).map(|index| whole_column(&shown_column(index))));
    let summary = summary::udaf(keys, search.spans_per_trace).call(args).alias("trace");
    let field = |name: &str| get_field(col("trace"), name).alias(name);
    let mut columns = vec![whole_column(column::TRACE_ID).alias(column::TRACE_ID)];
    columns.extend(schema::summary_fields().iter().map(|name| field(name.name())));
    spans
        .aggregate([whole_column(column::TRACE_ID)], [summary])?
        .project(columns)?
        .sort([col(column::START_TIME).sort(false, false), col(column::TRACE_ID).sort(true, false)])?
        .build()
}

fn whole_column(name: &str) -> Expr {
    Expr::Column(Column::new(Some(WHOLE), name))
}

fn shown_column(index: usize) -> String {
    format!("shown_{index}")
}

/// All spans that can belong to a candidate, with what the summary needs of them.
fn whole(search: &Search, matches: Expr, base: &Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let service = match scalar_function(AttrFunction::Str.name()) {
        Some(attr_str) => attr_str.call(vec![col(column::RESOURCE_ATTRIBUTES), lit("service.name")]),
        None => return datafusion::common::internal_err!("attr_str is not there"),
    };
    let mut columns = vec![
        col(column::TRACE_ID),
        col(column::SPAN_ID),
        col(column::KIND),
        col(column::PARENT_SPAN_ID).is_null().alias(summary::IS_ROOT),
        col(column::START_TIME),
        col(column::DURATION),
        col(column::NAME),
        service.alias(summary::SERVICE),
        col(column::STATUS_CODE).eq(lit("error")).alias(summary::IS_ERROR),
        matches.is_true().alias(summary::MATCHES),
    ];
    let shown = search.shown.iter().enumerate();
    columns.extend(shown.map(|(index, (_, value))| value.clone().alias(shown_column(index))));
    let mut spans = scan_base(base)?;
    if let Some(in_extent) = conjunction(starts_in(search.range.widened(search.extent_nano))) {
        spans = spans.filter(in_extent)?;
    }
    spans.project(columns)?.alias(WHOLE)?.build()
}
