//! Queries of 128 KiB, as long as they may be, sent to a server by each way that takes one: an answer or a refusal that can
//! be read, in bounded time. An address of HTTP is too short for them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Code, Request};
use tracehouse::{
    api::tempo::tempopb::{QueryRangeRequest, SearchRequest},
    server::Server,
    traceql::parse::QUERY_BYTES_MAX,
};

use crate::{frame, tempo_grpc, tempo_http, tempo_mcp};

/// A debug build is some forty times slower than what runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Before the spans that the server holds.
const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;

/// Longest message of an error: it has to fit the head of a gRPC answer, and a screen.
const MESSAGE_BYTES_MAX: usize = 1_500;

/// As many of the repeated part as fit into the longest query.
fn longest(head: &str, part: &str, tail: &str) -> String {
    format!("{head}{}{tail}", part.repeat((QUERY_BYTES_MAX - head.len() - tail.len()) / part.len()))
}

/// What a query is answered with: so many traces or series, or an error with this in it.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Found(usize),
    Refused(&'static str),
}

/// Queries, and what searches find by them.
fn searches() -> Vec<(String, Expected)> {
    use Expected::{Found, Refused};
    let too_long = "exceeds the configured maximum size of 131072 bytes";
    vec![
        (longest("{ name = \"GET /\" || .a = \"", "x", "\" }"), Found(1)),
        (longest("{ name = \"GET /\" || .", "x", " = 1 }"), Found(1)),
        (longest("{ name = \"GET /\" } /*", "{(\"", "*/"), Found(1)),
        (longest("{ name = \"GET /\"", " ", "}"), Found(1)),
        (longest("{ name =~ `GET /|(a|a)*", "(b*)*", "` }"), Refused("needs more than the limit")),
        (longest("{ name =~ `GET /", "|[^\\pL]{9}", "` }"), Refused("invalid regex")),
        (longest("{ name = \"GET /\"", " || .a = 1", " }"), Refused("operators deep")),
        (longest("{ name = \"GET /\" }", " | { .a = 1 }", ""), Refused("more than")),
        (longest("{} | select(.b", ", .bbbbbbbbbbb", ", .)"), Refused("parse error at line 1")),
        (longest("{ .a = \"", "x", "\" } oops"), Refused("parse error at line 1")),
        (longest("{ .a = \"", "\u{e9}", "\" } oops"), Refused("parse error at line 1")),
        (longest("{ .a = 1 }\n", "\n", "oops"), Refused("parse error at line 13")),
        (longest("{ .a = \"", "x", "\" && name = 1 }"), Refused("binary operations must operate on the same type")),
        (longest("", "(", ""), Refused("nested more than")),
        (longest("", "{", ""), Refused("nested more than")),
        (longest("", "x", ""), Refused("")),
        (longest("{ .a = ", "9", " }"), Refused("")),
        (longest("{ .a = \"", "x", "\" } ") + " ", Refused(too_long)),
        (longest("{ .a = \"", "x", "\" }").repeat(5), Refused(too_long)),
    ]
}

/// Queries for series, and how many they are.
fn series() -> Vec<(String, Expected)> {
    vec![
        (longest("{ name = \"GET /\" || .a = \"", "x", "\" } | rate() by(name)"), Expected::Found(1)),
        (longest("{ name = \"GET /\" } | rate() > ", "1", ""), Expected::Refused("out of range")),
        (longest("{ name = \"GET /\" } | rate()", " + ({} | rate())", ""), Expected::Refused("more than")),
        (
            longest("{ name = \"GET /\" } | rate() with(a=\"", "x", "\") oops"),
            Expected::Refused("parse error at line 1"),
        ),
    ]
}

fn check(what: &str, query: &str, expected: Expected, is: &Result<usize, String>, took: Duration) {
    let head: String = query.chars().take(40).collect();
    assert!(took < PATIENCE, "{what}: {head} took {took:?}");
    match (expected, is) {
        (Expected::Found(wanted), Ok(found)) => assert_eq!(*found, wanted, "{what}: {head}"),
        (Expected::Refused(phrase), Err(message)) => {
            assert!(message.contains(phrase), "{what}: {head}: {message}");
            assert!(
                !message.is_empty() && message.len() < MESSAGE_BYTES_MAX,
                "{what}: {head}: {} bytes",
                message.len()
            );
        }
        (_, is) => panic!("{what}: {head}: {is:?}"),
    }
}

async fn by_grpc(client: &mut tempo_grpc::Client, query: &str) -> Result<usize, String> {
    let request = SearchRequest { query: query.to_owned(), ..SearchRequest::default() };
    let messages = tempo_grpc::all(client.search(Request::new(request)).await).await.map_err(|status| {
        let head: String = query.chars().take(40).collect();
        assert_eq!(status.code(), Code::InvalidArgument, "{head}: {status}");
        status.message().to_owned()
    })?;
    Ok(messages.iter().map(|message| message.traces.len()).sum())
}

async fn by_grpc_metrics(client: &mut tempo_grpc::Client, query: &str) -> Result<usize, String> {
    let (start, end) = (START_UNIX_NANO, START_UNIX_NANO + 120_000_000_000);
    let request =
        QueryRangeRequest { query: query.to_owned(), start, end, step: 10_000_000_000, ..QueryRangeRequest::default() };
    let messages = tempo_grpc::all(client.metrics_query_range(request).await).await.map_err(|status| {
        let head: String = query.chars().take(40).collect();
        assert_eq!(status.code(), Code::InvalidArgument, "{head}: {status}");
        status.message().to_owned()
    })?;
    Ok(messages.last().map_or(0, |message| message.series.len()))
}

async fn by_post(server: &Server, query: &str) -> Result<usize, String> {
    let arguments = json!({"query": query, "start": "2026-11-21T05:30:00Z", "end": "2026-11-21T05:32:00Z"});
    let (text, is_error) = tempo_mcp::tool(server, "traceql-search", arguments).await;
    if is_error {
        return Err(text);
    }
    let answer: Value = serde_json::from_str(&text).unwrap();
    Ok(answer["traces"].as_array().unwrap().len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_queries_are_answered_or_refused_by_every_way_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(folder.path())).await;
    tempo_http::send(&server).await;
    let mut client = tempo_grpc::client(server.addresses().tempo_grpc).await;
    for (number, (query, expected)) in searches().into_iter().enumerate() {
        let started = Instant::now();
        check("gRPC", &query, expected, &by_grpc(&mut client, &query).await, started.elapsed());
        // What reads and plans is the same.
        if number % 3 == 0 {
            let started = Instant::now();
            check("POST", &query, expected, &by_post(&server, &query).await, started.elapsed());
        }
    }
    for (query, expected) in series() {
        let started = Instant::now();
        check("gRPC", &query, expected, &by_grpc_metrics(&mut client, &query).await, started.elapsed());
    }
    server.stop().await.unwrap();
}
