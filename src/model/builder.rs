//! Builds a [`SpanBatch`] from borrowed spans, as a decoder walks over them.
//!
//! Resources and scopes come first and hand out the row that their spans refer to. The form that results is normal:
//! attributes are sorted by key, of several with one key the last counts, text that is empty to say "none" is NULL, and
//! enum numbers that OTLP does not define are 0. A promoted key whose value has the promoted type is in its column;
//! everything else is in the residual map of its scope.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, ListArray, RecordBatch,
        RecordBatchOptions, StringBuilder, StructArray, UInt32Array,
    },
    buffer::{Buffer, OffsetBuffer},
    datatypes::{DataType, Field, Fields},
    error::ArrowError,
};

pub use crate::model::attribute_columns::{Attribute, Value};
use crate::model::{
    attribute_columns::{AttributeColumns, MapBuilder, PromotedColumn, first_offset},
    attributes::AttributeScope,
    batch::{BatchError, SpanBatch, table_schema},
    ids::{SpanId, TraceId},
    promotion::Promotion,
    schema::{KINDS, STATUS_CODES, Table, column, event_fields, link_fields},
};

/// A resource, without its attributes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResourceFields<'a> {
    /// Empty for none.
    pub schema_url: &'a str,
    /// Attributes that the SDK dropped.
    pub dropped_attributes_count: u32,
}

/// An instrumentation scope, without its attributes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopeFields<'a> {
    /// Empty for none.
    pub name: &'a str,
    /// Empty for none.
    pub version: &'a str,
    /// Empty for none.
    pub schema_url: &'a str,
    /// Attributes that the SDK dropped.
    pub dropped_attributes_count: u32,
}

/// A span, without its attributes, events and links.
#[derive(Clone, Copy, Debug)]
pub struct SpanFields<'a> {
    /// Not all zero.
    pub trace_id: TraceId,
    /// Not all zero.
    pub span_id: SpanId,
    /// `None` for a root.
    pub parent_span_id: Option<SpanId>,
    /// Empty for none.
    pub trace_state: &'a str,
    /// All 32 bits are kept.
    pub flags: u32,
    /// May be empty.
    pub name: &'a str,
    /// OTLP's number; one that it does not define reads as `unspecified`.
    pub kind: i32,
    /// OTLP's number; one that it does not define reads as `unset`.
    pub status_code: i32,
    /// Empty for none.
    pub status_message: &'a str,
    /// Nanoseconds since the epoch.
    pub start_time_unix_nano: i64,
    /// Negative if the end lies before the start.
    pub duration_nano: i64,
    /// Attributes that the SDK dropped.
    pub dropped_attributes_count: u32,
    /// Events that the SDK dropped.
    pub dropped_events_count: u32,
    /// Links that the SDK dropped.
    pub dropped_links_count: u32,
}

/// An event of a span.
#[derive(Clone, Copy, Debug)]
pub struct EventFields<'a> {
    /// Nanoseconds since the epoch, the bits as sent: a time past 2262 reads as negative and goes out as it came.
    pub time_unix_nano: u64,
    /// May be empty.
    pub name: &'a str,
    /// In any order.
    pub attributes: &'a [Attribute<'a>],
    /// Attributes that the SDK dropped.
    pub dropped_attributes_count: u32,
}

/// A link of a span.
#[derive(Clone, Copy, Debug)]
pub struct LinkFields<'a> {
    /// As sent, whatever the length.
    pub trace_id: &'a [u8],
    /// As sent, whatever the length.
    pub span_id: &'a [u8],
    /// Empty for none.
    pub trace_state: &'a str,
    /// All 32 bits are kept.
    pub flags: u32,
    /// In any order.
    pub attributes: &'a [Attribute<'a>],
    /// Attributes that the SDK dropped.
    pub dropped_attributes_count: u32,
}

/// The row of a resource in the batch being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceRow(u32);

/// The row of a scope in the batch being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeRow(u32);

/// Builds a [`SpanBatch`]; see the module's documentation.
#[derive(Debug)]
pub struct SpanBatchBuilder {
    resources: Resources,
    scopes: Scopes,
    spans: Spans,
    /// Upper bound of what any offset of any column counts: bytes, entries and rows.
    counted: usize,
}

impl SpanBatchBuilder {
    /// An empty builder. The promotion decides which attributes get columns.
    pub fn new(promotion: &Arc<Promotion>) -> Self {
        Self::with_capacity(promotion, 0)
    }

    /// The same, with room for so many spans in the columns that each of them has.
    pub fn with_capacity(promotion: &Arc<Promotion>, spans: usize) -> Self {
        Self {
            resources: Resources::new(promotion),
            scopes: Scopes::new(promotion),
            spans: Spans::with_capacity(promotion, spans),
            counted: 0,
        }
    }

    /// Spans so far.
    pub fn num_spans(&self) -> usize {
        self.spans.start_time.len()
    }

    /// Adds a resource. Fails if the batch has no room for it; the builder is unchanged then.
    pub fn push_resource(
        &mut self,
        resource: &ResourceFields<'_>,
        attributes: &[Attribute<'_>],
    ) -> Result<ResourceRow, BatchError> {
        self.count(1 + resource.schema_url.len() + counted(attributes))?;
        let row = ResourceRow(self.resources.dropped_attributes.len() as u32);
        append_text(&mut self.resources.schema_url, resource.schema_url);
        self.resources.attributes.push(attributes);
        self.resources.dropped_attributes.push(i64::from(resource.dropped_attributes_count));
        Ok(row)
    }

    /// Adds a scope. Fails if the batch has no room for it; the builder is unchanged then.
    pub fn push_scope(
        &mut self,
        scope: &ScopeFields<'_>,
        attributes: &[Attribute<'_>],
    ) -> Result<ScopeRow, BatchError> {
        self.count(1 + scope.name.len() + scope.version.len() + scope.schema_url.len() + counted(attributes))?;
        let row = ScopeRow(self.scopes.dropped_attributes.len() as u32);
        append_text(&mut self.scopes.name, scope.name);
        append_text(&mut self.scopes.version, scope.version);
        append_text(&mut self.scopes.schema_url, scope.schema_url);
        self.scopes.attributes.push(attributes);
        self.scopes.dropped_attributes.push(i64::from(scope.dropped_attributes_count));
        Ok(row)
    }

    /// Adds a span of a resource and a scope of this builder. Fails if the batch has no room for it; the builder is
    /// unchanged then.
    pub fn push_span<'e>(
        &mut self,
        (resource, scope): (ResourceRow, ScopeRow),
        span: &SpanFields<'_>,
        attributes: &[Attribute<'_>],
        events: impl Iterator<Item = EventFields<'e>> + Clone,
        links: impl Iterator<Item = LinkFields<'e>> + Clone,
    ) -> Result<(), BatchError> {
        let of_events: usize = events.clone().map(|event| 1 + event.name.len() + counted(event.attributes)).sum();
        let of_link = |link: LinkFields<'_>| {
            1 + link.trace_id.len() + link.span_id.len() + link.trace_state.len() + counted(link.attributes)
        };
        let of_links: usize = links.clone().map(of_link).sum();
        let of_span = ID_AND_ENUM_BYTES + span.trace_state.len() + span.name.len() + span.status_message.len();
        self.count(of_span + counted(attributes) + of_events + of_links)?;
        self.spans.push(resource, scope, span);
        self.spans.attributes.push(attributes);
        self.spans.events.push(events);
        self.spans.links.push(links);
        Ok(())
    }

    /// The batch.
    pub fn finish(self) -> Result<SpanBatch, BatchError> {
        SpanBatch::try_new(self.resources.finish()?, self.scopes.finish()?, self.spans.finish()?)
    }

    /// Arrow counts text and list entries with 32 bits; a batch that needs more is refused before it is built.
    fn count(&mut self, more: usize) -> Result<(), BatchError> {
        const COUNT_MAX: usize = i32::MAX as usize;
        let counted = self.counted.saturating_add(more);
        if counted > COUNT_MAX {
            let message = format!("{counted} bytes of text, above the limit of {COUNT_MAX}");
            return Err(BatchError::Arrow(ArrowError::InvalidArgumentError(message)));
        }
        self.counted = counted;
        Ok(())
    }
}

/// Room for the name of a span; a longer one makes its own.
const NAME_BYTES: usize = 16;

/// Room for the name of a kind or of a status.
const ENUM_BYTES: usize = 8;

/// No less than what the ids, the kind and the status of a span take in their columns.
const ID_AND_ENUM_BYTES: usize = 64;

fn counted(attributes: &[Attribute<'_>]) -> usize {
    attributes.iter().map(|attribute| 1 + attribute.key.len() + attribute.value.text_bytes()).sum()
}

#[derive(Debug)]
struct Resources {
    schema_url: StringBuilder,
    attributes: AttributeColumns,
    dropped_attributes: Vec<i64>,
}

impl Resources {
    fn new(promotion: &Arc<Promotion>) -> Self {
        Self {
            schema_url: text(),
            attributes: AttributeColumns::with_capacity(AttributeScope::Resource, promotion, 0),
            dropped_attributes: Vec::new(),
        }
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let (residual, promoted) = self.attributes.finish()?;
        let core: Vec<(&str, ArrayRef)> = vec![
            (column::RESOURCE_SCHEMA_URL, Arc::new(self.schema_url.finish())),
            (column::RESOURCE_ATTRIBUTES, residual),
            (column::RESOURCE_DROPPED_ATTRIBUTES_COUNT, integers(self.dropped_attributes)),
        ];
        table(Table::Resources, &core, promoted)
    }
}

#[derive(Debug)]
struct Scopes {
    name: StringBuilder,
    version: StringBuilder,
    schema_url: StringBuilder,
    attributes: AttributeColumns,
    dropped_attributes: Vec<i64>,
}

impl Scopes {
    fn new(promotion: &Arc<Promotion>) -> Self {
        Self {
            name: text(),
            version: text(),
            schema_url: text(),
            attributes: AttributeColumns::with_capacity(AttributeScope::Scope, promotion, 0),
            dropped_attributes: Vec::new(),
        }
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let (residual, promoted) = self.attributes.finish()?;
        let core: Vec<(&str, ArrayRef)> = vec![
            (column::SCOPE_NAME, Arc::new(self.name.finish())),
            (column::SCOPE_VERSION, Arc::new(self.version.finish())),
            (column::SCOPE_SCHEMA_URL, Arc::new(self.schema_url.finish())),
            (column::SCOPE_ATTRIBUTES, residual),
            (column::SCOPE_DROPPED_ATTRIBUTES_COUNT, integers(self.dropped_attributes)),
        ];
        table(Table::Scopes, &core, promoted)
    }
}

#[derive(Debug)]
struct Spans {
    resource_index: Vec<u32>,
    scope_index: Vec<u32>,
    trace_id: Vec<u8>,
    span_id: Vec<u8>,
    parent_span_id: FixedSizeBinaryBuilder,
    trace_state: StringBuilder,
    flags: Vec<i64>,
    name: StringBuilder,
    kind: StringBuilder,
    status_code: StringBuilder,
    status_message: StringBuilder,
    start_time: Vec<i64>,
    duration: Vec<i64>,
    attributes: AttributeColumns,
    events: Events,
    links: Links,
    dropped_attributes: Vec<i64>,
    dropped_events: Vec<i64>,
    dropped_links: Vec<i64>,
}

impl Spans {
    fn with_capacity(promotion: &Arc<Promotion>, rows: usize) -> Self {
        let texts = |bytes: usize| StringBuilder::with_capacity(rows, rows * bytes);
        Self {
            resource_index: Vec::with_capacity(rows),
            scope_index: Vec::with_capacity(rows),
            trace_id: Vec::with_capacity(rows * TraceId::LEN),
            span_id: Vec::with_capacity(rows * SpanId::LEN),
            parent_span_id: FixedSizeBinaryBuilder::with_capacity(rows, SpanId::LEN as i32),
            trace_state: texts(0),
            flags: Vec::with_capacity(rows),
            name: texts(NAME_BYTES),
            kind: texts(ENUM_BYTES),
            status_code: texts(ENUM_BYTES),
            status_message: texts(0),
            start_time: Vec::with_capacity(rows),
            duration: Vec::with_capacity(rows),
            attributes: AttributeColumns::with_capacity(AttributeScope::Span, promotion, rows),
            events: Events::with_capacity(rows),
            links: Links::with_capacity(rows),
            dropped_attributes: Vec::with_capacity(rows),
            dropped_events: Vec::with_capacity(rows),
            dropped_links: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, resource: ResourceRow, scope: ScopeRow, span: &SpanFields<'_>) {
        self.resource_index.push(resource.0);
        self.scope_index.push(scope.0);
        self.trace_id.extend_from_slice(span.trace_id.as_bytes());
        self.span_id.extend_from_slice(span.span_id.as_bytes());
        match span.parent_span_id {
            // Cannot fail: the builder's width is that of the id.
            Some(parent) => _ = self.parent_span_id.append_value(parent.as_bytes()),
            None => self.parent_span_id.append_null(),
        }
        append_text(&mut self.trace_state, span.trace_state);
        self.flags.push(i64::from(span.flags));
        self.name.append_value(span.name);
        self.kind.append_value(named(&KINDS, span.kind));
        self.status_code.append_value(named(&STATUS_CODES, span.status_code));
        append_text(&mut self.status_message, span.status_message);
        self.start_time.push(span.start_time_unix_nano);
        self.duration.push(span.duration_nano);
        self.dropped_attributes.push(i64::from(span.dropped_attributes_count));
        self.dropped_events.push(i64::from(span.dropped_events_count));
        self.dropped_links.push(i64::from(span.dropped_links_count));
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let ids = |bytes: Vec<u8>, width: usize| {
            FixedSizeBinaryArray::try_new(width as i32, Buffer::from_vec(bytes), None)
                .map(|ids| Arc::new(ids) as ArrayRef)
        };
        let (residual, promoted) = self.attributes.finish()?;
        let core: Vec<(&str, ArrayRef)> = vec![
            (column::RESOURCE_INDEX, Arc::new(UInt32Array::from(self.resource_index))),
            (column::SCOPE_INDEX, Arc::new(UInt32Array::from(self.scope_index))),
            (column::TRACE_ID, ids(self.trace_id, TraceId::LEN)?),
            (column::SPAN_ID, ids(self.span_id, SpanId::LEN)?),
            (column::PARENT_SPAN_ID, Arc::new(self.parent_span_id.finish())),
            (column::TRACE_STATE, Arc::new(self.trace_state.finish())),
            (column::FLAGS, integers(self.flags)),
            (column::NAME, Arc::new(self.name.finish())),
            (column::KIND, Arc::new(self.kind.finish())),
            (column::STATUS_CODE, Arc::new(self.status_code.finish())),
            (column::STATUS_MESSAGE, Arc::new(self.status_message.finish())),
            (column::START_TIME, integers(self.start_time)),
            (column::DURATION, integers(self.duration)),
            (column::SPAN_ATTRIBUTES, residual),
            (column::EVENTS, self.events.finish()?),
            (column::LINKS, self.links.finish()?),
            (column::DROPPED_ATTRIBUTES_COUNT, integers(self.dropped_attributes)),
            (column::DROPPED_EVENTS_COUNT, integers(self.dropped_events)),
            (column::DROPPED_LINKS_COUNT, integers(self.dropped_links)),
        ];
        table(Table::Spans, &core, promoted)
    }
}

#[derive(Debug)]
struct Events {
    offsets: Vec<i32>,
    time: Vec<i64>,
    name: StringBuilder,
    attributes: MapBuilder,
    dropped_attributes: Vec<i64>,
    scratch: Vec<usize>,
}

impl Events {
    fn with_capacity(rows: usize) -> Self {
        Self {
            offsets: first_offset(rows),
            time: Vec::new(),
            name: text(),
            attributes: MapBuilder::with_capacity(0),
            dropped_attributes: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn push<'e>(&mut self, events: impl Iterator<Item = EventFields<'e>>) {
        for event in events {
            self.time.push(event.time_unix_nano.cast_signed());
            self.name.append_value(event.name);
            self.attributes.push_all(event.attributes, &mut self.scratch);
            self.dropped_attributes.push(i64::from(event.dropped_attributes_count));
        }
        self.offsets.push(self.time.len() as i32);
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            integers(self.time),
            Arc::new(self.name.finish()),
            self.attributes.finish()?,
            integers(self.dropped_attributes),
        ];
        list(event_fields(), columns, self.offsets)
    }
}

#[derive(Debug)]
struct Links {
    offsets: Vec<i32>,
    trace_id: BinaryBuilder,
    span_id: BinaryBuilder,
    trace_state: StringBuilder,
    flags: Vec<i64>,
    attributes: MapBuilder,
    dropped_attributes: Vec<i64>,
    scratch: Vec<usize>,
}

impl Links {
    fn with_capacity(rows: usize) -> Self {
        Self {
            offsets: first_offset(rows),
            trace_id: BinaryBuilder::with_capacity(0, 0),
            span_id: BinaryBuilder::with_capacity(0, 0),
            trace_state: text(),
            flags: Vec::new(),
            attributes: MapBuilder::with_capacity(0),
            dropped_attributes: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn push<'e>(&mut self, links: impl Iterator<Item = LinkFields<'e>>) {
        for link in links {
            self.trace_id.append_value(link.trace_id);
            self.span_id.append_value(link.span_id);
            append_text(&mut self.trace_state, link.trace_state);
            self.flags.push(i64::from(link.flags));
            self.attributes.push_all(link.attributes, &mut self.scratch);
            self.dropped_attributes.push(i64::from(link.dropped_attributes_count));
        }
        self.offsets.push(self.flags.len() as i32);
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.trace_id.finish()),
            Arc::new(self.span_id.finish()),
            Arc::new(self.trace_state.finish()),
            integers(self.flags),
            self.attributes.finish()?,
            integers(self.dropped_attributes),
        ];
        list(link_fields(), columns, self.offsets)
    }
}

/// One-span requests are common, so nothing is allocated ahead.
fn text() -> StringBuilder {
    StringBuilder::with_capacity(0, 0)
}

fn append_text(builder: &mut StringBuilder, text: &str) {
    if text.is_empty() {
        builder.append_null();
    } else {
        builder.append_value(text);
    }
}

fn named<const N: usize>(names: &[&'static str; N], number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|index| names.get(index)).unwrap_or(&names[0])
}

fn integers(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn list(fields: Fields, columns: Vec<ArrayRef>, offsets: Vec<i32>) -> Result<ArrayRef, ArrowError> {
    let element = Arc::new(Field::new("element", DataType::Struct(fields.clone()), false));
    let elements = StructArray::try_new(fields, columns, None)?;
    Ok(Arc::new(ListArray::try_new(element, OffsetBuffer::new(offsets.into()), Arc::new(elements), None)?))
}

/// Puts a table together in the order of its schema.
fn table(table: Table, core: &[(&str, ArrayRef)], promoted: Vec<PromotedColumn>) -> Result<RecordBatch, ArrowError> {
    let (fields, promoted): (Vec<_>, Vec<_>) = promoted.into_iter().unzip();
    let schema = table_schema(table, &fields);
    let of_name = |name: &str| core.iter().find(|(known, _)| *known == name).map(|(_, values)| Arc::clone(values));
    let mut columns: Vec<ArrayRef> = schema.fields().iter().map_while(|field| of_name(field.name())).collect();
    columns.extend(promoted);
    let rows = columns.first().map_or(0, |first| first.len());
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;
    use crate::model::{attributes::VALUE_INT, promotion::standard};

    fn span(n: u8) -> SpanFields<'static> {
        SpanFields {
            trace_id: TraceId::from_bytes([n; 16]),
            span_id: SpanId::from_bytes([n; 8]),
            parent_span_id: None,
            trace_state: "",
            flags: 0,
            name: "op",
            kind: 77,
            status_code: -1,
            status_message: "",
            start_time_unix_nano: 1,
            duration_nano: 2,
            dropped_attributes_count: 0,
            dropped_events_count: 0,
            dropped_links_count: 0,
        }
    }

    fn batch(sets: &[&[Attribute<'_>]]) -> SpanBatch {
        let mut builder = SpanBatchBuilder::new(&standard());
        let resource = builder.push_resource(&ResourceFields::default(), &[]).unwrap();
        let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
        for (n, attributes) in sets.iter().enumerate() {
            let span = span(n as u8 + 1);
            builder.push_span((resource, scope), &span, attributes, [].into_iter(), [].into_iter()).unwrap();
        }
        builder.finish().unwrap()
    }

    fn attribute<'a>(key: &'a str, value: Value<'a>) -> Attribute<'a> {
        Attribute { key, value }
    }

    fn keys(batch: &SpanBatch, row: usize) -> Vec<String> {
        let entries = batch.spans()[column::SPAN_ATTRIBUTES].as_map().value(row);
        entries.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    }

    #[test]
    fn a_promoted_column_exists_only_if_a_value_of_its_type_occurs() {
        let batch =
            batch(&[&[attribute("http.status_code", Value::Str("200"))], &[attribute("http.route", Value::Str("/"))]]);
        let schema = batch.spans().schema();
        assert!(schema.column_with_name("span.http.status_code").is_none());
        let route = batch.spans()["span.http.route"].as_string::<i32>();
        assert!(route.is_null(0));
        assert_eq!(route.value(1), "/");
        assert_eq!(keys(&batch, 0), ["http.status_code"]);
        assert_eq!(keys(&batch, 1), Vec::<String>::new());
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_whatever_its_type() {
        let batch = batch(&[
            &[
                attribute("z", Value::Int(1)),
                attribute("http.route", Value::Str("/")),
                attribute("a", Value::Empty),
                attribute("http.route", Value::Int(5)),
                attribute("z", Value::Int(2)),
            ],
            &[attribute("http.route", Value::Int(5)), attribute("http.route", Value::Str("/b"))],
        ]);
        assert_eq!(keys(&batch, 0), ["a", "http.route", "z"]);
        assert_eq!(keys(&batch, 1), Vec::<String>::new());
        let entries = batch.spans()[column::SPAN_ATTRIBUTES].as_map().value(0);
        let values = entries.column(1).as_struct();
        let ints = values.column(VALUE_INT).as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(ints.iter().collect::<Vec<_>>(), [None, Some(5), Some(2)]);
        assert!(batch.spans()["span.http.route"].as_string::<i32>().is_null(0));
    }

    #[test]
    fn undefined_enum_numbers_read_as_the_default() {
        let batch = batch(&[&[]]);
        assert_eq!(batch.spans()[column::KIND].as_string::<i32>().value(0), "unspecified");
        assert_eq!(batch.spans()[column::STATUS_CODE].as_string::<i32>().value(0), "unset");
    }
}
