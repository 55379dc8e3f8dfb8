//! From a checked metrics query to its parts: functions over spans at the leaves, arithmetic and ranking above.

use crate::{
    error::{Error, Result},
    query::{
        metrics::{
            fields::{LabelColumns, Number},
            label::LabelValue,
            series::{SeriesSet, Side},
        },
        traceql::spans::SpanSource,
    },
    traceql::{
        self, TraceQlError,
        ast::{
            ArithmeticOp, Body, ComparisonOp, Field, FieldExpr, FieldKind, FieldName, FieldOp, Hint, Intrinsic,
            LogicalOp, Metrics, MetricsCall, MetricsFunction, MetricsSource, Pipeline, Reducer, SeriesExpr,
            SeriesStage, SpansetExpr, Stage, StageKind,
        },
        literal::Literal,
        plan::Condition,
    },
};

/// A metrics query that is ready to be planned over any base table.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    /// What to compute over spans, in the order of the text.
    pub(crate) leaves: Vec<Leaf>,
    /// What to compute from that.
    root: Node,
    /// `with(exemplars=...)`, if it is there.
    pub(crate) exemplars: Option<usize>,
}

/// What is computed from series.
#[derive(Clone, Debug)]
enum Node {
    /// The series of a leaf.
    Leaf(usize),
    /// A number.
    Number(f64),
    /// Arithmetic.
    Binary(ArithmeticOp, Box<Node>, Box<Node>),
    /// Ranking and comparisons, in order.
    Staged(Box<Node>, Vec<SeriesStage>),
}

/// A metrics function over the spans of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Its position among those of the query.
    pub(crate) position: usize,
    /// The spans.
    pub(crate) source: SpanSource,
    /// What the query says of the spans themselves, for showing.
    pub(crate) mentioned: Vec<FieldName>,
    /// Those of which all the spans have one value, since the query asks for it.
    pub(crate) fixed: Vec<(FieldName, LabelValue)>,
    /// The function.
    pub(crate) function: Function,
    /// The function's name.
    pub(crate) name: String,
    /// The labels of `by(...)`.
    pub(crate) labels: Vec<LabelColumns>,
}

/// What a leaf computes.
#[derive(Clone, Debug)]
pub(crate) enum Function {
    /// Spans, per second if `per_second`.
    Count {
        /// `rate()`
        per_second: bool,
    },
    /// A number of the spans' numbers.
    Reduce(Reducer, Number),
    /// Spans per power of two.
    Histogram(Number),
    /// Numbers out of that.
    Quantiles(Number, Vec<f64>),
    /// Attribute values inside and outside of a selection.
    Compare {
        /// Whether a span is in the selection.
        selection: Condition,
        /// How many values per attribute.
        top: usize,
        /// Where spans of the selection start, in Unix nanoseconds; the second one is outside.
        range: Option<(i64, i64)>,
    },
}

/// Values per attribute that `compare()` gives where the query does not say.
const COMPARE_TOP: usize = 10;

impl Compiled {
    /// Reads a query.
    ///
    /// # Errors
    /// The text is no TraceQL, is a search, or asks for what is not built.
    pub(crate) fn of(text: &str) -> Result<Self> {
        let query = traceql::compile(text)?;
        let Body::Metrics(metrics) = &query.body else {
            return Err(Error::invalid("not a metrics query"));
        };
        let mut leaves = Vec::new();
        let root = metrics_node(metrics, text, &mut leaves)?;
        Ok(Self { leaves, root, exemplars: query.hints.iter().rev().find_map(exemplars) })
    }

    /// Whether the answer is the series of one leaf, some of them perhaps left out.
    pub(crate) fn is_one_leaf(&self) -> bool {
        match &self.root {
            Node::Leaf(_) => true,
            Node::Staged(inner, _) => matches!(**inner, Node::Leaf(_)),
            _ => false,
        }
    }

    /// The answer, out of the series of each leaf.
    pub(crate) fn finish(&self, mut leaves: Vec<SeriesSet>) -> SeriesSet {
        match evaluate(&self.root, &mut leaves) {
            Side::Series(set) => set,
            Side::Number(_) => SeriesSet::default(),
        }
    }
}

fn evaluate(node: &Node, leaves: &mut [SeriesSet]) -> Side {
    match node {
        Node::Leaf(index) => Side::Series(std::mem::take(&mut leaves[*index])),
        Node::Number(number) => Side::Number(*number),
        Node::Binary(op, lhs, rhs) => {
            let lhs = evaluate(lhs, leaves);
            lhs.combine(*op, evaluate(rhs, leaves))
        }
        Node::Staged(inner, stages) => match evaluate(inner, leaves) {
            Side::Series(mut set) => {
                for stage in stages {
                    match stage {
                        SeriesStage::TopK(most, _) => set.keep_ranked(usize::try_from(*most).unwrap_or(0), true),
                        SeriesStage::BottomK(most, _) => set.keep_ranked(usize::try_from(*most).unwrap_or(0), false),
                        SeriesStage::Threshold(op, number) => set.keep_compared(*op, number),
                    }
                }
                Side::Series(set)
            }
            number => number,
        },
    }
}

/// `with(exemplars=true)` asks for what a query has anyway.
fn exemplars(hint: &Hint) -> Option<usize> {
    match (hint.name.as_str(), &hint.value) {
        ("exemplars", Literal::Bool(false)) => Some(0),
        ("exemplars", Literal::Int(count)) => usize::try_from(*count).ok(),
        _ => None,
    }
}

fn metrics_node(metrics: &Metrics, text: &str, leaves: &mut Vec<Leaf>) -> Result<Node> {
    let node = match &metrics.source {
        MetricsSource::Math(series) => series_node(series, text, leaves)?,
        MetricsSource::Spans { pipeline, call } => {
            leaves.push(leaf(leaves.len(), pipeline, call).map_err(|error| error.in_text(text))?);
            Node::Leaf(leaves.len() - 1)
        }
    };
    Ok(if metrics.tail.is_empty() { node } else { Node::Staged(Box::new(node), metrics.tail.clone()) })
}

fn series_node(series: &SeriesExpr, text: &str, leaves: &mut Vec<Leaf>) -> Result<Node> {
    Ok(match series {
        SeriesExpr::Metrics(metrics) => metrics_node(metrics, text, leaves)?,
        SeriesExpr::Number(number) => Node::Number(number.as_f64().unwrap_or(f64::NAN)),
        SeriesExpr::Binary { op, lhs, rhs, .. } => {
            let lhs = series_node(lhs, text, leaves)?;
            Node::Binary(*op, Box::new(lhs), Box::new(series_node(rhs, text, leaves)?))
        }
    })
}

fn leaf(position: usize, pipeline: &Pipeline, call: &MetricsCall) -> Result<Leaf, TraceQlError> {
    let mut mentioned = Vec::new();
    for stage in &pipeline.stages {
        if let StageKind::Spansets(spansets) = &stage.kind {
            mention(spansets, &mut mentioned);
        }
    }
    call.by.iter().for_each(|field| add(&mut mentioned, &field.name));
    let (name, function) = match &call.function {
        MetricsFunction::Rate => ("rate".to_owned(), Function::Count { per_second: true }),
        MetricsFunction::CountOverTime => ("count_over_time".to_owned(), Function::Count { per_second: false }),
        MetricsFunction::ReduceOverTime(reducer, Field { name: field, .. }) => {
            add(&mut mentioned, field);
            let name = format!("{}_over_time", reducer.name());
            (name, Function::Reduce(*reducer, Number::float(field)))
        }
        MetricsFunction::HistogramOverTime(Field { name: field, .. }) => {
            add(&mut mentioned, field);
            ("histogram_over_time".to_owned(), Function::Histogram(Number::int(field)))
        }
        MetricsFunction::QuantileOverTime(Field { name: field, .. }, quantiles) => {
            add(&mut mentioned, field);
            let function = Function::Quantiles(Number::int(field), distinct(quantiles, |a, b| a == b));
            ("quantile_over_time".to_owned(), function)
        }
        MetricsFunction::Compare { selection, top, range } => {
            let top = top.and_then(|top| usize::try_from(top).ok()).unwrap_or(COMPARE_TOP);
            let selection = Condition::build(selection)?;
            ("compare".to_owned(), Function::Compare { selection, top, range: *range })
        }
    };
    let by = distinct(&call.by, |a, b| a.name == b.name);
    let labels = by.iter().enumerate().map(|(position, field)| LabelColumns::new(&field.name, position)).collect();
    let selection_reads_trace = match &call.function {
        MetricsFunction::Compare { selection, .. } => selection.reads_trace(),
        _ => false,
    };
    let source = SpanSource::compile(pipeline)?.on_traces_if(selection_reads_trace);
    let fixed = fixed(pipeline);
    Ok(Leaf { position, source, mentioned, fixed, function, name, labels })
}

/// The statuses, kinds and names that a pipeline of one filter asks for.
fn fixed(pipeline: &Pipeline) -> Vec<(FieldName, LabelValue)> {
    let mut fixed = Vec::new();
    if let [Stage { kind: StageKind::Spansets(SpansetExpr::Filter(filter)), .. }] = pipeline.stages.as_slice() {
        fix(filter, &mut fixed);
    }
    fixed
}

fn fix(filter: &FieldExpr, fixed: &mut Vec<(FieldName, LabelValue)>) {
    let FieldKind::Binary { op, lhs, rhs } = &filter.kind else { return };
    match (op, &lhs.kind, &rhs.kind) {
        (FieldOp::Logical(LogicalOp::And), ..) => {
            fix(lhs, fixed);
            fix(rhs, fixed);
        }
        (FieldOp::Comparison(ComparisonOp::Eq), FieldKind::Field(field), FieldKind::Literal(literal))
        | (FieldOp::Comparison(ComparisonOp::Eq), FieldKind::Literal(literal), FieldKind::Field(field)) => {
            let word = match (field, literal) {
                (FieldName::Intrinsic(Intrinsic::Status), Literal::Status(status)) => status.name().to_owned(),
                (FieldName::Intrinsic(Intrinsic::Kind), Literal::Kind(kind)) => kind.name().to_owned(),
                (FieldName::Intrinsic(Intrinsic::Name), Literal::String(name)) if !name.is_empty() => name.clone(),
                _ => return,
            };
            fixed.push((field.clone(), LabelValue::Text(word)));
        }
        _ => {}
    }
}

/// Each once, in order; a series has no label twice, and no other series has its labels.
fn distinct<T: Clone>(items: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        if !kept.iter().any(|other| same(other, item)) {
            kept.push(item.clone());
        }
    }
    kept
}

fn mention(spansets: &SpansetExpr, mentioned: &mut Vec<FieldName>) {
    match spansets {
        SpansetExpr::Filter(filter) => filter.for_each_field(&mut |name| add(mentioned, name)),
        SpansetExpr::Binary { lhs, rhs, .. } => {
            mention(lhs, mentioned);
            mention(rhs, mentioned);
        }
        SpansetExpr::Pipeline(_) => {}
    }
}

/// Adds what a span alone can tell.
fn add(mentioned: &mut Vec<FieldName>, name: &FieldName) {
    use Intrinsic::{Duration, InstrumentationName, InstrumentationVersion, Kind, Name, Status, StatusMessage};
    let own = match name {
        FieldName::Intrinsic(intrinsic) => matches!(
            intrinsic,
            Duration | Name | Status | StatusMessage | Kind | InstrumentationName | InstrumentationVersion
        ),
        FieldName::Attribute(attribute) => !attribute.of_parent,
    };
    if own && !mentioned.contains(name) {
        mentioned.push(name.clone());
    }
}
