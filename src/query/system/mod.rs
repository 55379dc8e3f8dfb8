//! The schema `system`: what the warehouse knows about itself, as tables.
//!
//! ```text
//!  system.files      the files of the tenant's table, those that wait for their upload included   catalogue only
//!  system.columns    the columns of those files with their sizes                                  footers, which are cached
//! ```
//!
//! Every table shows the one tenant of the query, at the one moment that the query sees: both read the view behind the base
//! table. Rows are made when a plan is about to run, in memory; there are as many as files or columns.
//!
//! A table of the schema is a file here: its columns, and its rows as one batch.

mod columns;
mod files;

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    catalog::{
        CatalogProvider, MemTable, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, Session, TableProvider,
    },
    common::Result,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};

use crate::{live::ReadView, query::spans_table::SpansTable};

/// The name of the schema.
pub(crate) const SYSTEM: &str = "system";

/// The tables of the schema, in the order of their names.
pub(crate) const TABLES: [&str; 2] = ["columns", "files"];

/// Adds the schema, with its tables on the view behind `base`, to a catalogue.
pub(crate) fn register(catalog: &MemoryCatalogProvider, base: &Arc<dyn TableProvider>) -> Result<()> {
    let schema = MemorySchemaProvider::new();
    for kind in [Kind::Columns, Kind::Files] {
        let table = SystemTable { kind, schema: kind.schema(), base: Arc::clone(base) };
        schema.register_table(kind.name().to_owned(), Arc::new(table))?;
    }
    catalog.register_schema(SYSTEM, Arc::new(schema))?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Columns,
    Files,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Columns => TABLES[0],
            Kind::Files => TABLES[1],
        }
    }

    fn schema(self) -> SchemaRef {
        match self {
            Kind::Columns => columns::schema(),
            Kind::Files => files::schema(),
        }
    }

    async fn rows(self, session: &dyn Session, view: &ReadView) -> Result<RecordBatch> {
        match self {
            Kind::Columns => columns::rows(session.runtime_env(), view).await,
            Kind::Files => files::rows(view),
        }
    }
}

/// One table of the schema, in one query.
#[derive(Debug)]
struct SystemTable {
    kind: Kind,
    schema: SchemaRef,
    base: Arc<dyn TableProvider>,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // A base table of another kind, as tests have, lies in no files.
        let rows = match (self.base.as_ref() as &dyn Any).downcast_ref::<SpansTable>() {
            Some(spans) => self.kind.rows(session, spans.view()).await?,
            None => RecordBatch::new_empty(Arc::clone(&self.schema)),
        };
        MemTable::try_new(Arc::clone(&self.schema), vec![vec![rows]])?.scan(session, projection, &[], limit).await
    }
}
