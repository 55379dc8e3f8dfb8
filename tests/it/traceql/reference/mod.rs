//! What TraceQL means, computed the plain way: spans in memory, lists and loops, one trace at a time.
//!
//! Written from `grammar/README.md` alone, whose sections the comments name. It shares the syntax tree with the engine,
//! and nothing behind it: no plan, no lowered condition, no vectorised operator. Clarity before speed.

mod answer;
mod compare;
mod expression;
mod label;
mod metrics;
mod shown;
mod spansets;
mod trace;
mod value;
mod world;

pub(crate) use answer::{Found, ShownSpan, search};
pub(crate) use label::label_text;
pub(crate) use metrics::{Answer, Buckets, metrics};
pub(crate) use value::Val;
pub(crate) use world::{Attr, Attributes, Event, Link, Span};
