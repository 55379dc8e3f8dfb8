//! Where the spans of traces are in the files of a table, and how many there are, without a scan.

use std::sync::Arc;

use datafusion::{
    arrow::array::AsArray, catalog::Session, common::Result, error::DataFusionError, object_store::ObjectStore,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parquet::arrow::arrow_reader::RowSelection;

use crate::{
    model::{schema::column, time::TimeRange},
    query::spans_table::{FOOTER_READS_MAX, SpansTable, scan_file},
    storage::{
        scan::ScanFile,
        store::Store,
        trace_rows::TraceRows,
        trace_set::{ByTrace, TraceSet, count},
    },
};

/// Fewer traces are looked up by bloom filters, which is less to read than the ids of all rows.
pub(super) const ROWS_TRACES_MIN: usize = 16;

/// Whether the rows of traces in all files are in memory.
pub(super) fn knows_rows(session: &dyn Session, files: &[ScanFile]) -> bool {
    let known = session.config().get_extension::<TraceRows>();
    known.is_some_and(|known| files.iter().all(|file| known.knows(file)))
}

impl SpansTable {
    fn rows_store(&self, session: &dyn Session) -> Result<Arc<dyn ObjectStore>> {
        match self.objects() {
            Some(objects) => Ok(Arc::clone(objects)),
            None => session.runtime_env().object_store(Store::url()),
        }
    }

    /// The same files with the rows that belong to the traces which are wanted, if all of them tell; without those that have
    /// none.
    pub(super) async fn with_rows(
        &self,
        session: &dyn Session,
        files: Vec<ScanFile>,
        is_wanted: &(dyn Fn(u128) -> bool + Sync),
    ) -> Result<Vec<ScanFile>> {
        let Some(known) = session.config().get_extension::<TraceRows>() else { return Ok(files) };
        let (runtime, store, objects) = (session.runtime_env(), Store::url(), self.rows_store(session)?);
        let rows = |file: ScanFile| {
            let (known, objects, store) = (&known, &objects, &store);
            async move {
                let runs = known.runs(runtime, store, objects, &file).await?;
                Ok::<_, DataFusionError>(ScanFile { selected: runs.map(|runs| runs.rows_of(is_wanted)), ..file })
            }
        };
        let mut with_rows: Vec<ScanFile> =
            stream::iter(files).map(rows).buffered(FOOTER_READS_MAX).try_collect().await?;
        if with_rows.iter().any(|file| file.selected.is_none()) {
            with_rows.iter_mut().for_each(|file| file.selected = None);
        }
        with_rows.retain(|file| file.selected.as_ref().is_none_or(RowSelection::selects_any));
        Ok(with_rows)
    }

    /// How many spans each trace has that start within a range, with `only` of those alone, and how many spans there are of
    /// all traces; `None` if only their rows tell, as where some of a file start in the range and others do not.
    pub(crate) async fn counted(
        &self,
        session: &dyn Session,
        within: TimeRange,
        only: Option<&TraceSet>,
    ) -> Result<Option<(ByTrace<u32>, u64)>> {
        let Some(known) = session.config().get_extension::<TraceRows>() else { return Ok(None) };
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
        let (runtime, store, objects) = (session.runtime_env(), Store::url(), self.rows_store(session)?);
        let runs = |file: ScanFile| {
            let (known, objects, store) = (&known, &objects, &store);
            async move { known.runs(runtime, store, objects, &file).await }
        };
        let mut read = stream::iter(files).map(runs).buffer_unordered(FOOTER_READS_MAX);
        while let Some(runs) = read.try_next().await? {
            let Some(runs) = runs else { return Ok(None) };
            all += u64::from(runs.rows());
            runs.count(only, &mut counts);
        }
        Ok(Some((counts, all)))
    }
}
