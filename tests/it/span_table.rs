//! A table of spans over files and buffered batches, for tests of the scan alone.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{Session, TableProvider},
    error::Result,
    execution::{object_store::ObjectStoreUrl, session_state::SessionStateBuilder},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
    prelude::{SessionConfig, SessionContext},
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use tracehouse::{
    functions,
    model::batch::SpanBatch,
    storage::{
        scan::{self, ScanFile, ScanRequest, Selected, table_schema},
        writer::{Origin, WrittenFile, write_files},
    },
};

/// The base table over some files and buffered batches.
#[derive(Debug)]
pub(crate) struct StoredTable {
    pub(crate) files: Vec<ScanFile>,
    pub(crate) buffered: Vec<Arc<SpanBatch>>,
}

#[async_trait::async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        table_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let request = ScanRequest {
            store: store_url(),
            files: self.files.clone(),
            buffered: self.buffered.clone(),
            projection: projection.map(Vec::as_slice),
            limit,
            is_narrow: false,
            selected: Selected::Traces,
            demand: None,
        };
        scan::plan(session, &request)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(scan::supports_filters(filters))
    }
}

pub(crate) fn store_url() -> ObjectStoreUrl {
    tracehouse::storage::store::Store::url()
}

/// A session with the functions and settings that scans need.
pub(crate) fn context(partitions: usize, batch_rows: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_rows);
    let config = scan::session_config(config);
    SessionContext::new_with_state(
        functions::configure(SessionStateBuilder::new().with_config(config).with_default_features()).build(),
    )
}

/// Writes the files of a batch into a folder of a store.
pub(crate) async fn write(store: &dyn ObjectStore, folder: &str, batch: &SpanBatch) -> Vec<ScanFile> {
    let mut files = Vec::new();
    for file in write_files(std::slice::from_ref(batch), Origin::Merged).unwrap() {
        files.push(put(store, folder, file).await);
    }
    files
}

/// Puts a file into a folder of a store.
pub(crate) async fn put(store: &dyn ObjectStore, folder: &str, file: WrittenFile) -> ScanFile {
    let path = Path::from(format!("{folder}/date={}.parquet", file.date));
    let size_bytes = file.bytes.len() as u64;
    store.put(&path, file.bytes.into()).await.unwrap();
    let start_time_range = Some((file.ranges[0].min, file.ranges[0].max));
    ScanFile { path, size_bytes, date: file.date, rows: Some(file.rows), start_time_range, selected: None, runs: None }
}
