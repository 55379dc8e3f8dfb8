//! Parts of a file in memory, for readers that know the offsets of the whole file.

use std::io::Read;

use bytes::{Buf, Bytes};
use parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};

/// A part of a file, read by the file's own offsets.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: u64,
    pub(crate) bytes: Bytes,
}

impl Chunk {
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
