//! The columns of an answer.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::model::{
    attributes,
    ids::{SpanId, TraceId},
    schema::column,
};

/// Start of the first matching span of a trace: what decides whether more candidates are needed.
pub(super) const FIRST_MATCH: &str = "first_match_unix_nano";

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

static SUMMARY_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("root_service_name", DataType::Utf8, true),
        Field::new("root_name", DataType::Utf8, true),
        Field::new(column::START_TIME, DataType::Int64, true),
        Field::new(column::DURATION, DataType::Int64, true),
        Field::new("matched", DataType::Int64, true),
        Field::new("spans", DataType::List(item(span_fields())), true),
        Field::new("service_stats", DataType::List(item(service_fields())), true),
        Field::new(FIRST_MATCH, DataType::Int64, true),
    ])
});

static ANSWER: LazyLock<SchemaRef> = LazyLock::new(|| {
    let trace_id = Field::new(column::TRACE_ID, DataType::FixedSizeBinary(TraceId::LEN as i32), false);
    let mut fields = vec![Arc::new(trace_id)];
    fields.extend(SUMMARY_FIELDS.iter().filter(|field| field.name() != FIRST_MATCH).map(Arc::clone));
    Arc::new(Schema::new(fields))
});

pub(super) fn item(fields: Fields) -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(fields), true))
}

/// The fields of a shown span.
pub(super) fn span_fields() -> Fields {
    SPAN_FIELDS.clone()
}

/// The fields of a service's counts.
pub(super) fn service_fields() -> Fields {
    SERVICE_FIELDS.clone()
}

/// The fields of the struct that `trace_summary` gives.
pub(super) fn summary_fields() -> Fields {
    SUMMARY_FIELDS.clone()
}

/// The schema of an answer, as the documentation of [`crate::query::search`] has it.
pub(crate) fn answer_schema() -> SchemaRef {
    Arc::clone(&ANSWER)
}
