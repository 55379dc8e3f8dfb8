//! TraceQL: the corpus under `tests/traceql`, round trips of random trees, texts meant to break the parser, and what
//! queries mean: the engine against a reference, on spans in files of the corpus and on random ones.
//!
//! A corpus file is a list of cases, each a query, a line `----`, the expected text, and a blank line. Lines that start
//! with `#` are comments. The folder says what is expected:
//!
//! | folder | expected |
//! |---|---|
//! | `valid` | the canonical text |
//! | `parse_error`, `invalid` | the message |
//! | `unsupported` | the message of a query that is TraceQL and not built |
//! | `evaluated` | what the query finds in the spans of the file beside its folder |
//!
//! `TRACEHOUSE_BLESS=1 cargo test --test it traceql` rewrites the expectations of queries that are still in their class.

mod corpus;
pub(crate) mod evaluated;
mod hostile;
mod longest;
mod many;
mod random;
pub(crate) mod reference;
mod round_trip;
