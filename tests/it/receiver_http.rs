//! OTLP/HTTP as senders see it: statuses, bodies, headers.

use std::{io::Write, net::SocketAddr, time::Duration};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::{Client, Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracehouse::{
    config::{ByteSize, IngestSettings, Settings},
    receiver::Receiver,
};

use crate::{
    otlp_arbitrary::normal_form,
    otlp_json::to_json,
    otlp_samples::{bytes, request, span},
    receiver_support::{House, serve, settings},
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

async fn start(ingest: IngestSettings) -> House {
    serve(settings(ingest), Receiver::http_router).await
}

async fn send(address: SocketAddr, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let mut request = Client::new().post(format!("http://{address}/v1/traces"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.unwrap()
}

/// `google.rpc.Status`, as far as HTTP has it.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The body in every encoding that a header can name.
fn encodings(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("", body.to_vec()),
        ("identity", body.to_vec()),
        ("gzip", gzip(body)),
        ("GZIP", gzip(body)),
        ("deflate", zlib(body)),
        ("deflate", deflate(body)),
        ("zstd", zstd::encode_all(body, 3).unwrap()),
    ]
}

#[tokio::test]
async fn spans_are_taken_in_every_encoding_and_answered_in_the_same() {
    let house = start(IngestSettings::default()).await;
    let mut sent = 0;
    for content_type in [PROTOBUF, JSON, "application/json; charset=utf-8", "Application/X-Protobuf;x=y"] {
        let media_type = content_type.split(';').next().unwrap().to_lowercase();
        for encoding in 0..7 {
            sent += 1;
            let request = request(vec![span(sent)]);
            let body = if media_type == JSON { to_json(&request, 0).into_bytes() } else { request.encode_to_vec() };
            let (encoding, body) = encodings(&body).swap_remove(encoding);
            let headers = [("content-type", content_type), ("content-encoding", encoding)];
            let headers = if encoding.is_empty() { &headers[..1] } else { &headers[..] };
            let response = send(house.address, headers, body).await;
            assert_eq!(response.status(), 200, "{content_type} {encoding}");
            assert_eq!(header(&response, "content-type"), media_type);
            let expected: &[u8] = if media_type == JSON { b"{}" } else { b"" };
            assert_eq!(response.bytes().await.unwrap(), expected);
        }
    }
    let expected = normal_form(&request((1..=sent).map(span).collect()));
    assert_eq!(house.traces().await, expected);
    let accepted = "tracehouse_ingest_spans_total{outcome=\"accepted\",protocol=\"otlp_http_json\"}";
    assert_eq!(house.metric(accepted).unwrap(), "14");
    assert_eq!(house.metric("tracehouse_ingest_in_flight_bytes").unwrap(), "0");
}

#[tokio::test]
async fn a_retry_of_the_same_bytes_is_stored_once_whatever_its_compression() {
    let house = start(IngestSettings::default()).await;
    for (encoding, body) in encodings(&bytes(vec![span(1), span(2)])) {
        let headers = [("content-type", PROTOBUF), ("content-encoding", encoding)];
        assert_eq!(send(house.address, &headers, body).await.status(), 200);
        assert_eq!(house.spans(), 2);
    }
    let duplicate = "tracehouse_ingest_spans_total{outcome=\"duplicate\",protocol=\"otlp_http_protobuf\"}";
    assert_eq!(house.metric(duplicate).unwrap(), "12");
}

#[tokio::test]
async fn requests_without_spans_succeed_and_store_nothing() {
    let house = start(IngestSettings::default()).await;
    for (content_type, body) in [(PROTOBUF, &b""[..]), (JSON, b"{}"), (JSON, b"{\"resourceSpans\":[]}")] {
        assert_eq!(send(house.address, &[("content-type", content_type)], body.to_vec()).await.status(), 200);
    }
    assert_eq!(house.spans(), 0);
}

#[tokio::test]
async fn rejected_spans_are_counted_in_the_answer_and_the_rest_is_stored() {
    let house = start(IngestSettings::default()).await;
    let mut bad = span(2);
    bad.trace_id.truncate(2);
    let mut early = span(3);
    early.start_time_unix_nano = 1;
    let request = request(vec![span(1), bad, early]);
    let message = "rejected 2 spans: 1 invalid trace id (trace id of 2 bytes, must have 16), 1 outside time window \
                   (start time 1970-01-01T00:00:00.000000001Z is outside of 2000-01-01T00:00:00Z to \
                   2026-11-22T06:00:00Z)";

    let response = send(house.address, &[("content-type", PROTOBUF)], request.encode_to_vec()).await;
    assert_eq!(response.status(), 200);
    let body = ExportTraceServiceResponse::decode(response.bytes().await.unwrap()).unwrap();
    let partial = body.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (2, message));

    let response = send(house.address, &[("content-type", JSON)], to_json(&request, 0).into_bytes()).await;
    assert_eq!(response.status(), 200);
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["partialSuccess"]["rejectedSpans"], "2");
    assert_eq!(body["partialSuccess"]["errorMessage"], message);
    assert_eq!(house.spans(), 2);
    let rejected = "tracehouse_ingest_rejected_spans_total{protocol=\"otlp_http_json\",reason=\"invalid_trace_id\"}";
    assert_eq!(house.metric(rejected).unwrap(), "1");
}

#[tokio::test]
async fn a_time_that_is_none_in_json_costs_its_span_alone() {
    let house = start(IngestSettings::default()).await;
    let mut bad = span(2);
    bad.end_time_unix_nano = 4_711;
    let json = to_json(&request(vec![span(1), bad, span(3)]), 0);
    for (sent, told) in [("-4711", "-4711"), ("\"later\"", "later"), ("1e300", "1e300")] {
        let json = json.replace("4711", sent);
        let response = send(house.address, &[("content-type", JSON)], json.into_bytes()).await;
        assert_eq!(response.status(), 200, "{sent}");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["partialSuccess"]["rejectedSpans"], "1");
        let message = format!(
            "rejected 1 span: 1 invalid end time (end time {told:?} is not a whole number of unix nanoseconds in the \
             range of 64 bits)"
        );
        assert_eq!(body["partialSuccess"]["errorMessage"], message);
    }
    assert_eq!(house.spans(), 6);
    let rejected = "tracehouse_ingest_rejected_spans_total{protocol=\"otlp_http_json\",reason=\"invalid_end_time\"}";
    assert_eq!(house.metric(rejected).unwrap(), "3");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_status_in_its_encoding() {
    let settings = IngestSettings { request_bytes_max: ByteSize::kib(64), ..IngestSettings::default() };
    let house = start(settings).await;
    let bomb = gzip(&vec![0; 16 << 20]);
    let large = vec![0; (64 << 10) + 1];
    let cases: Vec<(&str, Vec<u8>, u16, i32, &str)> = vec![
        ("", b"garbage".to_vec(), 400, 3, "invalid protobuf at byte 1 of the request: "),
        ("gzip", b"garbage".to_vec(), 400, 3, "the request cannot be decompressed: "),
        ("gzip", gzip(b"x")[..12].to_vec(), 400, 3, "the request cannot be decompressed: it ends too early"),
        ("zstd", b"garbage".to_vec(), 400, 3, "the request cannot be decompressed: "),
        ("br", b"x".to_vec(), 415, 3, "unsupported content encoding \"br\", supported: identity, gzip, zstd, deflate"),
        ("gzip, gzip", gzip(&gzip(b"x")), 415, 3, "unsupported content encoding \"gzip, gzip\""),
        (
            "",
            large.clone(),
            413,
            8,
            "the request is larger than the limit ingest.request_bytes_max of 65536 bytes after decompression",
        ),
        (
            "gzip",
            bomb,
            413,
            8,
            "the request is larger than the limit ingest.request_bytes_max of 65536 bytes after decompression",
        ),
        ("zstd", zstd::encode_all(&large[..], 3).unwrap(), 413, 8, "the request is larger than the limit"),
    ];
    for (encoding, body, status, code, message) in cases {
        let mut headers = vec![("content-encoding", encoding)];
        headers.retain(|(_, value)| !value.is_empty());

        headers.push(("content-type", PROTOBUF));
        let response = send(house.address, &headers, body.clone()).await;
        assert_eq!(response.status(), status, "{message}");
        assert_eq!(
            (header(&response, "content-type").as_str(), header(&response, "retry-after").as_str()),
            (PROTOBUF, "")
        );
        let answer = Status::decode(response.bytes().await.unwrap()).unwrap();
        assert_eq!(answer.code, code);
        assert!(answer.message.starts_with(message), "{}", answer.message);

        headers.last_mut().unwrap().1 = JSON;
        let response = send(house.address, &headers, body).await;
        assert_eq!(response.status(), status, "{message}");
        assert_eq!(header(&response, "content-type"), JSON);
        let answer: serde_json::Value = response.json().await.unwrap();
        assert_eq!(answer["code"], code);
        let message = if message.starts_with("invalid protobuf") { "invalid JSON: " } else { message };
        assert!(answer["message"].as_str().unwrap().starts_with(message), "{answer}");
    }
    assert_eq!(house.spans(), 0);
    assert_eq!(house.metric("tracehouse_ingest_in_flight_bytes").unwrap(), "0");
}

#[tokio::test]
async fn pressure_and_a_stop_are_503_with_a_hint() {
    let check = async |house: &House, message: &str| {
        for (content_type, body) in
            [(PROTOBUF, bytes(vec![span(1)])), (JSON, to_json(&request(vec![span(1)]), 0).into_bytes())]
        {
            let response = send(house.address, &[("content-type", content_type)], body).await;
            assert_eq!(response.status(), 503);
            assert_eq!(header(&response, "retry-after"), "2");
            assert_eq!(header(&response, "content-type"), content_type);
            let body = response.bytes().await.unwrap();
            assert!(String::from_utf8_lossy(&body).contains(message), "{body:?}");
        }
        let retries = "tracehouse_ingest_requests_total{outcome=\"retry\",protocol=\"otlp_http_json\"}";
        assert_eq!(house.metric(retries).unwrap(), "1");
    };
    let mut full: Settings = settings(IngestSettings::default());
    full.buffer.bytes_max = ByteSize::from_bytes(0);
    check(&serve(full, Receiver::http_router).await, "the limit buffer.bytes_max is 0; retry later").await;

    let stopped = start(IngestSettings::default()).await;
    stopped.ingest.shutdown().await.unwrap();
    check(&stopped, "the server is shutting down").await;
}

#[tokio::test]
async fn other_methods_types_and_paths_are_refused_in_text() {
    let house = start(IngestSettings::default()).await;
    let url = format!("http://{}/v1/traces", house.address);
    for method in [Method::GET, Method::PUT, Method::OPTIONS] {
        let response = Client::new().request(method, &url).send().await.unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(header(&response, "content-type"), "text/plain");
        assert_eq!(header(&response, "allow"), "POST");
        assert_eq!(response.text().await.unwrap(), "405 method not allowed, supported: [POST]");
    }
    for headers in [&[("content-type", "text/plain")][..], &[][..], &[("content-type", "application/jsonx")]] {
        let response = send(house.address, headers, b"x".to_vec()).await;
        assert_eq!(response.status(), 415);
        assert_eq!(header(&response, "content-type"), "text/plain");
        let text = "415 unsupported media type, supported: [application/json, application/x-protobuf]";
        assert_eq!(response.text().await.unwrap(), text);
    }
    let response = Client::new().post(format!("http://{}/v1/metrics", house.address)).send().await.unwrap();
    assert_eq!(response.status(), 404);
}

/// Sends raw HTTP/1.1 and reads until the other side closes.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn chunked_bodies_are_taken_and_their_size_is_limited() {
    let settings = IngestSettings { request_bytes_max: ByteSize::kib(64), ..IngestSettings::default() };
    let house = start(settings).await;
    let head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
                 transfer-encoding: chunked\r\n\r\n";
    let chunked = |body: &[u8], size: usize| {
        let mut out = head.to_vec();
        for chunk in body.chunks(size) {
            out.extend(format!("{:x}\r\n", chunk.len()).bytes());
            out.extend(chunk);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\n\r\n");
        out
    };
    for (n, size) in [(1, 1), (2, 7), (3, 1000), (4, 100_000)] {
        let response = raw(house.address, &chunked(&bytes(vec![span(n)]), size)).await;
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    }
    assert_eq!(house.spans(), 4);
    let response = raw(house.address, &chunked(&vec![0; 70_000], 1000)).await;
    assert!(response.starts_with("HTTP/1.1 413 Payload Too Large"), "{response}");
}

#[tokio::test]
async fn a_full_budget_refuses_before_the_body_is_read() {
    let settings = IngestSettings {
        in_flight_bytes_max: ByteSize::kib(64),
        request_bytes_max: ByteSize::kib(64),
        ..IngestSettings::default()
    };
    let house = start(settings).await;
    let head = |content_type: &str, length: usize| {
        format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let connect = || tokio::net::TcpStream::connect(house.address);
    let mut long = span(1);
    long.name = "x".repeat(40 << 10);
    let body = bytes(vec![long]);

    // A sender that is slow with its body holds its part.
    let mut first = connect().await.unwrap();
    first.write_all(head(PROTOBUF, body.len()).as_bytes()).await.unwrap();
    while house.metric("tracehouse_ingest_in_flight_bytes").unwrap() == "0" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Another's length is enough to refuse it.
    let mut second = connect().await.unwrap();
    second.write_all(head(JSON, body.len()).as_bytes()).await.unwrap();
    let mut response = [0; 2048];
    let length = second.read(&mut response).await.unwrap();
    let response = String::from_utf8_lossy(&response[..length]);
    assert!(response.starts_with("HTTP/1.1 503 Service Unavailable"), "{response}");
    assert!(response.contains("retry-after: 2\r\n"), "{response}");
    assert!(response.contains("more than the limit ingest.in_flight_bytes_max of 65536; retry later"), "{response}");

    first.write_all(&body).await.unwrap();
    let mut response = Vec::new();
    first.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200 OK"));
    assert_eq!(house.spans(), 1);
    assert_eq!(house.metric("tracehouse_ingest_in_flight_bytes").unwrap(), "0");
}

#[tokio::test]
async fn browsers_may_send_from_the_origins_in_the_settings() {
    let allowed = |origins: &[&str]| IngestSettings {
        cors_allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        ..IngestSettings::default()
    };
    let preflight = |address: SocketAddr, origin: &'static str| async move {
        Client::new()
            .request(Method::OPTIONS, format!("http://{address}/v1/traces"))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-api-key")
            .send()
            .await
            .unwrap()
    };
    let house = start(allowed(&["https://shop.example/"])).await;
    let response = preflight(house.address, "https://shop.example").await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "access-control-allow-origin"), "https://shop.example");
    assert_eq!(header(&response, "access-control-allow-methods"), "POST");
    assert_eq!(header(&response, "access-control-allow-headers"), "content-type,x-api-key");
    let response = preflight(house.address, "https://evil.example").await;
    assert_eq!(header(&response, "access-control-allow-origin"), "");
    let headers = [("content-type", PROTOBUF), ("origin", "https://shop.example")];
    let response = send(house.address, &headers, bytes(vec![span(1)])).await;
    assert_eq!(header(&response, "access-control-allow-origin"), "https://shop.example");
    assert_eq!(house.spans(), 1);

    let house = start(allowed(&["*"])).await;
    assert_eq!(header(&preflight(house.address, "https://any.example").await, "access-control-allow-origin"), "*");
    let house = start(IngestSettings::default()).await;
    assert_eq!(preflight(house.address, "https://any.example").await.status(), 405);
}
