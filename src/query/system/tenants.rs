//! `system.tenants`: how much the tenant of the session has. Other tenants are not shown.

use std::sync::Arc;

use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray},
    datatypes::{DataType, Field},
};
use futures::FutureExt;

use super::{SystemTable, column, moment};
use crate::query::SpansTable;

pub(super) const TABLE: SystemTable = SystemTable {
    name: "tenants",
    columns,
    rows: |context, _, schema| {
        let spans = SpansTable::of(context.base.as_ref());
        let size = spans.map(SpansTable::size).unwrap_or_default();
        let count = |count: u64| Arc::new(Int64Array::from(vec![i64::try_from(count).unwrap_or(i64::MAX)]));
        let moment = |nano: Option<i64>| Arc::new(TimestampNanosecondArray::from(vec![nano]).with_timezone("UTC"));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![context.tenant.to_string()])),
            count(size.spans),
            count(size.buffered_spans),
            count(size.files),
            count(size.file_bytes),
            moment(size.starts.map(|(first, _)| first)),
            moment(size.starts.map(|(_, last)| last)),
        ];
        async move { Ok(RecordBatch::try_new(schema, columns)?) }.boxed()
    },
};

fn columns() -> Vec<Field> {
    vec![
        column("tenant", DataType::Utf8, "name of the tenant"),
        column("spans", DataType::Int64, "rows in spans"),
        column("buffered_spans", DataType::Int64, "those of them that are in the write-ahead log and in no file yet"),
        column("files", DataType::Int64, "Parquet files"),
        column("file_bytes", DataType::Int64, "bytes of the files"),
        column("first_start_time", moment(), "least start of a span"),
        column("last_start_time", moment(), "greatest start of a span"),
    ]
}
