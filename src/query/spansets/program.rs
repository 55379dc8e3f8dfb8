//! A pipeline in terms of columns: what the operator's input has to hold, and where in it each part of the query is.
//!
//! ```text
//!  trace_id span_id kind start duration name status_code [service]
//!  parent_span_id  where it matters who is whose parent; is_root where it matters which spans have none
//!  condition_0 ...   whether the span fulfils what columns can decide of a condition
//!  value_0 ...       what is grouped by or aggregated
//!  shown_0 ...       what answers show
//!  input_0 ...       what fields are computed from that only the whole trace decides
//!  ...               columns that pass through
//! ```
//!
//! A condition whose parts all speak of single spans becomes one boolean column, and files are pruned by it. The parts that
//! need the trace (`rootName`, `parent.a`, `nestedSetLeft`) are evaluated by the operator, span by span.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::{DataType, Field, Schema, SchemaRef},
    common::{Result, internal_err},
    logical_expr::{Expr, col, lit},
};

use crate::{
    functions::{AttrFunction, CodedText, IsRoot, scalar_function},
    model::{
        attributes::value_fields,
        schema::{column, logical_schema},
        time::TimeRange,
    },
    query::{
        search::answer_schema,
        traceql::{computed, inputs::Inputs, key_of, lower, shown},
    },
    traceql::{
        ast::{Attribute, FieldName, Intrinsic, Scope},
        plan::{Condition, Spansets, Value},
    },
};

/// Column of the service's name.
pub(super) const SERVICE: &str = "service";

/// Whether a span is a root.
pub(super) const IS_ROOT: &str = "is_root";

/// Columns of text that the operator takes in either form.
const TEXTS: [&str; 4] = [column::KIND, column::NAME, column::STATUS_CODE, SERVICE];

/// How the operator's own columns of text come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextForm {
    /// As text.
    Plain,
    /// As dictionaries and codes.
    Coded,
}

/// What the operator computes.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The pipeline.
    pub(super) plan: Spansets,
    /// By condition.
    pub(super) conditions: Vec<BoundCondition>,
    /// By value: whether it needs the whole trace.
    pub(super) late_values: Vec<bool>,
    /// What is shown of a span, by key: the first that the span has.
    pub(super) shown: Vec<(String, Vec<Source>)>,
    /// What fields of the whole trace are computed from.
    pub(super) inputs: Inputs,
    /// Where spans of the answer start.
    pub(super) range: TimeRange,
    /// What comes out.
    pub(super) output: Output,
    /// What the input has to hold, in order.
    columns: Vec<(String, Expr)>,
    text: String,
}

/// A condition in two parts, both of which have to hold.
#[derive(Clone, Debug)]
pub(super) struct BoundCondition {
    /// What columns decide; there is a column for it.
    pub(super) early: Option<Condition>,
    /// What the trace decides.
    pub(super) late: Option<Condition>,
}

/// Where a shown value comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A column of that name.
    Column(String),
    /// The trace.
    Late(FieldName),
}

/// What the operator yields.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// A row per trace, as [`crate::query::search`] has it.
    Traces {
        /// Most spans shown per spanset.
        spans_max: usize,
    },
    /// A row per span of the final spansets.
    Spans(Vec<SpanColumn>),
}

/// A column of a row per span.
#[derive(Clone, Debug)]
pub(crate) struct SpanColumn {
    pub(crate) name: String,
    pub(crate) value: SpanColumnValue,
}

/// Where a column of a row per span comes from.
#[derive(Clone, Debug)]
pub(crate) enum SpanColumnValue {
    /// An expression on the base table, with the field it gives.
    Expr(Expr, Field),
    /// A field that only the trace decides, as answers show it.
    Late(FieldName),
    /// The same as aggregates take it: durations are integers.
    LateNumber(FieldName),
    /// Whether the span fulfils a condition.
    Holds(Condition),
    /// Where the span stands in the trace.
    Place(Place),
}

/// Where a span stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The number that a walk through the tree counts when it enters the span; 0 where no root reaches it.
    NestedSetLeft,
    /// The number when the walk leaves it.
    NestedSetRight,
    /// The parent's left number, -1 for a root.
    NestedSetParent,
    /// Spans above it; NULL where no root reaches it.
    Depth,
    /// Nanoseconds in which none of its children runs.
    SelfTime,
    /// Its part of the critical path, of the trace's duration.
    CriticalPathShare,
}

impl Place {
    fn data_type(self) -> DataType {
        match self {
            Place::CriticalPathShare => DataType::Float64,
            _ => DataType::Int64,
        }
    }
}

/// Column of the early part of a condition.
pub(super) fn condition_column(index: usize) -> String {
    format!("condition_{index}")
}

/// Column of a value.
pub(super) fn value_column(index: usize) -> String {
    format!("value_{index}")
}

/// Column of an input of late fields.
pub(super) fn input_column(index: usize) -> String {
    format!("input_{index}")
}

/// Column that passes through.
pub(super) fn passing_column(name: &str) -> String {
    format!("passing_{name}")
}

impl Program {
    pub(crate) fn new(plan: &Spansets, range: TimeRange, output: Output) -> Result<Self> {
        let of_columns = match &output {
            Output::Traces { .. } => &[][..],
            Output::Spans(columns) => columns,
        };
        // Those of the stages first, so that stages find theirs; then those of columns, in order.
        let held = of_columns.iter().filter_map(SpanColumn::condition);
        let conditions: Vec<BoundCondition> = plan.conditions.iter().chain(held).map(split).collect();
        let late_values: Vec<bool> = plan.values.iter().map(Value::reads_trace).collect();
        let mut late_fields = Vec::new();
        for late in conditions.iter().filter_map(|condition| condition.late.as_ref()) {
            late.for_each_field(&mut |name| late_fields.push(name.clone()));
        }
        for (value, _) in plan.values.iter().zip(&late_values).filter(|(_, late)| **late) {
            value.for_each_field(&mut |name| late_fields.push(name.clone()));
        }

        let mut columns: Vec<(String, Expr)> = [
            column::TRACE_ID,
            column::SPAN_ID,
            column::KIND,
            column::START_TIME,
            column::DURATION,
            column::NAME,
            column::STATUS_CODE,
        ]
        .iter()
        .map(|name| ((*name).to_owned(), col(*name)))
        .collect();
        for (index, condition) in conditions.iter().enumerate() {
            if let Some(early) = &condition.early {
                columns.push((condition_column(index), lower::filter(early).is_true()));
            }
        }
        for (index, value) in plan.values.iter().enumerate().filter(|(index, _)| !late_values[*index]) {
            columns.push((value_column(index), computed::call(value)));
        }
        let mut shown: Vec<(String, Vec<Source>)> = Vec::new();
        match &output {
            Output::Traces { .. } => {
                for (index, name) in plan.shown.iter().enumerate() {
                    let source = match name.is_of_trace() {
                        true => {
                            late_fields.push(name.clone());
                            Source::Late(name.clone())
                        }
                        false => {
                            let column = format!("shown_{index}");
                            columns.push((column.clone(), shown::value_where(&plan.conditions, name)));
                            Source::Column(column)
                        }
                    };
                    let key = key_of(name);
                    match shown.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, sources)) => sources.push(source),
                        None => shown.push((key, vec![source])),
                    }
                }
            }
            Output::Spans(span_columns) => {
                for span_column in span_columns {
                    match &span_column.value {
                        SpanColumnValue::Expr(expr, _) => {
                            columns.push((passing_column(&span_column.name), expr.clone()));
                        }
                        SpanColumnValue::Late(name) | SpanColumnValue::LateNumber(name) => {
                            late_fields.push(name.clone());
                        }
                        SpanColumnValue::Holds(_) | SpanColumnValue::Place(_) => {}
                    }
                }
            }
        }
        let names_services = late_fields.contains(&FieldName::Intrinsic(Intrinsic::RootServiceName));
        if names_services || matches!(output, Output::Traces { .. }) {
            columns.push((SERVICE.to_owned(), service()?));
        }
        columns.push(match finds_parents(plan, &late_fields, of_columns) {
            true => (column::PARENT_SPAN_ID.to_owned(), col(column::PARENT_SPAN_ID)),
            false => (IS_ROOT.to_owned(), IsRoot::of(col(column::PARENT_SPAN_ID))),
        });
        let inputs = Inputs::new(late_fields.iter().flat_map(inputs_of));
        columns.extend(inputs.args.iter().enumerate().map(|(index, arg)| (input_column(index), arg.clone())));
        let columns = columns.into_iter().map(|(name, expr)| (name.clone(), expr.alias(name))).collect();
        let text = described(plan, range, &output);
        Ok(Self { plan: plan.clone(), conditions, late_values, shown, inputs, range, output, columns, text })
    }

    /// The expressions on the base table that give the operator's input, each under its column's name.
    pub(crate) fn columns(&self, texts: TextForm) -> impl Iterator<Item = Expr> {
        self.columns.iter().map(move |(name, expr)| match texts {
            TextForm::Coded if TEXTS.contains(&name.as_str()) => {
                CodedText::of(expr.clone().unalias()).alias(name.as_str())
            }
            _ => expr.clone(),
        })
    }

    /// The columns of the input that are needed for these columns of what comes out.
    pub(super) fn needed(&self, output_columns: &[usize]) -> Vec<usize> {
        let Output::Spans(span_columns) = &self.output else { return (0..self.columns.len()).collect() };
        let dropped = |name: &String| {
            let passing =
                span_columns.iter().position(|column| column.is_passing() && passing_column(&column.name) == *name);
            passing.is_some_and(|position| !output_columns.contains(&position))
        };
        self.columns.iter().enumerate().filter(|(_, (name, _))| !dropped(name)).map(|(index, _)| index).collect()
    }

    /// The same program without the columns whose input is not there.
    pub(super) fn restricted(&self, has: impl Fn(&str) -> bool) -> Self {
        let Output::Spans(span_columns) = &self.output else { return self.clone() };
        let stays = |column: &&SpanColumn| !column.is_passing() || has(&passing_column(&column.name));
        let output = Output::Spans(span_columns.iter().filter(stays).cloned().collect());
        let columns = self.columns.iter().filter(|(name, _)| has(name)).cloned().collect();
        let text = described(&self.plan, self.range, &output);
        Self { output, columns, text, ..self.clone() }
    }

    /// The schema of what comes out.
    pub(crate) fn schema(&self) -> SchemaRef {
        match &self.output {
            Output::Traces { .. } => answer_schema(),
            Output::Spans(columns) => {
                SchemaRef::new(Schema::new(columns.iter().map(SpanColumn::field).collect::<Vec<_>>()))
            }
        }
    }
}

impl SpanColumn {
    /// All columns of the base table, as they are.
    pub(crate) fn of_base() -> Vec<Self> {
        let column = |field: &Arc<Field>| {
            let value = SpanColumnValue::Expr(col(field.name()), field.as_ref().clone());
            Self { name: field.name().clone(), value }
        };
        logical_schema().fields().iter().map(column).collect()
    }

    fn is_passing(&self) -> bool {
        matches!(self.value, SpanColumnValue::Expr(..))
    }

    fn condition(&self) -> Option<&Condition> {
        match &self.value {
            SpanColumnValue::Holds(condition) => Some(condition),
            _ => None,
        }
    }

    fn field(&self) -> Field {
        match &self.value {
            SpanColumnValue::Expr(_, field) => field.clone().with_name(&self.name),
            SpanColumnValue::Late(_) | SpanColumnValue::LateNumber(_) => {
                Field::new(&self.name, DataType::Struct(value_fields()), true)
            }
            SpanColumnValue::Holds(_) => Field::new(&self.name, DataType::Boolean, true),
            SpanColumnValue::Place(place) => Field::new(&self.name, place.data_type(), true),
        }
    }
}

impl std::fmt::Display for SpanColumn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.condition() {
            Some(condition) => write!(f, "{}={condition}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.columns == other.columns
    }
}

impl Eq for Program {}

impl Hash for Program {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Whether it matters who is whose parent, and not only which spans have none.
fn finds_parents(plan: &Spansets, late_fields: &[FieldName], columns: &[SpanColumn]) -> bool {
    let is_of_whole = |name: &FieldName| {
        matches!(
            name,
            FieldName::Intrinsic(Intrinsic::RootName | Intrinsic::RootServiceName | Intrinsic::TraceDuration)
        )
    };
    let asks_for_parents = |name: &FieldName| name.is_of_trace() && !is_of_whole(name);
    plan.relates_spans()
        || late_fields.iter().any(asks_for_parents)
        || columns.iter().any(|column| matches!(column.value, SpanColumnValue::Place(_)))
}

fn described(plan: &Spansets, range: TimeRange, output: &Output) -> String {
    let list = |items: Vec<String>| items.join("; ");
    let conditions = list(plan.conditions.iter().map(ToString::to_string).collect());
    let values = list(plan.values.iter().map(ToString::to_string).collect());
    let what = match output {
        Output::Traces { spans_max } => format!("traces, {spans_max} spans each"),
        Output::Spans(columns) => list(columns.iter().map(ToString::to_string).collect()),
    };
    let TimeRange { start_unix_nano, end_unix_nano } = range;
    format!(
        "conditions=[{conditions}], values=[{values}], stages={:?}, range=[{start_unix_nano}, {end_unix_nano}), output=[{what}]",
        plan.stages
    )
}

fn service() -> Result<Expr> {
    match scalar_function(AttrFunction::Str.name()) {
        Some(attr_str) => Ok(attr_str.call(vec![col(column::RESOURCE_ATTRIBUTES), lit("service.name")])),
        None => internal_err!("attr_str is not there"),
    }
}

/// Fields of events speak of one event in all of a condition, so what reads lists goes to one side.
fn split(condition: &Condition) -> BoundCondition {
    if !condition.reads_trace() {
        return BoundCondition { early: Some(condition.clone()), late: None };
    }
    let Condition::And(parts) = condition else {
        return BoundCondition { early: None, late: Some(condition.clone()) };
    };
    let lists_are_late = parts.iter().any(|part| part.reads_trace() && lower::reads_lists(part));
    let is_late = |part: &&Condition| part.reads_trace() || (lists_are_late && lower::reads_lists(part));
    let (late, early): (Vec<&Condition>, Vec<&Condition>) = parts.iter().partition(is_late);
    let joined = |parts: Vec<&Condition>| match parts.as_slice() {
        [] => None,
        [one] => Some((*one).clone()),
        _ => Some(Condition::And(parts.into_iter().cloned().collect())),
    };
    BoundCondition { early: joined(early), late: joined(late) }
}

/// The scopes of a parent's attribute, in the order in which they are looked up.
pub(super) fn parent_scopes(attribute: &Attribute) -> &'static [Scope] {
    match attribute.scope {
        Scope::Any => &[Scope::Span, Scope::Resource, Scope::Instrumentation],
        Scope::Span => &[Scope::Span],
        Scope::Resource => &[Scope::Resource],
        Scope::Instrumentation => &[Scope::Instrumentation],
        Scope::Event | Scope::Link => &[],
    }
}

/// The same attribute of the span itself.
pub(super) fn own(attribute: &Attribute, scope: Scope) -> FieldName {
    FieldName::Attribute(Attribute { of_parent: false, scope, key: attribute.key.clone() })
}

/// The fields of single spans that a field is computed from.
fn inputs_of(name: &FieldName) -> Vec<FieldName> {
    match name {
        FieldName::Attribute(attribute) if attribute.of_parent => {
            parent_scopes(attribute).iter().map(|scope| own(attribute, *scope)).collect()
        }
        name if name.is_of_trace() => Vec::new(),
        name => vec![name.clone()],
    }
}
