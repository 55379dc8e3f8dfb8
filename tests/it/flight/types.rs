//! The types that answers come in, by the header that asks for them.

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Int64Type, TimeUnit},
};

use super::{client, column, fetched};

#[tokio::test]
async fn plain_answers_have_text_ids_and_nanosecond_times() {
    let (_server, mut client) = client().await;
    let info = client.execute("SELECT * FROM spans".to_owned(), None).await.unwrap();
    let (schema, _) = fetched(&mut client, info).await;
    let type_of = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
    assert_eq!(type_of("trace_id"), DataType::Utf8);
    assert_eq!(type_of("name"), DataType::Utf8);
    assert_eq!(type_of("start_time"), DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
    assert!(matches!(type_of("span_attributes"), DataType::Map(..)));
    let plain = |data_type: &DataType| {
        !matches!(data_type, DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(..))
    };
    assert!(schema.fields().iter().all(|field| plain(field.data_type())), "{schema}");
}

#[tokio::test]
async fn flat_answers_have_numbers_text_and_times_alone() {
    let (_server, mut client) = client().await;
    client.set_header("x-tracehouse-types", "flat");
    let text =
        "SELECT *, 1.5::decimal(5, 2) AS d, interval '1 day' AS i, arrow_cast(1, 'Timestamp(Second, None)') AS s,
        span_id::bytea AS b FROM spans ORDER BY start_time, span_id";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let (schema, batches) = fetched(&mut client, info).await;
    for field in schema.fields() {
        let known = match field.data_type() {
            DataType::Utf8 | DataType::Boolean | DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
            other => other.is_integer() || matches!(other, DataType::Float32 | DataType::Float64),
        };
        assert!(known, "{field}");
    }
    let attributes = column(&batches, "span_attributes");
    assert_eq!(attributes[0], r#"{"http.route":"/cart","status":200}"#);
    assert_eq!(attributes[3], r#"{"ratio":0.5,"on":true,"list":[1,2],"none":null}"#);
    let events = column(&batches, "events");
    assert_eq!(events[0], "[]");
    assert!(events[3].contains(r#""name":"retry","attributes":{"n":3}"#), "{}", events[3]);
    assert!(column(&batches, "links")[3].contains(r#""trace_id":"00000000000000000000000000000001""#));
    assert_eq!(batches[0]["date"].data_type(), schema.field_with_name("start_time").unwrap().data_type());
    assert_eq!(column(&batches, "b")[0], "30303030303030303030303030303031");
}

#[tokio::test]
async fn typed_answers_have_ids_as_bytes_and_attributes_with_their_types() {
    let (_server, mut client) = client().await;
    client.set_header("x-tracehouse-types", "typed");
    let text = "SELECT trace_id('00000000000000000000000000000001') AS id, span_attributes, name,
        arrow_cast(kind, 'Dictionary(Int32, Utf8)') AS kind, count(*) OVER () AS n FROM spans ORDER BY start_time";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    // `fetched` compares the announced schema with the sent one.
    let (schema, batches) = fetched(&mut client, info).await;
    assert_eq!(schema.field(0).data_type(), &DataType::FixedSizeBinary(16));
    assert_eq!(schema.field(3).data_type(), &DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()));
    let map = batches[0]["span_attributes"].as_map().value(0);
    let values = map.column(1).as_struct();
    let ints = values.column_by_name("int").unwrap().as_primitive::<Int64Type>();
    assert_eq!((ints.is_null(0), ints.value(1)), (true, 200));
    for text in ["SELECT * FROM spans", "SELECT * FROM traces", "SELECT 1, NULL, 'x'", "EXPLAIN SELECT 1"] {
        let info = client.execute(text.to_owned(), None).await.unwrap();
        fetched(&mut client, info).await;
    }
    client.set_header("x-tracehouse-language", "traceql");
    for text in ["{ } | select(span.status)", "{ } | count_over_time()"] {
        let info = client.execute(text.to_owned(), None).await.unwrap();
        fetched(&mut client, info).await;
    }
}

#[tokio::test]
async fn unknown_types_are_refused_with_those_that_there_are() {
    let (_server, mut client) = client().await;
    client.set_header("x-tracehouse-types", "rich");
    let error = client.execute("SELECT 1".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("x-tracehouse-types has to be one of plain, flat, typed"), "{error}");
}
