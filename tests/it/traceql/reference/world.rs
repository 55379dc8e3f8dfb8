//! Spans as a test has them.

use std::collections::BTreeMap;

/// An attribute value as OTLP has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attr {
    Empty,
    Str(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Arrays, maps and bytes, as the JSON text that is stored.
    Json(String),
}

pub(crate) type Attributes = BTreeMap<String, Attr>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// After the start of all data, in nanoseconds, as a span's start.
    pub(crate) at: i64,
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) trace: u64,
    pub(crate) span: u64,
    pub(crate) attributes: Attributes,
}

/// One stored row. Times are nanoseconds after the start of all data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) trace: u64,
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    /// OTLP's number.
    pub(crate) kind: usize,
    /// OTLP's number.
    pub(crate) status: usize,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) start: i64,
    pub(crate) duration: i64,
    pub(crate) scope_name: String,
    pub(crate) scope_version: String,
    pub(crate) own: Attributes,
    pub(crate) resource: Attributes,
    pub(crate) scope: Attributes,
    pub(crate) events: Vec<Event>,
    pub(crate) links: Vec<Link>,
}
