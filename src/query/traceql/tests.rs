//! The lowered filter against a naive look at each span.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
};
use datafusion::{
    common::{
        DFSchema, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    execution::session_state::SessionStateBuilder,
    logical_expr::{Expr, col, lit},
    prelude::SessionContext,
};
use proptest::prelude::*;

use super::{key_of, lower, shown};
use crate::{
    functions::configure,
    model::{
        builder::{
            Attribute, EventFields, LinkFields, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value,
        },
        ids::{SpanId, TraceId},
        promotion::Promotion,
        schema::{KINDS, STATUS_CODES, column, logical_schema},
    },
    traceql::{
        self,
        ast::{FieldName, Intrinsic, Scope},
        literal::{Kind, Status},
        plan::Dynamic,
    },
};

/// A filter as expressions.
struct Lowered {
    filter: Expr,
    shown: Vec<(String, Expr)>,
}

fn lowered(query: &str) -> Lowered {
    let spansets = traceql::search(query).unwrap_or_else(|error| panic!("{query}: {error}")).spansets;
    let filter = lower::filter(spansets.single().unwrap());
    Lowered { filter, shown: spansets.shown.iter().map(|name| (key_of(name), shown::value(name))).collect() }
}

type Attributes = Vec<(&'static str, Val)>;

#[derive(Clone, Debug)]
enum Val {
    Str(&'static str),
    Int(i64),
    Float(f64),
    Bool(bool),
    Json(&'static str),
    Empty,
}

#[derive(Clone, Debug, Default)]
struct TestSpan {
    name: &'static str,
    kind: usize,
    status: usize,
    message: &'static str,
    root: bool,
    id: u8,
    duration: i64,
    scope_name: &'static str,
    span: Attributes,
    resource: Attributes,
    scope: Attributes,
    events: Vec<(&'static str, Attributes)>,
    links: Vec<(u8, Attributes)>,
}

fn model_attributes(attributes: &Attributes) -> Vec<Attribute<'static>> {
    let value = |value: &Val| match value {
        Val::Str(text) => Value::Str(text),
        Val::Int(value) => Value::Int(*value),
        Val::Float(value) => Value::Float(*value),
        Val::Bool(value) => Value::Bool(*value),
        Val::Json(json) => Value::Json(Cow::Borrowed(json)),
        Val::Empty => Value::Empty,
    };
    attributes.iter().map(|(key, val)| Attribute { key, value: value(val) }).collect()
}

const START: i64 = 1_000_000;

fn batch(spans: &[TestSpan]) -> RecordBatch {
    let mut builder = SpanBatchBuilder::new(&Arc::new(Promotion::default()));
    for (index, span) in spans.iter().enumerate() {
        let resource = builder.push_resource(&ResourceFields::default(), &model_attributes(&span.resource)).unwrap();
        let scope_fields = ScopeFields { name: span.scope_name, ..ScopeFields::default() };
        let scope = builder.push_scope(&scope_fields, &model_attributes(&span.scope)).unwrap();
        let fields = SpanFields {
            trace_id: TraceId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, span.id]),
            span_id: SpanId::from_bytes([0, 0, 0, 0, 0, 0, 0, span.id]),
            parent_span_id: (!span.root).then(|| SpanId::from_bytes([0, 0, 0, 0, 0, 0, 1, span.id])),
            trace_state: "",
            flags: index as u32,
            name: span.name,
            kind: span.kind as i32,
            status_code: span.status as i32,
            status_message: span.message,
            start_time_unix_nano: START,
            duration_nano: span.duration,
            dropped_attributes_count: 0,
            dropped_events_count: 0,
            dropped_links_count: 0,
        };
        let event_attributes: Vec<_> = span.events.iter().map(|(_, list)| model_attributes(list)).collect();
        let events = span.events.iter().zip(&event_attributes).map(|((name, _), attributes)| EventFields {
            time_unix_nano: START as u64 + 5_000,
            name,
            attributes,
            dropped_attributes_count: 0,
        });
        let link_ids: Vec<_> = span.links.iter().map(|(id, _)| [*id; 16]).collect();
        let link_attributes: Vec<_> = span.links.iter().map(|(_, list)| model_attributes(list)).collect();
        let links = link_ids.iter().zip(&link_attributes).map(|(id, attributes)| LinkFields {
            trace_id: id,
            span_id: &id[..8],
            trace_state: "",
            flags: 0,
            attributes,
            dropped_attributes_count: 0,
        });
        builder.push_span((resource, scope), &fields, &model_attributes(&span.span), events, links).unwrap();
    }
    builder.finish().unwrap().flatten(&logical_schema()).unwrap()
}

fn evaluate(expr: Expr, batch: &RecordBatch) -> arrow::array::ArrayRef {
    let schema = DFSchema::try_from(batch.schema()).unwrap();
    let physical = SessionContext::new().create_physical_expr(expr, &schema).unwrap();
    physical.evaluate(batch).unwrap().to_array(batch.num_rows()).unwrap()
}

fn found(query: &str, spans: &[TestSpan]) -> Vec<bool> {
    let answer = evaluate(lowered(query).filter, &batch(spans));
    answer.as_boolean().iter().map(|found| found == Some(true)).collect()
}

/// The same through all of DataFusion's optimizer: the flags of the spans that a filter leaves.
fn found_by_a_plan(query: &str, spans: &[TestSpan]) -> Vec<bool> {
    let lowered = lowered(query);
    let state = configure(SessionStateBuilder::new().with_default_features()).build();
    let context = SessionContext::new_with_state(state);
    let mut columns = vec![col(column::FLAGS)];
    let shown = lowered.shown.into_iter().enumerate();
    columns.extend(shown.map(|(index, (key, value))| value.alias(format!("shown {index} {key}"))));
    let plan = context.read_batch(batch(spans)).unwrap().filter(lowered.filter).unwrap().select(columns).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut found = vec![false; spans.len()];
    for batch in runtime.block_on(plan.collect()).unwrap() {
        batch.column(0).as_primitive::<Int64Type>().values().iter().for_each(|index| found[*index as usize] = true);
    }
    found
}

// ---- the naive look -------------------------------------------------------------------------------------------------

fn dynamic(val: &Val) -> Dynamic<'static> {
    match val {
        Val::Str(text) => Dynamic::text(text),
        Val::Int(value) => Dynamic::Int(*value),
        Val::Float(value) => Dynamic::Float(*value),
        Val::Bool(value) => Dynamic::Bool(*value),
        Val::Json(r#"["x","y"]"#) => Dynamic::Array(vec![Dynamic::text("x"), Dynamic::text("y")]),
        Val::Json("[1,2.5]") => Dynamic::Array(vec![Dynamic::Int(1), Dynamic::Float(2.5)]),
        Val::Json("[]") => Dynamic::Array(vec![]),
        Val::Json(_) | Val::Empty => Dynamic::Opaque,
    }
}

fn attribute(attributes: &Attributes, key: &str) -> Option<Dynamic<'static>> {
    attributes.iter().find(|(name, _)| *name == key).map(|(_, val)| dynamic(val))
}

/// The value of a field, looking at one event and one link.
fn naive_value(
    span: &TestSpan,
    name: &FieldName,
    event: Option<&(&'static str, Attributes)>,
    link: Option<&(u8, Attributes)>,
) -> Dynamic<'static> {
    let found = match name {
        FieldName::Intrinsic(intrinsic) => match intrinsic {
            Intrinsic::Name => Some(Dynamic::text(span.name)),
            Intrinsic::Duration => Some(Dynamic::Int(span.duration)),
            Intrinsic::StatusMessage => Some(Dynamic::text(span.message)),
            Intrinsic::InstrumentationName => Some(Dynamic::text(span.scope_name)),
            Intrinsic::Kind => Some(Dynamic::Kind(Kind::ALL[span.kind])),
            Intrinsic::Status => Some(Dynamic::Status(Status::ALL[span.status])),
            Intrinsic::SpanId => Some(Dynamic::String(format!("{:016x}", span.id).into())),
            Intrinsic::TraceId => Some(Dynamic::String(format!("ab{:02x}", span.id).into())),
            Intrinsic::SpanParentId if span.root => Some(Dynamic::text("")),
            Intrinsic::SpanParentId => Some(Dynamic::String(format!("{:016x}", 256 + u16::from(span.id)).into())),
            Intrinsic::EventName => event.map(|(name, _)| Dynamic::text(name)),
            Intrinsic::EventTimeSinceStart => event.map(|_| Dynamic::Int(5_000)),
            Intrinsic::LinkSpanId => link.map(|(id, _)| Dynamic::String(hex::encode([*id; 8]).into())),
            Intrinsic::LinkTraceId => link.map(|(id, _)| Dynamic::String(hex::encode([*id; 16]).into())),
            other => panic!("{other:?}"),
        },
        FieldName::Attribute(name) => {
            let key = name.key.as_str();
            let in_event = || event.and_then(|(_, attributes)| attribute(attributes, key));
            let in_link = || link.and_then(|(_, attributes)| attribute(attributes, key));
            match name.scope {
                Scope::Span => attribute(&span.span, key),
                Scope::Resource => attribute(&span.resource, key),
                Scope::Instrumentation => attribute(&span.scope, key),
                Scope::Event => in_event(),
                Scope::Link => in_link(),
                Scope::Any => {
                    let own = attribute(&span.span, key).or_else(|| attribute(&span.resource, key));
                    if own.is_some() {
                        own
                    } else if span.events.iter().any(|(_, attributes)| attribute(attributes, key).is_some()) {
                        Some(in_event().unwrap_or(Dynamic::Opaque))
                    } else if span.links.iter().any(|(_, attributes)| attribute(attributes, key).is_some()) {
                        Some(in_link().unwrap_or(Dynamic::Opaque))
                    } else {
                        attribute(&span.scope, key)
                    }
                }
            }
        }
    };
    found.unwrap_or(Dynamic::Missing)
}

fn naive(query: &str, span: &TestSpan) -> bool {
    let spansets = traceql::search(query).unwrap().spansets;
    let condition = spansets.single().unwrap();
    let events: Vec<_> = if span.events.is_empty() { vec![None] } else { span.events.iter().map(Some).collect() };
    let links: Vec<_> = if span.links.is_empty() { vec![None] } else { span.links.iter().map(Some).collect() };
    events.iter().any(|event| {
        links.iter().any(|link| condition.holds(&|name| naive_value(span, name, *event, *link), span.root))
    })
}

// ---- rules ----------------------------------------------------------------------------------------------------------

#[test]
fn rules_of_missing_values_types_and_arrays_hold() {
    let span = TestSpan {
        name: "GET /",
        kind: 2,
        status: 2,
        id: 7,
        duration: 2_000_000_000,
        span: vec![
            ("int", Val::Int(200)),
            ("text", Val::Str("200")),
            ("float", Val::Float(2.5)),
            ("yes", Val::Bool(true)),
            ("nan", Val::Float(f64::NAN)),
            ("zero", Val::Float(-0.0)),
            ("list", Val::Json(r#"["x","y"]"#)),
            ("numbers", Val::Json("[1,2.5]")),
            ("none", Val::Empty),
            ("line", Val::Str("a\nb")),
            ("both", Val::Str("span")),
        ],
        resource: vec![("service.name", Val::Str("shop")), ("both", Val::Str("resource"))],
        scope: vec![("library", Val::Str("x"))],
        events: vec![
            ("one", vec![("a", Val::Int(1)), ("b", Val::Int(1))]),
            ("two", vec![("a", Val::Int(2)), ("b", Val::Int(2))]),
        ],
        ..TestSpan::default()
    };
    for (query, expected) in [
        // Missing is false with every operator, and its negation true.
        ("{ span.no = 1 }", false),
        ("{ span.no != 1 }", false),
        ("{ span.no !~ `x` }", false),
        ("{ !(span.no > 5) }", true),
        ("{ !(span.no > 5) && !(.no = 1) }", true),
        ("{ span.no = nil && span.int != nil && .no = nil }", true),
        ("{ span.none != nil }", true),
        ("{ span.none != 1 }", false),
        ("{ span.no }", false),
        ("{ !span.no }", false),
        ("{ span.yes && !(!span.yes) }", true),
        // Types do not mix, numbers do.
        ("{ span.int = \"200\" }", false),
        ("{ span.int != \"200\" }", false),
        ("{ span.text = 200 }", false),
        ("{ span.int = 200ns && span.int = 200.0 && span.int > 199.5 && span.int != 199.5 }", true),
        ("{ span.int = 199.5 || span.int < 199.5 }", false),
        ("{ span.float > 2 && span.float < 3 && span.float = 2.5 && span.float != 2 }", true),
        ("{ span.zero = 0 && span.zero >= 0 && span.zero <= 0 }", true),
        ("{ span.zero < 0 || span.zero > 0 || span.zero != 0 }", false),
        ("{ span.nan > 0 || span.nan < 0 || span.nan = 0 || span.nan >= 0 || span.nan <= 0 }", false),
        ("{ span.nan != 0 }", true),
        ("{ span.int = ok }", false),
        // Arrays.
        ("{ span.list = \"x\" && span.list =~ \"[yz]\" }", true),
        ("{ span.list != \"x\" || span.list !~ \"[yz]\" || span.list = 1 }", false),
        ("{ span.list != \"z\" && span.list !~ \"z\" && span.list != nil }", true),
        ("{ span.numbers > 2 && span.numbers < 2 && .numbers = 1 }", true),
        // Regular expressions are anchored, and the dot matches line breaks.
        ("{ span.line =~ \"a.b\" && name =~ \"GET.*\" }", true),
        ("{ name =~ \"GET\" || span.text =~ \"20\" }", false),
        ("{ name =~ \"POST|GET /\" && name !~ \"POST|GET\" }", true),
        // The first scope that has the key counts.
        ("{ .both = \"span\" && .service.name = \"shop\" && .library = \"x\" }", true),
        ("{ .both = \"resource\" }", false),
        // One event.
        ("{ event.a = 1 && event.b = 1 }", true),
        ("{ event.a = 1 && event.b = 2 }", false),
        ("{ event.a = 1 && event:name = \"one\" && event:timeSinceStart = 5us }", true),
        ("{ .a = 1 && .b = 2 }", false),
        ("{ .a = 2 && .b = 2 }", true),
        ("{ event.no = nil }", true),
        ("{ link.no = nil }", false),
        ("{ .a = nil }", false),
        // Intrinsics.
        ("{ status = error && kind = server && duration > 1s && nestedSetParent >= 0 }", true),
        ("{ statusMessage = \"\" && instrumentation:name = \"\" && statusMessage !~ \"x\" }", true),
        ("{ span:id = \"0000000000000007\" && trace:id = \"ab07\" && trace:id = \"0000AB07\" }", true),
        ("{ span:id = \"7\" || span:parentID = \"\" || trace:id =~ \"0.*\" }", false),
        // Arithmetic.
        ("{ span.int * 2 = 400 && span.int / 3 = 66 && span.int / 400.0 = 0.5 && -span.int < 0 }", true),
        ("{ span.int / (span.int - 200) = 1 || span.text + 1 > 0 || span.no + 1 > 0 }", false),
        ("{ span.int < duration && duration = 2 * 1s && span.both != resource.both }", true),
        ("{ (span.int = 200) = span.yes && (span.no = 1) = false }", true),
    ] {
        assert_eq!(found(query, std::slice::from_ref(&span)), [expected], "{query}");
        assert_eq!(naive(query, &span), expected, "{query} by the naive look");
    }
}

#[test]
fn shown_values_keep_their_types_and_lose_their_scopes() {
    let span = TestSpan {
        status: 2,
        root: true,
        span: vec![("a", Val::Int(1)), ("bytes", Val::Json(r#"{"$bytes":"AA=="}"#))],
        resource: vec![("service.name", Val::Str("shop"))],
        events: vec![("one", vec![]), ("two", vec![("message", Val::Json(r#"["x","y"]"#))])],
        ..TestSpan::default()
    };
    let query = "{ status = error && nestedSetParent < 0 } | select(span.a, .bytes, resource.service.name, event.message, \
                 event:timeSinceStart, .no, name)";
    let lowered = lowered(query);
    let batch = batch(&[span]);
    let mut shown = Vec::new();
    for field in lowered.shown {
        let (key, value) = field;
        let value = evaluate(value, &batch);
        let value = value.as_struct();
        let parts = value.columns().iter().zip(value.fields()).filter(|(column, _)| column.is_valid(0));
        let text = parts.map(|(column, part)| {
            let text = arrow::util::display::array_value_to_string(column, 0).unwrap();
            format!("{}={} {text}", key, part.name())
        });
        shown.extend(if value.is_valid(0) { text.collect() } else { vec![format!("{} none", key)] });
    }
    assert_eq!(
        shown,
        [
            "status=str error",
            "nestedSetParent=int -1",
            "a=int 1",
            r#"bytes=json {"$bytes":"AA=="}"#,
            "service.name=str shop",
            r#"message=json ["x","y"]"#,
            "event:timeSinceStart=str 5\u{b5}s",
            "no none",
        ]
    );
}

#[test]
fn a_filter_on_columns_stays_free_of_calls_that_hide_it_from_statistics() {
    let filter = |query: &str| lowered(query).filter.to_string();
    assert_eq!(
        filter("{ duration > 1s && status = error }"),
        "duration_nano > Int64(1000000000) AND status_code = Utf8(\"error\")"
    );
    assert_eq!(filter("{ nestedSetParent < 0 }"), "parent_span_id IS NULL");
    assert_eq!(filter("{ name =~ \"a|b\" }"), "name IN ([Utf8(\"a\"), Utf8(\"b\")])");
    assert!(
        filter("{ span.a = \"x\" }")
            .starts_with("attr_str(span_attributes, Utf8(\"a\")) = Utf8(\"x\") OR traceql_array(")
    );
    let with_event = filter("{ event.a = 1 && name = \"x\" }");
    assert!(with_event.starts_with("name = Utf8(\"x\") AND "), "{with_event}");
    assert!(with_event.contains("AND traceql_matches("), "{with_event}");
}

#[test]
fn a_file_that_lacks_the_attributes_can_put_constants_in_their_place() {
    // What the rewriting for such a file leaves of a call: every argument is a constant.
    let lowered = lowered("{ span.a + 1 > 0 } | select(resource.b)");
    let constants = |expr: Expr| {
        let absent = |expr: Expr| match &expr {
            Expr::ScalarFunction(call) if call.name() == "attr_exists" => Ok(Transformed::yes(lit(false))),
            Expr::ScalarFunction(call) if call.name().starts_with("attr_") => {
                let data_type = call.func.return_type(&[]).unwrap();
                Ok(Transformed::yes(lit(ScalarValue::try_from(&data_type).unwrap())))
            }
            Expr::IsNull(_) => Ok(Transformed::yes(lit(true))),
            _ => Ok(Transformed::no(expr)),
        };
        expr.transform_up(absent).unwrap().data
    };
    let batch = batch(&[TestSpan::default(), TestSpan::default()]);
    let filter = evaluate(constants(lowered.filter), &batch);
    assert_eq!(filter.as_boolean().iter().collect::<Vec<_>>(), [Some(false); 2]);
    for (_, value) in lowered.shown {
        assert_eq!(evaluate(constants(value), &batch).null_count(), 2);
    }
}

// ---- random ---------------------------------------------------------------------------------------------------------

fn attributes() -> impl Strategy<Value = Attributes> {
    let val = prop_oneof![
        prop::sample::select(vec!["x", "y", "z", "", "1", "nil"]).prop_map(Val::Str),
        (-2..4_i64).prop_map(Val::Int),
        prop::sample::select(vec![-0.0, 0.0, 1.0, 1.5, -1.5, 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
            .prop_map(Val::Float),
        any::<bool>().prop_map(Val::Bool),
        prop::sample::select(vec![r#"["x","y"]"#, "[1,2.5]", "[]", r#"{"k":1}"#, r#"{"$bytes":"AA=="}"#])
            .prop_map(Val::Json),
        Just(Val::Empty),
    ];
    (prop::option::of(val.clone()), prop::option::of(val.clone()), prop::option::weighted(0.2, val)).prop_map(
        |(a, b, c)| {
            let pairs = [("a", a), ("b", b), ("c", c)];
            pairs.into_iter().filter_map(|(key, val)| Some((key, val?))).collect()
        },
    )
}

fn span() -> impl Strategy<Value = TestSpan> {
    let texts = || prop::sample::select(vec!["x", "y", "1", ""]);
    let fixed = (texts(), 0..KINDS.len(), 0..STATUS_CODES.len(), texts(), any::<bool>(), 1..4_u8, 0..4_i64, texts());
    let events = prop::collection::vec((texts(), attributes()), 0..3);
    let links = prop::collection::vec((1..3_u8, attributes()), 0..3);
    (fixed, attributes(), attributes(), attributes(), events, links).prop_map(
        |((name, kind, status, message, root, id, duration, scope_name), span, resource, scope, events, links)| {
            TestSpan {
                name,
                kind,
                status,
                message,
                root,
                id,
                duration,
                scope_name,
                span,
                resource,
                scope,
                events,
                links,
            }
        },
    )
}

/// The inside of braces, valid or not.
fn filter_text() -> impl Strategy<Value = String> {
    let fields = vec![
        ".a",
        ".b",
        ".c",
        "span.a",
        "span.b",
        "resource.a",
        "instrumentation.a",
        "event.a",
        "event.b",
        "link.a",
        "name",
        "duration",
        "status",
        "kind",
        "statusMessage",
        "span:id",
        "span:parentID",
        "trace:id",
        "event:name",
        "event:timeSinceStart",
        "instrumentation:name",
        "link:traceID",
    ];
    let literals = vec![
        "\"x\"",
        "\"1\"",
        "\"\"",
        "0",
        "1",
        "-1",
        "2",
        "1.5",
        "-1.5",
        "1ns",
        "2us",
        "true",
        "false",
        "nil",
        "ok",
        "error",
        "server",
        "\"0000000000000001\"",
        "\"ab01\"",
        "9223372036854775807",
        "1e300",
    ];
    let field = || prop::sample::select(fields.clone());
    let comparisons = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let patterns = prop::sample::select(vec!["x|y", "[xy]", ".*", "", "x.*|1"]);
    let value = prop_oneof![
        4 => prop::sample::select(literals).prop_map(str::to_owned),
        1 => field().prop_map(str::to_owned),
        1 => (field(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), field())
            .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
    ];
    let leaf = prop_oneof![
        6 => (field(), comparisons, value, any::<bool>())
            .prop_map(|(a, op, b, flip)| if flip { format!("{b} {op} {a}") } else { format!("{a} {op} {b}") }),
        2 => (field(), prop::sample::select(vec!["=~", "!~"]), patterns)
            .prop_map(|(field, op, pattern)| format!("{field} {op} \"{pattern}\"")),
        1 => field().prop_map(str::to_owned),
        1 => prop::sample::select(vec!["true", "false", "nestedSetParent < 0"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec!["&&", "||", "&&", "="]), inner.clone())
                .prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

proptest! {
    // Each case plans and runs several queries.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn lowered_filters_find_what_a_naive_look_finds(
        filters in prop::collection::vec(filter_text(), 4),
        spans in prop::collection::vec(span(), 1..12),
    ) {
        for query in filters.iter().map(|filter| format!("{{ {filter} }}")) {
            if !traceql::search(&query).is_ok_and(|search| search.spansets.single().is_some()) {
                continue;
            }
            let expected: Vec<bool> = spans.iter().map(|span| naive(&query, span)).collect();
            prop_assert_eq!(&found(&query, &spans), &expected, "{}", query);
            prop_assert_eq!(found_by_a_plan(&query, &spans), expected, "{} by a plan", query);
        }
    }
}
