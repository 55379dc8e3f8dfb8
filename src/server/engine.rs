//! The query engine over a data folder, for the server and for queries on a folder that no server has open.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use futures::FutureExt;

use crate::{
    catalog::{Catalog, CatalogSettings},
    clock::Clock,
    config::Settings,
    error::{Error, ErrorKind, Result},
    ingest::ReadOnly,
    live::Live,
    metrics::Metrics,
    query::{BaseTables, EngineOptions, QueryEngine, SpansTable},
    storage::store::Store,
};

/// The folder of the write-ahead log in the data folder.
pub(super) const LOG_FOLDER: &str = "wal";

/// The folder of what queries spill in the data folder.
const SPILL_FOLDER: &str = "tmp";

/// A data folder that is open for queries. While it lives, no server can open the folder.
#[derive(Debug)]
pub struct LocalFolder {
    /// Answers queries.
    pub engine: Arc<QueryEngine>,
    /// What the log held.
    pub log: ReadOnly,
}

impl LocalFolder {
    /// Opens the data folder of `settings` and changes nothing in it.
    ///
    /// # Errors
    /// There is no such folder, or a server has it open.
    pub async fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        let folder = &settings.data;
        if !folder.is_dir() {
            let message = format!("there is no data folder {} (data)", folder.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let store = Store::local(folder)?;
        let log = ReadOnly::open(&folder.join(LOG_FOLDER), catalog(&store, &clock, settings)).await?;
        let metrics = Metrics::new()
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot set up metrics").with_source(error))?;
        // The data folder stays as it is, so what these queries spill goes elsewhere.
        let spill_folder = std::env::temp_dir();
        let engine = engine(settings, Arc::clone(&log.live), &store, spill_folder, &clock, &Arc::new(metrics))?;
        Ok(Self { engine: Arc::new(engine), log })
    }
}

/// The tables below a store.
pub(super) fn catalog(store: &Store, clock: &Arc<dyn Clock>, settings: &Settings) -> Arc<Catalog> {
    let grace = settings.compaction.grace.get();
    let defaults = CatalogSettings::default();
    // A sweep asks the log when a file was removed, so the log reaches back further than the grace.
    let log_retention = defaults.log_retention.max(grace * 3);
    let settings = CatalogSettings { deleted_file_retention: grace, log_retention, ..defaults };
    Arc::new(Catalog::open(store.clone(), Arc::clone(clock), settings))
}

/// An engine whose queries each see one view of `live`.
pub(super) fn engine(
    settings: &Settings,
    live: Arc<Live>,
    store: &Store,
    spill_folder: PathBuf,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<QueryEngine> {
    let tables: BaseTables = Arc::new(move |tenant| {
        let (live, tenant) = (Arc::clone(&live), tenant.clone());
        async move { Ok(Arc::new(SpansTable::new(live.view(&tenant).await?)) as _) }.boxed()
    });
    QueryEngine::try_new(EngineOptions {
        tables,
        store: Some(store.clone()),
        limits: (&settings.query).into(),
        threads: thread::available_parallelism().map_or(1, usize::from),
        spill_folder,
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
    })
}

/// Creates the folder in the data folder for what the server's queries spill.
pub(super) fn create_spill_folder(data: &Path) -> Result<PathBuf> {
    let folder = data.join(SPILL_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|error| {
        let message = format!("cannot create the folder {} for what queries spill: {error}", folder.display());
        Error::new(ErrorKind::Unavailable, message).with_source(error)
    })?;
    Ok(folder)
}
