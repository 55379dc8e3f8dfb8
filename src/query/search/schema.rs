//! The columns of an answer.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::model::{
    attributes,
    ids::{SpanId, TraceId},
    schema::column,
};

static SPAN_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new(column::SPAN_ID, DataType::FixedSizeBinary(SpanId::LEN as i32), false),
        Field::new(column::NAME, DataType::Utf8, false),
        Field::new(column::START_TIME, DataType::Int64, false),
        Field::new(column::DURATION, DataType::Int64, false),
        Field::new("attributes", attributes::map_type(), false),
    ])
});

static SERVICE_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("service_name", DataType::Utf8, true),
        Field::new("span_count", DataType::Int64, false),
        Field::new("error_count", DataType::Int64, false),
    ])
});

static SPANSET_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("attributes", attributes::map_type(), false),
        Field::new("matched", DataType::Int64, false),
        Field::new("spans", DataType::List(item(span_fields())), false),
    ])
});

static ANSWER: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new(column::TRACE_ID, DataType::FixedSizeBinary(TraceId::LEN as i32), false),
        Field::new("root_service_name", DataType::Utf8, true),
        Field::new("root_name", DataType::Utf8, true),
        Field::new(column::START_TIME, DataType::Int64, false),
        Field::new(column::DURATION, DataType::Int64, false),
        Field::new("matched", DataType::Int64, false),
        Field::new("span_sets", DataType::List(item(spanset_fields())), false),
        Field::new("service_stats", DataType::List(item(service_fields())), false),
    ]))
});

pub(in crate::query) fn item(fields: Fields) -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(fields), true))
}

/// The fields of a shown span.
pub(in crate::query) fn span_fields() -> Fields {
    SPAN_FIELDS.clone()
}

/// The fields of a service's counts.
pub(in crate::query) fn service_fields() -> Fields {
    SERVICE_FIELDS.clone()
}

/// The fields of a spanset.
pub(in crate::query) fn spanset_fields() -> Fields {
    SPANSET_FIELDS.clone()
}

/// The schema of an answer, as the documentation of [`crate::query::search`] has it.
pub(crate) fn answer_schema() -> SchemaRef {
    Arc::clone(&ANSWER)
}
