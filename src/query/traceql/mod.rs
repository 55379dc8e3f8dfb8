//! Conditions and values of TraceQL as DataFusion expressions on the base table.
//!
//! ```text
//!  plan::Condition --lower--> Expr      whether a span fulfils it
//!  plan::Value     --computed-> Expr    what is grouped by or aggregated
//!  FieldName       --shown--> Expr      what answers show
//!
//!  span.a = 1      attr_int(span_attributes, 'a') = 1 OR ...      files and pages are skipped by it
//!  .a = 1          the same for span, resource and scope where no event or link could have `a`,
//!                  else traceql_matches(...)
//!  event.a = 1     traceql_matches(events, ...)                   evaluates the condition span by span
//! ```
//!
//! TraceQL knows no unknown: a comparison with something missing is false, and its negation true. In SQL it is NULL, and
//! so is its negation. The expressions here are right where NULL counts as false, which a filter does, so every negation
//! is written as IS NOT TRUE. What TraceQL's rules mean is in [`crate::traceql::plan`]; [`mod@matches`] applies them span by
//! span, and a property test holds the expressions of [`mod@lower`] to it. What only the whole trace tells has no
//! expression; [`crate::query::spansets`] computes it.

mod arrays;
pub(in crate::query) mod computed;
pub(in crate::query) mod inputs;
pub(in crate::query) mod lower;
mod matches;
mod nested;
mod per_span;
pub(in crate::query) mod rows;
pub(in crate::query) mod shown;
pub(crate) mod spans;
#[cfg(test)]
mod tests;

use crate::traceql::ast::FieldName;

/// The key under which answers show a field: without scope.
pub(in crate::query) fn key_of(name: &FieldName) -> String {
    match name {
        FieldName::Intrinsic(intrinsic) => intrinsic.name().to_owned(),
        FieldName::Attribute(attribute) => attribute.key.clone(),
    }
}
