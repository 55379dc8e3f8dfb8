//! The query engine over a table in memory: sandbox, limits, answers and their form.

mod columns;
mod compare;
pub(crate) mod data;
mod early_stop;
mod engine;
mod giants;
mod grouping;
mod hostile;
mod metrics;
mod ranges;
mod sandbox;
mod search;
mod spansets;
mod views;
