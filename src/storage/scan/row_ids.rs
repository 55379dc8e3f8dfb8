//! Numbers of rows in what is decoded of a file, and what becomes of them.
//!
//! Trace ids come by the number of the row where it is in memory which rows belong to which trace
//! ([`trace_rows`](crate::storage::trace_rows)). Ids are the widest column that nearly every query reads, and those of neighbours are equal. So where all files of a scan
//! have their runs in memory, the output column `trace_id` is replaced by the number of the row, which costs the reader
//! nothing, and what comes out gets the ids of its rows from the runs.
//!
//! Where rows are asked for themselves ([`row_in_file`](crate::storage::start_set::row_in_file)), they get the mark of their file.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef},
};
use datafusion::{
    common::{Result, config::ConfigOptions, exec_err},
    functions::core::file_row_index,
    object_store::path::Path,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::Column,
        projection::{ProjectionExpr, ProjectionExprs},
    },
};
use datafusion_datasource::PartitionedFile;
use futures::StreamExt;

use crate::{
    model::schema::column,
    storage::{
        scan::morsels::Batches,
        start_set::{is_row_in_file, with_mark},
        trace_rows::Runs,
    },
};

/// The runs of a file, as an extension of it.
#[derive(Clone, Debug)]
pub(crate) struct FileRuns(pub(crate) Arc<Runs>);

/// The output columns that are trace ids.
pub(crate) fn places(projection: &ProjectionExprs) -> Vec<usize> {
    let is_id = |output: &ProjectionExpr| {
        output.expr.downcast_ref::<Column>().is_some_and(|column| column.name() == column::TRACE_ID)
    };
    projection.iter().enumerate().filter(|(_, output)| is_id(output)).map(|(place, _)| place).collect()
}

/// The number of a row, in the place of an output column.
pub(crate) fn number(output: &ProjectionExpr) -> ProjectionExpr {
    let field = Arc::new(Field::new(&output.alias, DataType::Int64, true));
    let function = file_row_index();
    let name = function.name().to_owned();
    let call = ScalarFunctionExpr::new(&name, function, Vec::new(), field, Arc::new(ConfigOptions::default()));
    let expr: Arc<dyn PhysicalExpr> = Arc::new(call);
    ProjectionExpr { expr, alias: output.alias.clone() }
}

/// The output columns that are rows themselves.
pub(crate) fn rows(projection: &ProjectionExprs) -> Vec<usize> {
    let rows = projection.iter().enumerate().filter(|(_, output)| is_row_in_file(output.expr.as_ref()));
    rows.map(|(place, _)| place).collect()
}

/// A schema with numbers in these places.
pub(crate) fn numbered_schema(schema: &Schema, places: &[usize]) -> SchemaRef {
    let field = |(place, field): (usize, &FieldRef)| match places.contains(&place) {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::Int64)),
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// The runs that a file came with.
pub(crate) fn runs_of(file: &PartitionedFile) -> Result<Arc<Runs>> {
    match file.extension::<FileRuns>() {
        Some(FileRuns(runs)) => Ok(Arc::clone(runs)),
        None => exec_err!("it is not known which rows of {} belong to which trace", file.object_meta.location),
    }
}

/// The batches of this schema, with ids for the numbers in these places.
pub(crate) fn with_ids(numbered: Batches, runs: Arc<Runs>, places: Vec<usize>, schema: SchemaRef) -> Batches {
    let with_ids = move |batch: RecordBatch| {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        for place in &places {
            let Some(numbers) = columns[*place].as_primitive_opt::<Int64Type>() else {
                return exec_err!("the numbers of rows have the type {}", columns[*place].data_type());
            };
            columns[*place] = Arc::new(runs.ids_of(numbers.values())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?)
    };
    numbered.map(move |batch| with_ids(batch?)).boxed()
}

/// The same batches with the mark of the file on the rows in these places.
pub(crate) fn marked(batches: Batches, file: Path, places: Vec<usize>) -> Batches {
    let marked = move |batch: RecordBatch| {
        let (schema, mut columns, rows) = (batch.schema(), batch.columns().to_vec(), batch.num_rows());
        for place in &places {
            let Some(numbers) = columns[*place].as_primitive_opt::<Int64Type>() else {
                return exec_err!("the numbers of rows have the type {}", columns[*place].data_type());
            };
            columns[*place] = Arc::new(with_mark(numbers, &file));
        }
        Ok(RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
    };
    batches.map(move |batch| marked(batch?)).boxed()
}
