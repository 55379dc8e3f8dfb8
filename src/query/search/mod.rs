//! TraceQL searches: the latest traces that a pipeline finds, each with some of its spans and a summary of the whole.
//!
//! A search runs in two steps over the base table:
//!
//! ```text
//!  candidates: spans that witness a match, from a moment on -> the k traces whose first witness is latest
//!  answer:     all spans of those traces, within the extent -> the pipeline on whole traces -> latest start first
//! ```
//!
//! The first step ([`finder`]) reads what conditions mention, the second only the files and pages that can hold the
//! candidates. A trace starts no later than its first witness, so the answer is final if its last trace starts after the first witness
//! of every trace that was left out ([`rounds`]); else more are looked at. Hence the answer is the same as that of reading
//! everything, whatever `k` and the moment are. What a pipeline means is [`crate::query::spansets`]' to decide.
//!
//! The answer has one row per trace, by start from late to early, then by trace id:
//!
//! | column | type | |
//! |---|---|---|
//! | `trace_id` | 16 bytes | |
//! | `root_service_name`, `root_name` | text, NULL | of the first span without a parent; NULL where none is there |
//! | `start_time_unix_nano` | int | first start of all spans of the trace |
//! | `duration_nano` | int | from there to the last end |
//! | `matched` | int | spans in all spansets |
//! | `span_sets` | list of struct | `attributes` (`by(...)` and scalars), `matched` (its spans), `spans` (the first of them) |
//! | `service_stats` | list of struct | per service, by name: `service_name` (NULL where it has none), `span_count`, `error_count` |
//!
//! A struct in `spans` is `span_id` (8 bytes), `name`, `start_time_unix_nano`, `duration_nano` and `attributes`, an
//! attribute map with what the query mentions or selects, in that order, keys without scope. Rows with equal span id and
//! kind are copies of one span; the earlier one counts.

mod explained;
pub(crate) mod finder;
pub(crate) mod rounds;
pub(in crate::query) mod schema;

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{FixedSizeBinaryBuilder, RecordBatch},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::{MemTable, TableProvider},
    common::{Column, JoinType, Result, ScalarValue},
    datasource::provider_as_source,
    functions_aggregate::expr_fn::bool_or,
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, col, lit,
        utils::{conjunction, disjunction},
    },
};

use self::finder::Reach;
pub(crate) use self::{explained::explained_schema, schema::answer_schema};
use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::{
        request::{DurationBounds, TraceCursor},
        session::scan_base,
        spans_table::SpansTable,
        spansets::{Output, Program, TextForm, Witness, trace_eval, witnesses},
    },
    storage::trace_set::TraceSet,
    traceql::plan::Spansets,
};

/// A search in terms of the base table.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// What it computes on each trace.
    pub(crate) spansets: Spansets,
    /// Where found spans start.
    pub(crate) range: TimeRange,
    /// How far from the range other spans of their traces may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// Most traces in the answer.
    pub(crate) limit: usize,
    /// Most spans shown per spanset, at least one.
    pub(crate) spans_per_set: usize,
    /// How long its traces are.
    pub(crate) duration: DurationBounds,
    /// The last trace of the page before.
    pub(crate) after: Option<TraceCursor>,
}

impl Search {
    fn reach(&self) -> Reach {
        Reach { range: self.range, extent_nano: self.extent_nano }
    }

    fn program(&self) -> Result<Program> {
        Program::new(&self.spansets, self.range, Output::Traces { spans_max: self.spans_per_set })
    }
}

/// Relation of the candidates in the plan.
const CANDIDATES: &str = "candidates";
/// Relation of all spans in the plan.
const WHOLE: &str = "whole";

/// Which traces are evaluated.
#[derive(Clone, Debug)]
pub(crate) enum Candidates {
    /// Every trace.
    All,
    /// Those whose ids a plan gives in a column `trace_id`.
    Plan(Box<LogicalPlan>),
    /// These. Spans of all others are left out.
    Known {
        /// The traces.
        set: Arc<TraceSet>,
        /// Their ids once more, if they are so few that files are ruled out by them.
        named: Option<Vec<TraceId>>,
        /// Whether it pays to look at ids before anything else of a span is decoded.
        is_few: bool,
    },
}

impl Candidates {
    /// How text is read where these traces are looked at: as codes, unless a plan sorts spans, which may be spilled.
    pub(in crate::query) fn text_form(candidates: Option<&Self>) -> TextForm {
        match candidates {
            Some(Self::Known { .. }) => TextForm::Coded,
            Some(Self::All | Self::Plan(_)) | None => TextForm::Plain,
        }
    }

    /// The same traces for a plan that spills where memory is short.
    pub(crate) fn spilling(&self) -> Result<Self> {
        let Self::Known { set, .. } = self else { return Ok(self.clone()) };
        let field = Field::new(column::TRACE_ID, DataType::FixedSizeBinary(TraceId::LEN as i32), false);
        let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
        let mut ids = FixedSizeBinaryBuilder::with_capacity(set.len(), TraceId::LEN as i32);
        for number in set.numbers() {
            ids.append_value(number.to_be_bytes())?;
        }
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids.finish())])?;
        let table = Arc::new(MemTable::try_new(schema, vec![vec![batch]])?);
        let plan = LogicalPlanBuilder::scan("ids", provider_as_source(table), None)?.build()?;
        Ok(Self::Plan(Box::new(plan)))
    }
}

/// What it takes to start in `range`, without the bounds that the type has anyway.
pub(crate) fn starts_in(range: TimeRange) -> Vec<Expr> {
    let start = col(column::START_TIME);
    let mut bounds = Vec::new();
    if range.start_unix_nano != i64::MIN {
        bounds.push(start.clone().gt_eq(lit(range.start_unix_nano)));
    }
    if range.end_unix_nano != i64::MAX {
        bounds.push(start.lt(lit(range.end_unix_nano)));
    }
    bounds
}

/// The same for spans of a table: nothing where all of them start in the range, so that no start is looked at.
pub(crate) fn starts_of(base: &Arc<dyn TableProvider>, range: TimeRange) -> Vec<Expr> {
    match SpansTable::of(base.as_ref()) {
        Some(table) if table.is_within(range) => Vec::new(),
        _ => starts_in(range),
    }
}

/// The condition of each witness, and the spans that fulfil one of them and start in the window.
fn any_witness(
    witnesses: &[Witness],
    base: &Arc<dyn TableProvider>,
    reach: Reach,
    window: TimeRange,
) -> Result<(Vec<Expr>, LogicalPlanBuilder)> {
    let within = |range: TimeRange| {
        let both = TimeRange {
            start_unix_nano: range.start_unix_nano.max(window.start_unix_nano),
            end_unix_nano: range.end_unix_nano.min(window.end_unix_nano),
        };
        starts_of(base, both)
    };
    let all_in_range = witnesses.iter().all(|witness| witness.in_range);
    // Where the bounds of all are one, they are stated once, apart, so that files are ruled out by them.
    let bounds = within(if all_in_range { reach.range } else { reach.wide() });
    let condition = |witness: &Witness| match witness.in_range && !all_in_range {
        true => within(reach.range).into_iter().fold(witness.filter.clone(), Expr::and),
        false => witness.filter.clone(),
    };
    let conditions: Vec<Expr> = witnesses.iter().map(condition).collect();
    let mut spans = scan_base(base)?;
    if let Some(filter) = conjunction(bounds.into_iter().chain(disjunction(conditions.iter().cloned()))) {
        spans = spans.filter(filter)?;
    }
    Ok((conditions, spans))
}

/// Whether it matters when witnesses start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starts {
    /// The latest traces are wanted.
    Read,
    /// All are.
    Left,
}

/// The spans that witness a match: trace id, start if it is asked for and, if there are several witnesses, which of them the
/// span is.
fn witnessing(
    witnesses: &[Witness],
    base: &Arc<dyn TableProvider>,
    reach: Reach,
    window: TimeRange,
    starts: Starts,
) -> Result<LogicalPlan> {
    let (conditions, spans) = any_witness(witnesses, base, reach, window)?;
    let mut columns = vec![col(column::TRACE_ID)];
    columns.extend((starts == Starts::Read).then(|| col(column::START_TIME)));
    if conditions.len() > 1 {
        let conditions = conditions.into_iter().take(finder::WITNESSES_MAX).enumerate();
        columns.extend(conditions.map(|(index, condition)| condition.is_true().alias(format!("has_{index}"))));
    }
    spans.project(columns)?.build()
}

/// The ids of all traces that can be found.
fn candidates(witnesses: &[Witness], base: &Arc<dyn TableProvider>, reach: Reach) -> Result<LogicalPlan> {
    let (conditions, spans) = any_witness(witnesses, base, reach, TimeRange::ALL)?;
    let mut aggregates = Vec::new();
    let several = conditions.len() > 1;
    let has = |index: usize| format!("has_{index}");
    if several {
        aggregates.extend(
            conditions.into_iter().enumerate().map(|(index, witness)| bool_or(witness.is_true()).alias(has(index))),
        );
    }
    let mut traces = spans.aggregate([col(column::TRACE_ID)], aggregates)?;
    if several && let Some(all) = conjunction((0..witnesses.len()).map(|index| col(has(index)))) {
        traces = traces.filter(all)?;
    }
    traces.project([col(column::TRACE_ID)])?.build()
}

/// Every trace that can be found with a span in `range`, as a part of the plan; [`finder`] finds them before.
pub(crate) fn all_candidates(program: &Program, base: &Arc<dyn TableProvider>, reach: Reach) -> Result<Candidates> {
    let witnesses = witnesses(program);
    if witnesses.is_empty() {
        return Ok(Candidates::All);
    }
    let plan = candidates(&witnesses, base, reach)?;
    Ok(Candidates::Plan(Box::new(plan)))
}

/// The pipeline on the whole traces of the candidates.
pub(crate) fn evaluated(
    program: Program,
    base: &Arc<dyn TableProvider>,
    within: TimeRange,
    candidates: Candidates,
) -> Result<LogicalPlan> {
    let mut conditions = starts_of(base, within);
    match &candidates {
        Candidates::Known { named: Some(ids), .. } => {
            let id =
                |id: &TraceId| lit(ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(id.as_bytes().to_vec())));
            conditions.push(col(column::TRACE_ID).in_list(ids.iter().map(id).collect(), false));
        }
        Candidates::Known { set, is_few: true, .. } => conditions.push(set.filter()),
        Candidates::Known { .. } | Candidates::Plan(_) | Candidates::All => {}
    }
    let mut spans = scan_base(base)?;
    if let Some(condition) = conjunction(conditions) {
        spans = spans.filter(condition)?;
    }
    let mut whole = spans.project(program.columns(Candidates::text_form(Some(&candidates))))?;
    let mut known = None;
    if let Candidates::Known { set, .. } = &candidates {
        known = Some(Arc::clone(set));
    }
    if let Candidates::Plan(candidates) = candidates {
        let of = |relation: &str| vec![Column::new(Some(relation), column::TRACE_ID)];
        let whole_spans = whole.alias(WHOLE)?.build()?;
        whole = LogicalPlanBuilder::from(*candidates).alias(CANDIDATES)?.join(
            whole_spans,
            JoinType::RightSemi,
            (of(CANDIDATES), of(WHOLE)),
            None,
        )?;
    }
    trace_eval(program, whole.build()?, known)
}

/// Those of the candidates that are found, in any order.
fn answer(
    search: &Search,
    program: Program,
    base: &Arc<dyn TableProvider>,
    candidates: Candidates,
) -> Result<LogicalPlan> {
    let found = evaluated(program, base, search.reach().wide(), candidates)?;
    match conjunction(wanted(search)) {
        Some(wanted) => LogicalPlanBuilder::from(found).filter(wanted)?.build(),
        None => Ok(found),
    }
}

/// What the facts of a trace have to be: those of the page and the duration that are asked for.
fn wanted(search: &Search) -> Vec<Expr> {
    let mut wanted = Vec::new();
    wanted.extend(search.duration.min_nano.map(|min| col(column::DURATION).gt_eq(lit(min))));
    wanted.extend(search.duration.max_nano.map(|max| col(column::DURATION).lt_eq(lit(max))));
    wanted.extend(search.after.map(|TraceCursor { start_unix_nano, trace_id }| {
        let id = ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(trace_id.as_bytes().to_vec()));
        let together = col(column::START_TIME).eq(lit(start_unix_nano)).and(col(column::TRACE_ID).gt(lit(id)));
        col(column::START_TIME).lt(lit(start_unix_nano)).or(together)
    }));
    wanted
}
