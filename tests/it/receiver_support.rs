//! A receiver on a free port, in front of the real write path in a folder of its own.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use opentelemetry_proto::tonic::trace::v1::TracesData;
use tempfile::TempDir;
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::{Clock, ManualClock},
    config::{HumanDuration, IngestSettings, Settings},
    ingest::{Ingest, IngestParts},
    metrics::Metrics,
    model::tenant::TenantId,
    otlp::encode::encode,
    receiver::Receiver,
    storage::store::Store,
};

use crate::{otlp_round_trip::logical_rows, otlp_samples::START};

pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) ingest: Arc<Ingest>,
    metrics: Arc<Metrics>,
    _folder: TempDir,
}

impl House {
    /// Spans that were acknowledged.
    pub(crate) fn spans(&self) -> usize {
        self.ingest.live().buffered_spans()
    }

    /// All spans that a query would see, as OTLP.
    pub(crate) async fn traces(&self) -> TracesData {
        let view = self.ingest.live().view(&TenantId::single()).await.unwrap();
        let rows: Vec<_> = view.buffered().map(logical_rows).collect();
        encode(&rows).unwrap()
    }

    /// The value of a metric with its labels, as `/metrics` writes it.
    pub(crate) fn metric(&self, name: &str) -> Option<String> {
        let text = self.metrics.encode(0).unwrap();
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    }
}

/// Settings of the receivers; nothing is flushed unless a test asks for it.
pub(crate) fn settings(ingest: IngestSettings) -> Settings {
    let mut settings = Settings { ingest, ..Settings::default() };
    settings.flush.age_max = HumanDuration::hours(24);
    settings
}

/// Serves routes of a receiver until the runtime of the test ends.
pub(crate) async fn serve(settings: Settings, routes: impl FnOnce(&Receiver) -> Router) -> House {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START as i64));
    let store = Store::local(folder.path()).unwrap();
    let catalog = Arc::new(Catalog::open(store.clone(), Arc::clone(&clock), CatalogSettings::default()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let settings = Arc::new(settings);
    let parts = IngestParts {
        settings: Arc::clone(&settings),
        store,
        catalog,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
    };
    let (ingest, _) = Ingest::open(parts, &folder.path().join("wal")).await.unwrap();
    let receiver = Receiver::new(Arc::clone(&ingest), &settings.ingest, clock, Arc::clone(&metrics));
    let router = routes(&receiver);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    House { address, ingest, metrics, _folder: folder }
}
