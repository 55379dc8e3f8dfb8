//! Pipelines: what is computed on the spans of one trace, stage by stage.
//!
//! Stages speak of conditions and values by their position, so that each is looked up once per span however often the
//! query names it. What the stages mean is in `grammar/README.md`, sections 5 and 6.

use super::{
    condition::{Condition, Value},
    show,
};
use crate::traceql::{
    ast::{
        AggregateFunction, ArithmeticOp, ComparisonOp, FieldExpr, FieldName, Pipeline, Reducer, ScalarExpr,
        ScalarFilter, SpansetExpr, SpansetOp, Stage, StageKind,
    },
    error::TraceQlError,
    literal::Literal,
    types::Type,
};

/// A pipeline on the spans of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Spansets {
    /// What the stages ask of single spans.
    pub conditions: Vec<Condition>,
    /// What the stages compute of single spans.
    pub values: Vec<Value>,
    /// The stages in order; at least one.
    pub stages: Vec<PlannedStage>,
    /// What is shown of a span besides ids, name and times: what the query mentions, then what `select` asks for.
    pub shown: Vec<FieldName>,
    /// Whether the text names what only the whole trace tells, even where constants decide without it. A test for
    /// roots needs no trace.
    pub reads_trace: bool,
}

/// What a stage does with each spanset.
#[derive(Clone, Debug, PartialEq)]
pub enum PlannedStage {
    /// Keeps some of its spans.
    Spansets(PlannedSpansets),
    /// Keeps all of it, or nothing.
    Filter {
        /// The comparison.
        op: ComparisonOp,
        /// Left side.
        lhs: ScalarSide,
        /// Right side.
        rhs: ScalarSide,
    },
    /// Splits it by a value.
    GroupBy {
        /// Position of the value.
        value: usize,
        /// The attribute's name.
        label: String,
        /// Whether the value is a duration.
        is_duration: bool,
    },
    /// Makes one of all.
    Coalesce,
}

impl PlannedStage {
    fn relates_spans(&self) -> bool {
        match self {
            Self::Spansets(spansets) => spansets.relates_spans(),
            Self::Filter { lhs, rhs, .. } => lhs.scalar.relates_spans() || rhs.scalar.relates_spans(),
            Self::GroupBy { .. } | Self::Coalesce => false,
        }
    }
}

/// Which spans of a spanset stay.
#[derive(Clone, Debug, PartialEq)]
pub enum PlannedSpansets {
    /// Those that fulfil the condition at this position.
    Filter(usize),
    /// Those that these stages leave, in at most one spanset.
    Pipeline(Vec<PlannedStage>),
    /// A combination.
    Binary {
        /// The relation.
        op: SpansetOp,
        /// Left side.
        lhs: Box<PlannedSpansets>,
        /// Right side.
        rhs: Box<PlannedSpansets>,
    },
}

impl PlannedSpansets {
    fn relates_spans(&self) -> bool {
        match self {
            Self::Filter(_) => false,
            Self::Pipeline(stages) => stages.iter().any(PlannedStage::relates_spans),
            Self::Binary { op: SpansetOp::Structural { .. }, .. } => true,
            Self::Binary { op: SpansetOp::Logical(_), lhs, rhs } => lhs.relates_spans() || rhs.relates_spans(),
        }
    }
}

/// A side of a scalar filter.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarSide {
    /// How it is computed.
    pub scalar: Scalar,
    /// The attribute that a spanset gets, unless it is a plain number.
    pub label: Option<String>,
    /// Whether it is a duration.
    pub is_duration: bool,
}

/// One number per spanset.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A number or duration.
    Number(Literal),
    /// `count()`
    Count,
    /// `min(...)` and the like, of the value at a position.
    Reduce(Reducer, usize),
    /// The scalar over what these stages leave, in at most one spanset.
    Pipeline(Vec<PlannedStage>, Box<Scalar>),
    /// Arithmetic on floats.
    Binary {
        /// The operation.
        op: ArithmeticOp,
        /// Left side.
        lhs: Box<Scalar>,
        /// Right side.
        rhs: Box<Scalar>,
    },
    /// The negative.
    Negate(Box<Scalar>),
}

impl Scalar {
    fn relates_spans(&self) -> bool {
        match self {
            Self::Number(_) | Self::Count | Self::Reduce(..) => false,
            Self::Pipeline(stages, value) => stages.iter().any(PlannedStage::relates_spans) || value.relates_spans(),
            Self::Binary { lhs, rhs, .. } => lhs.relates_spans() || rhs.relates_spans(),
            Self::Negate(inner) => inner.relates_spans(),
        }
    }
}

impl Spansets {
    /// Whether a stage asks how spans are related.
    pub fn relates_spans(&self) -> bool {
        self.stages.iter().any(PlannedStage::relates_spans)
    }

    /// Plans a pipeline of a query that [`crate::traceql::check()`] has passed. The error has no excerpt yet.
    pub fn build(pipeline: &Pipeline) -> Result<Self, TraceQlError> {
        let mut builder = Builder::default();
        let stages = builder.stages(&pipeline.stages)?;
        let Builder { conditions, values, mentioned, selected, reads_trace } = builder;
        let mut shown = mentioned;
        for name in &selected {
            show(&mut shown, name);
        }
        Ok(Self { conditions, values, stages, shown, reads_trace })
    }

    /// All spans: `{ }`.
    pub fn all() -> Self {
        Self {
            conditions: vec![Condition::Constant(true)],
            values: Vec::new(),
            stages: vec![PlannedStage::Spansets(PlannedSpansets::Filter(0))],
            shown: Vec::new(),
            reads_trace: false,
        }
    }

    /// The conditions of a pipeline of nothing but filters and `select` that needs nothing but the span itself. A span has
    /// to fulfil each, and each may look at another event.
    pub fn filters(&self) -> Option<Vec<&Condition>> {
        if self.reads_trace {
            return None;
        }
        let filter = |stage: &PlannedStage| match stage {
            PlannedStage::Spansets(PlannedSpansets::Filter(index)) => Some(*index),
            _ => None,
        };
        self.stages.iter().map(|stage| self.conditions.get(filter(stage)?)).collect()
    }

    /// The condition of a pipeline that is one such filter.
    pub fn single(&self) -> Option<&Condition> {
        match self.filters()?.as_slice() {
            [condition] => Some(condition),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Builder {
    conditions: Vec<Condition>,
    values: Vec<Value>,
    mentioned: Vec<FieldName>,
    selected: Vec<FieldName>,
    reads_trace: bool,
}

/// The position of an item, which is added if it is new.
fn position<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    match items.iter().position(|known| *known == item) {
        Some(position) => position,
        None => {
            items.push(item);
            items.len() - 1
        }
    }
}

impl Builder {
    fn stages(&mut self, stages: &[Stage]) -> Result<Vec<PlannedStage>, TraceQlError> {
        let mut planned = Vec::with_capacity(stages.len());
        for stage in stages {
            match &stage.kind {
                StageKind::Spansets(spansets) => planned.push(PlannedStage::Spansets(self.spansets(spansets)?)),
                StageKind::Filter(filter) => planned.push(self.scalar_filter(filter)?),
                StageKind::GroupBy(field) => {
                    let is_duration = field.type_of() == Type::Duration;
                    planned.push(PlannedStage::GroupBy {
                        value: self.value(field)?,
                        label: format!("by({field})"),
                        is_duration,
                    });
                }
                StageKind::Coalesce => planned.push(PlannedStage::Coalesce),
                StageKind::Select(fields) => {
                    self.reads_trace |= fields.iter().any(|field| field.name.is_of_trace());
                    self.selected.extend(fields.iter().map(|field| field.name.clone()));
                }
            }
        }
        Ok(planned)
    }

    fn mention(&mut self, field: &FieldExpr) {
        self.reads_trace |= field.reads_trace();
        field.for_each_field(&mut |name| show(&mut self.mentioned, name));
    }

    fn value(&mut self, field: &FieldExpr) -> Result<usize, TraceQlError> {
        self.mention(field);
        let value = Value::build(field)?;
        Ok(position(&mut self.values, value))
    }

    fn spansets(&mut self, spansets: &SpansetExpr) -> Result<PlannedSpansets, TraceQlError> {
        Ok(match spansets {
            SpansetExpr::Filter(field) => {
                self.mention(field);
                let condition = Condition::build(field)?;
                PlannedSpansets::Filter(position(&mut self.conditions, condition))
            }
            SpansetExpr::Pipeline(pipeline) => PlannedSpansets::Pipeline(self.stages(&pipeline.stages)?),
            SpansetExpr::Binary { op, lhs, rhs, .. } => PlannedSpansets::Binary {
                op: *op,
                lhs: Box::new(self.spansets(lhs)?),
                rhs: Box::new(self.spansets(rhs)?),
            },
        })
    }

    fn scalar_filter(&mut self, filter: &ScalarFilter) -> Result<PlannedStage, TraceQlError> {
        Ok(PlannedStage::Filter { op: filter.op, lhs: self.side(&filter.lhs)?, rhs: self.side(&filter.rhs)? })
    }

    fn side(&mut self, expr: &ScalarExpr) -> Result<ScalarSide, TraceQlError> {
        let label = (!matches!(expr, ScalarExpr::Number(_))).then(|| expr.to_string());
        Ok(ScalarSide { scalar: self.scalar(expr)?, label, is_duration: is_duration(expr) })
    }

    fn scalar(&mut self, expr: &ScalarExpr) -> Result<Scalar, TraceQlError> {
        Ok(match expr {
            ScalarExpr::Number(number) => Scalar::Number(number.clone()),
            ScalarExpr::Aggregate(aggregate) => match &aggregate.function {
                AggregateFunction::Count => Scalar::Count,
                AggregateFunction::Reduce(reducer, field) => Scalar::Reduce(*reducer, self.value(field)?),
            },
            ScalarExpr::Pipeline(inner) => {
                let stages = self.stages(&inner.pipeline.stages)?;
                Scalar::Pipeline(stages, Box::new(self.scalar(&inner.value)?))
            }
            ScalarExpr::Binary { op, lhs, rhs } => {
                Scalar::Binary { op: *op, lhs: Box::new(self.scalar(lhs)?), rhs: Box::new(self.scalar(rhs)?) }
            }
            ScalarExpr::Negate(inner) => Scalar::Negate(Box::new(self.scalar(inner)?)),
        })
    }
}

fn is_duration(expr: &ScalarExpr) -> bool {
    match expr {
        ScalarExpr::Aggregate(aggregate) => match &aggregate.function {
            AggregateFunction::Count => false,
            AggregateFunction::Reduce(_, field) => field.type_of() == Type::Duration,
        },
        ScalarExpr::Pipeline(inner) => is_duration(&inner.value),
        ScalarExpr::Negate(inner) => is_duration(inner),
        ScalarExpr::Number(number) => matches!(number, Literal::Duration(_)),
        ScalarExpr::Binary { op, lhs, rhs } => match (op, is_duration(lhs), is_duration(rhs)) {
            (ArithmeticOp::Add | ArithmeticOp::Sub | ArithmeticOp::Mod, lhs, rhs) => lhs || rhs,
            (ArithmeticOp::Mul, lhs, rhs) => lhs != rhs,
            (ArithmeticOp::Div, lhs, rhs) => lhs && !rhs,
            (ArithmeticOp::Pow, ..) => false,
        },
    }
}
