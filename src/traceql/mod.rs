//! TraceQL: from text to a checked tree, and from a checked tree to what a query engine has to answer.
//!
//! ```text
//!  text --parse--> ast::Query --check--> ast::Query --plan--> plan::Search { condition, shown, hints }
//!            |            |         |                   |
//!            |            |         |                   `- not supported yet: ...
//!            |            |         `- binary operations must operate on the same type: ...
//!            |            `--print--> canonical text; parse(print(q)) == q
//!            `- parse error at line 1, col 12: ...
//! ```
//!
//! The grammar (`grammar/traceql.pest`) is the whole language, so that a query is never called wrong because it is not
//! built: [`parse()`] refuses what is not TraceQL, [`check()`] what TraceQL's types forbid, and [`plan`](plan::plan()) what
//! this engine does not answer. Each error points at its place with a caret.
//!
//! Nothing here knows DataFusion, columns or files; the query layer lowers a [`plan::Search`] to expressions.

pub mod ast;
pub mod check;
pub mod error;
pub mod literal;
pub mod names;
pub mod operators;
pub mod parse;
pub mod plan;
pub mod print;
pub mod size;
pub mod types;

pub use check::check;
pub use error::TraceQlError;
pub use parse::{parse, parse_reference};

/// Parses, checks and plans a search: what comes back is a question that the engine answers.
pub fn search(text: &str) -> Result<plan::Search, TraceQlError> {
    plan::plan(&compile(text)?).map_err(|error| error.in_text(text))
}

/// Whether a text is a query for time series, not for traces.
pub fn is_metrics(text: &str) -> bool {
    parse(text).is_ok_and(|query| matches!(query.body, ast::Body::Metrics(_)))
}

/// Parses and checks a query: what comes back is valid TraceQL.
pub fn compile(text: &str) -> Result<ast::Query, TraceQlError> {
    let query = parse(text)?;
    check(&query).map_err(|error| error.in_text(text))?;
    Ok(query)
}
