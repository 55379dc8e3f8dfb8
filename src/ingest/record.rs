//! What a log record carries: one batch of spans, as three Arrow IPC streams, compressed together.
//!
//! ```text
//!  payload := version u8 = 1 | codec u8 = 1 (LZ4 block) | raw length u32 LE | compressed bytes
//!  raw     := table resources | table scopes | table spans
//!  table   := length u32 LE | Arrow IPC stream (schema and one record batch)
//! ```
//!
//! Each record brings its schema, so a record can be read by a later version that promotes other attributes. The log
//! frames and checksums the payload; what is checked here is what a checksum cannot tell: the shape. Compression is
//! over the whole payload because most of a small record is padding and schema.

use std::{io::Cursor, ops::Range};

use arrow::{
    array::RecordBatch,
    compute::concat_batches,
    error::ArrowError,
    ipc::{
        MetadataVersion,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
};

use crate::model::batch::{BatchError, SpanBatch};

const VERSION: u8 = 1;
const CODEC_LZ4: u8 = 1;
const HEADER_BYTES: usize = 6;

/// What an encoder keeps of its memory: the largest records are rare.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Largest record before compression, in bytes.
pub const RAW_BYTES_MAX: usize = 1 << 30;

/// Why a payload is not a batch, or a batch cannot be a payload.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The payload was written by a later version.
    #[error("log record has version {0}, this build reads {VERSION}")]
    Version(u8),
    /// The codec is not known.
    #[error("log record has codec {0}, this build reads {CODEC_LZ4}")]
    Codec(u8),
    /// The payload ends early or its lengths do not add up.
    #[error("log record is malformed: {0}")]
    Malformed(&'static str),
    /// More than [`RAW_BYTES_MAX`] bytes.
    #[error("log record has {0} bytes before compression, more than the limit of {RAW_BYTES_MAX}")]
    TooLarge(usize),
    /// The compressed bytes are not LZ4.
    #[error("log record cannot be decompressed")]
    Decompress(#[from] lz4_flex::block::DecompressError),
    /// Arrow cannot read or write a table.
    #[error("log record cannot be read or written as arrow: {0}")]
    Arrow(#[from] ArrowError),
    /// The tables are not a batch of spans.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Makes payloads, in memory that it keeps: fresh pages for megabytes in every group cost more than the encoding.
#[derive(Debug, Default)]
pub struct Encoder {
    raw: Vec<u8>,
    compressed: Vec<u8>,
}

impl Encoder {
    /// Appends the payload that stands for `batch` to `out`, and tells where it is. After an error `out` is as before.
    pub fn encode(&mut self, batch: &SpanBatch, out: &mut Vec<u8>) -> Result<Range<usize>, RecordError> {
        self.raw.clear();
        self.raw.reserve(batch.memory_bytes());
        write_tables(batch, &mut self.raw)?;
        let raw_length = u32::try_from(self.raw.len()).map_err(|_| RecordError::TooLarge(self.raw.len()))?;
        let compressed_max = lz4_flex::block::get_maximum_output_size(self.raw.len());
        // Never shrinks, so that it is zeroed once and not for every record.
        if self.compressed.len() < compressed_max {
            self.compressed.resize(compressed_max, 0);
        }
        // Only a defect of the compressor exceeds the size that it names.
        let length = lz4_flex::block::compress_into(&self.raw, &mut self.compressed)
            .map_err(|_| RecordError::Malformed("compressed size above its own bound"))?;
        let start = out.len();
        out.extend_from_slice(&[VERSION, CODEC_LZ4]);
        out.extend_from_slice(&raw_length.to_le_bytes());
        out.extend_from_slice(&self.compressed[..length]);
        if self.raw.capacity() > KEPT_BYTES_MAX {
            *self = Self::default();
        }
        Ok(start..out.len())
    }
}

fn write_tables(batch: &SpanBatch, raw: &mut Vec<u8>) -> Result<(), RecordError> {
    for table in [batch.resources(), batch.scopes(), batch.spans()] {
        let start = raw.len();
        raw.extend_from_slice(&[0; 4]);
        write_table(table, raw)?;
        let length = u32::try_from(raw.len() - start - 4).map_err(|_| RecordError::TooLarge(raw.len()))?;
        raw[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    if raw.len() > RAW_BYTES_MAX {
        return Err(RecordError::TooLarge(raw.len()));
    }
    Ok(())
}

/// The batch that `payload` stands for.
pub fn decode(payload: &[u8]) -> Result<SpanBatch, RecordError> {
    let (header, compressed) =
        payload.split_at_checked(HEADER_BYTES).ok_or(RecordError::Malformed("shorter than its header"))?;
    if header[0] != VERSION {
        return Err(RecordError::Version(header[0]));
    }
    if header[1] != CODEC_LZ4 {
        return Err(RecordError::Codec(header[1]));
    }
    let raw_length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
    if raw_length > RAW_BYTES_MAX {
        return Err(RecordError::TooLarge(raw_length));
    }
    let raw = lz4_flex::block::decompress(compressed, raw_length)?;
    let mut rest = raw.as_slice();
    let resources = read_table(&mut rest)?;
    let scopes = read_table(&mut rest)?;
    let spans = read_table(&mut rest)?;
    if !rest.is_empty() {
        return Err(RecordError::Malformed("bytes after the last table"));
    }
    Ok(SpanBatch::try_new(resources, scopes, spans)?)
}

fn write_table(table: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
    let mut writer = StreamWriter::try_new_with_options(out, table.schema_ref(), options)?;
    writer.write(table)?;
    writer.finish()
}

fn read_table(rest: &mut &[u8]) -> Result<RecordBatch, RecordError> {
    let short = RecordError::Malformed("shorter than a table says");
    let Some((length, tail)) = rest.split_first_chunk::<4>() else { return Err(short) };
    let length = u32::from_le_bytes(*length) as usize;
    let Some((table, tail)) = tail.split_at_checked(length) else { return Err(short) };
    *rest = tail;
    let reader = StreamReader::try_new(Cursor::new(table), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}
