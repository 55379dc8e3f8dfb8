//! Which rows of a file belong to which trace, and which are roots: read once, kept under a budget, so that a query that has
//! found its traces decodes the other columns of their rows and looks at no ids, and one that shows ids, or asks for roots,
//! decodes none (`scan::by_row_number`).
//!
//! ```text
//!  trace_id of a file         a a a b b c c c c a ..          pages of plain values
//!  its runs                   (a, 3) (b, 5) (c, 9) (a, 10)    each trace with the row behind it
//!  rows of {a, c}             0..3, 5..10
//!  parent_span_id of a file   - 1 1 - 2 7 7 7 7 1 ..
//!  its roots                  1 0 0 1 0 0 0 0 0 0 ..          a bit per row
//! ```
//!
//! In a file the spans of a trace lie together, so there are few runs. Rows that are named are those of the traces, exactly;
//! what queries ask of spans besides that stays in their plans. A file whose ids are stored in another way than ours has no
//! runs, and is read with a predicate on its ids.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray},
    buffer::BooleanBuffer,
    compute::is_null,
};
use datafusion::{
    common::{Result, exec_err, runtime::SpawnedTask},
    error::DataFusionError,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
};
use object_store::ObjectStore;
use parking_lot::Mutex;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection},
    },
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
    },
};

use crate::{
    model::{ids::TraceId, schema::column},
    storage::{
        chunks::{Chunk, Parts, place_of},
        footer::read_metadata,
        kept::{InMemory, Kept},
        scan::ScanFile,
        trace_set::{ByTrace, TraceSet},
    },
};

/// Largest chunk of a column of ids that is read, in bytes of the file.
const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Rows of which parents are decoded at once.
const ROWS_AT_ONCE: usize = 8_192;

/// A run of rows of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    id: [u8; TraceId::LEN],
    /// The row behind it.
    end: u32,
}

/// Which trace each row of a file belongs to, as runs in the order of the rows, and which rows are roots.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: Vec<Run>,
    /// A bit per row; `None` if the file does not tell.
    roots: Option<BooleanBuffer>,
}

impl InMemory for Runs {
    fn memory_bytes(&self) -> usize {
        let roots = self.roots.as_ref().map_or(0, |roots| roots.inner().capacity());
        self.runs.capacity() * size_of::<Run>() + roots
    }
}

impl Runs {
    /// How many rows there are.
    pub(crate) fn rows(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Adds ids, one after the other; `None` if there are more rows than can be counted.
    fn add(&mut self, ids: &[u8]) -> Option<()> {
        for id in ids.chunks_exact(TraceId::LEN) {
            match self.runs.last_mut() {
                Some(run) if run.id == id => run.end = run.end.checked_add(1)?,
                last => {
                    let end = last.map_or(0, |run| run.end).checked_add(1)?;
                    self.runs.push(Run { id: id.try_into().ok()?, end });
                }
            }
        }
        Some(())
    }

    /// Adds the ids of a column chunk; `None` if they are not stored as plain values.
    fn add_chunk(
        &mut self,
        chunk: &ColumnChunkMetaData,
        rows: usize,
        bytes: Chunk,
    ) -> Result<Option<()>, ParquetError> {
        let descriptor = chunk.column_descr();
        let is_plain = descriptor.physical_type() == Type::FIXED_LEN_BYTE_ARRAY
            && usize::try_from(descriptor.type_length()) == Ok(TraceId::LEN)
            && (descriptor.max_def_level(), descriptor.max_rep_level()) == (0, 0);
        if !is_plain {
            return Ok(None);
        }
        let mut pages = SerializedPageReader::new(Arc::new(bytes), chunk, rows, None)?;
        while let Some(page) = pages.get_next_page()? {
            // A column that is always there has no levels in front of its values.
            let added = match &page {
                Page::DataPage { buf, encoding: Encoding::PLAIN, .. }
                | Page::DataPageV2 { buf, encoding: Encoding::PLAIN, .. } => self.add(buf),
                _ => None,
            };
            if added.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Whether it is known which rows are roots.
    pub(crate) fn knows_roots(&self) -> bool {
        self.roots.is_some()
    }

    /// Whether rows are roots.
    ///
    /// # Errors
    /// There is no such row, or it is not known.
    pub(crate) fn are_roots(&self, rows: &[i64]) -> Result<BooleanArray> {
        let Some(roots) = &self.roots else { return exec_err!("it is not known which rows of a file are roots") };
        let is_there = |row: &i64| usize::try_from(*row).is_ok_and(|row| row < roots.len());
        if let Some(row) = rows.iter().find(|row| !is_there(row)) {
            return exec_err!("there is no row {row} among {}", roots.len());
        }
        Ok(BooleanBuffer::collect_bool(rows.len(), |at| roots.value(rows[at] as usize)).into())
    }

    /// Adds the rows of traces to counts of them; with `only`, of those alone.
    pub(crate) fn count(&self, only: Option<&TraceSet>, counts: &mut ByTrace<u32>) {
        for (number, rows) in self.iter().filter(|(number, _)| only.is_none_or(|only| only.holds(*number))) {
            let spans = counts.entry(number).or_insert(0);
            *spans = spans.saturating_add(rows.end - rows.start);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u128, Range<u32>)> {
        let mut start = 0;
        self.runs.iter().map(move |run| (u128::from_be_bytes(run.id), std::mem::replace(&mut start, run.end)..run.end))
    }

    /// The trace ids of rows, which mostly come in order.
    ///
    /// # Errors
    /// There is no such row.
    pub(crate) fn ids_of(&self, rows: &[i64]) -> Result<FixedSizeBinaryArray> {
        let mut ids = Vec::with_capacity(rows.len() * TraceId::LEN);
        let (mut run, mut start) = (0, 0);
        for row in rows {
            let number = u32::try_from(*row).ok().filter(|row| *row < self.rows());
            let Some(number) = number else {
                return exec_err!("there is no row {row} among {}", self.rows());
            };
            if number < start || number >= self.runs[run].end {
                run = match self.runs.get(run + 1).is_some_and(|next| number >= self.runs[run].end && number < next.end)
                {
                    true => run + 1,
                    false => self.runs.partition_point(|run| run.end <= number),
                };
                start = run.checked_sub(1).map_or(0, |before| self.runs[before].end);
            }
            ids.extend_from_slice(&self.runs[run].id);
        }
        Ok(FixedSizeBinaryArray::try_new(TraceId::LEN as i32, ids.into(), None)?)
    }

    /// The rows of traces that are wanted.
    pub(crate) fn rows_of(&self, traces: &TraceSet) -> RowSelection {
        let wanted = self.iter().filter(|(number, _)| traces.holds(*number));
        let wanted = wanted.map(|(_, rows)| rows.start as usize..rows.end as usize);
        RowSelection::from_consecutive_ranges(wanted, self.rows() as usize)
    }
}

/// The runs of files, for scans: an extension of the session.
#[derive(Debug)]
pub(crate) struct TraceRows {
    bytes_max: usize,
    kept: Mutex<Kept<Runs>>,
}

impl TraceRows {
    /// Nothing yet, and later at most this many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    /// The runs of a file, if they are in memory.
    pub(crate) fn known(&self, file: &ScanFile) -> Option<Arc<Runs>> {
        self.kept.lock().used(&file.path)
    }

    /// The runs of a file, read by way of `objects`; `None` if it does not tell.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn runs(
        &self,
        runtime: &RuntimeEnv,
        store: &ObjectStoreUrl,
        objects: &Arc<dyn ObjectStore>,
        file: &ScanFile,
    ) -> Result<Option<Arc<Runs>>> {
        match self.known(file) {
            Some(runs) => Ok(Some(runs)),
            None => self.read(runtime, store, objects, file).await,
        }
    }

    async fn read(
        &self,
        runtime: &RuntimeEnv,
        store: &ObjectStoreUrl,
        objects: &Arc<dyn ObjectStore>,
        file: &ScanFile,
    ) -> Result<Option<Arc<Runs>>> {
        let metadata = read_metadata(runtime, store, file).await?;
        let Some((leaf, ids)) = chunks_of(&metadata, column::TRACE_ID) else { return Ok(None) };
        let parents = chunks_of(&metadata, column::PARENT_SPAN_ID);
        let ids = Chunk::fetch_all(objects, &file.path, ids).await?;
        let parents = match parents {
            Some((_, parents)) => Some(Chunk::fetch_all(objects, &file.path, parents).await?),
            None => None,
        };
        let decoding = SpawnedTask::spawn(async move {
            let mut runs = Runs::default();
            for (group, chunk) in metadata.row_groups().iter().zip(ids) {
                let rows = usize::try_from(group.num_rows())?;
                if runs.add_chunk(group.column(leaf), rows, chunk)?.is_none() {
                    return Ok(None);
                }
            }
            runs.runs.shrink_to_fit();
            if i64::from(runs.rows()) != metadata.file_metadata().num_rows() {
                return Ok(None);
            }
            if let Some(parents) = parents {
                runs.roots = Some(roots(metadata, Parts(parents))?);
            }
            Ok::<_, ParquetError>(Some(Arc::new(runs)))
        });
        let runs = decoding.join().await.map_err(|lost| DataFusionError::ExecutionJoin(Box::new(lost)))??;
        if let Some(runs) = &runs {
            self.kept.lock().insert(&file.path, runs, self.bytes_max);
        }
        Ok(runs)
    }
}

/// A column that each row has one value of, by its place among the columns of a file, and where its chunks are; `None` if
/// they are too large.
fn chunks_of(metadata: &ParquetMetaData, name: &str) -> Option<(usize, Vec<Range<u64>>)> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let leaf = columns.iter().position(|leaf| leaf.path().parts() == [name])?;
    let range = |group: &RowGroupMetaData| {
        let place = place_of(group.column(leaf));
        (place.end - place.start <= CHUNK_BYTES_MAX).then_some(place)
    };
    Some((leaf, metadata.row_groups().iter().map(range).collect::<Option<_>>()?))
}

/// The rows without a parent, out of the column of parents' ids.
fn roots(metadata: Arc<ParquetMetaData>, parents: Parts) -> Result<BooleanBuffer, ParquetError> {
    let rows = usize::try_from(metadata.file_metadata().num_rows())?;
    let mask = ProjectionMask::columns(metadata.file_metadata().schema_descr(), [column::PARENT_SPAN_ID]);
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(parents, metadata);
    let mut roots = BooleanBufferBuilder::new(rows);
    for batch in reader.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()? {
        roots.append_buffer(is_null(batch?.column(0))?.values());
    }
    Ok(roots.finish())
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{hash_set, vec},
        prelude::*,
    };

    use super::*;

    proptest! {
        #[test]
        fn the_rows_of_traces_are_those_that_have_their_ids(
            ids in vec(0..6_u128, 0..60),
            wanted in hash_set(0..8_u128, 0..4),
            cut in 0..60_usize,
        ) {
            let traces = TraceSet::of(wanted.iter().map(|number| TraceId::from_bytes(number.to_be_bytes())));
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
            let (first, second) = bytes.split_at(cut.min(ids.len()) * TraceId::LEN);
            let mut runs = Runs::default();
            runs.add(first).unwrap();
            runs.add(second).unwrap();
            prop_assert_eq!(runs.rows() as usize, ids.len());
            let mut row = 0;
            let mut selected = vec![false; ids.len()];
            for selector in runs.rows_of(&traces).iter() {
                selected[row..row + selector.row_count].fill(!selector.skip);
                row += selector.row_count;
            }
            let expected: Vec<bool> = ids.iter().map(|id| wanted.contains(id)).collect();
            prop_assert_eq!(selected, expected);
        }

        #[test]
        fn a_row_has_the_id_that_is_stored_for_it(ids in vec(0..6_u128, 1..60), rows in vec(0..60_usize, 0..30)) {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
            let mut runs = Runs::default();
            runs.add(&bytes).unwrap();
            // In order, as a scan has them, and in any other.
            let any: Vec<usize> = rows.into_iter().map(|row| row % ids.len()).collect();
            for rows in [(0..ids.len()).collect::<Vec<_>>(), (0..ids.len()).step_by(3).collect(), any] {
                let found = runs.ids_of(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>()).unwrap();
                let expected: Vec<_> = rows.iter().map(|row| ids[*row].to_be_bytes()).collect();
                prop_assert_eq!(found.iter().flatten().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
            }
            prop_assert!(runs.ids_of(&[ids.len() as i64]).is_err());
            prop_assert!(runs.ids_of(&[-1]).is_err());
        }

        #[test]
        fn a_row_is_a_root_if_its_bit_is_set(roots in vec(proptest::bool::ANY, 1..60), rows in vec(0..60_usize, 0..30)) {
            let runs = Runs { roots: Some(roots.iter().copied().collect()), ..Runs::default() };
            let rows: Vec<usize> = rows.into_iter().map(|row| row % roots.len()).collect();
            let found = runs.are_roots(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>()).unwrap();
            let expected: Vec<bool> = rows.iter().map(|row| roots[*row]).collect();
            prop_assert_eq!(found.values().iter().collect::<Vec<_>>(), expected);
            prop_assert!(runs.are_roots(&[roots.len() as i64]).is_err());
            prop_assert!(runs.are_roots(&[-1]).is_err());
            prop_assert!(Runs::default().are_roots(&[0]).is_err(), "it is not known");
        }
    }
}
