//! Everything behind the listeners: opened in the order of the layers, closed in the reverse order.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes as GrpcRoutes;
use tracing::warn;

use super::{deletion::Deletion, engine, routes::Routes, shutdown::Shutdown};
use crate::{
    api::{flight, sql, tempo},
    catalog::Catalog,
    clock::Clock,
    config::Settings,
    error::Result,
    ingest::{Ingest, IngestParts},
    live::Live,
    maintain::service::{Maintenance, MaintenanceParts},
    metrics::Metrics,
    receiver,
    storage::store::Store,
};

/// The open parts of the server.
#[derive(Debug)]
pub(super) struct Parts {
    ingest: Arc<Ingest>,
    catalog: Arc<Catalog>,
    maintenance: Maintenance,
}

impl Parts {
    /// Opens the data folder and builds the parts and their routes, one of which cancels `asked_to_stop`.
    pub(super) async fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        asked_to_stop: &CancellationToken,
    ) -> Result<(Self, Routes)> {
        engine::create_folders(settings).await?;
        let settings = Arc::new(settings.clone());
        let store = Store::open(&settings, &metrics).await?;
        let catalog = engine::catalog(&store, &clock, &settings, &metrics);
        let parts = IngestParts {
            settings: Arc::clone(&settings),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        // The log's lock comes first: what follows may clean up after a process that is gone.
        let (ingest, _) = Ingest::open(parts, &settings.local_folder().join(engine::LOG_FOLDER)).await?;
        store.clean_temporary(clock.now_unix_nano()).await?;
        let spill = engine::create_spill_folder(settings.local_folder())?;
        let engine = engine::engine(&settings, Arc::clone(ingest.live()), &store, spill, &clock, &metrics)?;
        let engine = Arc::new(engine);

        let maintained = MaintenanceParts {
            catalog: Arc::clone(&catalog),
            engine: Arc::clone(&engine),
            ingest: Arc::clone(&ingest),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let maintenance = Maintenance::start(&maintained, &settings);
        let tombstones = maintenance.deleter().tombstones();
        ingest.set_screen(tombstones.screen());
        if ingest.live().is_settled()
            && let Err(error) = tombstones.load().await
        {
            // The maintenance reads them as soon as it can, and deletes what slips through until then.
            warn!(%error, "cannot read what was deleted");
        }
        let (deleter, for_deletion) = (Arc::clone(maintenance.deleter()), Arc::clone(&ingest));
        let deletion = Deletion { deleter, ingest: for_deletion, clock: Arc::clone(&clock) };
        let shutdown = Shutdown { ingest: Arc::clone(&ingest), asked: asked_to_stop.clone() };
        let query = Arc::new(settings.query.clone());
        let tempo = tempo::TempoState {
            engine: Arc::clone(&engine),
            settings: query,
            clock: Arc::clone(&clock),
            config: Arc::clone(&settings),
            ingest: Arc::clone(&ingest),
            service_metrics: tempo::ServiceMetrics::new()?,
        };
        let receiver = receiver::Receiver::new(Arc::clone(&ingest), &settings.ingest, clock, metrics);
        let sql = sql::router(Arc::clone(&engine));
        let tempo_grpc = tempo::grpc_router(tempo.clone());
        let tempo = tempo::router(tempo).merge(deletion.router()).merge(shutdown.router()).merge(sql);
        let routes = Routes {
            otlp_grpc: receiver.grpc_router(),
            otlp_http: receiver.http_router(),
            tempo_grpc,
            tempo,
            flight: GrpcRoutes::new(flight::grpc_service(engine)).into_axum_router(),
        };
        Ok((Self { ingest, catalog, maintenance }, routes))
    }

    /// What queries read.
    pub(super) fn live(&self) -> &Arc<Live> {
        self.ingest.live()
    }

    /// Flushes what is buffered, syncs and closes.
    pub(super) async fn close(self) -> Result<()> {
        self.maintenance.stop().await;
        let stopped = self.ingest.shutdown().await;
        self.catalog.finish_background().await;
        self.catalog.store().close().await;
        stopped
    }
}
