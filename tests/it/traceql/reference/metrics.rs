//! Time series: section 8, but for exemplars. `compare` is in [`super::compare`], labels in [`super::label`].

use std::collections::BTreeMap;

use tracehouse::traceql::{
    ast::{
        ArithmeticOp, ComparisonOp, Field, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, Metrics, MetricsCall,
        MetricsFunction, MetricsSource, Pipeline, Reducer, SeriesExpr, SeriesStage, SpansetExpr, StageKind,
    },
    literal::Literal,
    types::Type,
};

use super::{
    Span,
    answer::traces,
    compare::compare,
    expression::{Look, Subject},
    label::{self, Labels, label_text, name, own_labels},
    spansets,
    trace::Trace,
    value::{self, Val},
};

/// The buckets of a question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buckets {
    /// The right edge of the first.
    pub(crate) first: i64,
    pub(crate) step: i64,
    pub(crate) count: usize,
}

impl Buckets {
    /// Whole buckets that cover a range, at multiples of `step` after the Unix epoch, which was `since_epoch` before 0.
    pub(crate) fn of_range(since_epoch: i64, (start, end): (i64, i64), step: i64) -> Self {
        let first = (since_epoch + start).div_euclid(step) * step - since_epoch;
        let last = -((-(since_epoch + end)).div_euclid(step)) * step - since_epoch;
        Self { first, step, count: ((last - first) / step) as usize + 1 }
    }

    pub(crate) fn instant(start: i64, end: i64) -> Self {
        Self { first: end, step: end - start, count: 1 }
    }

    fn time(&self, bucket: usize) -> i64 {
        self.first + bucket as i64 * self.step
    }

    fn of(&self, start: i64) -> Option<usize> {
        (0..self.count).find(|bucket| start > self.time(*bucket) - self.step && start <= self.time(*bucket))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    pub(super) samples: BTreeMap<usize, f64>,
}

/// The answer: label text with samples by time, in order.
pub(crate) type Answer = Vec<(String, Vec<(i64, f64)>)>;

#[derive(Clone, Copy)]
struct Question<'a> {
    rows: &'a [Span],
    buckets: Buckets,
    extent: i64,
}

pub(crate) fn metrics(query: &Metrics, rows: &[Span], buckets: Buckets, extent: i64) -> Answer {
    let mut series = Question { rows, buckets, extent }.series(query);
    series.sort_by_key(|series| label::order(&series.labels));
    let samples =
        |series: &Series| series.samples.iter().map(|(bucket, value)| (buckets.time(*bucket), *value)).collect();
    series.iter().map(|series| (label_text(&series.labels), samples(series))).collect()
}

impl Question<'_> {
    fn series(&self, query: &Metrics) -> Vec<Series> {
        let mut series = match &query.source {
            MetricsSource::Spans { pipeline, call } => self.of_spans(pipeline, call),
            MetricsSource::Math(expr) => match self.math(expr) {
                Side::Series(series) => series,
                Side::Number(..) => panic!("arithmetic has series"),
            },
        };
        for stage in &query.tail {
            series = match stage {
                SeriesStage::TopK(most, _) => ranked(series, *most as usize, self.buckets.count, true),
                SeriesStage::BottomK(most, _) => ranked(series, *most as usize, self.buckets.count, false),
                SeriesStage::Threshold(op, number) => kept(series, *op, number),
            };
            series.retain(|series| !series.samples.is_empty());
        }
        series
    }

    // ---- from spans -------------------------------------------------------------------------------------------------

    fn of_spans(&self, pipeline: &Pipeline, call: &MetricsCall) -> Vec<Series> {
        let Buckets { first, step, count } = self.buckets;
        let range = (first - step + 1, first + (count as i64 - 1) * step + 1);
        let traces: Vec<Trace> = if looks_at_rows(pipeline, call) {
            self.rows.iter().map(|row| Trace::new(row.trace, &[row])).collect()
        } else {
            traces(self.rows, range, self.extent)
        };
        let mut spans: Vec<(usize, Subject<'_>)> = Vec::new();
        for trace in &traces {
            let mut indices: Vec<usize> =
                spansets::of_trace(pipeline, trace).into_iter().flat_map(|spanset| spanset.spans).collect();
            indices.sort_unstable();
            indices.dedup();
            for index in indices {
                if let Some(bucket) = self.buckets.of(trace.spans[index].start) {
                    spans.push((bucket, Subject { trace, index, look: Look::First }));
                }
            }
        }
        if let MetricsFunction::Compare { selection, top, range } = &call.function {
            return compare(selection, top.map_or(10, |top| top as usize), *range, self.buckets.count, &spans);
        }
        let mut groups: Vec<(Labels, Vec<(usize, Subject<'_>)>)> = Vec::new();
        for (bucket, span) in spans {
            let labels = label::of_span(&call.by, span);
            match groups.iter_mut().find(|(other, _)| *other == labels) {
                Some((_, spans)) => spans.push((bucket, span)),
                None => groups.push((labels, vec![(bucket, span)])),
            }
        }
        let counts = matches!(call.function, MetricsFunction::Rate | MetricsFunction::CountOverTime);
        if groups.is_empty() && counts && call.by.is_empty() {
            groups.push((Vec::new(), Vec::new()));
        }
        groups.into_iter().flat_map(|(labels, spans)| self.of_group(call, &labels, &spans)).collect()
    }

    fn of_group(&self, call: &MetricsCall, labels: &[(String, Val)], spans: &[(usize, Subject<'_>)]) -> Vec<Series> {
        let named = |name: &str| match labels.is_empty() {
            true => vec![("__name__".to_owned(), Val::Str(name.to_owned()))],
            false => labels.to_vec(),
        };
        let of = |label: &str, value: f64| {
            let mut labels = labels.to_vec();
            labels.push((label.to_owned(), Val::Float(value)));
            labels
        };
        let in_bucket = |bucket: usize| spans.iter().filter(move |(other, _)| *other == bucket).map(|(_, span)| span);
        let every = |sample: &dyn Fn(usize) -> f64| (0..self.buckets.count).map(|b| (b, sample(b))).collect();
        match &call.function {
            MetricsFunction::Rate => {
                let seconds = self.buckets.step as f64 / 1e9;
                let samples = every(&|bucket| in_bucket(bucket).count() as f64 / seconds);
                vec![Series { labels: named("rate"), samples }]
            }
            MetricsFunction::CountOverTime => {
                let samples = every(&|bucket| in_bucket(bucket).count() as f64);
                vec![Series { labels: named("count_over_time"), samples }]
            }
            MetricsFunction::ReduceOverTime(reducer, field) => {
                let numbers = |bucket| in_bucket(bucket).filter_map(|span| number(field, *span)).collect::<Vec<f64>>();
                let unit = unit(field);
                let samples: BTreeMap<usize, f64> =
                    (0..self.buckets.count).filter_map(|b| Some((b, reduce(*reducer, &numbers(b), unit)?))).collect();
                let labels = named(&format!("{}_over_time", reducer.name()));
                if samples.is_empty() { Vec::new() } else { vec![Series { labels, samples }] }
            }
            MetricsFunction::HistogramOverTime(field) => {
                let power_of = |span: &Subject<'_>| power(field, *span);
                let mut powers: Vec<u32> = spans.iter().filter_map(|(_, span)| power_of(span)).collect();
                powers.sort_unstable();
                powers.dedup();
                let series = |power| {
                    let count = |bucket| in_bucket(bucket).filter(|span| power_of(span) == Some(power)).count() as f64;
                    Series { labels: of("__bucket", 2f64.powi(power as i32) / unit(field)), samples: every(&count) }
                };
                powers.into_iter().map(series).collect()
            }
            MetricsFunction::QuantileOverTime(field, quantiles) => {
                let powers = |bucket| {
                    let mut powers: BTreeMap<u32, u64> = BTreeMap::new();
                    in_bucket(bucket)
                        .filter_map(|span| power(field, *span))
                        .for_each(|power| *powers.entry(power).or_default() += 1);
                    powers
                };
                if (0..self.buckets.count).all(|bucket| powers(bucket).is_empty()) {
                    return Vec::new();
                }
                let series = |q: &f64| Series {
                    labels: of("p", *q),
                    samples: every(&|bucket| quantile(*q, &powers(bucket)) / unit(field)),
                };
                let again = |at: usize| quantiles[..at].contains(&quantiles[at]);
                quantiles.iter().enumerate().filter(|(at, _)| !again(*at)).map(|(_, q)| series(q)).collect()
            }
            MetricsFunction::Compare { .. } => panic!("compare makes no groups"),
        }
    }

    // ---- arithmetic -------------------------------------------------------------------------------------------------

    fn math(&self, expr: &SeriesExpr) -> Side {
        let (op, lhs, rhs) = match expr {
            SeriesExpr::Metrics(metrics) => return Side::Series(self.series(metrics)),
            SeriesExpr::Number(literal) => return Side::Number(literal.clone()),
            SeriesExpr::Binary { op, lhs, rhs, .. } => (*op, self.math(lhs), self.math(rhs)),
        };
        let series = match (lhs, rhs) {
            (Side::Number(a), Side::Series(rhs)) => {
                let with = |b: &Series| joined(op, &constant(&a, b), b);
                rhs.iter().map(with).collect()
            }
            (Side::Series(lhs), Side::Number(b)) => lhs.iter().map(|a| joined(op, a, &constant(&b, a))).collect(),
            (Side::Series(lhs), Side::Series(rhs)) => join(op, &lhs, &rhs),
            (Side::Number(_), Side::Number(_)) => panic!("numbers are folded when the query is read"),
        };
        Side::Series(series.into_iter().filter(|series: &Series| !series.samples.is_empty()).collect())
    }
}

enum Side {
    Series(Vec<Series>),
    Number(Literal),
}

/// A number as a series that has a sample wherever the other one has.
fn constant(number: &Literal, other: &Series) -> Series {
    let value = Val::of_literal(number).as_f64().unwrap();
    let samples = other.samples.keys().map(|bucket| (*bucket, value)).collect();
    Series { labels: vec![("__name__".to_owned(), Val::Str(number.to_string()))], samples }
}

fn join(op: ArithmeticOp, lhs: &[Series], rhs: &[Series]) -> Vec<Series> {
    let alone = |side: &[Series]| side.len() == 1 && own_labels(&side[0].labels).is_empty();
    let key = |series: &Series| {
        let mut texts: Vec<String> = own_labels(&series.labels).iter().map(|label| format!("{label:?}")).collect();
        texts.sort();
        texts
    };
    let mut series = Vec::new();
    for a in lhs {
        for b in rhs {
            if key(a) == key(b) || alone(lhs) || alone(rhs) {
                series.push(joined(op, a, b));
            }
        }
    }
    series
}

fn joined(op: ArithmeticOp, a: &Series, b: &Series) -> Series {
    let labels = match (own_labels(&a.labels), own_labels(&b.labels)) {
        (of_a, _) if !of_a.is_empty() => of_a,
        (_, of_b) if !of_b.is_empty() => of_b,
        _ => {
            let name = format!("({} {} {})", name(&a.labels), op.sign(), name(&b.labels));
            vec![("__name__".to_owned(), Val::Str(name))]
        }
    };
    let value = |bucket: &usize, left: f64| {
        let right = *b.samples.get(bucket)?;
        let is_zero_division = op == ArithmeticOp::Div && right == 0.0;
        Some(value::float(op, left, right)).filter(|value| !is_zero_division && !value.is_nan())
    };
    let samples = a.samples.iter().filter_map(|(bucket, left)| Some((*bucket, value(bucket, *left)?))).collect();
    Series { labels, samples }
}

// ---- second stage ---------------------------------------------------------------------------------------------------

fn ranked(mut series: Vec<Series>, most: usize, buckets: usize, largest: bool) -> Vec<Series> {
    if series.len() <= most {
        return series;
    }
    for bucket in 0..buckets {
        let mut order: Vec<(f64, usize)> = series
            .iter()
            .enumerate()
            .filter_map(|(index, series)| Some((*series.samples.get(&bucket)?, index)))
            .collect();
        let text = |index: usize| label::plain_order(&series[index].labels);
        order.sort_by(|a, b| {
            let by_value = if largest { b.0.partial_cmp(&a.0) } else { a.0.partial_cmp(&b.0) };
            by_value.unwrap().then_with(|| text(a.1).cmp(&text(b.1)))
        });
        for (_, index) in order.into_iter().skip(most) {
            series[index].samples.remove(&bucket);
        }
    }
    series
}

fn kept(mut series: Vec<Series>, op: ComparisonOp, number: &Literal) -> Vec<Series> {
    let number = match number {
        Literal::Duration(nanos) => *nanos as f64 / 1e9,
        other => Val::of_literal(other).as_f64().unwrap(),
    };
    for series in &mut series {
        series.samples.retain(|_, value| Val::Float(*value).compare(op, &Val::Float(number)));
    }
    series
}

// ---- values ---------------------------------------------------------------------------------------------------------

pub(super) fn is_duration(field: &Field) -> bool {
    matches!(field.name, FieldName::Intrinsic(intrinsic) if intrinsic.type_of() == Type::Duration)
}

/// How many of a field's numbers are one in the answer.
fn unit(field: &Field) -> f64 {
    if is_duration(field) { 1e9 } else { 1.0 }
}

fn number(field: &Field, span: Subject<'_>) -> Option<f64> {
    span.field(&field.name).as_f64()
}

fn reduce(reducer: Reducer, numbers: &[f64], unit: f64) -> Option<f64> {
    // All numbers of the tests are multiples of this, and few enough to be added up exactly.
    const PARTS: f64 = 1024.0;
    let sum = numbers.iter().map(|number| (number * PARTS) as i128).sum::<i128>() as f64 / PARTS;
    match (reducer, numbers.is_empty()) {
        (_, true) => None,
        (Reducer::Min, _) => numbers.iter().copied().reduce(f64::min).map(|least| least / unit),
        (Reducer::Max, _) => numbers.iter().copied().reduce(f64::max).map(|most| most / unit),
        (Reducer::Sum, _) => Some(sum / unit),
        (Reducer::Avg, _) => Some(sum / (numbers.len() as f64 * unit)),
    }
}

/// The exponent of the least power of two that is not below the field's whole number.
fn power(field: &Field, span: Subject<'_>) -> Option<u32> {
    match span.field(&field.name) {
        Val::Int(value) if value >= 2 => (1..=63).find(|power| i128::from(value) <= 1_i128 << power),
        _ => None,
    }
}

fn quantile(q: f64, powers: &BTreeMap<u32, u64>) -> f64 {
    let total: u64 = powers.values().sum();
    if total == 0 {
        return 0.0;
    }
    let target = ((q * total as f64).ceil() as u64).max(1);
    let mut before = 0;
    let mut low = None;
    for (power, count) in powers {
        if before + count == target {
            return 2f64.powi(*power as i32);
        }
        if before + count > target {
            let low = low.unwrap_or(f64::from(*power) - 1.0);
            let share = (target - before) as f64 / *count as f64;
            return 2f64.powf(low + (f64::from(*power) - low) * share);
        }
        before += count;
        low = Some(f64::from(*power));
    }
    panic!("the target is at most the total")
}

// ---- rows or traces -------------------------------------------------------------------------------------------------

fn looks_at_rows(pipeline: &Pipeline, call: &MetricsCall) -> bool {
    let stages = pipeline.stages.iter().all(|stage| match &stage.kind {
        StageKind::Spansets(SpansetExpr::Filter(filter)) => is_own(filter),
        StageKind::Select(fields) => fields.iter().all(|field| is_own_field(&field.name)),
        _ => false,
    });
    let argument = match &call.function {
        MetricsFunction::ReduceOverTime(_, field)
        | MetricsFunction::HistogramOverTime(field)
        | MetricsFunction::QuantileOverTime(field, _) => is_own_field(&field.name),
        MetricsFunction::Compare { selection, .. } => is_own(selection),
        MetricsFunction::Rate | MetricsFunction::CountOverTime => true,
    };
    stages && argument && call.by.iter().all(|field| is_own_field(&field.name))
}

fn is_own_field(name: &FieldName) -> bool {
    use Intrinsic::{
        NestedSetLeft, NestedSetParent, NestedSetRight, RootName, RootServiceName, SpanChildCount, TraceDuration,
    };
    match name {
        FieldName::Attribute(attribute) => !attribute.of_parent,
        FieldName::Intrinsic(intrinsic) => !matches!(
            intrinsic,
            NestedSetLeft
                | NestedSetParent
                | NestedSetRight
                | RootName
                | RootServiceName
                | SpanChildCount
                | TraceDuration
        ),
    }
}

fn is_own(expr: &FieldExpr) -> bool {
    if is_root_test(expr) {
        return true;
    }
    match &expr.kind {
        FieldKind::Literal(_) => true,
        FieldKind::Field(name) => is_own_field(name),
        FieldKind::Unary { operand, .. } => is_own(operand),
        FieldKind::Binary { lhs, rhs, .. } => is_own(lhs) && is_own(rhs),
    }
}

/// `nestedSetParent < 0` and what says the same or the opposite.
pub(super) fn is_root_test(expr: &FieldExpr) -> bool {
    use ComparisonOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let FieldKind::Binary { op: FieldOp::Comparison(op), lhs, rhs } = &expr.kind else { return false };
    let is_parent = |expr: &FieldExpr| expr.kind == FieldKind::Field(FieldName::Intrinsic(Intrinsic::NestedSetParent));
    let (op, number) = match (&lhs.kind, &rhs.kind) {
        (_, FieldKind::Literal(Literal::Int(number))) if is_parent(lhs) => (*op, *number),
        (FieldKind::Literal(Literal::Int(number)), _) if is_parent(rhs) => (op.flipped(), *number),
        _ => return false,
    };
    matches!((op, number), (Lt | Ge, 0) | (Le | Eq | Gt | Ne, -1))
}
