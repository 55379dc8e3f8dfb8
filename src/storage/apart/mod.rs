//! Columns of files that a query reads by itself, as codes, beside the scan that finds its rows.
//!
//! A query that counts all values of many columns has no use for arrays: making them costs more than counting. So it marks
//! such columns ([`Apart`]), and asks for the number of the file and of the row. Where a file has a marked column as codes of
//! dictionaries, the scan leaves it out:
//!
//! ```text
//!  in the query                             in a file that is read whole              elsewhere
//!  apart(attr_str(span_attributes, 'k'))    NULL; ColumnsApart knows which column     attr_str(span_attributes, 'k')
//!  file_apart(start_time_unix_nano)         the number of the file in ColumnsApart    NULL
//! ```
//!
//! The query then has the rows of a row group, and reads the pages of the columns itself ([`FileApart`], [`CodedChunk`]): which
//! rows have a value is in them as runs or bits ([`runs`]), and so are the codes. Of the attributes in maps, keys and values come the
//! same way ([`MapEntries`]). Where predicates choose few rows while files
//! are decoded, nothing is set apart, as pages would be read for rows that nobody wants.

mod chunk;
mod entries;
mod marks;
mod runs;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use arrow::datatypes::DataType;
use datafusion::{
    common::{Result, exec_err},
    object_store::{ObjectStore, path::Path},
    physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder},
};
use parking_lot::Mutex;
use parquet::{
    basic::Type,
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};

pub(crate) use self::{
    chunk::{CodedChunk, CodedRows},
    entries::MapEntries,
    marks::{Apart, Mark, NoValue},
};
use crate::{
    model::attributes::{AttributeType, is_attribute_map},
    storage::{
        chunks::{Chunk, place_of},
        dictionary,
        pages::Decompressor,
    },
};

/// Maps of which rows have more entries than this on average are left to the scan.
const ENTRIES_PER_ROW_MAX: i64 = 2;

/// The files of a scan, and which columns of them are read apart from it.
#[derive(Debug, Default)]
pub(crate) struct ColumnsApart {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    numbers: HashMap<Path, usize>,
    all: Vec<Arc<FileApart>>,
}

/// The metric of column chunks that were read apart from a scan.
pub(crate) const CHUNKS_APART: &str = "chunks_apart";

/// What is read apart, among the metrics of a scan.
#[derive(Clone, Debug)]
pub(crate) struct ReadApart {
    bytes: Count,
    chunks: Count,
}

impl ReadApart {
    /// Nothing yet; bytes are counted under this name.
    pub(crate) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize, bytes: &'static str) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self { bytes: counter(bytes), chunks: counter(CHUNKS_APART) }
    }
}

/// A file of which columns are read apart.
#[derive(Debug)]
pub(crate) struct FileApart {
    path: Path,
    metadata: Arc<ParquetMetaData>,
    objects: Arc<dyn ObjectStore>,
    read: ReadApart,
    /// Leaf columns by the numbers that the query gave them.
    columns: Mutex<BTreeMap<usize, usize>>,
    /// Maps of attributes by these numbers.
    maps: Mutex<BTreeMap<usize, MapLeaves>>,
}

/// The leaf columns of a map of attributes.
#[derive(Clone, Debug)]
pub(crate) struct MapLeaves {
    keys: usize,
    values: Vec<(AttributeType, usize)>,
}

impl MapLeaves {
    /// Those of a map that are counted, if all have codes of dictionaries, or are booleans, and there are not many entries: those
    /// of a row group are held in memory.
    fn of(metadata: &ParquetMetaData, map: &str) -> Option<Self> {
        let leaf = |below: &[&str]| {
            let path: Vec<&str> = [map, "key_value"].iter().chain(below).copied().collect();
            dictionary::leaf_of_codes(metadata, &path)
        };
        let value = |value_type: AttributeType| Some((value_type, leaf(&["value", value_type.value_field()])?));
        let values = AttributeType::ALL.into_iter().map(value).collect::<Option<_>>()?;
        let keys = leaf(&["key"])?;
        let is_map = metadata.file_metadata().schema_descr().column(keys).max_rep_level() == 1;
        let has_few = |group: &RowGroupMetaData| {
            group.column(keys).num_values() <= group.num_rows().saturating_mul(ENTRIES_PER_ROW_MAX)
        };
        (is_map && metadata.row_groups().iter().all(has_few)).then_some(Self { keys, values })
    }

    /// All of them, the keys first.
    pub(crate) fn all(&self) -> Vec<usize> {
        std::iter::once(self.keys).chain(self.values.iter().map(|(_, leaf)| *leaf)).collect()
    }
}

impl ColumnsApart {
    /// A file is being opened, with this footer.
    pub(crate) fn opened(
        &self,
        path: &Path,
        metadata: &Arc<ParquetMetaData>,
        objects: &Arc<dyn ObjectStore>,
        read: &ReadApart,
    ) {
        let mut files = self.files.lock();
        if files.numbers.contains_key(path) {
            return;
        }
        let number = files.all.len();
        files.numbers.insert(path.clone(), number);
        files.all.push(Arc::new(FileApart {
            path: path.clone(),
            metadata: Arc::clone(metadata),
            objects: Arc::clone(objects),
            read: read.clone(),
            columns: Mutex::default(),
            maps: Mutex::default(),
        }));
    }

    /// The number of a file that was opened.
    pub(crate) fn number(&self, path: &Path) -> Option<i32> {
        self.files.lock().numbers.get(path).and_then(|number| i32::try_from(*number).ok())
    }

    /// The file with this number.
    pub(crate) fn file(&self, number: i32) -> Option<Arc<FileApart>> {
        self.files.lock().all.get(usize::try_from(number).ok()?).map(Arc::clone)
    }

    /// Sets a column of this type apart under a number, if the file was opened and has it as codes.
    pub(crate) fn set_apart(&self, path: &Path, number: usize, column: &str, data_type: &DataType) -> bool {
        let known = self.files.lock().numbers.get(path).copied();
        let file = known.and_then(|known| self.files.lock().all.get(known).map(Arc::clone));
        let Some(file) = file else { return false };
        if is_attribute_map(data_type) {
            let Some(leaves) = MapLeaves::of(&file.metadata, column) else { return false };
            file.maps.lock().insert(number, leaves);
            return true;
        }
        let Some(leaf) = dictionary::leaf_of_codes(&file.metadata, &[column]) else { return false };
        let schema = file.metadata.file_metadata().schema_descr();
        let descriptor = schema.column(leaf);
        let is_counted = match descriptor.physical_type() {
            Type::BYTE_ARRAY => *data_type == DataType::Utf8,
            Type::INT64 => *data_type == DataType::Int64,
            Type::DOUBLE => *data_type == DataType::Float64,
            _ => false,
        };
        let is_flat = descriptor.max_def_level() <= 1 && descriptor.max_rep_level() == 0;
        if !is_counted || !is_flat {
            return false;
        }
        file.columns.lock().insert(number, leaf);
        true
    }
}

impl FileApart {
    /// Columns that are read apart: the query's number, and the leaf column of the file.
    pub(crate) fn columns(&self) -> Vec<(usize, usize)> {
        self.columns.lock().iter().map(|(number, leaf)| (*number, *leaf)).collect()
    }

    /// Maps that are read apart: the query's number, and the leaf columns of the file.
    pub(crate) fn maps(&self) -> Vec<(usize, MapLeaves)> {
        self.maps.lock().iter().map(|(number, leaves)| (*number, leaves.clone())).collect()
    }

    /// The row group that has a row of the file, and its rows.
    pub(crate) fn group_of(&self, row: i64) -> Option<(usize, Range<i64>)> {
        let mut first = 0;
        for (group, metadata) in self.metadata.row_groups().iter().enumerate() {
            let rows = first..first + metadata.num_rows();
            if rows.contains(&row) {
                return Some((group, rows));
            }
            first = rows.end;
        }
        None
    }

    /// Bytes of a column in a row group, as they are stored.
    pub(crate) fn stored_bytes(&self, group: usize, leaf: usize) -> u64 {
        let place = place_of(self.metadata.row_group(group).column(leaf));
        place.end - place.start
    }

    /// Reads columns of a row group.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn read(&self, group: usize, leaves: &[usize]) -> Result<Vec<Chunk>> {
        let place = |leaf: &usize| place_of(self.metadata.row_group(group).column(*leaf));
        let parts = Chunk::fetch_all(&self.objects, &self.path, leaves.iter().map(place).collect()).await?;
        self.read.bytes.add(parts.iter().map(|part| part.bytes.len()).sum());
        self.read.chunks.add(parts.len());
        Ok(parts)
    }

    /// The entries of the maps of a row group out of the parts that were read, which are those of [`MapLeaves::all`].
    ///
    /// # Errors
    /// Columns have no codes, or are not of one map.
    pub(crate) fn entries(
        &self,
        group: usize,
        leaves: &MapLeaves,
        parts: Vec<Chunk>,
        decompressor: &mut Decompressor,
    ) -> Result<MapEntries> {
        let metadata = self.metadata.row_group(group);
        let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let mut parts = parts.into_iter();
        let Some(keys) = parts.next() else { return exec_err!("a map comes without its keys") };
        let values = leaves.values.iter().zip(parts);
        let values = values.map(|((value_type, leaf), part)| (*value_type, metadata.column(*leaf), part)).collect();
        Ok(MapEntries::read((metadata.column(leaves.keys), keys), values, rows, decompressor)?)
    }

    /// A column of a row group out of the bytes that were read; `None` if no row has a value.
    ///
    /// # Errors
    /// It is no column of codes.
    pub(crate) fn chunk(
        &self,
        group: usize,
        leaf: usize,
        part: Chunk,
        decompressor: &mut Decompressor,
    ) -> Result<Option<CodedChunk>> {
        let metadata = self.metadata.row_group(group);
        let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
        Ok(CodedChunk::open(metadata.column(leaf), part, rows, decompressor)?)
    }
}
