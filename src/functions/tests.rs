use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, FixedSizeBinaryArray, Float64Builder, Int64Array, Int64Builder, MapArray,
        RecordBatch, StringBuilder, StructArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Schema},
    util::pretty::pretty_format_batches,
};
use datafusion::{
    datasource::MemTable,
    execution::session_state::SessionStateBuilder,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl},
    prelude::SessionContext,
};

use super::{AttrAssemble, configure};
use crate::model::attributes;

#[derive(Clone, Copy)]
enum Value {
    Str(&'static str),
    Int(i64),
    Float(f64),
    Bool(bool),
    Json(&'static str),
    Empty,
}

type Row = Option<&'static [(&'static str, Value)]>;

fn attribute_map(rows: &[Row]) -> ArrayRef {
    let (mut keys, mut strs, mut ints) = (StringBuilder::new(), StringBuilder::new(), Int64Builder::new());
    let (mut floats, mut bools, mut jsons) = (Float64Builder::new(), BooleanBuilder::new(), StringBuilder::new());
    for (key, value) in rows.iter().flatten().copied().flatten() {
        keys.append_value(key);
        strs.append_option(if let Value::Str(v) = value { Some(v) } else { None });
        ints.append_option(if let Value::Int(v) = value { Some(*v) } else { None });
        floats.append_option(if let Value::Float(v) = value { Some(*v) } else { None });
        bools.append_option(if let Value::Bool(v) = value { Some(*v) } else { None });
        jsons.append_option(if let Value::Json(v) = value { Some(v) } else { None });
    }
    let values: Vec<ArrayRef> = vec![
        Arc::new(strs.finish()),
        Arc::new(ints.finish()),
        Arc::new(floats.finish()),
        Arc::new(bools.finish()),
        Arc::new(jsons.finish()),
    ];
    let values = StructArray::new(attributes::value_fields(), values, None);
    let entries = StructArray::new(attributes::entry_fields(), vec![Arc::new(keys.finish()), Arc::new(values)], None);
    let DataType::Map(field, sorted) = attributes::map_type() else { unreachable!() };
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.map_or(0, <[_]>::len)));
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    Arc::new(MapArray::new(field, offsets, entries, Some(nulls), sorted))
}

const ROWS: &[Row] = &[
    Some(&[("a", Value::Str("x\"y")), ("b", Value::Int(200)), ("c", Value::Float(0.5))]),
    Some(&[("a", Value::Int(7)), ("b", Value::Str("200")), ("c", Value::Float(200.0)), ("d", Value::Empty)]),
    Some(&[]),
    None,
    Some(&[("a", Value::Bool(true)), ("b", Value::Json("[1,2]")), ("c", Value::Float(f64::NAN))]),
];

fn id(byte: u8) -> Vec<u8> {
    let mut id = vec![0; 16];
    id[15] = byte;
    id
}

fn context() -> SessionContext {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("trace", DataType::FixedSizeBinary(16), false),
        Field::new("parent", DataType::FixedSizeBinary(16), true),
        Field::new("m", attributes::map_type(), true),
    ]));
    let traces = FixedSizeBinaryArray::try_from_iter((0..5).map(id)).unwrap();
    let parents =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size((0..5u8).map(|i| (i > 2).then(|| id(i - 1))), 16).unwrap();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(0..5)), Arc::new(traces), Arc::new(parents), attribute_map(ROWS)];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let state = configure(SessionStateBuilder::new().with_default_features()).build();
    let context = SessionContext::new_with_state(state);
    context.register_table("t", Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())).unwrap();
    context
}

/// The answer's rows, cells divided by `|`.
async fn rows(sql: &str) -> Vec<String> {
    let batches = context().sql(sql).await.unwrap().collect().await.unwrap();
    let table = pretty_format_batches(&batches).unwrap().to_string();
    let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|");
    table.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect()
}

async fn plan(sql: &str) -> String {
    context().sql(sql).await.unwrap().into_optimized_plan().unwrap().display_indent().to_string()
}

#[tokio::test]
async fn typed_functions_answer_for_their_type_only() {
    let answer = rows("SELECT attr_str(m, 'a'), attr_int(m, 'a'), attr_bool(m, 'a'), attr_float(m, 'a') FROM t").await;
    assert_eq!(answer, ["x\"y|||", "|7||", "|||", "|||", "||true|"]);
    let answer = rows("SELECT attr_number(m, 'b'), attr_number(m, 'c'), attr_float(m, 'b') FROM t").await;
    assert_eq!(answer, ["200.0|0.5|", "|200.0|", "||", "||", "|NaN|"]);
}

#[tokio::test]
async fn text_and_json_take_any_value() {
    let answer = rows("SELECT m['a'], m['b'], m['c'], m['d'] FROM t").await;
    assert_eq!(answer, ["x\"y|200|0.5|", "7|200|200.0|", "|||", "|||", "true|[1,2]|NaN|"]);
    let answer = rows("SELECT attr_json(m, 'a'), attr_json(m, 'b'), attr_json(m, 'c'), attr_json(m, 'd') FROM t").await;
    let nested = rows("SELECT attr_nested(m, 'a'), attr_nested(m, 'b'), attr_nested(m, 'd') FROM t").await;
    assert_eq!(nested, ["||", "||", "||", "||", "|[1,2]|"]);
    let expected = ["\"x\\\"y\"|200|0.5|", "7|\"200\"|200.0|null", "|||", "|||", "true|[1,2]|{\"$double\":\"NaN\"}|"];
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_key_with_an_empty_value_exists() {
    let answer = rows("SELECT attr_exists(m, 'd'), attr_exists(m, 'zz'), attr_keys(m) FROM t").await;
    let expected =
        ["false|false|[a, b, c]", "true|false|[a, b, c, d]", "false|false|[]", "||", "false|false|[a, b, c]"];
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn keys_may_differ_from_row_to_row() {
    let answer = rows("SELECT attr_text(m, CASE WHEN n = 0 THEN 'a' WHEN n = 1 THEN 'b' END) FROM t").await;
    assert_eq!(answer, ["x\"y", "200", "", "", ""]);
}

#[tokio::test]
async fn a_map_of_text_is_what_clients_see() {
    let answer = rows("SELECT attr_map_text(m) FROM t WHERE n <> 0 LIMIT 3").await;
    assert_eq!(answer, ["{a: 7, b: 200, c: 200.0, d: }", "{}", ""]);
    let answer = rows("SELECT attr_map_text(m)['b'] FROM t WHERE n = 4").await;
    assert_eq!(answer, ["[1,2]"]);
}

#[tokio::test]
async fn misuse_is_told_at_planning() {
    for (sql, message) in [
        ("SELECT attr_str(n, 'a') FROM t", "attr_str() takes an attribute map such as span_attributes, got Int64"),
        ("SELECT attr_int(m, 1) FROM t", "the key given to attr_int() has to be text, got Int64"),
        ("SELECT attr_int(m) FROM t", "attr_int() takes an attribute map and a key, got 1 arguments"),
        ("SELECT id_hex(n) FROM t", "id_hex() takes an id in bytes, got Int64"),
    ] {
        let error = match context().sql(sql).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{sql} was planned"),
        };
        assert!(error.contains(message), "{error}");
    }
    let error = context().sql("SELECT trace_id('xyz')").await.unwrap().collect().await.unwrap_err().to_string();
    assert!(error.contains("trace IDs can only contain hex characters"), "{error}");
}

#[tokio::test]
async fn calls_on_a_column_move_to_the_scan() {
    let plan = plan("SELECT n FROM t WHERE attr_int(m, 'a') = 7 ORDER BY attr_str(m, 'b')").await;
    assert!(plan.contains("attr_int(t.m, Utf8(\"a\")) AS __datafusion_extracted"), "{plan}");
}

const THIRD: &str = "00000000000000000000000000000003";

#[tokio::test]
async fn ids_compare_as_text_and_run_as_bytes() {
    for (condition, expected) in [
        (format!("id_hex(trace) = '{THIRD}'"), vec!["3"]),
        (format!("'{THIRD}' = id_hex(trace)"), vec!["3"]),
        (format!("trace = trace_id('{THIRD}')"), vec!["3"]),
        ("trace = trace_id('3')".into(), vec!["3"]),
        (format!("id_hex(trace) IN ('{THIRD}', 'nonsense', NULL)"), vec!["3"]),
        (format!("id_hex(trace) NOT IN ('{THIRD}', 'nonsense')"), vec!["0", "1", "2", "4"]),
        (format!("id_hex(parent) <> '{THIRD}'"), vec!["3"]),
        ("id_hex(parent) <> 'nonsense'".into(), vec!["3", "4"]),
        ("NOT (id_hex(parent) = 'nonsense')".into(), vec!["3", "4"]),
        ("id_hex(trace) = '0000000000000003'".into(), vec![]),
        ("id_hex(trace) = 'ABCDEF00000000000000000000000000'".into(), vec![]),
        ("id_hex(trace) = id_hex(parent)".into(), vec![]),
    ] {
        let answer = rows(&format!("SELECT n FROM t WHERE {condition} ORDER BY n")).await;
        assert_eq!(answer, expected, "{condition}");
        let plan = plan(&format!("SELECT n FROM t WHERE {condition}")).await;
        assert!(!plan.contains("id_hex"), "{plan}");
    }
    let joined = "SELECT a.n, b.n FROM t a JOIN t b ON id_hex(a.trace) = id_hex(b.parent) ORDER BY 1";
    assert_eq!(rows(joined).await, ["2|3", "3|4"]);
    let plan = plan(joined).await;
    assert!(!plan.contains("id_hex"), "{plan}");
}

#[test]
fn assembling_keeps_the_order_of_keys() {
    let residual = attribute_map(&[Some(&[("b", Value::Int(1)), ("d", Value::Empty)]), Some(&[]), None]);
    let args = vec![
        ColumnarValue::Array(residual),
        ColumnarValue::from(datafusion::common::ScalarValue::from("c")),
        ColumnarValue::Array(Arc::new(Int64Array::from(vec![Some(5), None, Some(6)]))),
        ColumnarValue::from(datafusion::common::ScalarValue::from("a")),
        ColumnarValue::Array(Arc::new(arrow::array::StringArray::from(vec![Some("x"), Some("y"), None]))),
    ];
    let return_field = Arc::new(Field::new("m", attributes::map_type(), true));
    let arg_fields = args.iter().map(|arg| Arc::new(Field::new("", arg.data_type(), true))).collect();
    let args = ScalarFunctionArgs { args, arg_fields, number_rows: 3, return_field, config_options: Arc::default() };
    let answer = AttrAssemble::default().invoke_with_args(args).unwrap().to_array(3).unwrap();
    let expected = attribute_map(&[
        Some(&[("a", Value::Str("x")), ("b", Value::Int(1)), ("c", Value::Int(5)), ("d", Value::Empty)]),
        Some(&[("a", Value::Str("y"))]),
        None,
    ]);
    assert_eq!(&answer, &expected);
}
