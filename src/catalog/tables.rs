//! All tables of the store, each opened when it is first asked for.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use crate::{
    catalog::{
        CatalogError, CatalogSettings,
        table::{Table, TableParts},
    },
    clock::Clock,
    metrics::Metrics,
    model::tenant::TenantId,
    storage::{
        paths::{self, TableFolder},
        store::Store,
    },
};

/// The tables of all tenants. One per process and store.
///
/// A table stays open. What is visible is told from the one state of it that flushes publish and views read: a view that held
/// a table which was closed since would miss what a flush has committed to its successor. And the maintenance looks at every
/// table anyway. An idle one costs its list of files, of which compaction leaves few.
#[derive(Debug)]
pub struct Catalog {
    store: Store,
    clock: Arc<dyn Clock>,
    settings: Arc<CatalogSettings>,
    metrics: Option<Arc<Metrics>>,
    tables: Mutex<HashMap<TenantId, Arc<OnceCell<Arc<Table>>>>>,
    background: TaskTracker,
}

impl Catalog {
    /// The tables in `store`; none is opened yet.
    pub fn open(store: Store, clock: Arc<dyn Clock>, settings: CatalogSettings) -> Self {
        let tables = Mutex::new(HashMap::new());
        let (settings, background) = (Arc::new(settings), TaskTracker::new());
        Self { store, clock, settings, metrics: None, tables, background }
    }

    /// The same tables, whose commits are counted. None must be open yet.
    pub fn counting(mut self, metrics: &Arc<Metrics>) -> Self {
        self.metrics = Some(Arc::clone(metrics));
        self
    }

    /// The store that the tables are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The table of a tenant. It need not exist: then it has no files, and its first commit creates it.
    ///
    /// Of several callers at once one opens the table and the others wait for it.
    pub async fn table(&self, tenant: &TenantId) -> Result<Arc<Table>, CatalogError> {
        let cell = Arc::clone(self.tables.lock().entry(tenant.clone()).or_default());
        let open = || async {
            let folder = TableFolder::of_tenant(tenant);
            let parts = TableParts {
                store: self.store.clone(),
                clock: Arc::clone(&self.clock),
                settings: Arc::clone(&self.settings),
                metrics: self.metrics.clone(),
                background: self.background.clone(),
            };
            Table::open(parts, folder).await.map(Arc::new)
        };
        cell.get_or_try_init(open).await.cloned()
    }

    /// The last commit of a tenant's table that this process knows of, if the table is open and exists. Asks no one.
    pub fn known_version(&self, tenant: &TenantId) -> Option<u64> {
        let cell = self.tables.lock().get(tenant).map(Arc::clone)?;
        cell.get()?.snapshot().version()
    }

    /// Live files of the open tables, and their bytes. Asks no one.
    pub fn load(&self) -> (usize, u64) {
        let tables = self.tables.lock();
        let open = tables.values().filter_map(|cell| Some(cell.get()?.snapshot()));
        open.fold((0, 0), |(files, bytes), snapshot| (files + snapshot.files().len(), bytes + snapshot.size_bytes()))
    }

    /// Waits for checkpoints that are being written, and starts no more: for the end of the process. Commits go on.
    pub async fn finish_background(&self) {
        self.background.close();
        self.background.wait().await;
    }

    /// The tenants that have a folder in the store, in order.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, CatalogError> {
        let folders = self.store.list_folders(&paths::tenants_folder()).await?;
        let mut tenants: Vec<TenantId> = folders.iter().filter_map(paths::tenant_of_folder).collect();
        tenants.sort_unstable();
        Ok(tenants)
    }
}
