//! Where the spans of traces are in the files of a table, and how many there are, without a scan.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::array::AsArray, catalog::Session, common::Result, error::DataFusionError,
    execution::runtime_env::RuntimeEnv, object_store::ObjectStore,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parquet::arrow::arrow_reader::RowSelection;

use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::spans_table::{FOOTER_READS_MAX, SpansTable, scan_file},
    storage::{
        scan::ScanFile,
        start_set::row_of,
        store::Store,
        trace_rows::{Runs, TraceRows},
        trace_set::{ByTrace, TraceSet, count},
    },
};

/// Fewer traces are looked up by bloom filters, which is less to read than the ids of all rows.
pub(super) const ROWS_TRACES_MIN: usize = 16;

/// Rows that are decoded for one of them: those of a page.
const ROWS_PER_READ: usize = 8_192;

/// Whether the rows of traces in all files are in memory.
pub(super) fn knows_rows(session: &dyn Session, files: &[ScanFile]) -> bool {
    let known = session.config().get_extension::<TraceRows>();
    known.is_some_and(|known| files.iter().all(|file| known.known(file).is_some()))
}

/// What is known of the rows of files, and the way to them.
struct Rows<'a> {
    known: Arc<TraceRows>,
    runtime: &'a RuntimeEnv,
    objects: Arc<dyn ObjectStore>,
}

impl Rows<'_> {
    async fn of(&self, file: &ScanFile) -> Result<Option<Arc<Runs>>> {
        self.known.runs(self.runtime, &Store::url(), &self.objects, file).await
    }
}

impl SpansTable {
    /// `None` if nothing is to be kept of rows.
    fn rows<'a>(&self, session: &'a dyn Session) -> Result<Option<Rows<'a>>> {
        let Some(known) = session.config().get_extension::<TraceRows>() else { return Ok(None) };
        let runtime = session.runtime_env().as_ref();
        let objects = match self.objects() {
            Some(objects) => Arc::clone(objects),
            None => runtime.object_store(Store::url())?,
        };
        Ok(Some(Rows { known, runtime, objects }))
    }

    /// The same files with the rows that belong to the traces which are wanted, if all of them tell; without those that have
    /// none.
    pub(super) async fn with_rows(
        &self,
        session: &dyn Session,
        files: Vec<ScanFile>,
        wanted: &TraceSet,
    ) -> Result<Vec<ScanFile>> {
        let Some(rows) = &self.rows(session)? else { return Ok(files) };
        let select = |file: ScanFile| async move {
            let runs = rows.of(&file).await?;
            Ok::<_, DataFusionError>(ScanFile { selected: runs.map(|runs| runs.rows_of(wanted)), ..file })
        };
        let mut with_rows: Vec<ScanFile> =
            stream::iter(files).map(select).buffered(FOOTER_READS_MAX).try_collect().await?;
        if with_rows.iter().any(|file| file.selected.is_none()) {
            with_rows.iter_mut().for_each(|file| file.selected = None);
        }
        with_rows.retain(|file| file.selected.as_ref().is_none_or(RowSelection::selects_any));
        Ok(with_rows)
    }

    /// The traces of rows of files ([`row_in_file`](crate::storage::start_set::row_in_file)), each with the start of its span, as far
    /// as that is in memory, or is read into it for little more than the rows themselves would cost.
    pub(crate) async fn traces_of_rows(
        &self,
        session: &dyn Session,
        wanted: &[(i64, u64)],
    ) -> Result<HashMap<u64, TraceId>> {
        let mut traces = HashMap::new();
        let Some(rows) = &self.rows(session)? else { return Ok(traces) };
        let mut of_files: Vec<(ScanFile, Vec<(u64, u32)>)> = Vec::new();
        let mut files_of: HashMap<u64, usize> = HashMap::new();
        for file in self.files() {
            let has =
                |start: i64| file.start_range_unix_nano().is_some_and(|(first, last)| (first..=last).contains(&start));
            let here = wanted.iter().filter(|(start, _)| has(*start));
            let here: Vec<_> = here.filter_map(|(_, row)| Some((*row, row_of(*row, &file.location)?))).collect();
            here.iter().for_each(|(row, _)| *files_of.entry(*row).or_default() += 1);
            if !here.is_empty() {
                of_files.push((scan_file(file), here));
            }
        }
        let read = |(file, here): (ScanFile, Vec<(u64, u32)>)| async move {
            let pays = file.rows.is_some_and(|all| here.len().saturating_mul(ROWS_PER_READ) * 2 >= all);
            let runs = if pays { rows.of(&file).await? } else { rows.known.known(&file) };
            Ok::<_, DataFusionError>((runs, here))
        };
        let mut of_files = stream::iter(of_files).map(read).buffer_unordered(FOOTER_READS_MAX);
        while let Some((runs, here)) = of_files.try_next().await? {
            let Some(runs) = runs else { continue };
            // Marks of two files may be equal.
            for (marked, row) in here.into_iter().filter(|(marked, _)| files_of.get(marked) == Some(&1)) {
                if let Ok(ids) = runs.ids_of(&[i64::from(row)])
                    && let Ok(id) = <[u8; TraceId::LEN]>::try_from(ids.value(0))
                {
                    traces.insert(marked, TraceId::from_bytes(id));
                }
            }
        }
        Ok(traces)
    }

    /// How many spans each trace has that start within a range, with `only` of those alone, and how many spans there are of
    /// all traces; `None` if only their rows tell, as where some of a file start in the range and others do not.
    pub(crate) async fn counted(
        &self,
        session: &dyn Session,
        within: TimeRange,
        only: Option<&TraceSet>,
    ) -> Result<Option<(ByTrace<u32>, u64)>> {
        let Some(rows) = &self.rows(session)? else { return Ok(None) };
        let (mut counts, mut all, mut files) = (ByTrace::default(), 0, Vec::new());
        for file in self.files() {
            match file.start_range_unix_nano() {
                Some(starts) if within.holds(starts) => files.push(scan_file(file)),
                Some((first, last)) if !within.overlaps(first, last) => {}
                _ => return Ok(None),
            }
        }
        for batch in self.buffered() {
            match batch.start_time_range() {
                Some(starts) if within.holds(starts) => {
                    count(batch.spans()[column::TRACE_ID].as_fixed_size_binary(), only, &mut counts);
                    all += batch.num_spans() as u64;
                }
                Some((first, last)) if within.overlaps(first, last) => return Ok(None),
                _ => {}
            }
        }
        let mut read =
            stream::iter(files).map(|file| async move { rows.of(&file).await }).buffer_unordered(FOOTER_READS_MAX);
        while let Some(runs) = read.try_next().await? {
            let Some(runs) = runs else { return Ok(None) };
            all += u64::from(runs.rows());
            runs.count(only, &mut counts);
        }
        Ok(Some((counts, all)))
    }
}
