//! Output columns that the number of a row in its file tells, where it is in memory which rows belong to which trace and which
//! are roots ([`trace_rows`](crate::storage::trace_rows)).
//!
//! Trace ids are the widest column that nearly every query reads, and those of neighbours are equal; of parents' ids, searches
//! ask whether there is one. So where the runs of all files of a scan are in memory, such an output column is replaced by the
//! number of the row, which costs the reader nothing, and what comes out gets its values from the runs:
//!
//! ```text
//!  asked for   trace_id         is_root(parent_span_id)   name
//!  decoded     file_row_index   file_row_index            name
//!  comes out   runs.ids_of      runs.are_roots            name
//! ```
//!
//! A condition that asks for roots is judged so, too: the number is decoded behind the output, and becomes whether the row is kept.
//! Where rows are asked for themselves ([`row_in_file`](crate::storage::start_set::row_in_file)), they get the mark of their file.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions},
    compute::{and, not},
    datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef},
};
use datafusion::{
    common::{Result, config::ConfigOptions, exec_err},
    functions::core::file_row_index,
    object_store::path::Path,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{Column, IsNotNullExpr, IsNullExpr},
        projection::{ProjectionExpr, ProjectionExprs},
    },
};
use datafusion_datasource::PartitionedFile;
use futures::StreamExt;

use crate::{
    functions::IsRoot,
    model::schema::column,
    storage::{
        scan::morsels::Batches,
        start_set::{is_row_in_file, with_mark},
        trace_rows::Runs,
    },
};

/// Name of the column that says which rows are kept; no query sees it.
const IS_KEPT: &str = "__is_kept";

/// The runs of a file, as an extension of it.
#[derive(Clone, Debug)]
pub(crate) struct FileRuns(pub(crate) Arc<Runs>);

/// What is known of each row of the files of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its trace id.
    pub(crate) ids: bool,
    /// Its trace id, and whether it is a root.
    pub(crate) roots: bool,
}

impl Known {
    /// What the runs of all files tell.
    pub(crate) fn of<'a>(runs: impl IntoIterator<Item = Option<&'a Arc<Runs>>> + Clone) -> Self {
        let roots = runs.clone().into_iter().all(|runs| runs.is_some_and(|runs| runs.knows_roots()));
        Self { ids: runs.into_iter().all(|runs| runs.is_some()), roots }
    }
}

/// What the number of a row is exchanged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    TraceId,
    IsRoot,
    /// The row itself.
    Row,
}

/// The output columns that are numbers of rows at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbered(Vec<(usize, Told)>);

impl Numbered {
    /// Those of an output over the columns of the table that are known.
    pub(crate) fn of(output: &ProjectionExprs, known: Known) -> Self {
        let told = |output: &ProjectionExpr| match IsRoot::called(output.expr.as_ref()) {
            Some(parent) => (known.roots && is_column(parent, column::PARENT_SPAN_ID)).then_some(Told::IsRoot),
            None if is_row_in_file(output.expr.as_ref()) => Some(Told::Row),
            None => (known.ids && is_column(&output.expr, column::TRACE_ID)).then_some(Told::TraceId),
        };
        Self(output.iter().enumerate().filter_map(|(place, output)| Some((place, told(output)?))).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether numbers stand for what runs tell.
    pub(crate) fn needs_runs(&self) -> bool {
        self.0.iter().any(|(_, told)| *told != Told::Row)
    }

    /// What is in memory of them, and whether a condition on roots is, as plans show it.
    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>, tests_roots: bool) -> fmt::Result {
        let has = |told: Told| self.0.iter().any(|(_, of_place)| *of_place == told);
        for (is_known, shown) in [(has(Told::TraceId), "trace_ids"), (has(Told::IsRoot) || tests_roots, "roots")] {
            if is_known {
                write!(f, ", {shown}=in memory")?;
            }
        }
        Ok(())
    }

    pub(crate) fn contains(&self, place: usize) -> bool {
        self.0.iter().any(|(numbered, _)| *numbered == place)
    }

    /// A schema with numbers in these places.
    pub(crate) fn decoded(&self, schema: &Schema) -> SchemaRef {
        let field = |(place, field): (usize, &FieldRef)| match self.contains(place) {
            true => Arc::new(field.as_ref().clone().with_data_type(DataType::Int64)),
            false => Arc::clone(field),
        };
        Arc::new(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    /// The batches of this schema, with what the numbers stand for in a file, of which runs are given where they are needed.
    pub(crate) fn told(
        &self,
        numbered: Batches,
        (file, runs): (Path, Option<Arc<Runs>>),
        schema: SchemaRef,
    ) -> Batches {
        let places = self.0.clone();
        let told = move |batch: RecordBatch| {
            let rows = batch.num_rows();
            let mut columns = batch.columns().to_vec();
            for (place, told) in &places {
                let numbers = numbers_of(&columns[*place])?;
                let told: ArrayRef = match (told, &runs) {
                    (Told::TraceId, Some(runs)) => Arc::new(runs.ids_of(numbers.values())?),
                    (Told::IsRoot, Some(runs)) => Arc::new(runs.are_roots(numbers.values())?),
                    (Told::Row, _) => Arc::new(with_mark(numbers, &file)),
                    (Told::TraceId | Told::IsRoot, None) => return unknown(&file),
                };
                columns[*place] = told;
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?)
        };
        numbered.map(move |batch| told(batch?)).boxed()
    }
}

fn numbers_of(column: &ArrayRef) -> Result<&Int64Array> {
    match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => Ok(numbers),
        None => exec_err!("the numbers of rows have the type {}", column.data_type()),
    }
}

/// Whether a condition asks for roots, or for spans that are none, and for nothing else.
pub(crate) fn wants_roots(condition: &Arc<dyn PhysicalExpr>) -> Option<bool> {
    let is_null = condition.downcast_ref::<IsNullExpr>().map(|test| (test.arg(), true));
    let (tested, wanted) =
        is_null.or_else(|| condition.downcast_ref::<IsNotNullExpr>().map(|test| (test.arg(), false)))?;
    is_column(tested, column::PARENT_SPAN_ID).then_some(wanted)
}

/// A condition on roots that is judged by the number of the row, which comes as the last column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RootTest {
    /// Whether roots are kept, or the others.
    pub(crate) wants_roots: bool,
    /// Whether what other conditions say comes before the number.
    pub(crate) has_remainder: bool,
}

/// The same batches with whether rows are kept as the last column.
pub(crate) fn judged(numbered: Batches, runs: Arc<Runs>, test: RootTest) -> Batches {
    let judged = move |batch: RecordBatch| {
        let (mut columns, rows) = (batch.columns().to_vec(), batch.num_rows());
        let Some(numbers) = columns.pop() else { return exec_err!("the output of a file has no numbers of rows") };
        let is_root = runs.are_roots(numbers_of(&numbers)?.values())?;
        let mut is_kept = if test.wants_roots { is_root } else { not(&is_root)? };
        if test.has_remainder {
            let Some(remainder) = columns.pop() else { return exec_err!("the output of a file has no remainder") };
            let Some(remainder) = remainder.as_boolean_opt() else {
                return exec_err!("a remainder has the type {}", remainder.data_type());
            };
            is_kept = and(&is_kept, remainder)?;
        }
        let mut fields: Vec<FieldRef> =
            batch.schema_ref().fields().iter().take(columns.len()).map(Arc::clone).collect();
        fields.push(Arc::new(Field::new(IS_KEPT, DataType::Boolean, true)));
        columns.push(Arc::new(is_kept));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    };
    numbered.map(move |batch| judged(batch?)).boxed()
}

/// Whether an expression is the column of this name.
pub(crate) fn is_column(expr: &Arc<dyn PhysicalExpr>, name: &str) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == name)
}

/// What gives the number of a row in its file, under a name.
pub(crate) fn row_number(name: &str) -> Arc<dyn PhysicalExpr> {
    let field = Arc::new(Field::new(name, DataType::Int64, true));
    let function = file_row_index();
    let function_name = function.name().to_owned();
    let options = Arc::new(ConfigOptions::default());
    Arc::new(ScalarFunctionExpr::new(&function_name, function, Vec::new(), field, options))
}

/// The runs that a file came with.
pub(crate) fn runs_of(file: &PartitionedFile) -> Result<Arc<Runs>> {
    match file.extension::<FileRuns>() {
        Some(FileRuns(runs)) => Ok(Arc::clone(runs)),
        None => unknown(&file.object_meta.location),
    }
}

fn unknown<T>(file: &Path) -> Result<T> {
    exec_err!("it is not known which rows of {file} belong to which trace")
}
