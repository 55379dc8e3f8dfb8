//! The tree of a TraceQL query, in the normal form that [`super::parse`](super::parse()) produces.
//!
//! Normal form: no redundant parentheses; `{ }` is `{ true }`; a minus in front of a number is part of the number;
//! arithmetic on plain numbers outside braces is folded; a pipeline in parentheses that is a whole stage is inlined.
//! Printing such a tree and parsing it again gives an equal one.

use super::literal::Literal;

/// Bytes `start..end` of the query's text, for messages. All ranges are equal, so trees compare by meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextRange {
    /// First byte.
    pub start: usize,
    /// First byte after.
    pub end: usize,
}

impl TextRange {
    /// The range from the start of `self` to the end of `other`.
    pub fn to(self, other: TextRange) -> TextRange {
        TextRange { start: self.start, end: other.end }
    }
}

impl PartialEq for TextRange {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A whole query: what it computes, and `with(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What it computes.
    pub body: Body,
    /// Hints in the order of the text.
    pub hints: Vec<Hint>,
}

/// A search for spans or a computation of time series.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A search: traces with spansets.
    Spansets(Pipeline),
    /// Time series.
    Metrics(Metrics),
}

/// `name = value` in `with(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    /// The name, known or not; unknown hints are ignored.
    pub name: String,
    /// The value.
    pub value: Literal,
}

/// Stages joined by `|`; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The stages in order.
    pub stages: Vec<Stage>,
}

/// One stage and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What it does.
    pub kind: StageKind,
    /// Its text.
    pub at: TextRange,
}

/// What a stage does with the spansets that reach it.
#[derive(Clone, Debug, PartialEq)]
pub enum StageKind {
    /// Filters and combines; never a lone [`SpansetExpr::Pipeline`], which is inlined.
    Spansets(SpansetExpr),
    /// Keeps spansets by an aggregate: `count() > 2`.
    Filter(ScalarFilter),
    /// `by(...)`: one spanset per value.
    GroupBy(FieldExpr),
    /// `coalesce()`: all spansets of a trace become one.
    Coalesce,
    /// `select(...)`: more attributes in the answer.
    Select(Vec<Field>),
}

/// A combination of filters.
#[derive(Clone, Debug, PartialEq)]
pub enum SpansetExpr {
    /// `{ ... }`
    Filter(FieldExpr),
    /// `( ... | ... )` as an operand.
    Pipeline(Pipeline),
    /// Two sides and what relates them.
    Binary {
        /// The relation.
        op: SpansetOp,
        /// Left side.
        lhs: Box<SpansetExpr>,
        /// Right side.
        rhs: Box<SpansetExpr>,
        /// The operator's text.
        at: TextRange,
    },
}

/// How two spansets of a trace combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpansetOp {
    /// `&&`, `||`
    Logical(LogicalOp),
    /// `>`, `!>>`, `&~` and so on.
    Structural {
        /// How the right side's spans relate to the left side's.
        relation: Relation,
        /// Which spans come out.
        variant: Variant,
    },
}

/// How a span of the right side relates to one of the left side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `>`: it is a child.
    Child,
    /// `>>`: it is a descendant.
    Descendant,
    /// `<`: it is the parent.
    Parent,
    /// `<<`: it is an ancestor.
    Ancestor,
    /// `~`: it has the same parent.
    Sibling,
}

/// Which spans a structural operator returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Spans of the right side that have the relation.
    Plain,
    /// `!`: spans of the right side that do not have it.
    Negated,
    /// `&`: spans of both sides that take part in it.
    Union,
}

/// A comparison of scalars, at least one of them with an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarFilter {
    /// Left side.
    pub lhs: ScalarExpr,
    /// The comparison.
    pub op: ComparisonOp,
    /// Right side.
    pub rhs: ScalarExpr,
    /// Its text.
    pub at: TextRange,
}

/// One number per spanset.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarExpr {
    /// A number or duration.
    Number(Literal),
    /// `count()`, `avg(duration)`
    Aggregate(Aggregate),
    /// `( ... | count() )`
    Pipeline(Box<ScalarPipeline>),
    /// Arithmetic.
    Binary {
        /// The operation.
        op: ArithmeticOp,
        /// Left side.
        lhs: Box<ScalarExpr>,
        /// Right side.
        rhs: Box<ScalarExpr>,
    },
    /// A minus in front of anything but a number.
    Negate(Box<ScalarExpr>),
}

/// A pipeline in parentheses whose last stage is a number per spanset.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarPipeline {
    /// The stages in front.
    pub pipeline: Pipeline,
    /// The last stage.
    pub value: ScalarExpr,
}

/// An aggregate over the spans of a spanset.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Which one, with its argument.
    pub function: AggregateFunction,
    /// Its text.
    pub at: TextRange,
}

/// The aggregates of a spanset.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregateFunction {
    /// `count()`
    Count,
    /// `min(...)` and the like.
    Reduce(Reducer, FieldExpr),
}

/// How many numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reducer {
    /// `min`
    Min,
    /// `max`
    Max,
    /// `avg`
    Avg,
    /// `sum`
    Sum,
}

/// Time series, and what is done to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Where they come from.
    pub source: MetricsSource,
    /// `topk`, `bottomk` and comparisons, in order.
    pub tail: Vec<SeriesStage>,
}

/// Where series come from.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsSource {
    /// A metrics function over the spans of a pipeline.
    Spans {
        /// The spans.
        pipeline: Pipeline,
        /// The function.
        call: MetricsCall,
    },
    /// Arithmetic on series; never a lone [`SeriesExpr::Metrics`], which is inlined.
    Math(SeriesExpr),
}

/// `rate() by(...)` and the like.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsCall {
    /// The function.
    pub function: MetricsFunction,
    /// The labels; empty without `by`.
    pub by: Vec<Field>,
    /// Its text.
    pub at: TextRange,
}

/// The functions from spans to series.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsFunction {
    /// `rate()`
    Rate,
    /// `count_over_time()`
    CountOverTime,
    /// `min_over_time(...)` and the like.
    ReduceOverTime(Reducer, Field),
    /// `histogram_over_time(...)`
    HistogramOverTime(Field),
    /// `quantile_over_time(..., 0.5, 0.9)`
    QuantileOverTime(Field, Vec<f64>),
    /// `compare({ ... })`
    Compare {
        /// The selection.
        selection: FieldExpr,
        /// How many values per attribute.
        top: Option<i64>,
        /// The selection's time range in Unix nanoseconds.
        range: Option<(i64, i64)>,
    },
}

/// Series, a number, or arithmetic on them.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesExpr {
    /// `( {} | rate() )`
    Metrics(Box<Metrics>),
    /// A number.
    Number(Literal),
    /// `+ - * /`
    Binary {
        /// The operation.
        op: ArithmeticOp,
        /// Left side.
        lhs: Box<SeriesExpr>,
        /// Right side.
        rhs: Box<SeriesExpr>,
        /// The operator's text.
        at: TextRange,
    },
}

/// What is done to finished series.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesStage {
    /// `| topk(n)`, with its place.
    TopK(i64, TextRange),
    /// `| bottomk(n)`, with its place.
    BottomK(i64, TextRange),
    /// `> 10`: drops the other points.
    Threshold(ComparisonOp, Literal),
}

/// An expression on one span.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldExpr {
    /// What it is.
    pub kind: FieldKind,
    /// Its text.
    pub at: TextRange,
}

/// The expressions on one span.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldKind {
    /// A constant.
    Literal(Literal),
    /// An attribute or intrinsic.
    Field(FieldName),
    /// `!x`, `-x`
    Unary {
        /// The operation.
        op: UnaryOp,
        /// Its operand.
        operand: Box<FieldExpr>,
    },
    /// `x op y`
    Binary {
        /// The operation.
        op: FieldOp,
        /// Left side.
        lhs: Box<FieldExpr>,
        /// Right side.
        rhs: Box<FieldExpr>,
    },
}

/// An attribute or intrinsic by itself: in `select(...)`, `by(...)` of metrics, `avg_over_time(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Which one.
    pub name: FieldName,
    /// Its text.
    pub at: TextRange,
}

/// The name of something that a span has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FieldName {
    /// A property that every span has, or its trace, events, links or scope.
    Intrinsic(Intrinsic),
    /// An attribute.
    Attribute(Attribute),
}

/// An attribute by scope and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute {
    /// `parent.`: of the parent span.
    pub of_parent: bool,
    /// Where the key is looked up.
    pub scope: Scope,
    /// The key, unquoted; not empty.
    pub key: String,
}

/// Where an attribute is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `.key`: span, resource, event, link, instrumentation; the first that has it.
    Any,
    /// `span.key`
    Span,
    /// `resource.key`
    Resource,
    /// `event.key`
    Event,
    /// `link.key`
    Link,
    /// `instrumentation.key`
    Instrumentation,
}

/// Properties with names of the language; what each means is in [`super::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the intrinsic of that name")]
pub enum Intrinsic {
    Duration,
    Name,
    Status,
    StatusMessage,
    Kind,
    SpanId,
    SpanParentId,
    SpanChildCount,
    RootName,
    RootServiceName,
    TraceDuration,
    TraceId,
    NestedSetLeft,
    NestedSetRight,
    NestedSetParent,
    EventName,
    EventTimeSinceStart,
    LinkTraceId,
    LinkSpanId,
    InstrumentationName,
    InstrumentationVersion,
    Parent,
}

/// Operators with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `!`
    Not,
    /// `-`
    Negate,
}

/// Operators with two operands inside braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldOp {
    /// `&&`, `||`
    Logical(LogicalOp),
    /// `=` to `>=`
    Comparison(ComparisonOp),
    /// `=~`, `!~`
    Regex(RegexOp),
    /// `+` to `^`
    Arithmetic(ArithmeticOp),
}

/// Both bind equally tight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogicalOp {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComparisonOp {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// Matches of a regular expression, anchored at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegexOp {
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArithmeticOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`; between integers it truncates.
    Div,
    /// `%`
    Mod,
    /// `^`, right associative.
    Pow,
}
