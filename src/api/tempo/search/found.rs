//! Rows of a search's answer as traces.

use std::{collections::BTreeMap, ops::Range};

use arrow::{
    array::{Array, AsArray, RecordBatch, StructArray},
    datatypes::{Float64Type, Int64Type},
};

use crate::{
    error::{Error, ErrorKind, Result},
    model::{
        attributes::{VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR},
        ids::{SpanId, TraceId},
        schema::column,
    },
};

/// A found trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundTrace {
    /// Its id.
    pub(crate) trace_id: TraceId,
    /// Service of the root span, if there is one.
    pub(crate) root_service_name: Option<String>,
    /// Name of the root span, if there is one.
    pub(crate) root_name: Option<String>,
    /// Earliest start of its spans, in Unix nanoseconds.
    pub(crate) start_unix_nano: i64,
    /// From the earliest start to the latest end of its spans, in nanoseconds.
    pub(crate) duration_nano: i64,
    /// The spansets that the query found in it.
    pub(crate) sets: Vec<FoundSet>,
    /// Spans and errors of the whole trace by service.
    pub(crate) services: BTreeMap<String, ServiceStats>,
}

/// Spans that a query matched together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundSet {
    /// What they have in common, and what was computed over them.
    pub(crate) attributes: Vec<(String, Shown)>,
    /// How many there are.
    pub(crate) matched: u64,
    /// The first of them, by start time.
    pub(crate) spans: Vec<FoundSpan>,
}

/// A span that a query matched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundSpan {
    /// Its id.
    pub(crate) span_id: SpanId,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Start in Unix nanoseconds.
    pub(crate) start_unix_nano: i64,
    /// Duration in nanoseconds.
    pub(crate) duration_nano: i64,
    /// What the query refers to, without scope prefix.
    pub(crate) attributes: Vec<(String, Shown)>,
}

/// A value as search results show it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shown {
    /// Text; arrays, maps and bytes as JSON.
    Text(String),
    /// Integer.
    Int(i64),
    /// Float.
    Float(f64),
    /// Boolean.
    Bool(bool),
}

/// Spans and errors of one service within a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceStats {
    /// Its spans.
    pub(crate) span_count: u32,
    /// Those with status error.
    pub(crate) error_count: u32,
}

impl FoundTrace {
    /// The traces of a batch of [a search's answer](crate::query), in its order.
    pub(crate) fn read(batch: &RecordBatch) -> Result<Vec<Self>> {
        let rows = StructArray::from(batch.clone());
        (0..rows.len()).map(|row| read_trace(&rows, row).ok_or_else(unexpected)).collect()
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the answer of a search has unexpected columns")
}

fn text(rows: &StructArray, name: &str, row: usize) -> Option<String> {
    let values = rows.column_by_name(name)?.as_string_opt::<i32>()?;
    values.is_valid(row).then(|| values.value(row).to_owned())
}

fn int(rows: &StructArray, name: &str, row: usize) -> Option<i64> {
    Some(rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?.value(row))
}

/// The structs in a list column, and which of them are those of one row.
fn items<'a>(rows: &'a StructArray, name: &str, row: usize) -> Option<(&'a StructArray, Range<usize>)> {
    let lists = rows.column_by_name(name)?.as_list_opt::<i32>()?;
    let offsets = lists.value_offsets();
    Some((lists.values().as_struct_opt()?, offsets[row] as usize..offsets[row + 1] as usize))
}

fn bytes<const N: usize>(rows: &StructArray, name: &str, row: usize) -> Option<[u8; N]> {
    rows.column_by_name(name)?.as_fixed_size_binary_opt()?.value(row).try_into().ok()
}

fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn read_trace(rows: &StructArray, row: usize) -> Option<FoundTrace> {
    let (sets, of_sets) = items(rows, "span_sets", row)?;
    let (services, of_services) = items(rows, "service_stats", row)?;
    let service = |row| {
        let span_count = count(int(services, "span_count", row)?);
        let error_count = count(int(services, "error_count", row)?);
        Some((text(services, column::SERVICE_NAME, row).unwrap_or_default(), ServiceStats { span_count, error_count }))
    };
    Some(FoundTrace {
        trace_id: TraceId::from_bytes(bytes(rows, column::TRACE_ID, row)?),
        root_service_name: text(rows, "root_service_name", row),
        root_name: text(rows, "root_name", row),
        start_unix_nano: int(rows, column::START_TIME, row)?,
        duration_nano: int(rows, column::DURATION, row)?,
        sets: of_sets.map(|row| read_set(sets, row)).collect::<Option<_>>()?,
        services: of_services.map(service).collect::<Option<_>>()?,
    })
}

fn read_set(sets: &StructArray, row: usize) -> Option<FoundSet> {
    let (spans, of_spans) = items(sets, "spans", row)?;
    Some(FoundSet {
        attributes: read_attributes(sets, row)?,
        matched: int(sets, "matched", row)?.unsigned_abs(),
        spans: of_spans.map(|row| read_span(spans, row)).collect::<Option<_>>()?,
    })
}

fn read_attributes(rows: &StructArray, row: usize) -> Option<Vec<(String, Shown)>> {
    let attributes = rows.column_by_name("attributes")?.as_map_opt()?;
    let (keys, values) = (attributes.keys().as_string_opt::<i32>()?, attributes.values().as_struct_opt()?);
    let offsets = attributes.value_offsets();
    // A value that is there and empty has nothing to show.
    let shown = |index| Some((keys.value(index).to_owned(), read_value(values, index)?));
    Some((offsets[row] as usize..offsets[row + 1] as usize).filter_map(shown).collect())
}

fn read_span(spans: &StructArray, row: usize) -> Option<FoundSpan> {
    Some(FoundSpan {
        span_id: SpanId::from_bytes(bytes(spans, column::SPAN_ID, row)?),
        name: text(spans, column::NAME, row),
        start_unix_nano: int(spans, column::START_TIME, row)?,
        duration_nano: int(spans, column::DURATION, row)?,
        attributes: read_attributes(spans, row)?,
    })
}

pub(crate) fn read_value(values: &StructArray, index: usize) -> Option<Shown> {
    let text = |field: usize| values.column(field).as_string_opt::<i32>().filter(|column| column.is_valid(index));
    if let Some(column) = text(VALUE_STR).or_else(|| text(VALUE_JSON)) {
        return Some(Shown::Text(column.value(index).to_owned()));
    }
    let ints = values.column(VALUE_INT).as_primitive_opt::<Int64Type>()?;
    let floats = values.column(VALUE_FLOAT).as_primitive_opt::<Float64Type>()?;
    let bools = values.column(VALUE_BOOL).as_boolean_opt()?;
    if ints.is_valid(index) {
        Some(Shown::Int(ints.value(index)))
    } else if floats.is_valid(index) {
        Some(Shown::Float(floats.value(index)))
    } else {
        bools.is_valid(index).then(|| Shown::Bool(bools.value(index)))
    }
}
