//! TraceQL searches as DataFusion expressions on the base table.
//!
//! ```text
//!  plan::Search --lower--> Lowered { filter: Expr, shown: [(key, Expr)] }
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
//! span, and a property test holds the expressions of [`mod@lower`] to it.

mod arrays;
mod inputs;
mod lower;
mod matches;
mod nested;
mod rows;
mod shown;
pub(crate) mod spans;
#[cfg(test)]
mod tests;

use datafusion::logical_expr::Expr;

use crate::{
    error::Result,
    traceql::{self, ast::FieldName, plan::Search},
};

/// A search in terms of the base table.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Whether a span is found; NULL counts as false.
    pub filter: Expr,
    /// Keys and values of what is shown of a span besides ids, name and times. A key has no scope; a value is the struct
    /// that attribute values are, NULL where the span has none.
    pub shown: Vec<(String, Expr)>,
}

/// Reads and lowers a search; all errors are the caller's to see.
pub fn search(text: &str) -> Result<Lowered> {
    Ok(lower(&traceql::search(text)?))
}

/// Lowers a search.
pub fn lower(search: &Search) -> Lowered {
    // Fields of several scopes can share a key; the first one mentioned is shown.
    let mut shown: Vec<(String, Expr)> = Vec::new();
    for name in &search.shown {
        let key = key_of(name);
        if !shown.iter().any(|(known, _)| *known == key) {
            shown.push((key, shown::value(name)));
        }
    }
    Lowered { filter: lower::filter(&search.condition), shown }
}

fn key_of(name: &FieldName) -> String {
    match name {
        FieldName::Intrinsic(intrinsic) => intrinsic.name().to_owned(),
        FieldName::Attribute(attribute) => attribute.key.clone(),
    }
}
