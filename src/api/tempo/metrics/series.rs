//! Rows of a metrics answer as series.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StructArray},
    datatypes::{Float64Type, Int64Type},
};

use crate::{
    api::tempo::search::found::{Shown, read_value},
    error::{Error, ErrorKind, Result},
};

/// A label: its key and its value, which keeps its type.
pub(crate) type Label = (String, Shown);

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundSeries {
    /// What tells it from others, in order.
    pub(crate) labels: Vec<Label>,
    /// Its samples by time.
    pub(crate) samples: Vec<Sample>,
    /// Spans that stand for its values.
    pub(crate) exemplars: Vec<Exemplar>,
}

/// A value at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// When, in Unix milliseconds.
    pub(crate) unix_milli: i64,
    /// The value.
    pub(crate) value: f64,
}

/// A span that stands for a value of a series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exemplar {
    /// Where it is shown.
    pub(crate) sample: Sample,
    /// Its trace and what the query mentions of it.
    pub(crate) labels: Vec<Label>,
}

impl FoundSeries {
    /// The series of a batch of [a metrics answer](crate::query), in its order.
    pub(crate) fn read(batch: &RecordBatch) -> Result<Vec<Self>> {
        let rows = StructArray::from(batch.clone());
        (0..rows.len()).map(|row| read_series(&rows, row).ok_or_else(unexpected)).collect()
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the answer of a metrics query has unexpected columns")
}

fn read_series(rows: &StructArray, row: usize) -> Option<FoundSeries> {
    let items = |name: &str| Some(rows.column_by_name(name)?.as_list_opt::<i32>()?.value(row));
    let (samples, exemplars) = (items("samples")?, items("exemplars")?);
    let exemplars = exemplars.as_struct_opt()?;
    let labels_of_exemplars = exemplars.column_by_name("labels")?;
    let shown = read_samples(exemplars)?;
    let exemplar =
        |(row, sample): (usize, Sample)| Some(Exemplar { sample, labels: read_labels(labels_of_exemplars, row)? });
    Some(FoundSeries {
        labels: read_labels(rows.column_by_name("labels")?, row)?,
        samples: read_samples(samples.as_struct_opt()?)?,
        exemplars: shown.into_iter().enumerate().map(exemplar).collect::<Option<_>>()?,
    })
}

fn read_samples(items: &StructArray) -> Option<Vec<Sample>> {
    let times = items.column_by_name("time_unix_nano")?.as_primitive_opt::<Int64Type>()?;
    let values = items.column_by_name("value")?.as_primitive_opt::<Float64Type>()?;
    let sample = |(nanos, value): (&i64, &f64)| Sample { unix_milli: nanos / 1_000_000, value: *value };
    Some(times.values().iter().zip(values.values()).map(sample).collect())
}

fn read_labels(labels: &ArrayRef, row: usize) -> Option<Vec<Label>> {
    let entries = labels.as_map_opt()?.value(row);
    let keys = entries.column(0).as_string_opt::<i32>()?;
    let values = entries.column(1).as_struct_opt()?;
    (0..keys.len()).map(|index| Some((keys.value(index).to_owned(), read_value(values, index)?))).collect()
}
