//! The sender: plays a workload to an OTLP/gRPC endpoint at a chosen pace.
//!
//! One producer makes requests and hands them to a few workers over a short channel; each worker has a connection of its
//! own, so that a server's connections share the load. What the server asks to have again is sent again, after the delay
//! that it names or a growing one; what it refuses for good is counted.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    lines::lines,
    progress::{Progress, ProgressStyle},
    retry::{Backoff, retry_delay},
    workload::{Timeline, Workload, WorkloadSettings, spans_in},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind, Result},
};

/// How long a request in flight may still take after cancellation.
const GRACE: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests of a live demo are small, so that spans arrive while they are fresh: this many a second, at least.
const LIVE_REQUESTS_PER_SECOND: u64 = 4;

/// What to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DemoMode {
    /// The present, until cancelled or until `duration` is over.
    Live {
        /// Pace; at least 1.
        spans_per_second: u64,
        /// Stop after this time.
        duration: Option<Duration>,
    },
    /// The period that ends now.
    Backfill {
        /// Length of the period.
        period: Duration,
        /// Spans in the period.
        spans_total: u64,
        /// Pace, if not as fast as the endpoint takes them.
        spans_per_second_max: Option<u64>,
    },
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DemoCompression {
    /// Uncompressed.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// What a demo run depends on.
#[derive(Clone, Debug)]
pub struct DemoSettings {
    /// Where to send: `http://host:port` of an OTLP/gRPC receiver.
    pub endpoint: String,
    /// What to play.
    pub mode: DemoMode,
    /// Seed of the workload.
    pub seed: u64,
    /// About how many spans a request holds. A live demo sends smaller ones if its pace is slow.
    pub request_spans: usize,
    /// Connections, each with one request in flight; at least 1.
    pub connections: usize,
    /// Compression of requests.
    pub compression: DemoCompression,
    /// Metadata sent with each request, such as a tenant or a credential.
    pub headers: Vec<(String, String)>,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// How long one request is tried again before the run fails.
    pub retry_time_max: Duration,
    /// Where progress shows.
    pub progress: ProgressStyle,
    /// Whether the services of the shop log to standard output.
    pub logs: bool,
}

impl DemoSettings {
    /// Settings for `mode` towards `endpoint`, everything else as usual: seed 42, four connections, silent.
    pub fn new(endpoint: impl Into<String>, mode: DemoMode) -> Self {
        Self {
            endpoint: endpoint.into(),
            mode,
            seed: 42,
            request_spans: WorkloadSettings::REQUEST_SPANS,
            connections: 4,
            compression: DemoCompression::None,
            headers: Vec::new(),
            request_timeout: Duration::from_secs(30),
            retry_time_max: Duration::from_secs(60),
            progress: ProgressStyle::Silent,
            logs: false,
        }
    }
}

/// What happened in a demo run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DemoReport {
    /// Requests that were answered with success.
    pub requests: u64,
    /// Spans that the endpoint took.
    pub spans_accepted: u64,
    /// Spans that the endpoint refused, by partial success or by refusing the request.
    pub spans_rejected: u64,
    /// Spans made and not answered for, because the run was cancelled.
    pub spans_unsent: u64,
    /// Times that a request was sent again.
    pub retries: u64,
    /// The endpoint's reason for the last refusal.
    pub last_refusal: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let per_second = self.spans_accepted as f64 / seconds.max(0.001);
        write!(f, "{} spans accepted in {seconds:.1} s ({per_second:.0} spans/s)", self.spans_accepted)?;
        for (count, what) in
            [(self.spans_rejected, "spans rejected"), (self.retries, "retries"), (self.spans_unsent, "spans not sent")]
        {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        match &self.last_refusal {
            Some(reason) => write!(f, "; last refusal: {reason}"),
            None => Ok(()),
        }
    }
}

/// Sends until the workload ends, `cancel` fires, or a request cannot be delivered.
///
/// # Errors
/// `InvalidArgument` for settings that cannot work, `Unavailable` for an endpoint that cannot be reached, that is no OTLP
/// receiver, or that does not take a request within `retry_time_max`.
pub async fn run(settings: DemoSettings, clock: Arc<dyn Clock>, cancel: CancellationToken) -> Result<DemoReport> {
    let endpoint = endpoint(&settings)?;
    let headers = headers(&settings.headers)?;
    let mut clients = Vec::new();
    for _ in 0..settings.connections.max(1) {
        let connected = cancel.run_until_cancelled(endpoint.connect()).await;
        match connected {
            Some(Ok(channel)) => clients.push(client(channel, settings.compression)),
            Some(Err(error)) => return Err(unreachable(&settings.endpoint, &error)),
            None => return Ok(DemoReport::default()),
        }
    }
    let started = Instant::now();
    let progress = Progress::new(settings.progress, spans_total(settings.mode));
    let state = Arc::new(Run {
        settings,
        headers,
        cancel: cancel.child_token(),
        progress,
        report: Mutex::new(DemoReport::default()),
    });
    let (sender, receiver) = mpsc::channel(clients.len());
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let mut workers = JoinSet::new();
    for client in clients {
        workers.spawn(work(Arc::clone(&state), client, Arc::clone(&receiver)));
    }
    produce(&state, clock.as_ref(), &sender).await;
    drop(sender);
    let mut outcome = Ok(());
    while let Some(joined) = workers.join_next().await {
        let result = joined.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, error.to_string())));
        outcome = outcome.and(result);
    }
    let mut report = state.report.lock().clone();
    report.elapsed = started.elapsed();
    // What lies in the channel when the workers stop was never sent.
    receiver.lock().await.close();
    while let Ok(request) = receiver.lock().await.try_recv() {
        report.spans_unsent += spans_in(&request);
    }
    state.progress.finish(&report);
    outcome.map(|()| report)
}

/// What producer and workers share.
#[derive(Debug)]
struct Run {
    settings: DemoSettings,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    /// Fires when the caller cancels and when a worker fails.
    cancel: CancellationToken,
    progress: Progress,
    report: Mutex<DemoReport>,
}

type Client = TraceServiceClient<Channel>;
type Requests = Arc<tokio::sync::Mutex<mpsc::Receiver<ExportTraceServiceRequest>>>;

fn spans_total(mode: DemoMode) -> Option<u64> {
    match mode {
        DemoMode::Backfill { spans_total, .. } => Some(spans_total),
        DemoMode::Live { spans_per_second, duration } => duration.map(|length| {
            let total = spans_per_second as f64 * length.as_secs_f64();
            total as u64
        }),
    }
}

/// Makes requests, not faster than the pace, until the end or cancellation.
async fn produce(run: &Run, clock: &dyn Clock, sender: &mpsc::Sender<ExportTraceServiceRequest>) {
    let now = unix_nano(clock);
    let (workload, spans_per_second, duration) = match run.settings.mode {
        DemoMode::Live { spans_per_second, duration } => {
            let pace = spans_per_second.max(1);
            let request_spans = usize::try_from(pace / LIVE_REQUESTS_PER_SECOND).unwrap_or(usize::MAX);
            let request_spans = request_spans.clamp(1, run.settings.request_spans.max(1));
            let timeline = Timeline::Live { start_unix_nano: now };
            (WorkloadSettings { seed: run.settings.seed, timeline, request_spans }, Some(pace), duration)
        }
        DemoMode::Backfill { period, spans_total, spans_per_second_max } => {
            let length = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
            let timeline =
                Timeline::Period { start_unix_nano: now.saturating_sub(length), duration: period, spans_total };
            let request_spans = run.settings.request_spans.max(1);
            (WorkloadSettings { seed: run.settings.seed, timeline, request_spans }, spans_per_second_max, None)
        }
    };
    let end = duration.map(|duration| Instant::now() + duration);
    let mut workload = Workload::new(workload);
    let mut pace = spans_per_second.map(Pace::new);
    let playing = async {
        loop {
            workload.advance_to(unix_nano(clock));
            let Some(request) = workload.next() else { return };
            if let Some(pace) = &mut pace {
                pace.wait_for(spans_in(&request)).await;
            }
            if end.is_some_and(|end| Instant::now() >= end) || sender.send(request).await.is_err() {
                return;
            }
        }
    };
    run.cancel.run_until_cancelled(playing).await;
}

fn unix_nano(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now_unix_nano()).unwrap_or(0)
}

/// Spaces requests so that their spans come at a steady rate.
#[derive(Debug)]
struct Pace {
    spans_per_second: u64,
    due: Instant,
}

impl Pace {
    /// Time lost to a slow endpoint beyond this is not made up for.
    const LAG_MAX: Duration = Duration::from_secs(1);

    fn new(spans_per_second: u64) -> Self {
        Self { spans_per_second: spans_per_second.max(1), due: Instant::now() }
    }

    async fn wait_for(&mut self, spans: u64) {
        let now = Instant::now();
        let oldest = now.checked_sub(Self::LAG_MAX).unwrap_or(now);
        self.due = self.due.max(oldest) + Duration::from_secs_f64(spans as f64 / self.spans_per_second as f64);
        tokio::time::sleep_until(self.due).await;
    }
}

/// One worker: sends what it receives until the channel is empty and closed, or the run is cancelled.
async fn work(run: Arc<Run>, mut client: Client, requests: Requests) -> Result<()> {
    loop {
        let next = async { requests.lock().await.recv().await };
        let Some(Some(request)) = run.cancel.run_until_cancelled(next).await else {
            return Ok(());
        };
        if let Err(error) = deliver(&run, &mut client, request).await {
            run.cancel.cancel();
            return Err(error);
        }
    }
}

/// Sends one request until it is answered for good; on cancellation one in flight has a moment left.
async fn deliver(run: &Run, client: &mut Client, request: ExportTraceServiceRequest) -> Result<()> {
    let spans = spans_in(&request);
    let started = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let answer = tokio::select! {
            answer = send(run, client, request.clone()) => answer,
            () = grace(&run.cancel) => Err(Status::cancelled("stopped by the user")),
        };
        let status = match answer {
            Ok(response) => {
                run.accepted(spans, response);
                if run.settings.logs {
                    // A closed standard output is no reason to stop sending.
                    let _ = io::stdout().write_all(lines(&request).as_bytes());
                }
                return Ok(());
            }
            Err(status) => status,
        };
        let delay = match retry_delay(&status) {
            None if run.is_no_receiver(&status) => return Err(no_receiver(run, &status)),
            None => {
                run.refused(spans, &status);
                return Ok(());
            }
            Some(asked) => backoff.next(asked),
        };
        if started.elapsed() + delay > run.settings.retry_time_max {
            run.report.lock().spans_unsent += spans;
            return Err(gave_up(run, &status));
        }
        if run.cancel.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            run.report.lock().spans_unsent += spans;
            return Ok(());
        }
        run.report.lock().retries += 1;
    }
}

async fn grace(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

async fn send(
    run: &Run,
    client: &mut Client,
    request: ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Status> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(run.settings.request_timeout);
    for (key, value) in &run.headers {
        request.metadata_mut().insert(key.clone(), value.clone());
    }
    match tokio::time::timeout(run.settings.request_timeout, client.export(request)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:?}", run.settings.request_timeout))),
    }
}

impl Run {
    fn accepted(&self, spans: u64, response: ExportTraceServiceResponse) {
        let mut report = self.report.lock();
        report.requests += 1;
        let partial = response.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(spans);
        report.spans_accepted += spans - rejected;
        report.spans_rejected += rejected;
        if rejected > 0 {
            report.last_refusal = Some(partial.error_message);
        }
        self.progress.show(&report);
    }

    /// Whether what answers seems not to be a receiver of spans at all: it has taken none, and does not say that it
    /// would. Such a run would only go on failing.
    fn is_no_receiver(&self, status: &Status) -> bool {
        let speaks_otherwise = matches!(status.code(), Code::Unimplemented | Code::Internal | Code::Unknown);
        speaks_otherwise && self.report.lock().requests == 0
    }

    fn refused(&self, spans: u64, status: &Status) {
        let mut report = self.report.lock();
        report.spans_rejected += spans;
        report.last_refusal = Some(format!("{:?}: {}", status.code(), status.message()));
        self.progress.show(&report);
    }
}

fn endpoint(settings: &DemoSettings) -> Result<Endpoint> {
    let text = &settings.endpoint;
    let invalid = |reason: &str| Error::invalid(format!("endpoint {text:?} {reason}, expected http://host:port"));
    let endpoint = Endpoint::from_shared(text.clone()).map_err(|error| invalid(&format!("is not a URL ({error})")))?;
    match endpoint.uri().scheme_str() {
        Some("http") => {}
        Some("https") => return Err(Error::unsupported("TLS towards the endpoint of the demo")),
        _ => return Err(invalid("has no scheme http")),
    }
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

fn headers(headers: &[(String, String)]) -> Result<Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>> {
    let parse = |(key, value): &(String, String)| {
        let invalid = || Error::invalid(format!("header {key:?} is not valid as gRPC metadata"));
        let name = key.to_ascii_lowercase().parse().map_err(|_| invalid())?;
        Ok((name, value.parse().map_err(|_| invalid())?))
    };
    headers.iter().map(parse).collect()
}

fn client(channel: Channel, compression: DemoCompression) -> Client {
    let client = TraceServiceClient::new(channel);
    match compression {
        DemoCompression::None => client,
        DemoCompression::Gzip => client.send_compressed(CompressionEncoding::Gzip),
        DemoCompression::Zstd => client.send_compressed(CompressionEncoding::Zstd),
    }
}

fn unreachable(endpoint: &str, error: &tonic::transport::Error) -> Error {
    let reason = root_cause(error);
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "cannot reach {endpoint}: {reason}; start a server with `tracehouse serve`, or name another --endpoint"
        ),
    )
}

/// The innermost error, which is the one that says what happened.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn no_receiver(run: &Run, status: &Status) -> Error {
    let (endpoint, code, message) = (&run.settings.endpoint, status.code(), status.message());
    let message = format!("{endpoint} does not take spans over OTLP/gRPC: {code:?}: {message}");
    Error::new(ErrorKind::Unavailable, message)
}

fn gave_up(run: &Run, status: &Status) -> Error {
    let (endpoint, limit) = (&run.settings.endpoint, run.settings.retry_time_max);
    let what = match status.code() {
        Code::Unavailable => "is not available",
        _ => "does not take a request",
    };
    Error::new(
        ErrorKind::Unavailable,
        format!("{endpoint} {what}, gave up after {limit:?}: {:?}: {}", status.code(), status.message()),
    )
}
