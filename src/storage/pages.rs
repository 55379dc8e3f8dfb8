//! The pages of a column chunk, for those who read many chunks by themselves.
//!
//! The library makes what undoes compression anew for each chunk, which takes as long as undoing that of a small page: zstd asks
//! the processor what it can do, and in a virtual machine its host answers that. So of chunks with zstd, the library is given
//! pages as if they were not compressed, and one [`Decompressor`] serves all chunks.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    basic::Compression,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
};
use zstd::zstd_safe::get_frame_content_size;

use crate::storage::chunks::Chunk;

/// What undoes the compression of pages, made when it is first needed.
#[derive(Default)]
pub(crate) struct Decompressor(Option<zstd::bulk::Decompressor<'static>>);

impl Decompressor {
    /// The bytes of a page, of which the first `plain` are not compressed, and which take at most `bytes_max`.
    fn undo(&mut self, page: &[u8], plain: usize, bytes_max: usize) -> Result<Bytes> {
        let Some((plain, compressed)) = page.split_at_checked(plain) else {
            return Err(ParquetError::EOF("a page ends before its levels".to_owned()));
        };
        if compressed.is_empty() {
            return Ok(Bytes::copy_from_slice(plain));
        }
        let size = get_frame_content_size(compressed).ok().flatten().and_then(|size| usize::try_from(size).ok());
        let size = size.unwrap_or(bytes_max);
        if size > bytes_max {
            return Err(ParquetError::General(format!("a page of {size} bytes is in a chunk of {bytes_max}")));
        }
        let decompressor = match &mut self.0 {
            Some(known) => known,
            unknown => unknown.insert(zstd::bulk::Decompressor::new()?),
        };
        let values = decompressor.decompress(compressed, size)?;
        Ok(if plain.is_empty() { values.into() } else { [plain, &values].concat().into() })
    }
}

/// The pages of a column chunk, one after the other.
pub(crate) struct Pages {
    pages: SerializedPageReader<Chunk>,
    has_zstd: bool,
    /// Bytes of all pages together, without compression.
    bytes_max: usize,
}

impl Pages {
    /// Those of a chunk of so many rows, which `bytes` begin with.
    pub(crate) fn of(chunk: &ColumnChunkMetaData, bytes: Chunk, rows: usize) -> Result<Self> {
        let has_zstd = matches!(chunk.compression(), Compression::ZSTD(_));
        let bytes_max = usize::try_from(chunk.uncompressed_size())?;
        let pages = match has_zstd {
            true => {
                let as_stored = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
                SerializedPageReader::new(Arc::new(bytes), &as_stored, rows, None)?
            }
            false => SerializedPageReader::new(Arc::new(bytes), chunk, rows, None)?,
        };
        Ok(Self { pages, has_zstd, bytes_max })
    }

    /// What is known of the next page.
    pub(crate) fn peek(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    /// Leaves the next page out.
    pub(crate) fn skip(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    /// The next page, without compression.
    pub(crate) fn next(&mut self, decompressor: &mut Decompressor) -> Result<Option<Page>> {
        let Some(mut page) = self.pages.get_next_page()? else { return Ok(None) };
        if self.has_zstd {
            let (stored, plain) = match &mut page {
                Page::DictionaryPage { buf, .. } | Page::DataPage { buf, .. } => (buf, 0),
                Page::DataPageV2 { is_compressed: false, .. } => return Ok(Some(page)),
                Page::DataPageV2 { buf, rep_levels_byte_len, def_levels_byte_len, .. } => {
                    (buf, (*rep_levels_byte_len as usize).saturating_add(*def_levels_byte_len as usize))
                }
            };
            *stored = decompressor.undo(stored, plain, self.bytes_max)?;
        }
        Ok(Some(page))
    }
}
