//! The demo's sender against a small OTLP server that can refuse, stall and reject.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codec::CompressionEncoding};
use tracehouse::{
    clock::ManualClock,
    demo::{DemoCompression, DemoMode, DemoReport, DemoSettings, run, spans_in},
    error::ErrorKind,
};

const NOW: i64 = 1_767_225_600_000_000_000;

/// Answers with what is scripted first, then with success.
#[derive(Clone, Debug, Default)]
struct Receiver {
    script: Arc<Mutex<VecDeque<Result<ExportTraceServiceResponse, Status>>>>,
    taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    tenants: Arc<Mutex<Vec<Option<String>>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let tenant = request.metadata().get("x-scope-orgid").map(|value| value.to_str().unwrap().to_owned());
        self.tenants.lock().unwrap().push(tenant);
        let answer = self.script.lock().unwrap().pop_front().unwrap_or_else(|| Ok(Default::default()))?;
        self.taken.lock().unwrap().push(request.into_inner());
        Ok(Response::new(answer))
    }
}

impl Receiver {
    fn scripted(answers: impl IntoIterator<Item = Result<ExportTraceServiceResponse, Status>>) -> Self {
        let receiver = Self::default();
        receiver.script.lock().unwrap().extend(answers);
        receiver
    }

    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn spans(&self) -> u64 {
        self.taken.lock().unwrap().iter().map(spans_in).sum()
    }

    fn start_times(&self) -> Vec<u64> {
        let taken = self.taken.lock().unwrap();
        let scopes = taken.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(|span| span.start_time_unix_nano).collect()
    }
}

fn backfill(spans_total: u64) -> DemoMode {
    DemoMode::Backfill { period: Duration::from_secs(3_600), spans_total, spans_per_second_max: None }
}

fn settings(address: SocketAddr, mode: DemoMode) -> DemoSettings {
    DemoSettings::new(format!("http://{address}"), mode)
}

async fn play(settings: DemoSettings) -> tracehouse::error::Result<DemoReport> {
    run(settings, Arc::new(ManualClock::new(NOW)), CancellationToken::new()).await
}

#[tokio::test]
async fn a_backfill_sends_each_span_of_the_period_once() {
    for compression in [DemoCompression::None, DemoCompression::Gzip, DemoCompression::Zstd] {
        let receiver = Receiver::default();
        let mut settings = settings(receiver.serve().await, backfill(5_000));
        settings.compression = compression;
        settings.headers = vec![("X-Scope-OrgID".into(), "shop".into())];
        let report = play(settings).await.unwrap();
        assert_eq!((report.spans_accepted, report.spans_rejected, report.spans_unsent), (5_000, 0, 0));
        assert_eq!(receiver.spans(), 5_000);
        assert_eq!(report.requests, receiver.taken.lock().unwrap().len() as u64);
        let start = NOW as u64 - 3_600_000_000_000;
        assert!(receiver.start_times().iter().all(|time| (start..NOW as u64 + 60_000_000_000).contains(time)));
        assert!(receiver.tenants.lock().unwrap().iter().all(|tenant| tenant.as_deref() == Some("shop")));
    }
}

#[tokio::test]
async fn what_an_unavailable_endpoint_refuses_is_sent_again() {
    let receiver = Receiver::scripted([Err(Status::unavailable("starting")), Err(Status::unavailable("starting"))]);
    let report = play(settings(receiver.serve().await, backfill(3_000))).await.unwrap();
    assert_eq!((report.spans_accepted, report.retries), (3_000, 2));
    assert_eq!(receiver.spans(), 3_000);
}

#[tokio::test]
async fn refused_requests_and_rejected_spans_are_counted_with_the_reason() {
    let partial = ExportTracePartialSuccess { rejected_spans: 7, error_message: "trace id is zero".into() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) };
    let receiver = Receiver::scripted([Ok(partial)]);
    let report = play(settings(receiver.serve().await, backfill(3_000))).await.unwrap();
    assert_eq!((report.spans_accepted, report.spans_rejected), (2_993, 7));
    assert_eq!(report.last_refusal.as_deref(), Some("trace id is zero"));

    let receiver = Receiver::scripted([Err(Status::invalid_argument("no thanks"))]);
    let report = play(settings(receiver.serve().await, backfill(3_000))).await.unwrap();
    assert_eq!(report.spans_accepted, receiver.spans());
    assert_eq!(report.spans_accepted + report.spans_rejected, 3_000);
    assert_eq!(report.last_refusal.as_deref(), Some("InvalidArgument: no thanks"));
    assert_eq!(report.retries, 0);
}

#[tokio::test]
async fn an_endpoint_that_stays_unavailable_ends_the_run_with_its_reason() {
    let receiver = Receiver::scripted((0..100).map(|_| Err(Status::unavailable("disk is full"))));
    let mut settings = settings(receiver.serve().await, backfill(3_000));
    settings.retry_time_max = Duration::from_millis(250);
    let error = play(settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("disk is full") && error.message().contains("250ms"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_on_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = play(settings(address, backfill(10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains(&format!("cannot reach http://{address}")), "{error}");
    assert!(error.message().contains("refused"), "{error}");

    for wrong in ["127.0.0.1:4317", "ftp://127.0.0.1:4317", "http://", "http://a b"] {
        let error = play(DemoSettings::new(wrong, backfill(10))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_live_demo_keeps_its_pace_until_its_time_is_over_or_it_is_cancelled() {
    let receiver = Receiver::default();
    let mode = DemoMode::Live { spans_per_second: 2_000, duration: Some(Duration::from_millis(1_500)) };
    let report = play(settings(receiver.serve().await, mode)).await.unwrap();
    assert!((500..4_500).contains(&report.spans_accepted), "{report}");
    assert!(receiver.start_times().iter().all(|time| *time < NOW as u64), "nothing is from the future");

    let receiver = Receiver::default();
    let mode = DemoMode::Live { spans_per_second: 1_000, duration: None };
    let settings = settings(receiver.serve().await, mode);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run(settings, Arc::new(ManualClock::new(NOW)), cancel.clone()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    cancel.cancel();
    let report = tokio::time::timeout(Duration::from_secs(4), running).await.unwrap().unwrap().unwrap();
    assert_eq!(report.spans_accepted, receiver.spans());
    assert!(report.spans_accepted > 0);
}
