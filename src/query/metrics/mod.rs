//! TraceQL metrics: time series out of spans.
//!
//! ```text
//!  text -> Compiled: leaves (pipeline, function, labels) under arithmetic, ranking and comparisons
//!  leaf -> one pass over its spans, added up by interval and labels -> groups -> series        [`leaf`], [`groups`]
//!  series of all leaves -> arithmetic, topk, > 10 -> sorted, cut to the limit -> rows
//! ```
//!
//! Which interval a span is in, and which intervals there are, is [`interval`]'s; what tells series apart, and their
//! order, is [`label`]'s. Spans come out of plans like any other. What they are added up to (groups, then series) is held in
//! memory, within the query's memory and under limits on intervals, samples and series. Answers are exact; hints that ask
//! for samples of the spans are ignored.
//!
//! In the typed form an answer has one row per series:
//!
//! | column | type | |
//! |---|---|---|
//! | `labels` | attribute map | in order |
//! | `samples` | list of struct | `time_unix_nano` (right edge of the interval), `value`; those that are missing are left out |
//! | `exemplars` | list of struct | `time_unix_nano` (start of the span), `value`, `labels` (attribute map) |
//!
//! In the plain form it has one row per sample: `labels`, `time`, `value`. Series that a limit cut off are told of by
//! [`QueryStats::partial`](crate::query::QueryStats).

mod answer;
mod apart;
mod cell;
mod codes;
mod compare;
mod compile;
mod exemplars;
mod fields;
mod groups;
mod interval;
mod keys;
mod label;
mod leaf;
mod log2;
mod moments;
mod part;
mod run;
mod series;
mod sum;
mod texts;
mod told;
mod values;

pub(crate) use self::{answer::answer_schema, run::MetricsRun};
