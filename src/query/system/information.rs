//! `information_schema`: DataFusion's, with the comments of columns, and the tables about constraints that tools ask for.
//!
//! There are no keys, so the tables about constraints are empty; that they exist is what lets a tool go on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, StringArray, UInt64Array, new_null_array},
        compute::concat_batches,
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{
        CatalogProviderList, SchemaProvider, Session, TableFunction, TableProvider,
        information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider},
    },
    common::{DataFusionError, Result, cast::as_string_array},
    datasource::MemTable,
    physical_plan::collect,
};

use super::{
    COMMENT, SYSTEM_SCHEMA, TABLES,
    scanned::{MakesRows, Scanned},
};
use crate::query::{
    session::{CATALOG, SCHEMA},
    views::View,
};

/// The table that gets a column, and rows.
const COLUMNS: &str = "columns";
/// The one that gets rows.
const LISTED: &str = "tables";

/// Tables about constraints, with the columns that the standard gives them and tools read.
const CONSTRAINTS: &[(&str, &[&str])] = &[
    (
        "table_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "constraint_type",
            "is_deferrable",
            "initially_deferred",
        ],
    ),
    (
        "key_column_usage",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "position_in_unique_constraint",
        ],
    ),
    (
        "referential_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "unique_constraint_catalog",
            "unique_constraint_schema",
            "unique_constraint_name",
            "match_option",
            "update_rule",
            "delete_rule",
        ],
    ),
];

/// What the columns of all tables mean: by schema, table and column.
#[derive(Debug, Default)]
pub(crate) struct Comments(HashMap<(&'static str, &'static str), BTreeMap<String, String>>);

impl Comments {
    /// The comments in the files of the views, and those of the system tables.
    pub(crate) fn of(views: &[View]) -> Self {
        let views = views.iter().map(|view| ((SCHEMA, view.name), view.comments()));
        let system = TABLES.iter().map(|table| {
            let comment = |field: &Field| Some((field.name().clone(), field.metadata().get(COMMENT)?.clone()));
            ((SYSTEM_SCHEMA, table.name), (table.columns)().iter().filter_map(comment).collect())
        });
        Self(views.chain(system).collect())
    }

    fn get(&self, schema: &str, table: &str, column: &str) -> Option<&str> {
        // The map is keyed by names that live as long as the process; a query's do not.
        let found = self.0.iter().find(|((in_schema, name), _)| *in_schema == schema && *name == table);
        found?.1.get(column).map(String::as_str)
    }
}

/// The schema of one session.
#[derive(Debug)]
pub(crate) struct Information {
    inner: InformationSchemaProvider,
    comments: Arc<Comments>,
}

impl Information {
    /// Describes the tables of `catalogs`.
    pub(crate) fn new(
        catalogs: Arc<dyn CatalogProviderList>,
        functions: HashMap<String, Arc<TableFunction>>,
        comments: Arc<Comments>,
    ) -> Self {
        Self { inner: InformationSchemaProvider::new(catalogs).with_table_functions(functions), comments }
    }
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        let constraints = CONSTRAINTS.iter().map(|(name, _)| (*name).to_owned());
        self.inner.table_names().into_iter().chain(constraints).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if let Some((_, columns)) = CONSTRAINTS.iter().find(|(known, _)| *known == name) {
            let fields: Vec<Field> = columns.iter().map(|column| Field::new(*column, DataType::Utf8, true)).collect();
            return Ok(Some(Arc::new(MemTable::try_new(Arc::new(Schema::new(fields)), vec![Vec::new()])?)));
        }
        let table = self.inner.table(name).await?;
        Ok(match table {
            Some(table) if name == COLUMNS => {
                Some(Arc::new(Scanned(Commented::new(table, Arc::clone(&self.comments)))))
            }
            Some(table) if name == LISTED => Some(Arc::new(Scanned(Listed(table)))),
            other => other,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}

/// Rows about the tables on constraints, or about their columns, in the form that DataFusion gives the others.
fn of_constraints(schema: &SchemaRef, of_columns: bool) -> Result<RecordBatch> {
    let columns = CONSTRAINTS.iter().flat_map(|(table, columns)| {
        let columns = columns.iter().zip(1_u64..).filter(move |(_, place)| of_columns || *place == 1);
        columns.map(move |(column, place)| (*table, *column, place))
    });
    let columns: Vec<(&str, &str, u64)> = columns.collect();
    let arrays = schema.fields().iter().map(|field| -> ArrayRef {
        let text = |value: fn(&(&'static str, &'static str, u64)) -> &'static str| {
            Arc::new(columns.iter().map(|row| Some(value(row))).collect::<StringArray>())
        };
        match field.name().as_str() {
            "table_catalog" => text(|_| CATALOG),
            "table_schema" => text(|_| INFORMATION_SCHEMA),
            "table_name" => text(|(table, ..)| table),
            "table_type" => text(|_| "VIEW"),
            "column_name" => text(|(_, column, _)| column),
            "is_nullable" => text(|_| "YES"),
            "data_type" => text(|_| "Utf8"),
            "ordinal_position" => Arc::new(UInt64Array::from_iter_values(columns.iter().map(|(_, _, place)| *place))),
            _ => new_null_array(field.data_type(), columns.len()),
        }
    });
    let arrays = arrays.collect();
    Ok(RecordBatch::try_new(Arc::clone(schema), arrays)?)
}

async fn rows_of(table: &Arc<dyn TableProvider>, session: &dyn Session) -> Result<RecordBatch> {
    let plan = table.scan(session, None, &[], None).await?;
    let batches = collect(plan, session.task_ctx()).await?;
    Ok(concat_batches(&table.schema(), &batches)?)
}

/// `tables`, with those about constraints.
#[derive(Debug)]
struct Listed(Arc<dyn TableProvider>);

#[async_trait]
impl MakesRows for Listed {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    async fn rows(&self, session: &dyn Session) -> Result<RecordBatch> {
        let rows = [rows_of(&self.0, session).await?, of_constraints(&self.0.schema(), false)?];
        Ok(concat_batches(&self.0.schema(), &rows)?)
    }
}

/// `columns`, with those of the tables about constraints, and with comments.
#[derive(Debug)]
struct Commented {
    inner: Arc<dyn TableProvider>,
    schema: SchemaRef,
    comments: Arc<Comments>,
}

impl Commented {
    fn new(inner: Arc<dyn TableProvider>, comments: Arc<Comments>) -> Self {
        let inner_schema = inner.schema();
        let mut fields = inner_schema.fields().to_vec();
        fields.push(Arc::new(Field::new("column_comment", DataType::Utf8, true)));
        Self { inner, schema: Arc::new(Schema::new(fields)), comments }
    }

    fn commented(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let text = |name: &str| match rows.column_by_name(name) {
            Some(column) => as_string_array(column).cloned(),
            None => Ok(StringArray::new_null(rows.num_rows())),
        };
        let (schemas, tables, names) = (text("table_schema")?, text("table_name")?, text("column_name")?);
        let comment = |row: usize| self.comments.get(schemas.value(row), tables.value(row), names.value(row));
        let comments: StringArray = (0..rows.num_rows()).map(comment).collect();
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(comments));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[async_trait]
impl MakesRows for Commented {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn rows(&self, session: &dyn Session) -> Result<RecordBatch> {
        let rows = [rows_of(&self.inner, session).await?, of_constraints(&self.inner.schema(), true)?];
        self.commented(&concat_batches(&self.inner.schema(), &rows)?)
    }
}
