//! `system.files`: one row per file of the table.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, Date32Array, Int64Array, StringArray, TimestampNanosecondArray},
        datatypes::{DataType, Field, SchemaRef},
        record_batch::RecordBatch,
    },
    common::Result,
};

use futures::FutureExt as _;

use super::{SystemTable, column, moment};
use crate::{catalog::LiveFile, live::ReadView, query::spans_table::days_since_epoch};

/// Part of the table's latest known state.
const STORED: &str = "stored";

/// Written on this machine, and on its way to the bucket; lost with the machine's disk only together with the log.
const STAGED: &str = "staged";

pub(super) const TABLE: SystemTable = SystemTable {
    name: "files",
    columns,
    rows: |context, _, schema| {
        let rows = match context.view() {
            Some(view) => rows(schema, view),
            None => Ok(RecordBatch::new_empty(schema)),
        };
        async move { rows }.boxed()
    },
};

fn columns() -> Vec<Field> {
    vec![
        column("path", DataType::Utf8, "below the folder of the table"),
        column("date", DataType::Date32, "UTC day on which its spans start"),
        column("state", DataType::Utf8, "stored, or staged: on the server's disk and not yet in the bucket"),
        column("spans", DataType::Int64, "rows"),
        column("bytes", DataType::Int64, "length of the file"),
        column("first_start", moment(), "least start of a span"),
        column("last_start", moment(), "greatest start of a span"),
        column("written", moment(), "when it was written; NULL while it is staged"),
        column("trace_filter_bytes", DataType::Int64, "of the filter that says which traces it can hold"),
    ]
}

fn rows(schema: SchemaRef, view: &ReadView) -> Result<RecordBatch> {
    let files: Vec<&LiveFile> = view.files().map(AsRef::as_ref).collect();
    let stored = view.snapshot().files().len();
    let integers = |of: fn(&LiveFile) -> Option<i64>| {
        Arc::new(Int64Array::from_iter(files.iter().map(|file| of(file)))) as ArrayRef
    };
    let moments = |of: fn(&LiveFile) -> Option<i64>| {
        let values = TimestampNanosecondArray::from_iter(files.iter().map(|file| of(file)));
        Arc::new(values.with_timezone("UTC")) as ArrayRef
    };
    let states = (0..files.len()).map(|index| if index < stored { STORED } else { STAGED });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| &*file.path))),
        Arc::new(Date32Array::from_iter(files.iter().map(|file| file.date.map(days_since_epoch)))),
        Arc::new(StringArray::from_iter_values(states)),
        integers(|file| file.rows().map(u64::cast_signed)),
        integers(|file| Some(file.size_bytes.cast_signed())),
        moments(|file| Some(file.start_range_unix_nano()?.0)),
        moments(|file| Some(file.start_range_unix_nano()?.1)),
        // Staged files are in no commit, which is what would tell.
        moments(|file| Some(file.modified_unix_milli).filter(|milli| *milli > 0)?.checked_mul(1_000_000)),
        integers(|file| Some((file.trace_filter()?.bytes.end - file.trace_filter()?.bytes.start).cast_signed())),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}
