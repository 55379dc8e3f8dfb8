//! A data folder with ingest, tables, a query engine and a clock that is moved by hand.

use std::{path::Path, sync::Arc, time::Duration};

use arrow::util::pretty::pretty_format_batches;
use prost::Message as _;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tracehouse::{
    catalog::{Catalog, CatalogSettings, Table},
    clock::{Clock, ManualClock},
    config::{HumanDuration, Settings},
    demo::{Workload, WorkloadSettings},
    ingest::{Ingest, IngestParts, WriteRequest},
    metrics::Metrics,
    model::{
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ResourceRow, ScopeFields, ScopeRow, SpanBatchBuilder, SpanFields, Value},
        ids::TraceId,
        promotion,
        tenant::TenantId,
        time::TimeRange,
    },
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
    query::{QueryEngine, QueryRequest},
    storage::store::Store,
};

use crate::support::spans::plain_span;

/// 2026-11-21T05:20:00Z.
pub(crate) const NOW: i64 = 1_795_238_400_000_000_000;

pub(crate) const SECOND: i64 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct House {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) engine: Arc<QueryEngine>,
    pub(crate) store: Store,
}

impl House {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open_in(folder).await
    }

    pub(crate) async fn open_in(folder: tempfile::TempDir) -> Self {
        let mut settings = Settings::default();
        settings.flush.age_max = HumanDuration::hours(24 * 365);
        let clock = Arc::new(ManualClock::new(NOW));
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let store = Store::local(folder.path()).unwrap();
        let catalog = Arc::new(Catalog::open(store.clone(), Arc::clone(&shared), CatalogSettings::default()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let parts = IngestParts {
            settings: Arc::new(settings),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            clock: shared,
            metrics: Arc::clone(&metrics),
        };
        let (ingest, _) = Ingest::open(parts, &folder.path().join("wal")).await.unwrap();
        let options = crate::engines::options(ingest.live(), &store, Arc::<ManualClock>::clone(&clock), folder.path());
        let engine = Arc::new(QueryEngine::try_new(options).unwrap());
        Self { folder, ingest, catalog, clock, metrics, engine, store }
    }

    pub(crate) fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::<ManualClock>::clone(&self.clock)
    }

    pub(crate) async fn table(&self) -> Arc<Table> {
        self.catalog.table(&TenantId::single()).await.unwrap()
    }

    /// Acknowledged, and buffered.
    pub(crate) async fn write(&self, batch: SpanBatch) {
        let received_unix_nano = self.clock.now_unix_nano();
        let request = WriteRequest { batch, digest: rand::random(), received_unix_nano };
        self.ingest.write(&TenantId::single(), request).await.unwrap();
    }

    /// Acknowledged, and in files of their own.
    pub(crate) async fn store(&self, batch: SpanBatch) {
        self.write(batch).await;
        self.ingest.flush().await.unwrap();
    }

    pub(crate) async fn sql(&self, text: &str) -> String {
        answer(&self.engine, text).await
    }

    pub(crate) async fn count(&self, text: &str) -> i64 {
        let stream = self.engine.execute(QueryRequest::sql(TenantId::single(), text)).await.unwrap();
        let (batches, _) = stream.collect().await.unwrap();
        arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batches[0].column(0)).value(0)
    }

    pub(crate) async fn files(&self) -> usize {
        self.table().await.snapshot().files().len()
    }

    /// Parquet files on the disk, live or not.
    pub(crate) fn files_on_disk(&self) -> usize {
        files_below(self.folder.path())
    }
}

/// Parquet files below a folder, without those of a table's log.
pub(crate) fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true if path.ends_with("_delta_log") => 0,
        true => files_below(&path),
        false => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
    };
    entries.map(count).sum()
}

/// Everything there is of every span, one line each, in one order.
pub(crate) const DUMP: &str = "SELECT * FROM spans ORDER BY trace_id, span_id, start_time, name";

async fn answer(engine: &QueryEngine, text: &str) -> String {
    let stream = engine.execute(QueryRequest::sql(TenantId::single(), text)).await.unwrap();
    let (batches, _) = stream.collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

/// A span to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) trace: u64,
    pub(crate) span: u64,
    pub(crate) start: i64,
    pub(crate) user: &'static str,
}

pub(crate) fn trace_id(number: u64) -> TraceId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TraceId::from_bytes(bytes)
}

/// Spans of the demo, from a quarter of an hour before [`NOW`] on, as the receivers decode them.
pub(crate) fn demo(spans: u64) -> Vec<SpanBatch> {
    let start = NOW as u64 - 900 * 1_000_000_000;
    let settings = WorkloadSettings::period(1, start, Duration::from_secs(20), spans);
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    let decode = |request: opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest| {
        decode_protobuf(&request.encode_to_vec(), &promotion::standard(), &rules).unwrap().batch
    };
    Workload::new(settings).map(decode).collect()
}

/// Spans of one service, in the order given.
pub(crate) fn plain(spans: &[Plain]) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let service = [Attribute { key: "service.name", value: Value::Str("shop") }];
    let resource = builder.push_resource(&ResourceFields::default(), &service).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for span in spans {
        let attributes = [Attribute { key: "enduser", value: Value::Str(span.user) }];
        push(&mut builder, (resource, scope), *span, "op", &attributes);
    }
    builder.finish().unwrap()
}

fn push(
    builder: &mut SpanBatchBuilder,
    place: (ResourceRow, ScopeRow),
    span: Plain,
    name: &str,
    attributes: &[Attribute<'_>],
) {
    let fields = SpanFields { name, ..plain_span(trace_id(span.trace), span.span, span.start, 1_000) };
    builder.push_span(place, &fields, attributes, std::iter::empty(), std::iter::empty()).unwrap();
}

/// Spans of some of `traces` traces with attributes of every kind, starting within an hour after `start`.
pub(crate) fn random(random: &mut StdRng, spans: usize, traces: u64, start: i64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let mut places = Vec::new();
    for service in ["cart", "web", "pay"] {
        let attributes = [
            Attribute { key: "service.name", value: Value::Str(service) },
            Attribute { key: "k8s.pod.name", value: Value::Str("p-1") },
            Attribute { key: "rack", value: Value::Int(random.random_range(0..3)) },
        ];
        let attributes = &attributes[..random.random_range(1..=3)];
        let resource = builder.push_resource(&ResourceFields::default(), attributes).unwrap();
        places.push((resource, builder.push_scope(&ScopeFields::default(), &[]).unwrap()));
    }
    for _ in 0..spans {
        let text = format!("v{}", random.random_range(0..50));
        let choices = [
            Attribute { key: "http.route", value: Value::Str("/cart") },
            Attribute { key: "http.response.status_code", value: Value::Int(random.random_range(200..600)) },
            Attribute { key: "http.response.status_code", value: Value::Str("odd") },
            Attribute { key: "free.text", value: Value::Str(&text) },
            Attribute { key: "ratio", value: Value::Float(random.random_range(0.0..1.0)) },
            Attribute { key: "on", value: Value::Bool(true) },
            Attribute { key: "user.id", value: Value::Str(&text) },
        ];
        let from = random.random_range(0..choices.len());
        let to = random.random_range(from..=choices.len());
        let trace = random.random_range(0..traces);
        let span = Plain {
            trace,
            span: random.random_range(1..u64::MAX),
            start: start + trace as i64 * SECOND + random.random_range(0..600 * SECOND),
            user: "",
        };
        let place = places[random.random_range(0..places.len())];
        push(&mut builder, place, span, &format!("op {}", trace % 7), &choices[from..to]);
    }
    builder.finish().unwrap()
}

pub(crate) fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
