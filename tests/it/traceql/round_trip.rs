//! `parse(print(tree)) == tree` for random trees in normal form.

use proptest::prelude::*;

use tracehouse::traceql::{
    self,
    ast::*,
    literal::{Kind, Literal, Status},
};

fn at() -> TextRange {
    TextRange::default()
}

fn number() -> impl Strategy<Value = Literal> {
    prop_oneof![
        any::<i64>().prop_map(Literal::Int),
        (-3..30_i64).prop_map(Literal::Int),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Literal::Float),
        (i64::MIN + 1..=i64::MAX).prop_map(Literal::Duration),
        (0..10_000_i64).prop_map(|ms| Literal::Duration(ms * 1_000_000)),
    ]
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        3 => number(),
        1 => Just(Literal::Nil),
        1 => any::<bool>().prop_map(Literal::Bool),
        2 => any::<String>().prop_map(Literal::String),
        1 => prop::sample::select(Status::ALL.to_vec()).prop_map(Literal::Status),
        1 => prop::sample::select(Kind::ALL.to_vec()).prop_map(Literal::Kind),
    ]
}

fn field_name() -> impl Strategy<Value = FieldName> {
    let scopes = vec![Scope::Any, Scope::Span, Scope::Resource, Scope::Event, Scope::Link, Scope::Instrumentation];
    let key = prop_oneof![
        "[a-z][a-z0-9._]{0,12}",
        "(span|resource|parent|event)[.][a-z]{1,4}",
        "[0-9][a-z0-9]{0,3}",
        ".{1,8}",
        "[ -~]{1,8}",
    ];
    let attribute = (any::<bool>(), prop::sample::select(scopes), key)
        .prop_map(|(of_parent, scope, key)| FieldName::Attribute(Attribute { of_parent, scope, key }));
    let intrinsics = prop::sample::select(Intrinsic::all().collect::<Vec<_>>()).prop_map(FieldName::Intrinsic);
    prop_oneof![3 => attribute, 1 => intrinsics]
}

fn field() -> impl Strategy<Value = Field> {
    field_name().prop_map(|name| Field { name, at: at() })
}

fn field_op() -> impl Strategy<Value = FieldOp> {
    prop_oneof![
        prop::sample::select(LogicalOp::ALL).prop_map(FieldOp::Logical),
        prop::sample::select(ComparisonOp::ALL).prop_map(FieldOp::Comparison),
        prop::sample::select(RegexOp::ALL).prop_map(FieldOp::Regex),
        prop::sample::select(ArithmeticOp::ALL).prop_map(FieldOp::Arithmetic),
    ]
}

/// A minus in front of a number that has a negative is not in normal form.
fn folds(op: UnaryOp, operand: &FieldExpr) -> bool {
    let number = match &operand.kind {
        FieldKind::Literal(Literal::Int(value)) => *value != i64::MIN,
        FieldKind::Literal(Literal::Float(_) | Literal::Duration(_)) => true,
        _ => false,
    };
    op == UnaryOp::Negate && number
}

fn field_expr() -> impl Strategy<Value = FieldExpr> {
    let leaf = prop_oneof![literal().prop_map(FieldKind::Literal), field_name().prop_map(FieldKind::Field)]
        .prop_map(|kind| FieldExpr { kind, at: at() });
    leaf.prop_recursive(6, 24, 2, |inner| {
        let unary = (prop::sample::select(UnaryOp::ALL), inner.clone())
            .prop_filter("normal form", |(op, operand)| !folds(*op, operand))
            .prop_map(|(op, operand)| FieldKind::Unary { op, operand: Box::new(operand) });
        let binary = (field_op(), inner.clone(), inner).prop_map(|(op, lhs, rhs)| FieldKind::Binary {
            op,
            lhs: Box::new(lhs),
            rhs: Box::new(rhs),
        });
        prop_oneof![1 => unary, 3 => binary].prop_map(|kind| FieldExpr { kind, at: at() })
    })
}

fn aggregate() -> impl Strategy<Value = ScalarExpr> {
    let reducers = prop::sample::select(vec![Reducer::Min, Reducer::Max, Reducer::Avg, Reducer::Sum]);
    prop_oneof![
        Just(AggregateFunction::Count),
        (reducers, field_expr()).prop_map(|(reducer, field)| AggregateFunction::Reduce(reducer, field)),
    ]
    .prop_map(|function| ScalarExpr::Aggregate(Aggregate { function, at: at() }))
}

/// A scalar with an aggregate in it.
fn scalar() -> impl Strategy<Value = ScalarExpr> {
    aggregate().prop_recursive(3, 8, 2, |inner| {
        let numbers = number().prop_map(ScalarExpr::Number);
        let operand = prop_oneof![inner.clone(), numbers];
        prop_oneof![
            inner.clone().prop_map(|inner| ScalarExpr::Negate(Box::new(inner))),
            (prop::sample::select(ArithmeticOp::ALL), inner.clone(), operand.clone(), any::<bool>()).prop_map(
                |(op, a, b, swap)| {
                    let (lhs, rhs) = if swap { (b, a) } else { (a, b) };
                    ScalarExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) }
                }
            ),
            (prop::collection::vec(simple_stage(), 1..3), inner).prop_map(|(stages, value)| {
                ScalarExpr::Pipeline(Box::new(ScalarPipeline { pipeline: Pipeline { stages }, value }))
            }),
        ]
    })
}

fn scalar_filter() -> impl Strategy<Value = ScalarFilter> {
    let rhs = prop_oneof![number().prop_map(ScalarExpr::Number), scalar()];
    (scalar(), prop::sample::select(ComparisonOp::ALL), rhs, any::<bool>()).prop_map(|(a, op, b, swap)| {
        let (lhs, rhs) = if swap { (b, a) } else { (a, b) };
        ScalarFilter { lhs, op, rhs, at: at() }
    })
}

/// Stages that may stand anywhere and hold no pipeline.
fn simple_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        3 => field_expr().prop_map(|field| StageKind::Spansets(SpansetExpr::Filter(field))),
        1 => field_expr().prop_map(StageKind::GroupBy),
        1 => prop::collection::vec(field(), 1..4).prop_map(StageKind::Select),
    ]
    .prop_map(|kind| Stage { kind, at: at() })
}

/// A pipeline that is no single spanset expression, which would lose its parentheses.
fn operand_pipeline() -> impl Strategy<Value = Pipeline> {
    (prop::collection::vec(simple_stage(), 0..3), scalar_filter()).prop_map(|(mut stages, filter)| {
        stages.push(Stage { kind: StageKind::Filter(filter), at: at() });
        Pipeline { stages }
    })
}

fn spansets() -> impl Strategy<Value = SpansetExpr> {
    let leaf = field_expr().prop_map(SpansetExpr::Filter);
    leaf.prop_recursive(4, 8, 2, |inner| {
        let ops = prop::sample::select(SpansetOp::all().collect::<Vec<_>>());
        let operand = prop_oneof![4 => inner, 1 => operand_pipeline().prop_map(SpansetExpr::Pipeline)];
        (ops, operand.clone(), operand).prop_map(|(op, lhs, rhs)| SpansetExpr::Binary {
            op,
            lhs: Box::new(lhs),
            rhs: Box::new(rhs),
            at: at(),
        })
    })
}

fn pipeline() -> impl Strategy<Value = Pipeline> {
    let stage = prop_oneof![
        4 => simple_stage(),
        2 => spansets().prop_map(|spansets| Stage { kind: StageKind::Spansets(spansets), at: at() }),
        1 => scalar_filter().prop_map(|filter| Stage { kind: StageKind::Filter(filter), at: at() }),
        1 => Just(Stage { kind: StageKind::Coalesce, at: at() }),
    ];
    let first = spansets().prop_map(|spansets| Stage { kind: StageKind::Spansets(spansets), at: at() });
    (first, prop::collection::vec(stage, 0..4)).prop_map(|(first, rest)| {
        let mut stages = vec![first];
        stages.extend(rest);
        Pipeline { stages }
    })
}

fn metrics_call() -> impl Strategy<Value = MetricsCall> {
    let reducers = prop::sample::select(vec![Reducer::Min, Reducer::Max, Reducer::Avg, Reducer::Sum]);
    let range = prop::option::of((any::<i64>(), any::<i64>()));
    let top = prop::option::of((any::<i64>(), range));
    let function = prop_oneof![
        Just(MetricsFunction::Rate),
        Just(MetricsFunction::CountOverTime),
        (reducers, field()).prop_map(|(reducer, field)| MetricsFunction::ReduceOverTime(reducer, field)),
        field().prop_map(MetricsFunction::HistogramOverTime),
        (field(), prop::collection::vec(-1.0..2.0_f64, 1..4))
            .prop_map(|(field, quantiles)| MetricsFunction::QuantileOverTime(field, quantiles)),
        (field_expr(), top).prop_map(|(selection, top)| MetricsFunction::Compare {
            selection,
            top: top.map(|(top, _)| top.max(i64::MIN + 1)),
            range: top
                .and_then(|(_, range)| range)
                .map(|(start, end)| (start.max(i64::MIN + 1), end.max(i64::MIN + 1))),
        }),
    ];
    (function, prop::collection::vec(field(), 0..3)).prop_map(|(function, by)| MetricsCall { function, by, at: at() })
}

fn tail() -> impl Strategy<Value = Vec<SeriesStage>> {
    let stage = prop_oneof![
        (0..100_i64).prop_map(|limit| SeriesStage::TopK(limit, at())),
        (0..100_i64).prop_map(|limit| SeriesStage::BottomK(limit, at())),
        (prop::sample::select(ComparisonOp::ALL), number()).prop_map(|(op, value)| SeriesStage::Threshold(op, value)),
    ];
    prop::collection::vec(stage, 0..3)
}

fn metrics() -> impl Strategy<Value = Metrics> {
    let spans = (pipeline(), metrics_call(), tail())
        .prop_map(|(pipeline, call, tail)| Metrics { source: MetricsSource::Spans { pipeline, call }, tail })
        .boxed();
    let leaf = spans.clone().prop_map(|metrics| SeriesExpr::Metrics(Box::new(metrics)));
    let ops = vec![ArithmeticOp::Add, ArithmeticOp::Sub, ArithmeticOp::Mul, ArithmeticOp::Div];
    let math = leaf.prop_recursive(2, 4, 2, move |inner| {
        let operand = prop_oneof![inner.clone(), number().prop_map(SeriesExpr::Number)];
        (prop::sample::select(ops.clone()), inner, operand, any::<bool>()).prop_map(|(op, a, b, swap)| {
            let (lhs, rhs) = if swap { (b, a) } else { (a, b) };
            SeriesExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs), at: at() }
        })
    });
    let math = (math, tail())
        .prop_filter("a lone pipeline is inlined", |(series, _)| !matches!(series, SeriesExpr::Metrics(_)))
        .prop_map(|(series, tail)| Metrics { source: MetricsSource::Math(series), tail });
    prop_oneof![3 => spans, 1 => math]
}

fn query() -> impl Strategy<Value = Query> {
    let body = prop_oneof![pipeline().prop_map(Body::Spansets), metrics().prop_map(Body::Metrics)];
    let hint = ("[a-z_]{1,10}", literal()).prop_map(|(name, value)| Hint { name, value });
    (body, prop::collection::vec(hint, 0..3)).prop_map(|(body, hints)| Query { body, hints })
}

proptest! {
    #[test]
    fn printed_trees_read_back_as_themselves(query in query()) {
        let printed = query.to_string();
        let read = traceql::parse(&printed);
        prop_assert!(read.is_ok(), "{}\n{}", printed, read.unwrap_err());
        let read = read.unwrap();
        prop_assert_eq!(&read, &query, "{}", printed);
        prop_assert_eq!(read.to_string(), printed);
    }

    #[test]
    fn names_read_back_as_themselves(name in field_name()) {
        let printed = name.to_string();
        prop_assert_eq!(traceql::parse_reference(&printed).map_err(|error| error.to_string()), Ok(name));
    }
}
