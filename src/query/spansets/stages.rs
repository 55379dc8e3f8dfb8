//! The stages of a pipeline on the spans of one trace. The rules are in `grammar/README.md`, sections 5 and 6.

use std::{
    cell::OnceCell,
    collections::HashMap,
    hash::{Hash, Hasher},
};

use super::tree::Tree;
use crate::traceql::{
    ast::{ArithmeticOp, LogicalOp, Reducer, Relation, SpansetOp, Variant},
    literal::{Literal, format_duration},
    plan::{Dynamic, PlannedSpansets, PlannedStage, Scalar, ScalarSide},
};

/// A value that outlives the columns it came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owned {
    Missing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// An array, a map or bytes.
    Json(String),
}

impl Owned {
    /// A scalar; arrays and what is opaque have their JSON elsewhere.
    pub(super) fn of(value: &Dynamic<'_>) -> Self {
        match value {
            Dynamic::Missing | Dynamic::Opaque | Dynamic::Array(_) => Owned::Missing,
            Dynamic::Bool(value) => Owned::Bool(*value),
            Dynamic::Int(value) => Owned::Int(*value),
            Dynamic::Float(value) => Owned::Float(*value),
            Dynamic::String(text) => Owned::Text(text.clone().into_owned()),
            Dynamic::Status(status) => Owned::Text(status.name().to_owned()),
            Dynamic::Kind(kind) => Owned::Text(kind.name().to_owned()),
        }
    }

    /// A number of nanoseconds as text.
    pub(super) fn into_duration(self) -> Self {
        match self {
            Owned::Int(nanos) => Owned::Text(format_duration(nanos)),
            Owned::Float(nanos) if nanos.is_finite() => Owned::Text(format_duration(nanos as i64)),
            other => other,
        }
    }
}

/// Values of one group of `by(...)` are equal in type and value.
#[derive(Debug)]
struct GroupKey(Owned);

impl GroupKey {
    fn float_bits(value: f64) -> u64 {
        // All that is not a number is one group, and so are both zeros.
        if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
    }
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Owned::Float(a), Owned::Float(b)) => Self::float_bits(*a) == Self::float_bits(*b),
            (a, b) => a == b,
        }
    }
}

impl Eq for GroupKey {}

impl Hash for GroupKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.0).hash(state);
        match &self.0 {
            Owned::Missing => {}
            Owned::Bool(value) => value.hash(state),
            Owned::Int(value) => value.hash(state),
            Owned::Float(value) => Self::float_bits(*value).hash(state),
            Owned::Text(text) | Owned::Json(text) => text.hash(state),
        }
    }
}

/// A spanset: spans in order, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Spanset {
    pub(super) spans: Vec<u32>,
    pub(super) attributes: Vec<(String, Owned)>,
}

impl Spanset {
    fn set(&mut self, name: &str, value: Owned) {
        match self.attributes.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((name.to_owned(), value)),
        }
    }
}

/// What the stages ask of a trace.
pub(super) trait Trace {
    /// Number of distinct spans.
    fn len(&self) -> usize;
    /// The edges between them.
    fn tree(&self) -> &Tree;
    /// Whether a span fulfils the condition at a position.
    fn holds(&self, condition: usize, span: u32) -> bool;
    /// The value at a position, for arithmetic.
    fn number(&self, value: usize, span: u32) -> Dynamic<'_>;
    /// The value at a position, for grouping.
    fn owned(&self, value: usize, span: u32) -> Owned;
}

/// Runs the stages on all spans of a trace.
pub(super) fn run<T: Trace>(trace: &T, stages: &[PlannedStage]) -> Vec<Spanset> {
    let all = Spanset { spans: (0..trace.len() as u32).collect(), attributes: Vec::new() };
    Run { trace, none: OnceCell::new() }.stages(stages, vec![all])
}

struct Run<'a, T> {
    trace: &'a T,
    /// A mark per span, none set.
    none: OnceCell<Vec<bool>>,
}

impl<T: Trace> Run<'_, T> {
    fn stages(&self, stages: &[PlannedStage], mut spansets: Vec<Spanset>) -> Vec<Spanset> {
        for stage in stages {
            match stage {
                PlannedStage::Spansets(planned) => {
                    for spanset in &mut spansets {
                        spanset.spans = self.spansets(planned, std::mem::take(&mut spanset.spans));
                    }
                    spansets.retain(|spanset| !spanset.spans.is_empty());
                }
                PlannedStage::Filter { op, lhs, rhs } => spansets.retain_mut(|spanset| {
                    let (Some(left), Some(right)) =
                        (self.scalar(&lhs.scalar, &spanset.spans), self.scalar(&rhs.scalar, &spanset.spans))
                    else {
                        return false;
                    };
                    let holds = left.compare(*op, &right);
                    if holds {
                        mark(spanset, lhs, &left);
                        mark(spanset, rhs, &right);
                    }
                    holds
                }),
                PlannedStage::GroupBy { value, label, is_duration } => {
                    spansets =
                        spansets.iter().flat_map(|spanset| self.group(spanset, *value, label, *is_duration)).collect();
                }
                PlannedStage::Coalesce => {
                    let mut spans: Vec<u32> = spansets.into_iter().flat_map(|spanset| spanset.spans).collect();
                    spans.sort_unstable();
                    spans.dedup();
                    spansets = match spans.is_empty() {
                        true => Vec::new(),
                        false => vec![Spanset { spans, attributes: Vec::new() }],
                    };
                }
            }
            if spansets.is_empty() {
                break;
            }
        }
        spansets
    }

    fn group(&self, spanset: &Spanset, value: usize, label: &str, is_duration: bool) -> Vec<Spanset> {
        let mut places: HashMap<GroupKey, usize> = HashMap::new();
        let mut groups: Vec<Spanset> = Vec::new();
        for span in &spanset.spans {
            let key = match self.trace.owned(value, *span) {
                // Whichever zero comes first, it is shown without a sign.
                Owned::Float(float) => Owned::Float(float + 0.0),
                key => key,
            };
            let place = match places.get(&GroupKey(key.clone())) {
                Some(place) => *place,
                None => {
                    let mut group = Spanset { spans: Vec::new(), attributes: spanset.attributes.clone() };
                    group.set(label, if is_duration { key.clone().into_duration() } else { key.clone() });
                    groups.push(group);
                    places.insert(GroupKey(key), groups.len() - 1);
                    groups.len() - 1
                }
            };
            groups[place].spans.push(*span);
        }
        groups
    }

    fn spansets(&self, planned: &PlannedSpansets, spans: Vec<u32>) -> Vec<u32> {
        match planned {
            PlannedSpansets::Filter(condition) => {
                let mut spans = spans;
                spans.retain(|span| self.trace.holds(*condition, *span));
                spans
            }
            PlannedSpansets::Pipeline(stages) => self.one(stages, spans),
            PlannedSpansets::Binary { op, lhs, rhs } => {
                let right = self.spansets(rhs, spans.clone());
                let must_meet = !matches!(
                    op,
                    SpansetOp::Logical(LogicalOp::Or) | SpansetOp::Structural { variant: Variant::Negated, .. }
                );
                if must_meet && right.is_empty() {
                    return right;
                }
                let left = self.spansets(lhs, spans);
                self.combined(*op, left, right)
            }
        }
    }

    /// What stages leave that end in at most one spanset.
    fn one(&self, stages: &[PlannedStage], spans: Vec<u32>) -> Vec<u32> {
        let spansets = self.stages(stages, vec![Spanset { spans, attributes: Vec::new() }]);
        spansets.into_iter().next().map(|spanset| spanset.spans).unwrap_or_default()
    }

    fn combined(&self, op: SpansetOp, left: Vec<u32>, right: Vec<u32>) -> Vec<u32> {
        match op {
            SpansetOp::Logical(LogicalOp::And) if left.is_empty() || right.is_empty() => Vec::new(),
            SpansetOp::Logical(_) => union(left, right),
            SpansetOp::Structural { relation, variant } => match variant {
                Variant::Negated if left.is_empty() => right,
                _ if left.is_empty() || right.is_empty() => Vec::new(),
                Variant::Plain => self.related(relation, &left, right, true),
                Variant::Negated => self.related(relation, &left, right, false),
                Variant::Union => {
                    let of_left = self.related(inverse(relation), &right, left.clone(), true);
                    union(of_left, self.related(relation, &left, right, true))
                }
            },
        }
    }

    /// The spans of `right` that are the relation of some span of `left`, or those that are not.
    fn related(&self, relation: Relation, left: &[u32], mut right: Vec<u32>, wanted: bool) -> Vec<u32> {
        let mut marked = self.none.get_or_init(|| vec![false; self.trace.len()]).clone();
        for span in left {
            marked[*span as usize] = true;
        }
        let tree = self.trace.tree();
        let found = match relation {
            Relation::Child => tree.children(&marked),
            Relation::Descendant => tree.below(&marked),
            Relation::Parent => tree.with_children(&marked),
            Relation::Ancestor => tree.above(&marked),
            Relation::Sibling => tree.siblings(&marked),
        };
        right.retain(|span| found[*span as usize] == wanted);
        right
    }

    /// The number; `None` if there is no value to compute it from.
    fn scalar(&self, scalar: &Scalar, spans: &[u32]) -> Option<Dynamic<'static>> {
        match scalar {
            Scalar::Number(literal) => number_of(literal),
            Scalar::Count => Some(Dynamic::Int(spans.len() as i64)),
            Scalar::Reduce(reducer, value) => {
                let mut numbers = Numbers::default();
                for span in spans {
                    numbers.add(&self.trace.number(*value, *span));
                }
                numbers.reduced(*reducer)
            }
            Scalar::Pipeline(stages, value) => self.scalar(value, &self.one(stages, spans.to_vec())),
            Scalar::Binary { op, lhs, rhs } => {
                let (lhs, rhs) = (as_f64(&self.scalar(lhs, spans)?)?, as_f64(&self.scalar(rhs, spans)?)?);
                Some(Dynamic::Float(match op {
                    ArithmeticOp::Add => lhs + rhs,
                    ArithmeticOp::Sub => lhs - rhs,
                    ArithmeticOp::Mul => lhs * rhs,
                    ArithmeticOp::Div => lhs / rhs,
                    ArithmeticOp::Mod => lhs % rhs,
                    ArithmeticOp::Pow => lhs.powf(rhs),
                }))
            }
            Scalar::Negate(inner) => Some(match self.scalar(inner, spans)? {
                Dynamic::Int(value) => value.checked_neg().map_or(Dynamic::Float(-(value as f64)), Dynamic::Int),
                Dynamic::Float(value) => Dynamic::Float(-value),
                _ => return None,
            }),
        }
    }
}

fn mark(spanset: &mut Spanset, side: &ScalarSide, value: &Dynamic<'_>) {
    let Some(label) = &side.label else { return };
    let value = Owned::of(value);
    spanset.set(label, if side.is_duration { value.into_duration() } else { value });
}

fn number_of(literal: &Literal) -> Option<Dynamic<'static>> {
    match literal {
        Literal::Int(value) | Literal::Duration(value) => Some(Dynamic::Int(*value)),
        Literal::Float(value) => Some(Dynamic::Float(*value)),
        _ => None,
    }
}

fn as_f64(value: &Dynamic<'_>) -> Option<f64> {
    match value {
        Dynamic::Int(value) => Some(*value as f64),
        Dynamic::Float(value) => Some(*value),
        _ => None,
    }
}

fn inverse(relation: Relation) -> Relation {
    match relation {
        Relation::Child => Relation::Parent,
        Relation::Parent => Relation::Child,
        Relation::Descendant => Relation::Ancestor,
        Relation::Ancestor => Relation::Descendant,
        Relation::Sibling => Relation::Sibling,
    }
}

fn union(mut left: Vec<u32>, right: Vec<u32>) -> Vec<u32> {
    left.extend(right);
    left.sort_unstable();
    left.dedup();
    left
}

/// Numbers on their way to one. Whole numbers are added up exactly.
#[derive(Debug, Default)]
struct Numbers {
    count: u64,
    ints: i128,
    floats: Option<f64>,
    min: Option<Dynamic<'static>>,
    max: Option<Dynamic<'static>>,
}

impl Numbers {
    fn add(&mut self, value: &Dynamic<'_>) {
        use crate::traceql::ast::ComparisonOp::{Gt, Lt};
        let value = match value {
            Dynamic::Int(int) => {
                self.ints += i128::from(*int);
                Dynamic::Int(*int)
            }
            Dynamic::Float(float) => {
                self.floats = Some(self.floats.unwrap_or_default() + float);
                Dynamic::Float(*float)
            }
            _ => return,
        };
        self.count += 1;
        if self.min.as_ref().is_none_or(|min| value.compare(Lt, min)) {
            self.min = Some(value.clone());
        }
        if self.max.as_ref().is_none_or(|max| value.compare(Gt, max)) {
            self.max = Some(value);
        }
    }

    fn reduced(self, reducer: Reducer) -> Option<Dynamic<'static>> {
        if self.count == 0 {
            return None;
        }
        let sum = self.ints as f64 + self.floats.unwrap_or_default();
        match reducer {
            Reducer::Min => self.min,
            Reducer::Max => self.max,
            Reducer::Avg => Some(Dynamic::Float(sum / self.count as f64)),
            Reducer::Sum => Some(match (self.floats, i64::try_from(self.ints)) {
                (None, Ok(sum)) => Dynamic::Int(sum),
                _ => Dynamic::Float(sum),
            }),
        }
    }
}
