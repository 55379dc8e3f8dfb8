//! Batches as bytes, form by form. An encoder takes batches one by one and gives bytes as soon as it has them.

use std::{io::Write, sync::Arc};

use arrow::{
    array::RecordBatch,
    csv,
    datatypes::{Schema, SchemaRef},
    ipc::writer::StreamWriter,
    json::{
        WriterBuilder,
        writer::{JsonArray, JsonFormat, LineDelimited, Writer},
    },
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::{Value, json};

use super::{
    described,
    flat::{flat_schema, flatten},
    format::Format,
};
use crate::{
    error::{Error, ErrorKind, Result},
    query::QueryStats,
};

/// Bytes that a row group of Parquet may hold in memory before it is written.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// An answer that is being written.
pub(super) enum Encoder {
    Json { is_first: bool },
    NdJson,
    Csv { writer: Box<csv::Writer<Vec<u8>>>, schema: SchemaRef },
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Parquet(Box<ArrowWriter<Vec<u8>>>),
}

/// What the writers refuse is a type that the form does not have, such as a map whose keys are no text in JSON.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the answer cannot be written in this format: {error}"))
        .with_source(error)
}

impl Encoder {
    /// An encoder, and the bytes before any row.
    pub(super) fn start(format: Format, schema: &SchemaRef) -> Result<(Self, Vec<u8>)> {
        let mut encoder = match format {
            Format::Json => return Ok((Self::Json { is_first: true }, opening(schema))),
            Format::NdJson => Self::NdJson,
            Format::Csv => {
                let schema = flat_schema(schema);
                let mut writer = csv::WriterBuilder::new().with_header(true).build(Vec::new());
                // The header is there also when no row is.
                writer.write(&RecordBatch::new_empty(Arc::clone(&schema))).map_err(failed)?;
                Self::Csv { writer: Box::new(writer), schema }
            }
            Format::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema).map_err(failed)?)),
            Format::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties));
                Self::Parquet(Box::new(writer.map_err(failed)?))
            }
        };
        let bytes = encoder.taken();
        Ok((encoder, bytes))
    }

    /// The bytes that are ready once this batch is written.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match self {
            Encoder::Json { is_first } => {
                let rows = json_rows::<JsonArray>(batch)?;
                // Without the brackets around each batch.
                let rows = rows.get(1..rows.len().saturating_sub(1)).unwrap_or_default();
                let mut bytes = if std::mem::take(is_first) { Vec::new() } else { b",\n".to_vec() };
                bytes.extend_from_slice(rows);
                return Ok(bytes);
            }
            Encoder::NdJson => return json_rows::<LineDelimited>(batch),
            Encoder::Csv { writer, schema } => {
                let flat = flatten(batch, schema).map_err(failed)?;
                writer.write(&flat).map_err(failed)?;
            }
            Encoder::Arrow(writer) => writer.write(batch).map_err(failed)?,
            Encoder::Parquet(writer) => {
                writer.write(batch).map_err(failed)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(failed)?;
                }
            }
        }
        Ok(self.taken())
    }

    /// The bytes after the last row.
    pub(super) fn finish(self, stats: &QueryStats) -> Result<Vec<u8>> {
        Ok(match self {
            Encoder::Json { .. } => format!("],\n\"stats\":{}}}\n", figures(stats)).into_bytes(),
            Encoder::NdJson => Vec::new(),
            Encoder::Csv { writer, .. } => writer.into_inner(),
            Encoder::Arrow(mut writer) => {
                writer.finish().map_err(failed)?;
                std::mem::take(writer.get_mut())
            }
            Encoder::Parquet(writer) => writer.into_inner().map_err(failed)?,
        })
    }

    /// The last bytes of an answer that is cut off; empty where the form has no room for words.
    pub(super) fn last_words(self, error: &Error) -> Vec<u8> {
        match self {
            Encoder::Json { .. } => format!("],\n\"error\":{}}}\n", described(error)).into_bytes(),
            Encoder::NdJson => format!("{}\n", json!({ "error": described(error) })).into_bytes(),
            Encoder::Csv { .. } | Encoder::Arrow(_) | Encoder::Parquet(_) => Vec::new(),
        }
    }

    /// What the writer has put into its buffer so far.
    fn taken(&mut self) -> Vec<u8> {
        match self {
            Encoder::Json { .. } | Encoder::NdJson => Vec::new(),
            Encoder::Csv { writer, .. } => {
                // The writer gives its buffer away only whole; the next one has no header.
                let next = csv::WriterBuilder::new().with_header(false).build(Vec::new());
                std::mem::replace(writer.as_mut(), next).into_inner()
            }
            Encoder::Arrow(writer) => std::mem::take(writer.get_mut()),
            Encoder::Parquet(writer) => std::mem::take(writer.inner_mut()),
        }
    }
}

/// The columns, up to the first row.
fn opening(schema: &Schema) -> Vec<u8> {
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }))
        .collect();
    format!("{{\"columns\":{},\n\"rows\":[", Value::from(columns)).into_bytes()
}

fn json_rows<F: JsonFormat>(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer: Writer<_, F> = WriterBuilder::new().with_explicit_nulls(true).build(&mut bytes);
    writer.write(batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    bytes.flush().map_err(failed)?;
    Ok(bytes)
}

fn figures(stats: &QueryStats) -> Value {
    let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    json!({
        "rows": stats.rows,
        "elapsed_ms": millis(stats.elapsed),
        "planning_ms": millis(stats.planning),
        "scanned_rows": stats.scanned_rows,
        "scanned_bytes": stats.scanned_bytes,
        "files_scanned": stats.files_scanned,
        "files_pruned": stats.files_pruned,
        "files_skipped": stats.files_skipped,
        "peak_memory_bytes": stats.peak_memory_bytes,
        "spilled_bytes": stats.spilled_bytes,
    })
}
