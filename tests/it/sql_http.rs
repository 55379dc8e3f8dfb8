//! `POST /api/sql`: forms of answers, errors, limits, cancellation, and an answer of any size in little memory.

use std::{io::Cursor, time::Duration};

use arrow::{array::AsArray, ipc::reader::StreamReader, record_batch::RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tracehouse::{config::ByteSize, server::Server};

use crate::{frame, support::process::Server as Process, tempo_http};

async fn start(folder: &tempfile::TempDir) -> Server {
    frame::start(&frame::settings(folder.path())).await
}

fn url(server: &Server, query: &str) -> String {
    format!("http://{}/api/sql{query}", server.addresses().tempo)
}

async fn ask(server: &Server, query: &str, statement: &str) -> Response {
    Client::new().post(url(server, query)).body(statement.to_owned()).send().await.unwrap()
}

async fn ask_json(server: &Server, body: &Value) -> Response {
    Client::new().post(url(server, "")).json(body).send().await.unwrap()
}

fn content_type(response: &Response) -> String {
    response.headers()["content-type"].to_str().unwrap().to_owned()
}

const SPANS: &str = "SELECT name, duration_nano, service_name, events FROM spans ORDER BY start_time, span_id";

#[tokio::test(flavor = "multi_thread")]
async fn every_form_holds_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    tempo_http::send(&server).await;

    let response = ask(&server, "", SPANS).await;
    assert_eq!((response.status().as_u16(), content_type(&response).as_str()), (200, "application/json"));
    assert!(response.headers().contains_key("x-tracehouse-query-id"));
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["columns"][1], json!({"name": "duration_nano", "type": "Int64"}));
    let rows = answer["rows"].as_array().unwrap().clone();
    assert_eq!((rows.len(), answer["stats"]["rows"].as_u64()), (4, Some(4)));
    assert_eq!(rows[0]["name"], "GET /");
    assert_eq!(rows[0]["events"][0]["attributes"], json!({"exception.message": "upstream connect error"}));
    assert_eq!(rows[3]["service_name"], "checkout");

    let lines = ask(&server, "?format=ndjson", SPANS).await;
    assert_eq!(content_type(&lines), "application/x-ndjson");
    let lines = lines.text().await.unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, rows);

    let csv = ask(&server, "?format=csv", SPANS).await.text().await.unwrap();
    let mut csv = csv.lines();
    assert_eq!(csv.next(), Some("name,duration_nano,service_name,events"));
    assert!(csv.next().unwrap().starts_with("GET /,256428925,frontend-web,\"[{"));
    assert_eq!(csv.count(), 3);

    let names = |batches: Vec<RecordBatch>| -> Vec<String> {
        let names = batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter());
        names.map(|name| name.unwrap().to_owned()).collect()
    };
    let expected: Vec<String> = rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    let accept = "application/vnd.apache.arrow.stream";
    let arrow = Client::new().post(url(&server, "")).header("accept", accept).body(SPANS).send().await.unwrap();
    assert_eq!(content_type(&arrow), accept);
    let arrow = StreamReader::try_new(Cursor::new(arrow.bytes().await.unwrap()), None).unwrap();
    assert_eq!(names(arrow.map(Result::unwrap).collect()), expected);
    let parquet = ask(&server, "?format=parquet", SPANS).await.bytes().await.unwrap();
    let parquet = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap();
    assert_eq!(names(parquet.map(Result::unwrap).collect()), expected);

    // Without rows each of them is still a whole answer.
    let nothing = "SELECT name, duration_nano FROM spans WHERE false";
    let answer: Value = ask(&server, "", nothing).await.json().await.unwrap();
    assert_eq!((&answer["rows"], answer["columns"].as_array().unwrap().len()), (&json!([]), 2));
    assert_eq!(ask(&server, "?format=csv", nothing).await.text().await.unwrap(), "name,duration_nano\n");
    assert_eq!(ask(&server, "?format=ndjson", nothing).await.text().await.unwrap(), "");
    let parquet = ask(&server, "?format=parquet", nothing).await.bytes().await.unwrap();
    assert_eq!(ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().schema().fields().len(), 2);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_come_as_text_as_json_as_a_form_and_in_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let rows = async |response: Response| -> Value { response.json::<Value>().await.unwrap()["rows"].clone() };
    let form = Client::new().post(url(&server, "")).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(rows(form.body("SELECT 1 AS x").send().await.unwrap()).await, json!([{"x": 1}]));
    let form = Client::new().post(url(&server, "")).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(rows(form.body("query=SELECT+1+AS+x").send().await.unwrap()).await, json!([{"x": 1}]));
    let address = reqwest::get(url(&server, "?query=SELECT%201%20AS%20x")).await.unwrap();
    assert_eq!(rows(address).await, json!([{"x": 1}]));
    let body = json!({"query": "SELECT $1 + 1 AS a, $2 AS b, ? AS c", "params": [41, "x'y", 0.5]});
    let error: Value = ask_json(&server, &body).await.json().await.unwrap();
    assert!(error["error"]["message"].is_string(), "two ways of writing parameters: {error}");
    let body = json!({"query": "SELECT $1 + 1 AS a, $2 AS b, $3 AS c", "params": [41, "x'y", 0.5]});
    assert_eq!(rows(ask_json(&server, &body).await).await, json!([{"a": 42, "b": "x'y", "c": 0.5}]));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_before_the_first_row_has_a_status_and_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let refused = async |response: Response| {
        let status = response.status().as_u16();
        assert_eq!(content_type(&response), "application/json");
        (status, response.json::<Value>().await.unwrap()["error"].clone())
    };
    let (status, error) = refused(ask(&server, "?format=parquet", "SELECT 1\nFROM WHERE name = 1").await).await;
    assert_eq!((status, &error["kind"], &error["line"]), (400, &json!("invalid_argument"), &json!(2)));
    let (_, error) = refused(ask(&server, "", "SELECT\n  nam FROM spans").await).await;
    assert_eq!(error["message"], "there is no column nam; did you mean name?");
    assert_eq!((&error["line"], &error["column"]), (&json!(2), &json!(3)));
    for (query, statement, status, message) in [
        ("", "DROP TABLE spans", 400, "DROP is not allowed"),
        ("", "SELECT 1; SELECT 2", 400, "only one statement"),
        ("?format=xml", "SELECT 1", 400, "formats are: json, ndjson, csv, arrow, parquet"),
        ("?limit=5", "SELECT 1", 400, "parameters are: query, format, timeout, rows_max"),
        ("?timeout=5", "SELECT 1", 400, "expected a duration"),
        ("?timeout=1ms", "SELECT count(*) FROM generate_series(1, 100000000000)", 504, "query.timeout = 0.001s"),
        ("", "SELECT 1 / 0", 400, "divide by zero"),
        ("", "", 400, "the query is empty"),
    ] {
        let (found, error) = refused(ask(&server, query, statement).await).await;
        let text = error["message"].as_str().unwrap();
        assert!(
            found == status && text.to_lowercase().contains(&message.to_lowercase()),
            "{statement}: {found} {text}"
        );
    }
    for body in [json!({"sql": "SELECT 1"}), json!({"query": "SELECT $1", "params": [[1]]}), json!([])] {
        assert_eq!(refused(ask_json(&server, &body).await).await.0, 400, "{body}");
    }
    server.stop().await.unwrap();
}

/// What arrives before the connection ends too early.
async fn cut_off(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => panic!("a part was taken for the whole: {}", String::from_utf8_lossy(&bytes)),
            Err(_) => return bytes,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_among_the_rows_cuts_the_answer_off_and_says_why_where_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let statement = "SELECT value AS x FROM generate_series(1, 1000000)";
    let reason = "the answer has more rows than the limit query.result_rows_max = 100000";
    for format in ["json", "ndjson", "csv", "arrow", "parquet"] {
        let query = format!("?rows_max=100000&format={format}");
        let response = ask(&server, &query, statement).await;
        assert_eq!(response.status().as_u16(), 200, "{format}");
        let id = response.headers()["x-tracehouse-query-id"].to_str().unwrap().to_owned();
        let bytes = cut_off(response).await;
        let last = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(300)..]).into_owned();
        match format {
            "json" => {
                let answer: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(answer["rows"].as_array().unwrap().len(), 100_000);
                assert!(answer["error"]["message"].as_str().unwrap().starts_with(reason), "{last}");
            }
            "ndjson" => assert!(last.lines().last().unwrap().contains(reason), "{last}"),
            _ => assert!(!last.contains(reason), "{format}"),
        }
        let asked = format!("SELECT state, error FROM system.queries WHERE id = {id}");
        let answer: Value = ask(&server, "", &asked).await.json().await.unwrap();
        assert_eq!(answer["rows"][0]["state"], "limit", "{format}");
        assert!(answer["rows"][0]["error"].as_str().unwrap().starts_with(reason), "{answer}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_its_query() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder).await;
    let statement = "SELECT value AS going_away FROM generate_series(1, 100000000000)";
    let mut response = ask(&server, "?format=csv", statement).await;
    response.chunk().await.unwrap().unwrap();
    drop(response);
    let asked = "SELECT state FROM system.queries WHERE query LIKE '%going_away %' AND kind = 'sql' AND id = 1";
    for _ in 0..200 {
        let answer: Value = ask(&server, "", asked).await.json().await.unwrap();
        match answer["rows"][0]["state"].as_str().unwrap() {
            "running" => tokio::time::sleep(Duration::from_millis(25)).await,
            state => {
                assert_eq!(state, "cancelled");
                return server.stop().await.unwrap();
            }
        }
    }
    panic!("the query still runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_a_client_reads_millions_of_rows_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start_with(folder.path(), &[], None).await.unwrap();
    let resident_mib = || server.memory_bytes("VmRSS:") >> 20;
    for format in ["arrow", "parquet"] {
        let statement = "SELECT value, value * 7919 % 1000003 AS x, value * 104729 % 15485863 AS y \
            FROM generate_series(1, 3000000)";
        let url = format!("http://{}/api/sql?format={format}", server.tempo);
        let mut response = Client::new().post(url).body(statement).send().await.unwrap();
        let (mut bytes, mut before, mut most) = (0, 0, 0);
        while let Some(chunk) = response.chunk().await.unwrap() {
            bytes += chunk.len();
            if before == 0 {
                before = resident_mib();
            }
            if bytes % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                most = most.max(resident_mib());
            }
        }
        assert!(bytes > 8 << 20, "{format}: {bytes}");
        assert!(most < before + 96, "{format}: from {before} MiB to {most} MiB for {} MiB", bytes >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_query_may_read_is_limited_and_the_error_names_the_limit() {
    for (setting, limit) in [("query.scanned_rows_max", "= 2"), ("query.scanned_bytes_max", "= 64")] {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = frame::settings(folder.path());
        match setting {
            "query.scanned_rows_max" => settings.query.scanned_rows_max = 2,
            _ => settings.query.scanned_bytes_max = ByteSize::from_bytes(64),
        }
        let server = frame::start(&settings).await;
        tempo_http::send(&server).await;
        frame::get(&server, "/flush").await;
        // Spans that a scan reads and does not keep have been read.
        for condition in ["true", "duration_nano % 3 = 5"] {
            let text = format!("SELECT count(DISTINCT name), max(duration_nano) FROM spans WHERE {condition}");
            let error: Value = ask(&server, "", &text).await.json().await.unwrap();
            let message = error["error"]["message"].as_str().unwrap_or_else(|| panic!("{text}: {error}"));
            assert!(message.contains(&format!("more than the limit {setting} {limit}")), "{text}: {message}");
        }
        // What is not in files and spans is free.
        assert_eq!(ask(&server, "", "SELECT 1").await.status().as_u16(), 200);
        server.stop().await.unwrap();
    }
}
