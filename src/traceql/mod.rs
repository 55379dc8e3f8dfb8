//! TraceQL: from text to a checked tree, and from a checked tree to what a query engine has to answer.
//!
//! ```text
//!  text --parse--> ast::Query --check--> ast::Query
//!            |            |         |
//!            |            |         `- binary operations must operate on the same type: ...
//!            |            `--print--> canonical text; parse(print(q)) == q
//!            `- parse error at line 1, col 12: ...
//! ```
//!
//! The grammar (`grammar/traceql.pest`) is the whole language, so that a query is never called wrong because it is not
//! built: [`parse()`] refuses what is not TraceQL, and [`check()`] what TraceQL's types forbid. Each error points at its
//! place with a caret.
//!
//! Nothing here knows DataFusion, columns or files; the query layer lowers a checked tree to expressions.

pub mod ast;
pub mod check;
pub mod error;
pub mod literal;
pub mod names;
pub mod operators;
pub mod parse;
pub mod print;
pub mod types;

pub use check::check;
pub use error::TraceQlError;
pub use parse::{parse, parse_reference};

/// Parses and checks a query: what comes back is valid TraceQL.
pub fn compile(text: &str) -> Result<ast::Query, TraceQlError> {
    let query = parse(text)?;
    check(&query).map_err(|error| error.in_text(text))?;
    Ok(query)
}
