//! OTLP/gRPC as senders see it, through tonic's client and through bare frames.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
};
use reqwest::{Client, Response};
use tonic::{Code, codec::CompressionEncoding, transport::Channel};
use tracehouse::{
    config::{ByteSize, IngestSettings},
    receiver::Receiver,
};

use crate::{
    otlp_arbitrary::normal_form,
    otlp_samples::{bytes, request, span},
    receiver_support::{House, serve, settings},
};

const PATH: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";

async fn start(ingest: IngestSettings) -> House {
    serve(settings(ingest), Receiver::grpc_router).await
}

async fn client(address: SocketAddr) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(format!("http://{address}")).await.unwrap()
}

#[tokio::test]
async fn spans_are_taken_in_every_encoding() {
    let house = start(IngestSettings::default()).await;
    let client = client(house.address).await;
    let clients = [
        client.clone(),
        client.clone().send_compressed(CompressionEncoding::Gzip),
        client.clone().send_compressed(CompressionEncoding::Zstd).accept_compressed(CompressionEncoding::Zstd),
    ];
    for (n, mut client) in (1..).zip(clients) {
        let response = client.export(request(vec![span(n)])).await.unwrap();
        assert_eq!(response.into_inner().partial_success, None);
    }
    assert_eq!(house.traces().await, normal_form(&request((1..4).map(span).collect())));
    let response = client.clone().export(ExportTraceServiceRequest::default()).await.unwrap();
    assert_eq!(response.into_inner().partial_success, None);
    assert_eq!(house.metric("tracehouse_ingest_in_flight_bytes").unwrap(), "0");
}

#[tokio::test]
async fn rejected_spans_are_counted_in_the_answer() {
    let house = start(IngestSettings::default()).await;
    let mut bad = span(2);
    bad.span_id = vec![0; 8];
    let response = client(house.address).await.export(request(vec![span(1), bad])).await.unwrap();
    let partial = response.into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert_eq!(partial.error_message, "rejected 1 span: 1 invalid span id (span id of zeros only)");
    assert_eq!(house.spans(), 1);
}

/// `google.rpc.Status` with a `RetryInfo` of these seconds, as bytes.
fn retry_details(code: i32, message: &str, seconds: u8) -> Vec<u8> {
    let mut details = vec![8, code as u8, 18, message.len() as u8];
    details.extend(message.bytes());
    let type_url = "type.googleapis.com/google.rpc.RetryInfo";
    details.extend([26, type_url.len() as u8 + 8, 10, type_url.len() as u8]);
    details.extend(type_url.bytes());
    details.extend([18, 4, 10, 2, 8, seconds]);
    details
}

#[tokio::test]
async fn what_may_succeed_later_carries_a_hint() {
    let stopped = start(IngestSettings::default()).await;
    stopped.ingest.shutdown().await.unwrap();
    let status = client(stopped.address).await.export(request(vec![span(1)])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is shutting down"));
    assert_eq!(status.details(), retry_details(Code::Unavailable as i32, status.message(), 2));
}

#[tokio::test]
async fn what_never_will_succeed_carries_none() {
    let settings = IngestSettings { request_bytes_max: ByteSize::kib(64), ..IngestSettings::default() };
    let house = start(settings).await;
    let client = client(house.address).await;
    let mut long = span(1);
    long.name = "x".repeat(70_000);
    let clients = [
        client.clone(),
        client.clone().send_compressed(CompressionEncoding::Gzip),
        client.send_compressed(CompressionEncoding::Zstd),
    ];
    for mut client in clients {
        let status = client.export(request(vec![long.clone()])).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "the request is larger than the limit ingest.request_bytes_max of 65536 bytes after decompression"
        );
        assert!(status.details().is_empty());
    }
}

/// Sends a bare frame.
async fn send(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let mut request = client.post(format!("http://{address}/{path}")).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.unwrap()
}

fn frame(flag: u8, announced: usize, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend((announced as u32).to_be_bytes());
    frame.extend(message);
    frame
}

#[tokio::test]
async fn odd_frames_are_errors_with_the_right_status() {
    let house = start(IngestSettings::default()).await;
    let message = bytes(vec![span(1)]);
    let length = message.len();
    let grpc = ("content-type", "application/grpc+proto");
    let address = house.address;
    let check = |headers: Vec<(&'static str, &'static str)>, body: Vec<u8>, code: Code, text: &'static str| async move {
        let response = send(address, PATH, &headers, body).await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("grpc-status"), (code as i32).to_string(), "{text}");
        let message = header("grpc-message").replace("%20", " ").replace("%22", "\"").replace("%2C", ",");
        assert!(message.starts_with(text), "{message}");
    };
    check(vec![grpc], b"".to_vec(), Code::InvalidArgument, "the request has no message").await;
    check(vec![grpc], vec![0, 0], Code::InvalidArgument, "the request has no message").await;
    let short = frame(0, length + 1, &message);
    check(vec![grpc], short, Code::InvalidArgument, "the message has ").await;
    check(
        vec![grpc],
        frame(0, u32::MAX as usize, b""),
        Code::InvalidArgument,
        "the message has 0 bytes where its frame says 4294967295",
    )
    .await;
    check(vec![grpc], frame(2, length, &message), Code::InvalidArgument, "the message has compression flag 2").await;
    let no_encoding = "the message is compressed and grpc-encoding does not say how";
    check(vec![grpc], frame(1, length, &message), Code::InvalidArgument, no_encoding).await;
    let gzip = ("grpc-encoding", "gzip");
    check(vec![grpc, gzip], frame(1, length, &message), Code::InvalidArgument, "the request cannot be decompressed")
        .await;
    check(vec![grpc], frame(0, 3, b"xyz"), Code::InvalidArgument, "invalid protobuf at byte ").await;
    let snappy = ("grpc-encoding", "snappy");
    check(vec![grpc, snappy], frame(1, length, &message), Code::Unimplemented, "unsupported grpc-encoding \"snappy\"")
        .await;
    assert_eq!(house.spans(), 0);

    // An encoding is named, and the message is not compressed.
    let response = send(house.address, PATH, &[grpc, gzip], frame(0, length, &message)).await;
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip,zstd,deflate");
    assert_eq!(response.bytes().await.unwrap(), [0; 5][..]);
    assert_eq!(house.spans(), 1);

    let response =
        send(house.address, "opentelemetry.proto.collector.logs.v1.LogsService/Export", &[grpc], vec![]).await;
    assert_eq!(response.headers()["grpc-status"], (Code::Unimplemented as i32).to_string().as_str());
    let response = send(house.address, PATH, &[("content-type", "application/json")], vec![]).await;
    assert_eq!(response.status(), 415);
}
