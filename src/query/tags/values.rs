//! Values of one field.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, RecordBatch, StringArray},
        datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef},
    },
    catalog::TableProvider,
    common::{JoinType, Result, ScalarValue},
    functions::core::expr_fn::get_field,
    functions_aggregate::first_last::first_value,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit, when},
};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};

use super::{asked, call, items, maps};
use crate::{
    functions::AttrFunction,
    model::{
        attributes::AttributeScope,
        schema::{KINDS, column},
        time::TimeRange,
    },
    query::{request::TagValuesQuery, traceql::rows::array_of_json},
    traceql::{
        ast::{Attribute, FieldName, Intrinsic, Scope},
        literal::{Kind, Status},
        plan::Dynamic,
    },
};

/// Distinct values that are looked at before the answer is cut to what is asked for. A field with more of them, which
/// nobody picks from a list, is answered with some.
pub(super) const DISTINCT_MAX: usize = 100_000;

/// The column of the plan for arrays, maps and bytes.
const NESTED: &str = "nested";

/// The column of ids of traces that have a matching span.
const MATCHING: &str = "matching_trace_id";

/// The column of the service of a root.
const ROOT_SERVICE: &str = "root_service";

/// The column of the kind of a root as OTLP numbers it.
const KIND_NUMBER: &str = "kind_number";

/// How far spans outside of the range matter without a filter.
const NO_EXTENT: i64 = 0;

/// Columns of the plan, in the order in which types come.
const TYPES: [(AttrFunction, &str); 4] = [
    (AttrFunction::Str, "string"),
    (AttrFunction::Int, "int"),
    (AttrFunction::Float, "float"),
    (AttrFunction::Bool, "bool"),
];

/// The columns of an answer.
pub(crate) fn answer_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("type", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)]))
}

/// The plan: distinct values, in the column of their type, as far as the field can be in these scopes.
pub(crate) fn plan(
    query: &TagValuesQuery,
    within: &[AttributeScope],
    extent_nano: i64,
    base: &Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let asked = || asked(query.range, query.filter.as_deref(), extent_nano, base);
    let branches = match &query.field {
        FieldName::Intrinsic(intrinsic) => {
            let spans = if is_of_root(&query.field) { roots(query, extent_nano, base)? } else { asked()? };
            of_intrinsic(*intrinsic, spans)?.into_iter().collect()
        }
        FieldName::Attribute(attribute) => scopes(attribute)
            .iter()
            .filter(|scope| within.contains(scope))
            .map(|scope| of_attribute(*scope, &attribute.key, asked()?))
            .collect::<Result<Vec<_>>>()?,
    };
    let mut union: Option<LogicalPlanBuilder> = None;
    for branch in branches {
        union = Some(match union {
            Some(union) => union.union(branch.build()?)?,
            None => branch,
        });
    }
    match union {
        Some(union) => union.distinct()?.limit(0, Some(DISTINCT_MAX.max(query.limit)))?.build(),
        None => LogicalPlanBuilder::empty(false).build(),
    }
}

fn columns() -> impl Iterator<Item = (AttrFunction, &'static str)> {
    TYPES.into_iter().chain([(AttrFunction::Nested, NESTED)])
}

/// Where an attribute is looked for.
pub(super) fn scopes(attribute: &Attribute) -> &'static [AttributeScope] {
    match attribute.scope {
        Scope::Any => &AttributeScope::ALL,
        Scope::Span => &[AttributeScope::Span],
        Scope::Resource => &[AttributeScope::Resource],
        Scope::Instrumentation => &[AttributeScope::Scope],
        Scope::Event => &[AttributeScope::Event],
        Scope::Link => &[AttributeScope::Link],
    }
}

fn of_attribute(scope: AttributeScope, key: &str, spans: LogicalPlanBuilder) -> Result<LogicalPlanBuilder> {
    let get = |function: AttrFunction, map: &Expr| call(function.name(), vec![map.clone(), lit(key)]);
    let (mut rows, map) = maps(spans, scope)?;
    if !matches!(scope, AttributeScope::Event | AttributeScope::Link) {
        rows = rows.filter(get(AttrFunction::Exists, &map)?)?;
    }
    let columns = columns().map(|(function, name)| Ok(get(function, &map)?.alias(name)));
    let rows = rows.project(columns.collect::<Result<Vec<_>>>()?)?;
    match self::columns().map(|(_, name)| col(name).is_not_null()).reduce(Expr::or) {
        Some(some) => rows.filter(some),
        None => Ok(rows),
    }
}

/// Whether a field is about the root of the trace, which may start outside of the asked range.
pub(super) fn is_of_root(field: &FieldName) -> bool {
    matches!(field, FieldName::Intrinsic(Intrinsic::RootName | Intrinsic::RootServiceName))
}

/// A row for the root of each trace that has an asked span: of several roots the first, which is the one that searches
/// compare and show. Copies of a span that differ in their parent may add a root that a search does not see.
fn roots(query: &TagValuesQuery, extent_nano: i64, base: &Arc<dyn TableProvider>) -> Result<LogicalPlanBuilder> {
    let mut kind_number = when(col(column::KIND).eq(lit(KINDS[0])), lit(0));
    for (number, kind) in (1_i32..).zip(&KINDS[1..]) {
        kind_number = kind_number.when(col(column::KIND).eq(lit(*kind)), lit(number));
    }
    let order = [column::START_TIME, column::SPAN_ID, KIND_NUMBER].map(|name| col(name).sort(true, false));
    let first = |value: Expr, name: &str| first_value(value, order.to_vec()).alias(name);
    let service = call(AttrFunction::Str.name(), vec![col(column::RESOURCE_ATTRIBUTES), lit("service.name")])?;
    let columns = [
        col(column::TRACE_ID),
        col(column::START_TIME),
        col(column::SPAN_ID),
        kind_number.end()?.alias(KIND_NUMBER),
        col(column::NAME),
        service.alias(ROOT_SERVICE),
    ];
    let shown = [first(col(column::NAME), column::NAME), first(col(ROOT_SERVICE), ROOT_SERVICE)];
    let roots = asked(query.range.widened(extent_nano), None, NO_EXTENT, base)?
        .filter(col(column::PARENT_SPAN_ID).is_null())?
        .project(columns)?
        .aggregate([col(column::TRACE_ID)], shown)?;
    if query.filter.is_none() && query.range == TimeRange::ALL {
        return Ok(roots);
    }
    let spans = asked(query.range, query.filter.as_deref(), extent_nano, base)?;
    let traces = spans.project([col(column::TRACE_ID).alias(MATCHING)])?;
    let traces = if query.filter.is_some() { traces.distinct()? } else { traces };
    let on = (vec![column::TRACE_ID], vec![MATCHING]);
    roots.join(traces.build()?, JoinType::LeftSemi, on, None)
}

/// The texts of an intrinsic; nothing for those that are numbers or ids, which nobody picks from a list.
fn of_intrinsic(intrinsic: Intrinsic, spans: LogicalPlanBuilder) -> Result<Option<LogicalPlanBuilder>> {
    let (rows, text) = match intrinsic {
        Intrinsic::Name | Intrinsic::RootName => (spans, col(column::NAME)),
        Intrinsic::RootServiceName => (spans, col(ROOT_SERVICE)),
        Intrinsic::StatusMessage => (spans, col(column::STATUS_MESSAGE)),
        Intrinsic::InstrumentationName => (spans, col(column::SCOPE_NAME)),
        Intrinsic::InstrumentationVersion => (spans, col(column::SCOPE_VERSION)),
        Intrinsic::EventName => (items(spans, column::EVENTS)?, get_field(col(column::EVENTS), "name")),
        _ => return Ok(None),
    };
    let mut columns = Vec::new();
    for (function, name) in self::columns() {
        columns.push(match function {
            AttrFunction::Str => text.clone().alias(name),
            other => lit(ScalarValue::try_from(&other.return_type())?).alias(name),
        });
    }
    Ok(Some(rows.project(columns)?.filter(col(TYPES[0].1).is_not_null())?))
}

/// The words of an intrinsic that has few and fixed ones.
fn keywords(field: &FieldName) -> Vec<&'static str> {
    match field {
        FieldName::Intrinsic(Intrinsic::Status) => Status::ALL.map(Status::name).to_vec(),
        FieldName::Intrinsic(Intrinsic::Kind) => Kind::ALL.map(Kind::name).to_vec(),
        _ => Vec::new(),
    }
}

/// A value, ordered as answers are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Value {
    fn rank(&self) -> usize {
        match self {
            Value::Text(_) => 0,
            Value::Int(_) => 1,
            Value::Float(_) => 2,
            Value::Bool(_) => 3,
        }
    }

    /// The type and the text of an answer.
    fn shown(&self) -> (&'static str, String) {
        let text = match self {
            Value::Text(text) => text.clone(),
            Value::Int(int) => int.to_string(),
            Value::Float(float) => float.to_string(),
            Value::Bool(truth) => truth.to_string(),
        };
        (TYPES[self.rank()].1, text)
    }
}

/// The way from the plan's rows to the answer's.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(super) keywords: Vec<&'static str>,
    pub(super) limit: usize,
    /// What is known besides the plan's rows.
    pub(super) listed: BTreeSet<Value>,
}

impl Shape {
    /// The way for a query.
    pub(crate) fn new(query: &TagValuesQuery) -> Self {
        Self { keywords: keywords(&query.field), limit: query.limit, listed: BTreeSet::new() }
    }

    /// The answer's batch for the batches of the plan, which together are bounded.
    pub(crate) fn apply<'a>(
        self,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'a,
    ) -> BoxStream<'a, Result<RecordBatch>> {
        futures::stream::once(async move {
            let values: BTreeSet<Value> = batches
                .map_ok(|batch| values_of(&batch))
                .try_fold(self.listed, async |mut all, values| {
                    all.extend(values);
                    Ok(all)
                })
                .await?;
            let keywords = self.keywords.iter().map(|word| ("keyword", (*word).to_owned()));
            let shown = keywords.chain(values.iter().map(Value::shown)).take(self.limit);
            let (types, texts): (Vec<&str>, Vec<String>) = shown.unzip();
            let columns: [ArrayRef; 2] = [Arc::new(StringArray::from(types)), Arc::new(StringArray::from(texts))];
            Ok(RecordBatch::try_new(answer_schema(), columns.to_vec())?)
        })
        .boxed()
    }
}

/// Adds the elements of an array in JSON, each of which comparisons of TraceQL look at, to values; nothing of a map or of bytes.
pub(super) fn push_elements(json: &str, values: &mut Vec<Value>) {
    let mut rest = vec![array_of_json(json)];
    while let Some(value) = rest.pop() {
        match value {
            Dynamic::Array(elements) => rest.extend(elements),
            Dynamic::String(text) => values.push(Value::Text(text.into_owned())),
            Dynamic::Int(int) => values.push(Value::Int(int)),
            Dynamic::Float(float) => values.push(Value::Float(float)),
            Dynamic::Bool(truth) => values.push(Value::Bool(truth)),
            Dynamic::Missing | Dynamic::Opaque | Dynamic::Status(_) | Dynamic::Kind(_) => {}
        }
    }
}

fn values_of(batch: &RecordBatch) -> Vec<Value> {
    let mut values = Vec::with_capacity(batch.num_rows());
    let column = |index: usize| batch.column_by_name(TYPES[index].1);
    if let Some(texts) = column(0).and_then(|column| column.as_string_opt::<i32>()) {
        values.extend(texts.iter().flatten().map(|text| Value::Text(text.to_owned())));
    }
    if let Some(ints) = column(1).and_then(|column| column.as_primitive_opt::<Int64Type>()) {
        values.extend(ints.iter().flatten().map(Value::Int));
    }
    if let Some(floats) = column(2).and_then(|column| column.as_primitive_opt::<Float64Type>()) {
        values.extend(floats.iter().flatten().map(Value::Float));
    }
    if let Some(truths) = column(3).and_then(|column| column.as_boolean_opt()) {
        values.extend(truths.iter().flatten().map(Value::Bool));
    }
    if let Some(jsons) = batch.column_by_name(NESTED).and_then(|column| column.as_string_opt::<i32>()) {
        jsons.iter().flatten().for_each(|json| push_elements(json, &mut values));
    }
    values
}
