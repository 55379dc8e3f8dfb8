//! The columns of a span: their names, types and order, in one place.
//!
//! Two shapes share these columns. A [`SpanBatch`](crate::model::batch::SpanBatch) keeps resources, scopes and spans in
//! three tables, because thousands of spans share a resource; the *flat* shape has one row per span and is what files
//! hold and queries read. [`CORE_COLUMNS`] says for each column which of the three tables it comes from.
//!
//! ```text
//!  resources: resource_schema_url ... promoted ... resource_attributes      \
//!  scopes:    scope_name ...                       scope_attributes          >  take by index = flat
//!  spans:     resource_index, scope_index, trace_id ... promoted ...        /
//! ```
//!
//! The flat shape comes in two variants with the same names for the same things:
//! - *physical*: core columns, then the promoted columns that are present; a map column holds only the rest.
//! - *logical* ([`logical_schema`]): core columns only; a map column holds every attribute of its scope.
//!
//! Types are those that every reader of Parquet and Delta takes: ids are fixed-size binary, times are integers, counts
//! are 64-bit signed. Text that OTLP leaves empty to say "none" is NULL.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::model::{
    attributes::{self, AttributeScope},
    ids::{SpanId, TraceId},
    promotion::Promotion,
};

/// Column names that code refers to.
pub mod column {
    /// Partition column of the table: the UTC day of the span's start. Not stored inside files.
    pub const DATE: &str = "date";
    /// 16 bytes.
    pub const TRACE_ID: &str = "trace_id";
    /// 8 bytes.
    pub const SPAN_ID: &str = "span_id";
    /// 8 bytes, NULL for a root.
    pub const PARENT_SPAN_ID: &str = "parent_span_id";
    /// W3C trace state, NULL if empty.
    pub const TRACE_STATE: &str = "trace_state";
    /// W3C trace flags, with OTLP's bits 8 and 9 on whether the parent is remote.
    pub const FLAGS: &str = "flags";
    /// Operation name.
    pub const NAME: &str = "name";
    /// One of [`super::KINDS`].
    pub const KIND: &str = "kind";
    /// One of [`super::STATUS_CODES`].
    pub const STATUS_CODE: &str = "status_code";
    /// NULL if empty.
    pub const STATUS_MESSAGE: &str = "status_message";
    /// Nanoseconds since the Unix epoch.
    pub const START_TIME: &str = "start_time_unix_nano";
    /// End minus start in nanoseconds; negative where the sender's end lies before its start.
    pub const DURATION: &str = "duration_nano";
    /// `service.name` of the resource, if it is text.
    pub const SERVICE_NAME: &str = "service_name";
    /// `service.namespace` of the resource, if it is text.
    pub const SERVICE_NAMESPACE: &str = "service_namespace";
    /// NULL if empty.
    pub const SCOPE_NAME: &str = "scope_name";
    /// NULL if empty.
    pub const SCOPE_VERSION: &str = "scope_version";
    /// NULL if empty.
    pub const SCOPE_SCHEMA_URL: &str = "scope_schema_url";
    /// NULL if empty.
    pub const RESOURCE_SCHEMA_URL: &str = "resource_schema_url";
    /// Attributes of the resource.
    pub const RESOURCE_ATTRIBUTES: &str = "resource_attributes";
    /// Attributes of the instrumentation scope.
    pub const SCOPE_ATTRIBUTES: &str = "scope_attributes";
    /// Attributes of the span.
    pub const SPAN_ATTRIBUTES: &str = "span_attributes";
    /// List of [`super::event_fields`], in the order sent.
    pub const EVENTS: &str = "events";
    /// List of [`super::link_fields`], in the order sent.
    pub const LINKS: &str = "links";
    /// Attributes that the SDK dropped from the span.
    pub const DROPPED_ATTRIBUTES_COUNT: &str = "dropped_attributes_count";
    /// Events that the SDK dropped.
    pub const DROPPED_EVENTS_COUNT: &str = "dropped_events_count";
    /// Links that the SDK dropped.
    pub const DROPPED_LINKS_COUNT: &str = "dropped_links_count";
    /// Attributes that the SDK dropped from the resource.
    pub const RESOURCE_DROPPED_ATTRIBUTES_COUNT: &str = "resource_dropped_attributes_count";
    /// Attributes that the SDK dropped from the scope.
    pub const SCOPE_DROPPED_ATTRIBUTES_COUNT: &str = "scope_dropped_attributes_count";
    /// Row of the span's resource in the batch's resource table. Not in the flat shape.
    pub const RESOURCE_INDEX: &str = "resource_index";
    /// Row of the span's scope in the batch's scope table. Not in the flat shape.
    pub const SCOPE_INDEX: &str = "scope_index";
}

/// Span kinds as stored, at the index of their OTLP number. Numbers that OTLP does not define read as `unspecified`.
pub const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];

/// Status codes as stored, at the index of their OTLP number. Numbers that OTLP does not define read as `unset`.
pub const STATUS_CODES: [&str; 3] = ["unset", "ok", "error"];

/// The table of a batch that a column lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// One row per resource.
    Resources,
    /// One row per instrumentation scope.
    Scopes,
    /// One row per span.
    Spans,
}

impl Table {
    /// The table that holds attributes of this scope in columns of its own, where there is one.
    pub fn of_scope(scope: AttributeScope) -> Option<Self> {
        match scope {
            AttributeScope::Resource => Some(Table::Resources),
            AttributeScope::Scope => Some(Table::Scopes),
            AttributeScope::Span => Some(Table::Spans),
            AttributeScope::Event | AttributeScope::Link => None,
        }
    }
}

/// A column that every span has.
#[derive(Clone, Debug)]
pub struct CoreColumn {
    /// Name, type and nullability.
    pub field: Arc<Field>,
    /// The table of a batch that it lives in.
    pub table: Table,
}

/// The core columns, in the order of the flat shape.
pub static CORE_COLUMNS: LazyLock<Vec<CoreColumn>> = LazyLock::new(|| {
    use DataType::{FixedSizeBinary, Int64, Utf8};
    use Table::{Resources, Scopes, Spans};
    let trace_id = FixedSizeBinary(TraceId::LEN as i32);
    let span_id = FixedSizeBinary(SpanId::LEN as i32);
    let list = |fields: Fields| DataType::List(Field::new("element", DataType::Struct(fields), false).into());
    let map = attributes::map_type;
    [
        (Spans, column::TRACE_ID, trace_id, false),
        (Spans, column::SPAN_ID, span_id.clone(), false),
        (Spans, column::PARENT_SPAN_ID, span_id, true),
        (Spans, column::TRACE_STATE, Utf8, true),
        (Spans, column::FLAGS, Int64, false),
        (Spans, column::NAME, Utf8, false),
        (Spans, column::KIND, Utf8, false),
        (Spans, column::STATUS_CODE, Utf8, false),
        (Spans, column::STATUS_MESSAGE, Utf8, true),
        (Spans, column::START_TIME, Int64, false),
        (Spans, column::DURATION, Int64, false),
        (Scopes, column::SCOPE_NAME, Utf8, true),
        (Scopes, column::SCOPE_VERSION, Utf8, true),
        (Scopes, column::SCOPE_SCHEMA_URL, Utf8, true),
        (Resources, column::RESOURCE_SCHEMA_URL, Utf8, true),
        (Resources, column::RESOURCE_ATTRIBUTES, map(), false),
        (Scopes, column::SCOPE_ATTRIBUTES, map(), false),
        (Spans, column::SPAN_ATTRIBUTES, map(), false),
        (Spans, column::EVENTS, list(event_fields()), false),
        (Spans, column::LINKS, list(link_fields()), false),
        (Spans, column::DROPPED_ATTRIBUTES_COUNT, Int64, false),
        (Spans, column::DROPPED_EVENTS_COUNT, Int64, false),
        (Spans, column::DROPPED_LINKS_COUNT, Int64, false),
        (Resources, column::RESOURCE_DROPPED_ATTRIBUTES_COUNT, Int64, false),
        (Scopes, column::SCOPE_DROPPED_ATTRIBUTES_COUNT, Int64, false),
    ]
    .into_iter()
    .map(|(table, name, data_type, nullable)| CoreColumn {
        field: Arc::new(Field::new(name, data_type, nullable)),
        table,
    })
    .collect()
});

/// The fields of an event: when, what, and its attributes, typed and never promoted.
pub fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("attributes", attributes::map_type(), false),
        Field::new("dropped_attributes_count", DataType::Int64, false),
    ])
}

/// The fields of a link: the span it points to, and its attributes, typed and never promoted.
///
/// The ids are kept as sent, whatever their length, so they are variable-size here.
pub fn link_fields() -> Fields {
    Fields::from(vec![
        Field::new("trace_id", DataType::Binary, false),
        Field::new("span_id", DataType::Binary, false),
        Field::new("trace_state", DataType::Utf8, true),
        Field::new("flags", DataType::Int64, false),
        Field::new("attributes", attributes::map_type(), false),
        Field::new("dropped_attributes_count", DataType::Int64, false),
    ])
}

/// The field of the column that a promoted attribute has.
pub fn promoted_field(attribute: &crate::model::promotion::PromotedAttribute) -> Field {
    Field::new(attribute.column.as_ref(), attribute.value_type.data_type(), true)
}

static LOGICAL: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(CORE_COLUMNS.iter().map(|c| Arc::clone(&c.field)).collect::<Vec<_>>())));

/// The logical flat shape: core columns only, maps whole. It does not depend on what is promoted.
pub fn logical_schema() -> SchemaRef {
    Arc::clone(&LOGICAL)
}

/// The physical flat shape with every column that `promotion` allows.
pub fn physical_schema(promotion: &Promotion) -> SchemaRef {
    let core = CORE_COLUMNS.iter().map(|c| Arc::clone(&c.field));
    let promoted = promotion.attributes().iter().map(|attribute| Arc::new(promoted_field(attribute)));
    Arc::new(Schema::new(core.chain(promoted).collect::<Vec<_>>()))
}
