//! TraceQL: the corpus under `tests/traceql`, round trips of random trees, and texts meant to break the parser.
//!
//! A corpus file is a list of cases, each a query, a line `----`, the expected text, and a blank line. Lines that start
//! with `#` are comments. The folder says what is expected:
//!
//! | folder | expected |
//! |---|---|
//! | `valid` | the canonical text |
//! | `parse_error`, `invalid` | the message |
//! | `unsupported` | the message of a query that is TraceQL and not built |
//!
//! `TRACEHOUSE_BLESS=1 cargo test --test it traceql` rewrites the expectations of queries that are still in their class.

mod corpus;
mod hostile;
mod round_trip;
