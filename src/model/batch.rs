//! Spans in Arrow as every receiver produces them, the log stores them and the buffer holds them.
//!
//! A batch is three tables. Resources and scopes are stored once for all spans that share them, which keeps a span of
//! 400 wire bytes at about that size in memory and in the log; queries and files see the flat shape, which
//! [`SpanBatch::flat_column`] makes column by column, only for the columns that somebody reads.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
    },
    compute::{concat, filter_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type},
    error::ArrowError,
};

use crate::model::{
    attributes::AttributeScope,
    gather::gather,
    keys::AttributeKeys,
    promotion::{PromotedAttribute, Promotion, promoted_attribute},
    reshape::{ScopeColumns, reshape},
    schema::{CORE_COLUMNS, Table, column, promoted_field},
};

/// Why three record batches are not a batch of spans.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A core column is not there.
    #[error("span batch lacks the column {0}")]
    MissingColumn(String),
    /// A column has another type than the schema gives it.
    #[error("column {column} of a span batch has type {actual}, expected {expected}")]
    WrongType {
        /// The column.
        column: String,
        /// Its type.
        actual: DataType,
        /// The type that the schema gives it.
        expected: DataType,
    },
    /// An index of a span points past the end of its table.
    #[error("{column} {index} of a span batch is outside of its table of {rows} rows")]
    IndexOutOfBounds {
        /// `resource_index` or `scope_index`.
        column: &'static str,
        /// The index.
        index: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// More resources, scopes or spans than a 32-bit index or offset can count.
    #[error("span batch is too large: {0}")]
    Arrow(#[from] ArrowError),
}

/// A batch of spans; see the module's documentation.
#[derive(Clone, Debug)]
pub struct SpanBatch {
    resources: RecordBatch,
    scopes: RecordBatch,
    spans: RecordBatch,
    /// Made when it is asked for; clones and slices share it.
    keys: Arc<OnceLock<Arc<AttributeKeys>>>,
    /// Made when it is asked for, of these spans alone.
    start_range: OnceLock<Option<(i64, i64)>>,
}

impl SpanBatch {
    /// Puts three tables together after checking columns, types and indexes.
    pub fn try_new(resources: RecordBatch, scopes: RecordBatch, spans: RecordBatch) -> Result<Self, BatchError> {
        for core in CORE_COLUMNS.iter() {
            let table = match core.table {
                Table::Resources => &resources,
                Table::Scopes => &scopes,
                Table::Spans => &spans,
            };
            check_column(table, core.field.name(), core.field.data_type())?;
        }
        for (name, table) in [(column::RESOURCE_INDEX, &resources), (column::SCOPE_INDEX, &scopes)] {
            check_column(&spans, name, &DataType::UInt32)?;
            let rows = table.num_rows();
            let indexes = spans[name].as_primitive::<UInt32Type>();
            if let Some(index) = arrow::compute::max(indexes).filter(|index| *index as usize >= rows) {
                return Err(BatchError::IndexOutOfBounds { column: name, index, rows });
            }
        }
        Ok(Self::of_tables(resources, scopes, spans))
    }

    fn of_tables(resources: RecordBatch, scopes: RecordBatch, spans: RecordBatch) -> Self {
        Self { resources, scopes, spans, keys: Arc::default(), start_range: OnceLock::new() }
    }

    /// A batch without spans.
    pub fn empty() -> Self {
        let table = |table| RecordBatch::new_empty(table_schema(table, &[]));
        Self::of_tables(table(Table::Resources), table(Table::Scopes), table(Table::Spans))
    }

    /// One row per resource.
    pub fn resources(&self) -> &RecordBatch {
        &self.resources
    }

    /// One row per instrumentation scope.
    pub fn scopes(&self) -> &RecordBatch {
        &self.scopes
    }

    /// One row per span.
    pub fn spans(&self) -> &RecordBatch {
        &self.spans
    }

    /// Which attributes are in the batch, and where. A slice has the list of what it was cut from.
    ///
    /// The first call looks at every attribute; the list stays with the batch.
    pub fn keys(&self) -> Arc<AttributeKeys> {
        Arc::clone(self.keys.get_or_init(|| Arc::new(AttributeKeys::of_batch(self))))
    }

    /// Number of spans.
    pub fn num_spans(&self) -> usize {
        self.spans.num_rows()
    }

    /// Bytes of memory that the buffers of the batch hold.
    pub fn memory_bytes(&self) -> usize {
        [&self.resources, &self.scopes, &self.spans].iter().map(|table| table.get_array_memory_size()).sum()
    }

    /// Start times, in Unix nanoseconds.
    pub fn start_times(&self) -> &Int64Array {
        self.spans[column::START_TIME].as_primitive::<Int64Type>()
    }

    /// The smallest and the largest start time; `None` without spans.
    pub fn start_time_range(&self) -> Option<(i64, i64)> {
        *self.start_range.get_or_init(|| {
            let starts = self.start_times();
            Some((arrow::compute::min(starts)?, arrow::compute::max(starts)?))
        })
    }

    /// `len` spans from `offset` on, with all resources and scopes. Nothing is copied; out of range panics as in Arrow.
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        self.with_spans(self.spans.slice(offset, len))
    }

    /// The spans for which `keep` is true, with all resources and scopes.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        Ok(self.with_spans(filter_record_batch(&self.spans, keep)?))
    }

    /// Other spans with the same resources and scopes.
    fn with_spans(&self, spans: RecordBatch) -> Self {
        let (resources, scopes, keys) = (self.resources.clone(), self.scopes.clone(), Arc::clone(&self.keys));
        Self { resources, scopes, spans, keys, start_range: OnceLock::new() }
    }

    /// The table that has this flat column, if the batch has it at all.
    fn table_of(&self, name: &str) -> Option<(&RecordBatch, Option<&'static str>)> {
        if name == column::RESOURCE_INDEX || name == column::SCOPE_INDEX {
            return None;
        }
        [
            (&self.spans, None),
            (&self.resources, Some(column::RESOURCE_INDEX)),
            (&self.scopes, Some(column::SCOPE_INDEX)),
        ]
        .into_iter()
        .find(|(table, _)| table.schema_ref().column_with_name(name).is_some())
    }

    /// A column in the flat shape, one value per span; `None` if the batch does not have it.
    pub fn flat_column(&self, name: &str) -> Result<Option<ArrayRef>, ArrowError> {
        let Some((table, index)) = self.table_of(name) else { return Ok(None) };
        let values = &table[name];
        match index {
            None => Ok(Some(Arc::clone(values))),
            Some(index) => gather(values, self.spans[index].as_primitive()).map(Some),
        }
    }

    /// The same at these rows, in that order.
    pub fn flat_column_at(&self, name: &str, rows: &UInt32Array) -> Result<Option<ArrayRef>, ArrowError> {
        let Some((table, index)) = self.table_of(name) else { return Ok(None) };
        let values = &table[name];
        match index {
            None => gather(values, rows).map(Some),
            Some(index) => gather(values, gather(&self.spans[index], rows)?.as_primitive()).map(Some),
        }
    }

    /// The physical flat schema of this batch: core columns, then its promoted columns by name.
    pub fn flat_schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = CORE_COLUMNS.iter().map(|core| Arc::clone(&core.field)).collect();
        let mut promoted: Vec<Arc<Field>> = [&self.resources, &self.scopes, &self.spans]
            .iter()
            .flat_map(|table| promoted_fields(table))
            .map(Arc::clone)
            .collect();
        promoted.sort_by(|a, b| a.name().cmp(b.name()));
        fields.extend(promoted);
        Arc::new(Schema::new(fields))
    }

    /// The columns of `schema` in the flat shape; each must be one of [`SpanBatch::flat_schema`].
    pub fn flatten(&self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| {
                self.flat_column(field.name())?
                    .ok_or_else(|| ArrowError::SchemaError(format!("span batch has no column {}", field.name())))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.num_spans()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
    }

    /// The same spans with the attributes of `target` in columns, as far as they have a value of the right type, and all
    /// others in the maps.
    pub fn promoted_as(&self, target: &Promotion) -> Result<Self, ArrowError> {
        let resources = reshaped(&self.resources, AttributeScope::Resource, target)?;
        let scopes = reshaped(&self.scopes, AttributeScope::Scope, target)?;
        let spans = reshaped(&self.spans, AttributeScope::Span, target)?;
        Ok(Self::of_tables(resources, scopes, spans))
    }

    /// The promoted columns that the batch has.
    pub fn promotion(&self) -> Promotion {
        let tables = [&self.resources, &self.scopes, &self.spans];
        Promotion::new(tables.into_iter().flat_map(promoted_fields).filter_map(|field| promoted_attribute(field)))
    }

    /// The same batches, where columns of one name have different types, the first that has it keeps its own and the values
    /// of the others go to the maps.
    pub fn with_one_type_per_column(batches: &[Self]) -> Result<Cow<'_, [Self]>, ArrowError> {
        let sets: Vec<Promotion> = batches.iter().map(SpanBatch::promotion).collect();
        let all = Promotion::new(sets.iter().flat_map(|set| set.attributes().iter().cloned()));
        let agrees = |attribute: &PromotedAttribute| all.of_column(&attribute.column) == Some(attribute);
        if sets.iter().flat_map(Promotion::attributes).all(agrees) {
            return Ok(Cow::Borrowed(batches));
        }
        let batches = batches.iter().zip(sets).map(|(batch, set)| match set.attributes().iter().all(agrees) {
            true => Ok(batch.clone()),
            false => batch.promoted_as(&Promotion::new(set.attributes().iter().filter(|own| agrees(own)).cloned())),
        });
        batches.collect::<Result<_, _>>().map(Cow::Owned)
    }

    /// One batch with the spans of all, in order. Columns that some lack are filled with NULL; where columns of one name
    /// have different types, the first batch keeps its own and the values of the others go to the maps.
    pub fn concat(batches: &[Self]) -> Result<Self, BatchError> {
        match batches {
            [] => return Ok(Self::empty()),
            [one] => return Ok(one.clone()),
            _ => {}
        }
        let batches = Self::with_one_type_per_column(batches)?;
        let batches = batches.as_ref();
        let resources = concat_table(&batches.iter().map(|batch| &batch.resources), Table::Resources)?;
        let scopes = concat_table(&batches.iter().map(|batch| &batch.scopes), Table::Scopes)?;
        let spans = concat_table(&batches.iter().map(|batch| &batch.spans), Table::Spans)?;
        let shifted = |name, rows: fn(&Self) -> usize| {
            let mut shift = 0usize;
            let mut indexes = Vec::with_capacity(spans.num_rows());
            for batch in batches {
                let base = u32::try_from(shift)
                    .map_err(|_| ArrowError::InvalidArgumentError(format!("{name} above the limit of {}", u32::MAX)))?;
                indexes
                    .extend(batch.spans[name].as_primitive::<UInt32Type>().values().iter().map(|index| base + index));
                shift += rows(batch);
            }
            Ok::<ArrayRef, ArrowError>(Arc::new(UInt32Array::from(indexes)))
        };
        let resource_index = shifted(column::RESOURCE_INDEX, |batch| batch.resources.num_rows())?;
        let scope_index = shifted(column::SCOPE_INDEX, |batch| batch.scopes.num_rows())?;
        let columns = spans
            .schema_ref()
            .fields()
            .iter()
            .zip(spans.columns())
            .map(|(field, values)| match field.name().as_str() {
                column::RESOURCE_INDEX => Arc::clone(&resource_index),
                column::SCOPE_INDEX => Arc::clone(&scope_index),
                _ => Arc::clone(values),
            })
            .collect();
        let spans = RecordBatch::try_new(spans.schema(), columns)?;
        Ok(Self::of_tables(resources, scopes, spans))
    }
}

fn check_column(table: &RecordBatch, name: &str, expected: &DataType) -> Result<(), BatchError> {
    let Some((_, field)) = table.schema_ref().column_with_name(name) else {
        return Err(BatchError::MissingColumn(name.to_owned()));
    };
    if field.data_type() != expected {
        let (actual, expected) = (field.data_type().clone(), expected.clone());
        return Err(BatchError::WrongType { column: name.to_owned(), actual, expected });
    }
    Ok(())
}

/// The schema of one of the three tables: its core columns, then these promoted ones. Spans start with the indexes.
pub fn table_schema(table: Table, promoted: &[Arc<Field>]) -> SchemaRef {
    let index = |name: &str| Arc::new(Field::new(name, DataType::UInt32, false));
    let mut fields = match table {
        Table::Spans => vec![index(column::RESOURCE_INDEX), index(column::SCOPE_INDEX)],
        Table::Resources | Table::Scopes => Vec::new(),
    };
    fields.extend(CORE_COLUMNS.iter().filter(|core| core.table == table).map(|core| Arc::clone(&core.field)));
    fields.extend(promoted.iter().map(Arc::clone));
    Arc::new(Schema::new(fields))
}

/// The promoted fields of one table under `promotion`, in its order.
pub fn table_promoted_fields(table: Table, promotion: &Promotion) -> Vec<Arc<Field>> {
    let of_table = |scope| Table::of_scope(scope) == Some(table);
    promotion.attributes().iter().filter(|a| of_table(a.scope)).map(|a| Arc::new(promoted_field(a))).collect()
}

fn promoted_fields(table: &RecordBatch) -> impl Iterator<Item = &Arc<Field>> {
    table.schema_ref().fields().iter().filter(|field| {
        let name = field.name().as_str();
        name != column::RESOURCE_INDEX
            && name != column::SCOPE_INDEX
            && !CORE_COLUMNS.iter().any(|core| core.field.name() == name)
    })
}

/// The table with the attributes of its scope as `target` has them.
fn reshaped(table: &RecordBatch, scope: AttributeScope, target: &Promotion) -> Result<RecordBatch, ArrowError> {
    let (Some(map), Some(kind)) = (scope.map_column(), Table::of_scope(scope)) else { return Ok(table.clone()) };
    let promoted = promoted_fields(table)
        .filter_map(|field| Some((promoted_attribute(field)?, Arc::clone(table.column_by_name(field.name())?))))
        .collect();
    let columns = ScopeColumns { residual: Arc::clone(&table[map]), promoted };
    let ScopeColumns { residual, promoted } = reshape(scope, columns, target)?;
    let fields: Vec<_> = promoted.iter().map(|(attribute, _)| Arc::new(promoted_field(attribute))).collect();
    let schema = table_schema(kind, &fields);
    let core = schema.fields().len() - promoted.len();
    let core = schema.fields()[..core].iter().map(|field| match field.name() == map {
        true => Arc::clone(&residual),
        false => Arc::clone(&table[field.name().as_str()]),
    });
    let columns = core.chain(promoted.into_iter().map(|(_, column)| column)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(table.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

fn concat_table<'a>(
    tables: &(impl Iterator<Item = &'a RecordBatch> + Clone),
    table: Table,
) -> Result<RecordBatch, ArrowError> {
    let mut promoted: Vec<Arc<Field>> = Vec::new();
    for field in tables.clone().flat_map(promoted_fields) {
        if !promoted.iter().any(|known| known.name() == field.name()) {
            promoted.push(Arc::clone(field));
        }
    }
    let schema = table_schema(table, &promoted);
    let rows = tables.clone().map(RecordBatch::num_rows).sum();
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let parts: Vec<ArrayRef> = tables
                .clone()
                .map(|part| match part.column_by_name(field.name()) {
                    Some(values) => Arc::clone(values),
                    None => new_null_array(field.data_type(), part.num_rows()),
                })
                .collect();
            concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}
