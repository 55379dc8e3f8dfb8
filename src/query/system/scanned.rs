//! Tables whose rows are made when a query scans them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    catalog::{Session, TableProvider},
    common::Result,
    datasource::memory::MemorySourceConfig,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};

/// Makes the rows of a table.
#[async_trait]
pub(super) trait MakesRows: fmt::Debug + Send + Sync + 'static {
    /// The columns of the rows.
    fn schema(&self) -> SchemaRef;

    /// All rows there are now.
    async fn rows(&self, session: &dyn Session) -> Result<RecordBatch>;
}

/// A table of what a value of this type makes.
#[derive(Debug)]
pub(super) struct Scanned<T>(pub(super) T);

#[async_trait]
impl<T: MakesRows> TableProvider for Scanned<T> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.0.rows(session).await?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.0.schema(), projection.cloned())?)
    }
}
