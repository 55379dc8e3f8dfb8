//! The schema `system`: what the process and the tenant's table know of themselves, as tables.
//!
//! | table | one row per |
//! |---|---|
//! | `system.files` | data file of the tenant's table, those included that wait for their upload |
//! | `system.columns` | column of those files |
//! | `system.queries` | query of this tenant that runs or ended lately |
//! | `system.settings` | setting of the process |
//! | `system.metrics` | sample of what `/metrics` shows |
//! | `system.functions` | function that SQL can call |
//! | `system.tenants` | tenant whose data the caller reads: one |
//!
//! A table is a name, columns with a comment each, and a function that makes its rows when a query scans it; nothing is
//! made for queries that do not ask. What belongs to a tenant is filtered here, by the tenant of the session, so that no
//! condition in a query can widen it.
//!
//! [`information`] is the other schema that describes things: `information_schema`, with the comments of all columns.

mod columns;
mod files;
mod functions;
pub(crate) mod information;
mod metrics;
mod queries;
mod scanned;
mod settings;
mod tenants;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{SchemaProvider, Session, TableProvider},
    common::Result,
};
use futures::future::BoxFuture;

use self::scanned::{MakesRows, Scanned};
use crate::{
    config::Settings,
    live::ReadView,
    metrics::Metrics,
    model::tenant::TenantId,
    query::{SpansTable, log::QueryLog},
};

/// The name of the schema.
pub(crate) const SYSTEM_SCHEMA: &str = "system";

/// The key of a field's metadata that holds the comment of the column.
pub(crate) const COMMENT: &str = "comment";

/// What the tables can look at.
#[derive(Clone, Debug)]
pub(crate) struct SystemContext {
    /// Whose session it is.
    pub(crate) tenant: TenantId,
    /// The tenant's spans: a [`SpansTable`] where they have files.
    pub(crate) base: Arc<dyn TableProvider>,
    /// What the process shares.
    pub(crate) process: Arc<ProcessFacts>,
}

/// What is the same for all sessions of the process.
#[derive(Debug)]
pub(crate) struct ProcessFacts {
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Arc<QueryLog>,
}

/// A table of the schema.
pub(crate) struct SystemTable {
    pub(crate) name: &'static str,
    /// Its columns, made by [`column()`].
    pub(crate) columns: fn() -> Vec<Field>,
    /// All of its rows.
    pub(crate) rows: for<'a> fn(&'a SystemContext, &'a dyn Session, SchemaRef) -> Rows<'a>,
}

/// The rows of a table on their way.
pub(crate) type Rows<'a> = BoxFuture<'a, Result<RecordBatch>>;

/// The tables.
pub(crate) const TABLES: &[SystemTable] =
    &[columns::TABLE, files::TABLE, functions::TABLE, metrics::TABLE, queries::TABLE, settings::TABLE, tenants::TABLE];

/// The names of the tables.
pub(crate) fn table_names() -> Vec<&'static str> {
    TABLES.iter().map(|table| table.name).collect()
}

/// A column that can be NULL, with its comment.
pub(crate) fn column(name: &str, data_type: DataType, comment: &str) -> Field {
    Field::new(name, data_type, true).with_metadata([(COMMENT.to_owned(), comment.to_owned())].into())
}

/// The type of moments.
pub(crate) fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")))
}

impl SystemContext {
    /// The state of the data that the query sees. A base table of another kind, as tests have, lies in no files.
    fn view(&self) -> Option<&ReadView> {
        SpansTable::of(self.base.as_ref()).map(SpansTable::view)
    }
}

impl SystemTable {
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new((self.columns)()))
    }
}

impl std::fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemTable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The schema of one session.
#[derive(Debug)]
pub(crate) struct SystemSchema(pub(crate) Arc<SystemContext>);

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        TABLES.iter().map(|table| table.name.to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = TABLES.iter().find(|table| table.name == name);
        Ok(table
            .map(|table| Arc::new(Scanned(SessionTable::new(table, Arc::clone(&self.0)))) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        TABLES.iter().any(|table| table.name == name)
    }
}

/// A table of one session.
#[derive(Debug)]
struct SessionTable {
    table: &'static SystemTable,
    schema: SchemaRef,
    context: Arc<SystemContext>,
}

impl SessionTable {
    fn new(table: &'static SystemTable, context: Arc<SystemContext>) -> Self {
        Self { table, schema: table.schema(), context }
    }
}

#[async_trait]
impl MakesRows for SessionTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn rows(&self, session: &dyn Session) -> Result<RecordBatch> {
        (self.table.rows)(&self.context, session, self.schema()).await
    }
}
