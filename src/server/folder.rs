//! A data folder that no server has open, opened to be changed: what the commands do that maintain it.

use std::sync::Arc;

use super::{DeleteRequest, engine};
use crate::{
    catalog::Catalog,
    clock::Clock,
    config::{HumanDuration, Settings},
    error::{Error, ErrorKind, Result},
    ingest::{Ingest, IngestParts},
    maintain::{
        compact::{CompactReport, Compactor},
        delete::{DeleteReport, Deleter},
        sweep::{SweepReport, Sweeper},
    },
    metrics::Metrics,
    model::tenant::TenantId,
    query::QueryEngine,
    storage::store::Store,
};

/// A data folder that this process has for itself. While it lives, no server can open the folder.
#[derive(Debug)]
pub struct OwnedFolder {
    ingest: Arc<Ingest>,
    catalog: Arc<Catalog>,
    engine: Arc<QueryEngine>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    settings: Settings,
}

impl OwnedFolder {
    /// Opens the data folder of `settings` and writes what its log holds to the tables.
    ///
    /// # Errors
    /// There is no such folder, or another process has it open.
    pub async fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        if let Some(folder) = settings.data.folder().filter(|folder| !folder.is_dir()) {
            let message = format!("there is no data folder {} (data)", folder.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let metrics = Metrics::new()
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot set up metrics").with_source(error))?;
        let metrics = Arc::new(metrics);
        engine::create_folders(settings).await?;
        let store = Store::open(settings, &metrics).await?;
        let catalog = engine::catalog(&store, &clock, settings, &metrics);
        let parts = IngestParts {
            settings: Arc::new(settings.clone()),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let (ingest, _) = Ingest::open(parts, &settings.local_folder().join(engine::LOG_FOLDER)).await?;
        ingest.flush().await?;
        let spill = engine::create_spill_folder(settings.local_folder())?;
        let engine = engine::engine(settings, Arc::clone(ingest.live()), &store, spill, &clock, &metrics)?;
        let engine = Arc::new(engine);
        Ok(Self { ingest, catalog, engine, clock, metrics, settings: settings.clone() })
    }

    /// Finishes deletions, merges the small files of every table and deletes what no table lists; per tenant.
    pub async fn compact(&self) -> Result<Vec<(TenantId, CompactReport, SweepReport)>> {
        // Nothing arrives, so every day is settled.
        let settle_age = HumanDuration::seconds(0);
        let settings = crate::config::CompactionSettings { settle_age, ..self.settings.compaction.clone() };
        let shared = || (Arc::clone(&self.catalog), Arc::clone(&self.clock), Arc::clone(&self.metrics));
        let (catalog, clock, metrics) = shared();
        let compactor = Compactor::new(catalog, clock, metrics, &settings, &self.settings.promotion);
        let (catalog, clock, metrics) = shared();
        let sweeper = Sweeper::new(catalog, clock, metrics, settings.grace.get());
        let deleter = self.deleter();
        let mut reports = Vec::new();
        for tenant in self.catalog.tenants().await? {
            deleter.enforce(&tenant).await?;
            let compacted = compactor.compact(&tenant).await?;
            reports.push((tenant.clone(), compacted, sweeper.sweep(&tenant).await?));
        }
        Ok(reports)
    }

    /// Deletes spans for good.
    pub async fn delete(&self, request: DeleteRequest) -> Result<DeleteReport> {
        let (tenant, range) = (request.tenant()?, request.range(self.clock.now_unix_nano()));
        self.deleter().delete(&tenant, request.filter, range, async { Ok(()) }).await
    }

    /// Closes the folder in order.
    pub async fn close(self) -> Result<()> {
        let closed = self.ingest.shutdown().await;
        self.catalog.finish_background().await;
        closed
    }

    fn deleter(&self) -> Deleter {
        let (catalog, engine, clock) = (Arc::clone(&self.catalog), Arc::clone(&self.engine), Arc::clone(&self.clock));
        Deleter::new(catalog, engine, clock, Arc::clone(&self.metrics), &self.settings)
    }
}
