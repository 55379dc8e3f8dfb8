//! Questions to the Tempo API while the bucket is away.

use std::sync::Arc;

use tokio::net::TcpListener;
use tonic::{Code, Request};
use tracehouse::{
    api::tempo::{self, ServiceMetrics, TempoState, tempopb::SearchRequest},
    clock::ManualClock,
    config::Secret,
    query::QueryEngine,
};

use super::{House, faulty::FaultyBucket, settings};
use crate::{frame, tempo_grpc, tempo_http};

/// Questions that need files: to the rows, or to what is in their footers.
const QUESTIONS: [&str; 8] = [
    "/api/search?q=%7B%20duration%20%3E%201ns%20%7D",
    "/api/traces/4d2",
    "/api/v2/traces/4d2",
    "/api/v2/search/tags",
    "/api/search/tag/service.name/values",
    "/api/v2/search/tag/name/values?q=%7B%20duration%20%3E%201ns%20%7D",
    "/api/metrics/query?q=%7B%7D%20%7C%20rate()%20by%20(name)&start=1&end=4000000000",
    "/api/metrics/service_graph",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_is_503_and_the_same_question_has_an_answer_later() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let settings = settings(folder.path());
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    house.write(1_000..2_000).await.unwrap();
    house.ingest.flush().await.unwrap();
    let clock = Arc::clone(&house.clock);
    let options = crate::engines::options(house.ingest.live(), &house.store, clock, folder.path());
    let state = TempoState {
        engine: Arc::new(QueryEngine::try_new(options).unwrap()),
        settings: Arc::new(settings.query.clone()),
        clock: Arc::<ManualClock>::clone(&house.clock),
        config: Arc::new(settings.clone()),
        ingest: Arc::clone(&house.ingest),
        service_metrics: ServiceMetrics::new().unwrap(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, tempo::router(state)).await });
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry_after, answer.text().await.unwrap())
    };
    let mut client = tempo_grpc::client(address).await;
    let request = || SearchRequest { query: "{ duration > 1ns }".to_owned(), ..SearchRequest::default() };
    bucket.set_down(true);
    let message = "the store of the tables cannot be read; the server's log has the details";
    for path in QUESTIONS {
        assert_eq!(get(path).await, (503, Some("5".to_owned()), message.to_owned()), "{path}");
    }
    let refused = tempo_grpc::all(client.search(Request::new(request())).await).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, message));
    // What needs no file is there.
    assert_eq!(get("/api/echo").await.0, 200);
    bucket.set_down(false);
    for path in QUESTIONS {
        let (status, _, body) = get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let found = tempo_grpc::all(client.search(Request::new(request())).await).await.unwrap();
    assert!(found.iter().any(|message| !message.traces.is_empty()), "{found:?}");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_bucket_nobody_answers_for_takes_spans_and_says_503_to_questions() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(folder.path());
    settings.data = "s3://bucket/prefix".parse().unwrap();
    settings.local_dir = Some(folder.path().to_owned());
    // Nothing listens on the port of a listener that is gone.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    settings.store.endpoint = format!("http://{gone}");
    settings.store.access_key_id = "key".to_owned();
    settings.store.secret_access_key = Secret::new("secret");
    settings.store.retries_max = 0;
    let server = frame::start(&settings).await;
    tempo_http::send(&server).await;
    for path in QUESTIONS {
        let answer = frame::get(&server, path).await;
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((answer.status().as_u16(), retry_after.as_deref()), (503, Some("5")), "{path}");
        let body = answer.text().await.unwrap();
        assert!(body.starts_with("the store of the tables has not answered since the start"), "{path}: {body}");
    }
    assert_eq!(frame::get(&server, "/api/echo").await.status().as_u16(), 200);
    // What it took stays in the log.
    server.stop().await.unwrap();
}
