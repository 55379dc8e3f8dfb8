//! A workload: traces one after another on a timeline, cut into OTLP requests as collectors would send them.
//!
//! A trace's spans are split by service over up to three neighbouring requests. Memory holds those three requests,
//! however long the workload is.

use std::{collections::VecDeque, f64::consts::TAU, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

use super::{
    pods::{Pods, SCHEMA_URL},
    shop::Family,
    trace::{PlacedSpan, Trace, TraceMaker},
};

/// How many neighbouring requests a trace may be spread over.
const NEIGHBOURS: usize = 3;

/// Where on the time axis the traces lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Timeline {
    /// A period with a start and an end, filled evenly but for gentle waves; the workload ends with it.
    Period {
        /// Start of the first trace, in Unix nanoseconds.
        start_unix_nano: u64,
        /// Length of the period; traces that start near its end reach beyond it.
        duration: Duration,
        /// Exactly how many spans there are in all requests together.
        spans_total: u64,
    },
    /// An endless present: traces have ended shortly before the time last given to [`Workload::advance_to`].
    Live {
        /// The time until the first [`Workload::advance_to`], in Unix nanoseconds.
        start_unix_nano: u64,
    },
}

/// What a workload depends on; equal settings give equal requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkloadSettings {
    /// Seed of all ids, names, values and durations; ids come from the start of the timeline too.
    pub seed: u64,
    /// Where the traces lie in time.
    pub timeline: Timeline,
    /// About how many spans a request holds; a large trace can exceed it by its own size.
    pub request_spans: usize,
}

impl WorkloadSettings {
    /// The spans that a request holds unless said otherwise.
    pub const REQUEST_SPANS: usize = 1_000;

    /// A period of `duration` from `start_unix_nano` with `spans_total` spans, in requests of the usual size.
    pub fn period(seed: u64, start_unix_nano: u64, duration: Duration, spans_total: u64) -> Self {
        let timeline = Timeline::Period { start_unix_nano, duration, spans_total };
        Self { seed, timeline, request_spans: Self::REQUEST_SPANS }
    }
}

/// An iterator of OTLP requests; ends with its period, or never if live.
#[derive(Debug)]
pub struct Workload {
    settings: WorkloadSettings,
    maker: TraceMaker,
    open: VecDeque<OpenRequest>,
    now_unix_nano: u64,
    spans_made: u64,
    traces_made: u64,
}

impl Workload {
    /// A workload at its start. The same settings give the same requests on the same platform.
    pub fn new(settings: WorkloadSettings) -> Self {
        let (Timeline::Period { start_unix_nano, .. } | Timeline::Live { start_unix_nano }) = settings.timeline;
        let maker = TraceMaker::new(settings.seed, start_unix_nano);
        let open = (0..NEIGHBOURS).map(|_| OpenRequest::new(maker.pods.count())).collect();
        Self { settings, maker, open, now_unix_nano: start_unix_nano, spans_made: 0, traces_made: 0 }
    }

    /// Moves the present of a live workload; a period ignores it.
    pub fn advance_to(&mut self, unix_nano: u64) {
        self.now_unix_nano = self.now_unix_nano.max(unix_nano);
    }

    /// Traces begun so far, those in requests still open included.
    pub fn traces_made(&self) -> u64 {
        self.traces_made
    }

    fn spans_left(&self) -> u64 {
        match self.settings.timeline {
            Timeline::Period { spans_total, .. } => spans_total.saturating_sub(self.spans_made),
            Timeline::Live { .. } => u64::MAX,
        }
    }

    fn add_trace(&mut self) {
        let spans_max = usize::try_from(self.spans_left()).unwrap_or(usize::MAX);
        let mut trace = self.maker.next_trace(spans_max);
        let start = self.start_of(&trace);
        for placed in &mut trace.spans {
            shift(&mut placed.span, start);
        }
        self.spans_made += trace.spans.len() as u64;
        self.traces_made += 1;
        self.place(trace.spans);
    }

    fn start_of(&mut self, trace: &Trace) -> u64 {
        match self.settings.timeline {
            Timeline::Period { start_unix_nano, duration, spans_total } => {
                let progress = self.spans_made as f64 / spans_total.max(1) as f64;
                // Waves of a sixth of the period; the slope stays positive, so the order stays.
                let wave = 0.04 * (TAU * 6.0 * progress).sin() / TAU;
                let jitter = 0.001 * self.maker.dice().unit();
                let offset = (progress + wave + jitter).clamp(0.0, 1.0) * duration.as_nanos() as f64;
                start_unix_nano + offset as u64
            }
            Timeline::Live { .. } => {
                let age = self.maker.dice().below(200_000_000);
                self.now_unix_nano.saturating_sub(trace.length_ns + u64::from(age))
            }
        }
    }

    /// Spreads a trace by service over as many requests as it is drawn to take.
    fn place(&mut self, spans: Vec<PlacedSpan>) {
        let requests = if spans.len() < 4 { 1 } else { 1 + u64::from(self.maker.dice().below(NEIGHBOURS as u32)) };
        let draws = self.maker.dice().bits();
        for placed in spans {
            let draw = (draws >> (4 * placed.service as u64)) & 0xF;
            if let Some(request) = self.open.get_mut((draw % requests) as usize) {
                request.push(placed);
            }
        }
    }

    fn close_first(&mut self) -> Option<ExportTraceServiceRequest> {
        let request = self.open.pop_front()?;
        self.open.push_back(OpenRequest::new(self.maker.pods.count()));
        Some(request.finish(&self.maker.pods))
    }
}

impl Iterator for Workload {
    type Item = ExportTraceServiceRequest;

    fn next(&mut self) -> Option<Self::Item> {
        while self.spans_left() > 0 && self.open[0].spans < self.settings.request_spans {
            self.add_trace();
        }
        for _ in 0..NEIGHBOURS {
            let has_spans = self.open[0].spans > 0;
            let request = self.close_first();
            if has_spans {
                return request;
            }
        }
        None
    }
}

/// Moves a span from the trace's own time, which starts at zero, to `start`.
fn shift(span: &mut Span, start: u64) {
    span.start_time_unix_nano += start;
    span.end_time_unix_nano += start;
    for event in &mut span.events {
        event.time_unix_nano += start;
    }
}

/// The number of spans in a request.
pub fn spans_in(request: &ExportTraceServiceRequest) -> u64 {
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

/// A request that is being filled, its spans by pod and library.
#[derive(Debug)]
struct OpenRequest {
    spans: usize,
    pods: Vec<(u16, [Vec<Span>; Family::COUNT])>,
    /// By pod, its place in `pods`.
    places: Vec<Option<usize>>,
}

impl OpenRequest {
    fn new(pods: usize) -> Self {
        Self { spans: 0, pods: Vec::new(), places: vec![None; pods] }
    }

    fn push(&mut self, placed: PlacedSpan) {
        let place = *self.places[usize::from(placed.pod)].get_or_insert_with(|| {
            self.pods.push((placed.pod, Default::default()));
            self.pods.len() - 1
        });
        self.pods[place].1[placed.family as usize].push(placed.span);
        self.spans += 1;
    }

    fn finish(self, pods: &Pods) -> ExportTraceServiceRequest {
        let resource_spans = self.pods.into_iter().map(|(pod, families)| ResourceSpans {
            resource: Some(pods.resource(pod)),
            scope_spans: families
                .into_iter()
                .enumerate()
                .filter(|(_, spans)| !spans.is_empty())
                .map(|(family, spans)| ScopeSpans {
                    scope: Some(pods.scope(pod, family)),
                    spans,
                    schema_url: SCHEMA_URL.to_owned(),
                })
                .collect(),
            schema_url: SCHEMA_URL.to_owned(),
        });
        ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
    }
}

#[cfg(test)]
mod tests;
