//! The lists of attributes as a table: one row per file or buffered batch, scope, key and type.
//!
//! A file's list is in its footer, which is cached; a batch in memory makes its own. Files outside of a condition on `date`
//! are not looked at. A scope with too many keys lists its promoted ones only ([`crate::model::keys`]).

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Date32Array, Int64Array, RecordBatch, StringArray, new_null_array},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{
        Column, DFSchema, DataFusionError, Result,
        tree_node::{Transformed, TreeNode},
    },
    datasource::memory::MemorySourceConfig,
    logical_expr::{ColumnarValue, Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_plan::{ExecutionPlan, PhysicalExpr},
    scalar::ScalarValue,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    catalog::LiveFile,
    model::{
        attributes::{AttributeScope, AttributeType},
        keys::{AttributeKeys, KeyUse, TypeSet},
        promotion::PromotedAttribute,
    },
    query::{
        SpansTable,
        spans_table::{FOOTER_READS_MAX, days_since_epoch, scan_file},
    },
    storage::{footer, store::Store},
};

const DATE: &str = "date";
const DAY_NANO: i64 = 86_400_000_000_000;

/// The columns of the lists.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("scope", DataType::Utf8, true),
        Field::new("key", DataType::Utf8, true),
        Field::new("type", DataType::Utf8, true),
        Field::new("column_name", DataType::Utf8, true),
        Field::new("in_file", DataType::Boolean, true),
        Field::new("spans", DataType::Int64, true),
        Field::new("column_values", DataType::Int64, true),
        Field::new(DATE, DataType::Date32, true),
    ]))
}

/// The lists of one view of the data.
#[derive(Debug)]
pub(super) struct KeyLists {
    base: Arc<dyn TableProvider>,
    schema: SchemaRef,
}

/// One row.
struct KeyRow<'a> {
    scope: AttributeScope,
    key: &'a str,
    type_name: &'static str,
    column: Option<Arc<str>>,
    column_values: Option<i64>,
}

/// What a list belongs to.
struct Holder {
    keys: Arc<AttributeKeys>,
    file: Option<Arc<LiveFile>>,
    spans: Option<i64>,
    day: Option<i32>,
}

impl KeyLists {
    pub(super) fn new(base: Arc<dyn TableProvider>) -> Self {
        Self { base, schema: schema() }
    }

    async fn holders(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<Holder>> {
        let Some(spans) = SpansTable::of(self.base.as_ref()) else { return Ok(Vec::new()) };
        let view = spans.view();
        let days = DayFilter::try_new(session, filters, &self.schema)?;
        let files = view.files().filter_map(|file| {
            let day = file.date.map(days_since_epoch);
            days.keeps(day).then(|| (Arc::clone(file), day))
        });
        let runtime = Arc::clone(session.runtime_env());
        let lists = files.map(|(file, day)| {
            let runtime = Arc::clone(&runtime);
            async move {
                let keys = footer::read_keys(&runtime, &Store::url(), &scan_file(&file)).await?.unwrap_or_default();
                let keys = Arc::new(keys);
                let spans = file.rows().map(u64::cast_signed);
                Ok::<_, DataFusionError>(Holder { keys, file: Some(file), spans, day })
            }
        });
        let lists: Vec<_> = lists.collect();
        let mut holders: Vec<Holder> = stream::iter(lists).buffered(FOOTER_READS_MAX).try_collect().await?;
        for batch in view.buffered() {
            let first = batch.start_time_range().map(|(first, _)| first.div_euclid(DAY_NANO));
            let day = first.and_then(|day| i32::try_from(day).ok());
            if days.keeps(day) {
                let spans = i64::try_from(batch.num_spans()).ok();
                holders.push(Holder { keys: batch.keys(), file: None, spans, day });
            }
        }
        Ok(holders)
    }

    fn rows(&self, holders: &[Holder]) -> Result<RecordBatch> {
        let rows: Vec<(&Holder, KeyRow<'_>)> =
            holders.iter().flat_map(|holder| rows_of(holder).map(move |row| (holder, row))).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row)| row.scope.prefix()))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row)| row.key))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row)| row.type_name))),
            Arc::new(StringArray::from_iter(rows.iter().map(|(_, row)| row.column.as_deref()))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|(holder, _)| Some(holder.file.is_some())))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|(holder, _)| holder.spans))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|(_, row)| row.column_values))),
            Arc::new(Date32Array::from_iter(rows.iter().map(|(holder, _)| holder.day))),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The types of the values in a map, and what SQL calls them.
const RESIDUAL_TYPES: [(TypeSet, &str); 5] = [
    (TypeSet::of(AttributeType::Str), "string"),
    (TypeSet::of(AttributeType::Int), "int"),
    (TypeSet::of(AttributeType::Float), "double"),
    (TypeSet::of(AttributeType::Bool), "bool"),
    (TypeSet::NESTED, "json"),
];

fn type_name(value_type: AttributeType) -> &'static str {
    let set = TypeSet::of(value_type);
    RESIDUAL_TYPES.iter().find(|(residual, _)| *residual == set).map_or("json", |(_, name)| name)
}

fn rows_of(holder: &Holder) -> impl Iterator<Item = KeyRow<'_>> {
    holder.keys.iter().flat_map(move |(scope, key, key_use): (AttributeScope, &str, KeyUse)| {
        let promoted = key_use.promoted.map(|value_type| {
            let column = PromotedAttribute::new(scope, key, value_type).column;
            // Of a batch in memory nobody has counted them.
            let statistics = holder.file.as_ref().and_then(|file| file.statistics.as_ref());
            let nulls = statistics.and_then(|statistics| statistics.columns.get(&*column)).map(|column| column.nulls);
            let values = holder.spans.zip(nulls).map(|(spans, nulls)| spans - nulls.cast_signed());
            KeyRow { scope, key, type_name: type_name(value_type), column: Some(column), column_values: values }
        });
        let residual = RESIDUAL_TYPES.iter().filter(move |(set, _)| key_use.residual.intersects(*set));
        let residual =
            residual.map(move |(_, type_name)| KeyRow { scope, key, type_name, column: None, column_values: None });
        promoted.into_iter().chain(residual)
    })
}

/// The conditions that are about the day alone.
struct DayFilter(Option<Arc<dyn PhysicalExpr>>, SchemaRef);

impl DayFilter {
    fn try_new(session: &dyn Session, filters: &[Expr], schema: &SchemaRef) -> Result<Self> {
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        let about_days = filters.iter().filter(|filter| is_about_days(filter)).cloned().map(unqualified);
        let condition = conjunction(about_days);
        let expr = condition.map(|condition| session.create_physical_expr(condition, &df_schema)).transpose()?;
        Ok(Self(expr, Arc::clone(schema)))
    }

    fn keeps(&self, day: Option<i32>) -> bool {
        let Some(expr) = &self.0 else { return true };
        let columns = self.1.fields().iter().map(|field| match field.name().as_str() {
            DATE => Arc::new(Date32Array::from(vec![day])) as ArrayRef,
            _ => new_null_array(field.data_type(), 1),
        });
        let row = RecordBatch::try_new(Arc::clone(&self.1), columns.collect());
        let kept = row.map_err(Into::into).and_then(|row| expr.evaluate(&row));
        // What cannot be decided here is decided above the scan.
        match kept {
            Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(kept)))) => kept,
            Ok(ColumnarValue::Array(array)) => match array.as_any().downcast_ref::<BooleanArray>() {
                Some(kept) => kept.iter().next().flatten().unwrap_or(day.is_none()),
                None => true,
            },
            _ => true,
        }
    }
}

fn is_about_days(filter: &Expr) -> bool {
    let columns = filter.column_refs();
    !columns.is_empty() && columns.iter().all(|column| column.name == DATE)
}

fn unqualified(filter: Expr) -> Expr {
    let transformed = filter.clone().transform(|expr| match expr {
        Expr::Column(column) if column.relation.is_some() => {
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name))))
        }
        other => Ok(Transformed::no(other)),
    });
    transformed.map_or(filter, |transformed| transformed.data)
}

#[async_trait]
impl TableProvider for KeyLists {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match is_about_days(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows(&self.holders(session, filters).await?)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema(), projection.cloned())?)
    }
}
