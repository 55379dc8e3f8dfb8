//! Rows of spans back into OTLP.
//!
//! The rows are logical: every attribute is in the map of its scope. Spans are ordered by start, id and kind, whatever
//! batches and files they came from, and grouped by equal resource and equal scope, each group where its first span
//! stands. So the same spans give the same answer wherever they lie.

use std::collections::HashMap;

use arrow::{
    array::{Array, AsArray, BinaryArray, FixedSizeBinaryArray, Int64Array, ListArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::Int64Type,
    error::ArrowError,
};
use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status, TracesData,
        span::{Event, Link},
    },
};

use crate::{
    error::{Error, ErrorKind},
    model::schema::{KINDS, STATUS_CODES, column, logical_schema},
    otlp::{
        attribute_rows::{AttributeRows, push_text},
        json_reader::JsonError,
    },
};

/// Why rows are not spans.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A column of the logical schema is not there.
    #[error("rows of spans lack the column {0}")]
    MissingColumn(String),
    /// A column has another type and cannot be brought to the one of the schema.
    #[error("rows of spans have a column of the wrong type: {0}")]
    WrongType(#[from] ArrowError),
    /// A stored nested value is not what the decoder writes.
    #[error("stored attribute value: {0}")]
    Value(#[from] JsonError),
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        let kind = match &error {
            EncodeError::Value(_) => ErrorKind::Corrupt,
            EncodeError::MissingColumn(_) | EncodeError::WrongType(_) => ErrorKind::Internal,
        };
        Error::new(kind, error.to_string())
    }
}

/// The spans in `batches`, whose columns include those of [`logical_schema`].
pub fn encode(batches: &[RecordBatch]) -> Result<TracesData, EncodeError> {
    let batches = batches.iter().map(logical).collect::<Result<Vec<_>, _>>()?;
    let columns: Vec<Columns<'_>> = batches.iter().map(Columns::new).collect();
    let mut order: Vec<(usize, usize)> = columns
        .iter()
        .enumerate()
        .flat_map(|(batch, columns)| (0..columns.rows).map(move |row| (batch, row)))
        .collect();
    order.sort_by_key(|(batch, row)| {
        let columns = &columns[*batch];
        (columns.start_time.value(*row), columns.span_id.value(*row), columns.kind.value(*row), *batch, *row)
    });

    let mut groups = Groups::default();
    for (batch, row) in order {
        let columns = &columns[batch];
        let span = columns.span(row)?;
        groups.scope_spans(columns, row)?.spans.push(span);
    }
    Ok(groups.traces)
}

/// The same rows with the columns and types of the logical schema.
fn logical(batch: &RecordBatch) -> Result<RecordBatch, EncodeError> {
    let schema = logical_schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let Some(column) = batch.column_by_name(field.name()) else {
                return Err(EncodeError::MissingColumn(field.name().clone()));
            };
            Ok(cast(column, field.data_type())?)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Resources and scopes seen so far, and where they are.
#[derive(Debug, Default)]
struct Groups {
    traces: TracesData,
    resources: HashMap<Vec<u8>, usize>,
    scopes: HashMap<(usize, Vec<u8>), usize>,
    scratch: Vec<u8>,
}

impl Groups {
    /// The group that the span in `row` belongs to.
    fn scope_spans(&mut self, columns: &Columns<'_>, row: usize) -> Result<&mut ScopeSpans, EncodeError> {
        self.scratch.clear();
        columns.push_resource_identity(&mut self.scratch, row);
        let resource = match self.resources.get(&self.scratch) {
            Some(index) => *index,
            None => {
                let index = self.traces.resource_spans.len();
                self.traces.resource_spans.push(columns.resource(row)?);
                self.resources.insert(self.scratch.clone(), index);
                index
            }
        };
        self.scratch.clear();
        columns.push_scope_identity(&mut self.scratch, row);
        let groups = &mut self.traces.resource_spans[resource].scope_spans;
        let key = (resource, std::mem::take(&mut self.scratch));
        let scope = match self.scopes.get(&key) {
            Some(index) => {
                self.scratch = key.1;
                *index
            }
            None => {
                groups.push(columns.scope(row)?);
                self.scopes.insert(key, groups.len() - 1);
                groups.len() - 1
            }
        };
        Ok(&mut groups[scope])
    }
}

/// The columns of one batch.
#[derive(Debug)]
struct Columns<'a> {
    rows: usize,
    trace_id: &'a FixedSizeBinaryArray,
    span_id: &'a FixedSizeBinaryArray,
    parent_span_id: &'a FixedSizeBinaryArray,
    trace_state: &'a StringArray,
    flags: &'a Int64Array,
    name: &'a StringArray,
    kind: &'a StringArray,
    status_code: &'a StringArray,
    status_message: &'a StringArray,
    start_time: &'a Int64Array,
    duration: &'a Int64Array,
    attributes: AttributeRows<'a>,
    events: Events<'a>,
    links: Links<'a>,
    dropped_attributes: &'a Int64Array,
    dropped_events: &'a Int64Array,
    dropped_links: &'a Int64Array,
    scope_name: &'a StringArray,
    scope_version: &'a StringArray,
    scope_schema_url: &'a StringArray,
    scope_attributes: AttributeRows<'a>,
    scope_dropped_attributes: &'a Int64Array,
    resource_schema_url: &'a StringArray,
    resource_attributes: AttributeRows<'a>,
    resource_dropped_attributes: &'a Int64Array,
}

impl<'a> Columns<'a> {
    /// The columns of a batch that has the logical schema.
    fn new(batch: &'a RecordBatch) -> Self {
        let text = |name: &str| batch[name].as_string::<i32>();
        let int = |name: &str| batch[name].as_primitive::<Int64Type>();
        let id = |name: &str| batch[name].as_fixed_size_binary();
        let map = |name: &str| AttributeRows::new(batch[name].as_map());
        Self {
            rows: batch.num_rows(),
            trace_id: id(column::TRACE_ID),
            span_id: id(column::SPAN_ID),
            parent_span_id: id(column::PARENT_SPAN_ID),
            trace_state: text(column::TRACE_STATE),
            flags: int(column::FLAGS),
            name: text(column::NAME),
            kind: text(column::KIND),
            status_code: text(column::STATUS_CODE),
            status_message: text(column::STATUS_MESSAGE),
            start_time: int(column::START_TIME),
            duration: int(column::DURATION),
            attributes: map(column::SPAN_ATTRIBUTES),
            events: Events::new(batch[column::EVENTS].as_list()),
            links: Links::new(batch[column::LINKS].as_list()),
            dropped_attributes: int(column::DROPPED_ATTRIBUTES_COUNT),
            dropped_events: int(column::DROPPED_EVENTS_COUNT),
            dropped_links: int(column::DROPPED_LINKS_COUNT),
            scope_name: text(column::SCOPE_NAME),
            scope_version: text(column::SCOPE_VERSION),
            scope_schema_url: text(column::SCOPE_SCHEMA_URL),
            scope_attributes: map(column::SCOPE_ATTRIBUTES),
            scope_dropped_attributes: int(column::SCOPE_DROPPED_ATTRIBUTES_COUNT),
            resource_schema_url: text(column::RESOURCE_SCHEMA_URL),
            resource_attributes: map(column::RESOURCE_ATTRIBUTES),
            resource_dropped_attributes: int(column::RESOURCE_DROPPED_ATTRIBUTES_COUNT),
        }
    }

    fn push_resource_identity(&self, out: &mut Vec<u8>, row: usize) {
        push_text(out, text(self.resource_schema_url, row));
        out.extend(self.resource_dropped_attributes.value(row).to_le_bytes());
        self.resource_attributes.push_identity(out, row);
    }

    fn push_scope_identity(&self, out: &mut Vec<u8>, row: usize) {
        push_text(out, text(self.scope_name, row));
        push_text(out, text(self.scope_version, row));
        push_text(out, text(self.scope_schema_url, row));
        out.extend(self.scope_dropped_attributes.value(row).to_le_bytes());
        self.scope_attributes.push_identity(out, row);
    }

    fn resource(&self, row: usize) -> Result<ResourceSpans, EncodeError> {
        let resource = Resource {
            attributes: self.resource_attributes.read(row)?,
            dropped_attributes_count: count(self.resource_dropped_attributes, row),
            entity_refs: Vec::new(),
        };
        Ok(ResourceSpans {
            resource: Some(resource),
            scope_spans: Vec::new(),
            schema_url: owned(self.resource_schema_url, row),
        })
    }

    fn scope(&self, row: usize) -> Result<ScopeSpans, EncodeError> {
        let scope = InstrumentationScope {
            name: owned(self.scope_name, row),
            version: owned(self.scope_version, row),
            attributes: self.scope_attributes.read(row)?,
            dropped_attributes_count: count(self.scope_dropped_attributes, row),
        };
        Ok(ScopeSpans { scope: Some(scope), spans: Vec::new(), schema_url: owned(self.scope_schema_url, row) })
    }

    fn span(&self, row: usize) -> Result<Span, EncodeError> {
        let start = self.start_time.value(row);
        let parent = self.parent_span_id.is_valid(row).then(|| self.parent_span_id.value(row).to_vec());
        Ok(Span {
            trace_id: self.trace_id.value(row).to_vec(),
            span_id: self.span_id.value(row).to_vec(),
            trace_state: owned(self.trace_state, row),
            parent_span_id: parent.unwrap_or_default(),
            flags: count(self.flags, row),
            name: owned(self.name, row),
            kind: number(&KINDS, self.kind.value(row)),
            start_time_unix_nano: start.cast_unsigned(),
            end_time_unix_nano: start.wrapping_add(self.duration.value(row)).cast_unsigned(),
            attributes: self.attributes.read(row)?,
            dropped_attributes_count: count(self.dropped_attributes, row),
            events: self.events.read(row)?,
            dropped_events_count: count(self.dropped_events, row),
            links: self.links.read(row)?,
            dropped_links_count: count(self.dropped_links, row),
            status: Some(Status {
                message: owned(self.status_message, row),
                code: number(&STATUS_CODES, self.status_code.value(row)),
            }),
        })
    }
}

#[derive(Debug)]
struct Events<'a> {
    offsets: &'a [i32],
    time: &'a Int64Array,
    name: &'a StringArray,
    attributes: AttributeRows<'a>,
    dropped_attributes: &'a Int64Array,
}

impl<'a> Events<'a> {
    /// The fields are those of [`crate::model::schema::event_fields`], in its order.
    fn new(list: &'a ListArray) -> Self {
        let events = list.values().as_struct();
        Self {
            offsets: list.value_offsets(),
            time: events.column(0).as_primitive::<Int64Type>(),
            name: events.column(1).as_string(),
            attributes: AttributeRows::new(events.column(2).as_map()),
            dropped_attributes: events.column(3).as_primitive::<Int64Type>(),
        }
    }

    fn read(&self, row: usize) -> Result<Vec<Event>, EncodeError> {
        elements(self.offsets, row, |element| {
            Ok(Event {
                time_unix_nano: self.time.value(element).cast_unsigned(),
                name: owned(self.name, element),
                attributes: self.attributes.read(element)?,
                dropped_attributes_count: count(self.dropped_attributes, element),
            })
        })
    }
}

#[derive(Debug)]
struct Links<'a> {
    offsets: &'a [i32],
    trace_id: &'a BinaryArray,
    span_id: &'a BinaryArray,
    trace_state: &'a StringArray,
    flags: &'a Int64Array,
    attributes: AttributeRows<'a>,
    dropped_attributes: &'a Int64Array,
}

impl<'a> Links<'a> {
    /// The fields are those of [`crate::model::schema::link_fields`], in its order.
    fn new(list: &'a ListArray) -> Self {
        let links = list.values().as_struct();
        Self {
            offsets: list.value_offsets(),
            trace_id: links.column(0).as_binary(),
            span_id: links.column(1).as_binary(),
            trace_state: links.column(2).as_string(),
            flags: links.column(3).as_primitive::<Int64Type>(),
            attributes: AttributeRows::new(links.column(4).as_map()),
            dropped_attributes: links.column(5).as_primitive::<Int64Type>(),
        }
    }

    fn read(&self, row: usize) -> Result<Vec<Link>, EncodeError> {
        elements(self.offsets, row, |element| {
            Ok(Link {
                trace_id: self.trace_id.value(element).to_vec(),
                span_id: self.span_id.value(element).to_vec(),
                trace_state: owned(self.trace_state, element),
                attributes: self.attributes.read(element)?,
                dropped_attributes_count: count(self.dropped_attributes, element),
                flags: count(self.flags, element),
            })
        })
    }
}

/// What `read` makes of each element of the list in `row`.
fn elements<T>(
    offsets: &[i32],
    row: usize,
    read: impl FnMut(usize) -> Result<T, EncodeError>,
) -> Result<Vec<T>, EncodeError> {
    (offsets[row] as usize..offsets[row + 1] as usize).map(read).collect()
}

/// NULL stands for the empty text.
fn text(column: &StringArray, row: usize) -> &str {
    if column.is_null(row) { "" } else { column.value(row) }
}

fn owned(column: &StringArray, row: usize) -> String {
    text(column, row).to_owned()
}

/// OTLP's counts and flags have 32 bits, and so has every value that was decoded.
fn count(column: &Int64Array, row: usize) -> u32 {
    u32::try_from(column.value(row)).unwrap_or(u32::MAX)
}

fn number<const N: usize>(names: &[&str; N], name: &str) -> i32 {
    names.iter().position(|known| *known == name).unwrap_or(0) as i32
}
