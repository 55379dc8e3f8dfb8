//! Several files of one day to one, or to a few of a given size: streaming, with bounded memory.
//!
//! ```text
//!  0. check   read all bytes of all inputs once, against their checksums                            (checked)
//!  1. plan    read trace ids and starts of all inputs -> runs of rows, sorted as the output is        (runs)
//!  2. per row group of the output:
//!       read  exactly its rows, by row selection; inputs are nearly sorted, so few pages are read twice  (input)
//!       join  in order, drop spans that are equal in every column, count them                            (group)
//!       write a file of one row group, with columns for the attributes that the table has columns for now
//!  3. stitch  the row groups of one file                                            (storage::stitch)
//! ```
//!
//! In memory are a few words per run of rows, the decoded rows of one row group, and the encoded output. The same code
//! rewrites a file without some of its rows: a merge of one input that does not [`Keep`] all.

mod checked;
mod group;
pub(crate) mod input;
mod reader;
mod runs;

use std::{slice, sync::Arc};

use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use self::{
    checked::HELD_BYTES_MAX,
    group::{Group, merged_schema},
    input::{Input, KEY_COLUMNS},
    runs::{GroupLimits, Runs},
};
pub(crate) use runs::Keep;

use crate::{
    catalog::LiveFile,
    error::{Error, ErrorKind, Result},
    maintain::failed_to_read,
    model::{batch::SpanBatch, promotion::Promotion},
    storage::{
        order::{self, DayRows},
        stitch::stitch,
        store::Store,
        writer::{self, Origin, ROW_GROUP_ROWS_MAX, WrittenFile},
    },
};

/// Decoded rows of one row group, in bytes, by an estimate from the inputs' footers.
const GROUP_BYTES_MAX: u64 = 128 << 20;

/// A file to merge, and what is kept of it.
#[derive(Clone, Debug)]
pub(crate) struct MergeInput {
    pub(crate) file: Arc<LiveFile>,
    pub(crate) keep: Keep,
}

/// What a merge made. Nothing of it is stored yet.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The new files; none if no row was kept.
    pub(crate) files: Vec<WrittenFile>,
    /// Rows that were dropped because another one is equal in every column.
    pub(crate) duplicates: u64,
    /// Rows that were not kept.
    pub(crate) dropped: u64,
}

/// What the outputs of a merge are like.
#[derive(Clone, Debug)]
pub(crate) struct MergeTarget {
    /// About the most bytes of a file.
    pub(crate) file_bytes: u64,
    /// The attributes that get columns: those of the table now, so that old files get new columns when they are merged.
    pub(crate) promotion: Promotion,
}

/// Merges files of one day.
///
/// Reading and encoding take turns on the calling task, which should be on a thread that may block. It ends with an error
/// soon after `stopped` is cancelled.
pub(crate) async fn merge(
    store: &Store,
    inputs: &[MergeInput],
    target: &MergeTarget,
    stopped: &CancellationToken,
) -> Result<Merged> {
    let mut opened = Vec::with_capacity(inputs.len());
    let mut room_bytes = HELD_BYTES_MAX;
    for input in inputs {
        let (file, keep) = (Arc::clone(&input.file), input.keep.clone());
        opened.push(Input::open_checked(store, file, keep, &mut room_bytes).await?);
    }
    let schema = merged_schema(&opened)?;
    let runs = plan(&opened).await?;
    let dropped = runs.rows_dropped();
    let limits = GroupLimits { rows_max: ROW_GROUP_ROWS_MAX as u64, bytes_max: GROUP_BYTES_MAX };
    let groups = runs::groups(&runs.into_sorted(), limits, |run| opened[run.file as usize].row_bytes());

    let mut merged = Merged { files: Vec::new(), duplicates: 0, dropped };
    let mut parts: Vec<WrittenFile> = Vec::new();
    for runs in groups {
        if stopped.is_cancelled() {
            return Err(Error::new(ErrorKind::Unavailable, "the merge was stopped"));
        }
        let Group { batch, duplicates } = group::read(&opened, &schema, &target.promotion, &runs).await?;
        merged.duplicates += duplicates;
        parts.extend(write(&batch)?);
        let bytes: u64 = parts.iter().map(|part| part.bytes.len() as u64).sum();
        if bytes >= target.file_bytes {
            merged.files.push(stitch(std::mem::take(&mut parts))?);
        }
    }
    if !parts.is_empty() {
        merged.files.push(stitch(parts)?);
    }
    Ok(merged)
}

/// Fails if a file is not what was written, or its footer cannot be read or says that it cannot be merged.
pub(crate) async fn check_input(store: &Store, file: &Arc<LiveFile>) -> Result<()> {
    let input = Input::open_checked(store, Arc::clone(file), Keep::All, &mut HELD_BYTES_MAX.clone()).await?;
    merged_schema(&[input]).map(|_| ())
}

/// What is wrong with a file, if it is the fault of the file that work on it failed, and not that of the store or the table.
pub(crate) async fn damage(store: &Store, file: &Arc<LiveFile>) -> Option<Error> {
    check_input(store, file).await.err().filter(|error| error.kind() == ErrorKind::Corrupt)
}

async fn plan(inputs: &[Input]) -> Result<Runs> {
    let mut runs = Runs::default();
    for (file, input) in (0..).zip(inputs) {
        let failed = |cause: parquet::errors::ParquetError| failed_to_read(input.file(), cause.into());
        let mut rows = input.columns(&KEY_COLUMNS)?;
        let mut first_row = 0;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            runs.add(file, first_row, &batch, input.keep());
            first_row += batch.num_rows() as u32;
        }
    }
    Ok(runs)
}

/// The rows of a batch, which are in the order of a file, as a file of one row group.
fn write(batch: &SpanBatch) -> Result<Option<WrittenFile>> {
    let Some((first, _)) = batch.start_time_range() else { return Ok(None) };
    let day = DayRows { date: order::date_of(first), rows: (0..batch.num_spans()).map(|row| (0, row)).collect() };
    Ok(Some(writer::write_file(slice::from_ref(batch), &day, Origin::Merged)?))
}
