//! Series as rows of an answer.

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::{
        array::{
            ArrayRef, BooleanBuilder, Float64Array, Float64Builder, Int64Array, Int64Builder, ListArray, MapArray,
            RecordBatch, StringBuilder, StructArray, TimestampNanosecondArray, UInt32Array,
        },
        buffer::OffsetBuffer,
        compute::take,
        datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    },
    common::{Result, internal_datafusion_err},
};

use super::{
    interval::Intervals,
    label::{Label, LabelValue},
    series::{Exemplar, Series},
};
use crate::{
    model::attributes::{self, entry_fields, value_fields},
    query::request::AnswerForm,
};

/// Samples that a batch has at most, unless one series alone has more.
const BATCH_SAMPLES_MAX: usize = 1 << 16;

static SAMPLE_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
    ])
});

static EXEMPLAR_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
        Field::new("labels", attributes::map_type(), false),
    ])
});

static SERIES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let list = |name: &str, fields: &Fields| Field::new(name, DataType::List(item(fields)), false);
    Arc::new(Schema::new(vec![
        Field::new("labels", attributes::map_type(), false),
        list("samples", &SAMPLE_FIELDS),
        list("exemplars", &EXEMPLAR_FIELDS),
    ]))
});

static SAMPLES: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("labels", attributes::map_type(), false),
        Field::new("time", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false),
        Field::new("value", DataType::Float64, false),
    ]))
});

fn item(fields: &Fields) -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(fields.clone()), true))
}

/// The columns of an answer, before the plain form makes their types plain.
pub(crate) fn answer_schema(form: AnswerForm) -> SchemaRef {
    match form {
        AnswerForm::Typed => Arc::clone(&SERIES),
        AnswerForm::Plain | AnswerForm::Flat => Arc::clone(&SAMPLES),
    }
}

/// The rows of an answer, one batch after the other.
pub(crate) fn batches(
    series: Vec<Series>,
    intervals: Intervals,
    form: AnswerForm,
) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut rest = series.into_iter().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let (mut part, mut samples) = (Vec::new(), 0);
        while let Some(next) = rest.next_if(|next| samples == 0 || samples + next.values.len() <= BATCH_SAMPLES_MAX) {
            samples += next.values.len();
            part.push(next);
        }
        Some(match form {
            AnswerForm::Typed => series_batch(&part, intervals),
            AnswerForm::Plain | AnswerForm::Flat => samples_batch(&part, intervals),
        })
    })
}

/// Times and values of the samples that are there.
fn samples(series: &Series, intervals: Intervals) -> impl Iterator<Item = (i64, f64)> {
    let there = series.values.iter().enumerate().filter(|(_, value)| !value.is_nan());
    there.map(move |(index, value)| (intervals.time(index), *value))
}

fn series_batch(series: &[Series], intervals: Intervals) -> Result<RecordBatch> {
    let labels = maps(series.iter().map(|series| series.labels.as_slice()))?;
    let (times, values): (Vec<i64>, Vec<f64>) = series.iter().flat_map(|one| samples(one, intervals)).unzip();
    let lengths = series.iter().map(|one| one.values.iter().filter(|value| !value.is_nan()).count());
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(times)), Arc::new(Float64Array::from(values))];
    let samples = list(&SAMPLE_FIELDS, columns, lengths)?;

    let all: Vec<&Exemplar> = series.iter().flat_map(|one| &one.exemplars).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all.iter().map(|exemplar| exemplar.unix_nano).collect::<Int64Array>()),
        Arc::new(Float64Array::from_iter_values(all.iter().map(|exemplar| exemplar.value))),
        Arc::new(maps(all.iter().map(|exemplar| exemplar.labels.as_slice()))?),
    ];
    let exemplars = list(&EXEMPLAR_FIELDS, columns, series.iter().map(|one| one.exemplars.len()))?;
    let columns: Vec<ArrayRef> = vec![Arc::new(labels), Arc::new(samples), Arc::new(exemplars)];
    Ok(RecordBatch::try_new(answer_schema(AnswerForm::Typed), columns)?)
}

fn samples_batch(series: &[Series], intervals: Intervals) -> Result<RecordBatch> {
    let (mut rows, mut times, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (index, one) in series.iter().enumerate() {
        for (time, value) in samples(one, intervals) {
            rows.push(index as u32);
            times.push(time);
            values.push(value);
        }
    }
    let labels: ArrayRef = Arc::new(maps(series.iter().map(|series| series.labels.as_slice()))?);
    let rows = UInt32Array::from(rows);
    let columns: Vec<ArrayRef> = vec![
        take(&labels, &rows, None)?,
        Arc::new(TimestampNanosecondArray::from(times).with_timezone("UTC")),
        Arc::new(Float64Array::from(values)),
    ];
    Ok(RecordBatch::try_new(answer_schema(AnswerForm::Plain), columns)?)
}

fn list(fields: &Fields, columns: Vec<ArrayRef>, lengths: impl Iterator<Item = usize>) -> Result<ListArray> {
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    Ok(ListArray::try_new(item(fields), OffsetBuffer::from_lengths(lengths), Arc::new(items), None)?)
}

/// Labels as attribute maps.
fn maps<'a>(all: impl Iterator<Item = &'a [Label]>) -> Result<MapArray> {
    let (mut keys, mut texts, mut jsons) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut ints, mut floats, mut bools) = (Int64Builder::new(), Float64Builder::new(), BooleanBuilder::new());
    let mut lengths = Vec::new();
    for labels in all {
        lengths.push(labels.len());
        for (key, value) in labels {
            keys.append_value(key);
            texts.append_option(if let LabelValue::Text(text) = value { Some(text) } else { None });
            ints.append_option(if let LabelValue::Int(value) = value { Some(*value) } else { None });
            floats.append_option(if let LabelValue::Float(value) = value { Some(*value) } else { None });
            bools.append_option(if let LabelValue::Bool(value) = value { Some(*value) } else { None });
            jsons.append_null();
        }
    }
    let values: Vec<ArrayRef> = vec![
        Arc::new(texts.finish()),
        Arc::new(ints.finish()),
        Arc::new(floats.finish()),
        Arc::new(bools.finish()),
        Arc::new(jsons.finish()),
    ];
    let values = StructArray::try_new(value_fields(), values, None)?;
    let entries = StructArray::try_new(entry_fields(), vec![Arc::new(keys.finish()), Arc::new(values)], None)?;
    let DataType::Map(field, sorted) = attributes::map_type() else {
        return Err(internal_datafusion_err!("attribute maps are no maps"));
    };
    Ok(MapArray::try_new(field, OffsetBuffer::from_lengths(lengths), entries, None, sorted)?)
}
