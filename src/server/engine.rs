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

/// The folder of the write-ahead log in the folder of what stays on this machine.
pub(super) const LOG_FOLDER: &str = "wal";

/// The folder of what queries spill, likewise.
const SPILL_FOLDER: &str = "tmp";

/// A data folder or bucket that is open for queries. While it lives, no server can open the log beside it, if there is one.
#[derive(Debug)]
pub struct LocalFolder {
    /// Answers queries.
    pub engine: Arc<QueryEngine>,
    /// What the log held.
    pub log: ReadOnly,
}

impl LocalFolder {
    /// Opens what the settings name and changes nothing in it.
    ///
    /// A log on this machine is read if there is one; a folder that was restored, or is a backup, has none until a server
    /// opens it. Of a bucket, what other machines have not uploaded yet is not seen.
    ///
    /// # Errors
    /// There is no such folder, it has neither tables nor a log, or a server has it open.
    pub async fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        if let Some(folder) = settings.data.folder().filter(|folder| !folder.is_dir()) {
            let message = format!("there is no data folder {} (data)", folder.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let metrics = Metrics::new()
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot set up metrics").with_source(error))?;
        let metrics = Arc::new(metrics);
        let store = Store::open_to_read(settings, &metrics).await?;
        let catalog = catalog(&store, &clock, settings, &metrics);
        let log_folder = settings.local_folder().join(LOG_FOLDER);
        let log = if log_folder.is_dir() {
            ReadOnly::open(&log_folder, catalog).await?
        } else {
            if let Some(folder) = settings.data.folder()
                && catalog.tenants().await?.is_empty()
            {
                let message = format!("folder {} has neither tables nor a write-ahead log (data)", folder.display());
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            ReadOnly::without_log(catalog)
        };
        // The data folder stays as it is, so what these queries spill goes elsewhere.
        let spill_folder = std::env::temp_dir();
        let engine = engine(settings, Arc::clone(&log.live), &store, spill_folder, &clock, &metrics)?;
        Ok(Self { engine: Arc::new(engine), log })
    }
}

/// Creates the folders of this machine that the settings name.
pub(super) async fn create_folders(settings: &Settings) -> Result<()> {
    let folders = [("data", settings.data.folder()), ("local_dir", Some(settings.local_folder()))];
    for (key, folder) in folders.into_iter().filter_map(|(key, folder)| Some((key, folder?))) {
        tokio::fs::create_dir_all(folder).await.map_err(|error| {
            let message = format!("cannot create the folder {} ({key}): {error}", folder.display());
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        })?;
    }
    Ok(())
}

/// The tables below a store.
pub(super) fn catalog(
    store: &Store,
    clock: &Arc<dyn Clock>,
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Arc<Catalog> {
    let (grace, snapshot_age_max) = (settings.compaction.grace.get(), settings.store.table_age_max.get());
    let defaults = CatalogSettings::default();
    // A sweep asks the log when a file was removed, so the log reaches back further than the grace.
    let log_retention = defaults.log_retention.max(grace * 3);
    let settings = CatalogSettings { deleted_file_retention: grace, log_retention, snapshot_age_max, ..defaults };
    Arc::new(Catalog::open(store.clone(), Arc::clone(clock), settings).counting(metrics))
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
    let files = store.clone();
    let tables: BaseTables = Arc::new(move |tenant| {
        let (live, tenant, files) = (Arc::clone(&live), tenant.clone(), files.clone());
        async move { Ok(Arc::new(SpansTable::new(live.view(&tenant).await?).reading(&files)) as _) }.boxed()
    });
    QueryEngine::try_new(EngineOptions {
        tables,
        store: Some(store.clone()),
        limits: (&settings.query).into(),
        threads: thread::available_parallelism().map_or(1, usize::from),
        spill_folder,
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
        settings: Arc::new(settings.clone()),
    })
}

/// Creates the folder in that of what stays on this machine for what the server's queries spill.
pub(super) fn create_spill_folder(local: &Path) -> Result<PathBuf> {
    let folder = local.join(SPILL_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|error| {
        let message = format!("cannot create the folder {} for what queries spill: {error}", folder.display());
        Error::new(ErrorKind::Unavailable, message).with_source(error)
    })?;
    Ok(folder)
}
