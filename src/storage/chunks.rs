//! Parts of a file in memory, for readers that know the offsets of the whole file.

use std::{io::Read, ops::Range, sync::Arc};

use bytes::{Buf, Bytes};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    errors::{ParquetError, Result},
    file::{
        metadata::ColumnChunkMetaData,
        reader::{ChunkReader, Length},
    },
};

/// A part of a file, read by the file's own offsets.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: u64,
    pub(crate) bytes: Bytes,
}

/// Where the pages of a column of a row group are, its dictionary among them.
pub(crate) fn place_of(chunk: &ColumnChunkMetaData) -> Range<u64> {
    let (start, length) = chunk.byte_range();
    start..start.saturating_add(length)
}

impl Chunk {
    /// Reads a part of a file.
    pub(crate) async fn fetch(
        objects: &Arc<dyn ObjectStore>,
        path: &Path,
        place: Range<u64>,
    ) -> object_store::Result<Self> {
        let start = place.start;
        Ok(Self { start, bytes: objects.get_range(path, place).await? })
    }

    /// Reads parts of a file, in this order.
    pub(crate) async fn fetch_all(
        objects: &Arc<dyn ObjectStore>,
        path: &Path,
        places: Vec<Range<u64>>,
    ) -> object_store::Result<Vec<Self>> {
        let parts = objects.get_ranges(path, &places).await?;
        Ok(places.into_iter().zip(parts).map(|(place, bytes)| Self { start: place.start, bytes }).collect())
    }

    fn from(&self, offset: u64) -> Result<Bytes> {
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        match at.filter(|at| *at <= self.bytes.len()) {
            Some(at) => Ok(self.bytes.slice(at..)),
            None => Err(ParquetError::EOF(format!("byte {offset} is outside of the part that was read"))),
        }
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Chunk {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(Box::new(self.from(start)?.reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!(
                "{length} bytes from {start} on reach out of the part that was read"
            )));
        }
        Ok(bytes.slice(..length))
    }
}

/// Some parts of a file.
#[derive(Clone, Debug)]
pub(crate) struct Parts(pub(crate) Vec<Chunk>);

impl Parts {
    fn part(&self, start: u64) -> Result<&Chunk> {
        let holds = |part: &&Chunk| part.start <= start && start < part.len();
        let found = self.0.iter().find(holds);
        found.ok_or_else(|| ParquetError::EOF(format!("byte {start} is in no part that was read")))
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.0.iter().map(Length::len).max().unwrap_or(0)
    }
}

impl ChunkReader for Parts {
    type T = <Chunk as ChunkReader>::T;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.part(start)?.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.part(start)?.get_bytes(start, length)
    }
}
