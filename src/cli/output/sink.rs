//! The forms that are written batch by batch.

use std::{io::Write, sync::Arc};

use arrow::{
    csv,
    datatypes::SchemaRef,
    ipc::writer::{FileWriter, StreamWriter},
    json::LineDelimitedWriter,
    record_batch::RecordBatch,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use super::Format;
use crate::api::sql::flat::{flat_schema, flatten};

/// A place for batches. Nothing is complete before [`Sink::finish`].
pub(super) enum Sink<W: Write + Send> {
    Json(LineDelimitedWriter<W>),
    Csv { writer: Box<csv::Writer<W>>, schema: SchemaRef },
    ArrowFile(Box<FileWriter<W>>),
    ArrowStream(Box<StreamWriter<W>>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Sink<W> {
    /// A sink whose output is read while it is written.
    pub(super) fn for_pipe(format: Format, schema: SchemaRef, out: W) -> anyhow::Result<Self> {
        match format {
            Format::Arrow => Ok(Self::ArrowStream(Box::new(StreamWriter::try_new(out, &schema)?))),
            _ => Self::for_file(format, schema, out),
        }
    }

    /// A sink whose output is read when it is complete.
    pub(super) fn for_file(format: Format, schema: SchemaRef, out: W) -> anyhow::Result<Self> {
        Ok(match format {
            Format::Table => anyhow::bail!("a table is not written batch by batch"),
            Format::Json => Self::Json(LineDelimitedWriter::new(out)),
            Format::Csv => {
                let schema = flat_schema(&schema);
                let mut writer = csv::WriterBuilder::new().with_header(true).build(out);
                // The header is there also when no row is.
                writer.write(&RecordBatch::new_empty(Arc::clone(&schema)))?;
                Self::Csv { writer: Box::new(writer), schema }
            }
            Format::Arrow => Self::ArrowFile(Box::new(FileWriter::try_new(out, &schema)?)),
            Format::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                Self::Parquet(Box::new(ArrowWriter::try_new(out, schema, Some(properties))?))
            }
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        match self {
            Sink::Json(writer) => writer.write(batch)?,
            Sink::Csv { writer, schema } => writer.write(&flatten(batch, schema)?)?,
            Sink::ArrowFile(writer) => writer.write(batch)?,
            Sink::ArrowStream(writer) => writer.write(batch)?,
            Sink::Parquet(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self {
            Sink::Json(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Sink::Csv { writer, .. } => writer.into_inner().flush()?,
            Sink::ArrowFile(mut writer) => {
                writer.finish()?;
                writer.get_mut().flush()?;
            }
            Sink::ArrowStream(mut writer) => {
                writer.finish()?;
                writer.get_mut().flush()?;
            }
            Sink::Parquet(writer) => writer.into_inner()?.flush()?,
        }
        Ok(())
    }
}
