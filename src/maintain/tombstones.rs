//! The deletions that are remembered, of all tenants, at hand for whoever has to keep to them.
//!
//! They are read from the store as a whole with one listing, however many tenants there are: at the start, and again by the
//! maintenance, for those that other processes left. What is deleted here is here at once.
//!
//! As a [`Screen`] they keep matching spans out that arrive later. Trace ids cost a look into a table for each span. Other
//! filters are looked at where a batch has spans of their time range, which usually lies in the past: late spans only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    array::{AsArray, BooleanArray, BooleanBufferBuilder},
    buffer::BooleanBuffer,
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tracing::{error, warn};
use uuid::Uuid;

use super::tombstone::{self, Tombstone};
use crate::{
    error::{Error, ErrorKind, Result},
    ingest::{Screen, Screened},
    model::{batch::SpanBatch, ids::TraceId, schema::column, tenant::TenantId, time::TimeRange},
    query::{QueryEngine, SpanFilter},
    storage::{paths, store::Store},
};

/// Tenants whose former tombstones are looked for at once.
const ADOPTIONS_MAX: usize = 16;

/// The remembered deletions.
#[derive(Debug)]
pub struct Tombstones {
    store: Store,
    engine: Arc<QueryEngine>,
    known: RwLock<HashMap<TenantId, Arc<OfTenant>>>,
    is_loaded: AtomicBool,
    /// A listing that began before a tombstone was put must not be taken for news after it.
    one_change_at_a_time: Mutex<()>,
}

/// The deletions of one tenant.
#[derive(Debug, Default)]
pub struct OfTenant {
    /// Oldest first.
    tombstones: Vec<Arc<Tombstone>>,
    by_trace: HashMap<TraceId, Vec<TimeRange>>,
    /// One that cannot be read or understood.
    broken: Option<Path>,
}

impl OfTenant {
    fn new(mut tombstones: Vec<Arc<Tombstone>>, broken: Option<Path>) -> Self {
        tombstones.sort_by_key(|tombstone| (tombstone.created_unix_nano, tombstone.id));
        let mut by_trace: HashMap<TraceId, Vec<TimeRange>> = HashMap::new();
        for tombstone in &tombstones {
            if let SpanFilter::TraceId(text) = &tombstone.filter
                && let Ok(id) = text.parse()
            {
                by_trace.entry(id).or_default().push(tombstone.range());
            }
        }
        Self { tombstones, by_trace, broken }
    }

    /// The deletions, oldest first.
    pub fn all(&self) -> &[Arc<Tombstone>] {
        &self.tombstones
    }

    /// The spans whose traces were deleted; `None` if there are none.
    fn of_deleted_traces(&self, batch: &SpanBatch) -> Option<BooleanBuffer> {
        if self.by_trace.is_empty() {
            return None;
        }
        let ids = batch.spans()[column::TRACE_ID].as_fixed_size_binary();
        let mut hits = BooleanBufferBuilder::new(batch.num_spans());
        for (id, start) in ids.iter().zip(batch.start_times().values()) {
            let id = id.and_then(|bytes| <[u8; TraceId::LEN]>::try_from(bytes).ok()).map(TraceId::from_bytes);
            let ranges = id.and_then(|id| self.by_trace.get(&id));
            hits.append(ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(*start))));
        }
        let hits = hits.finish();
        (hits.count_set_bits() > 0).then_some(hits)
    }
}

impl Tombstones {
    /// Those of `store`; none is read yet. `engine` decides which spans they match.
    pub fn new(store: Store, engine: Arc<QueryEngine>) -> Self {
        let (known, is_loaded) = (RwLock::default(), AtomicBool::new(false));
        Self { store, engine, known, is_loaded, one_change_at_a_time: Mutex::default() }
    }

    /// The tenants that have some.
    pub fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> = self.known.read().keys().cloned().collect();
        tenants.sort_unstable();
        tenants
    }

    /// Those of a tenant, as far as they were read.
    ///
    /// # Errors
    /// One of them cannot be understood: not to know what was deleted is no licence to keep it.
    pub fn of(&self, tenant: &TenantId) -> Result<Arc<OfTenant>> {
        let of_tenant = self.known.read().get(tenant).map(Arc::clone).unwrap_or_default();
        match &of_tenant.broken {
            None => Ok(of_tenant),
            Some(path) => Err(Tombstone::not_understood(path)),
        }
    }

    /// Reads them unless that was done.
    pub async fn load(&self) -> Result<()> {
        match self.is_loaded.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.refresh().await.map(|_| ()),
        }
    }

    /// Reads those that other processes left, and forgets those that are gone; gives the tenants that have new ones.
    pub async fn refresh(&self) -> Result<Vec<TenantId>> {
        let _turn = self.one_change_at_a_time.lock().await;
        if !self.is_loaded.load(Ordering::Acquire) {
            self.adopt().await?;
        }
        let mut listed: BTreeMap<TenantId, Vec<Path>> = BTreeMap::new();
        let mut objects = self.store.list(&paths::all_tombstones_folder());
        while let Some(object) = objects.try_next().await? {
            let folder = Path::from_iter(object.location.parts().take(2));
            if let Some(tenant) = paths::tenant_of_folder(&folder) {
                listed.entry(tenant).or_default().push(object.location);
            }
        }
        let mut news = Vec::new();
        let mut current = HashMap::with_capacity(listed.len());
        for (tenant, paths) in listed {
            let before = self.known.read().get(&tenant).map(Arc::clone).unwrap_or_default();
            let known: HashMap<Path, &Arc<Tombstone>> =
                before.tombstones.iter().map(|tombstone| (tombstone.path(&tenant), tombstone)).collect();
            let (mut tombstones, mut broken, mut is_new) = (Vec::with_capacity(paths.len()), None, false);
            for path in paths {
                match known.get(&path) {
                    Some(tombstone) => tombstones.push(Arc::clone(tombstone)),
                    None => match Tombstone::read(&self.store, &path).await {
                        Ok(Some(tombstone)) => {
                            tombstones.push(Arc::new(tombstone));
                            is_new = true;
                        }
                        // Gone between the two requests: expired.
                        Ok(None) => {}
                        Err(error) if error.kind() == ErrorKind::Corrupt => {
                            error!(%tenant, %error, "deletions of this tenant are not enforced");
                            broken = Some(path);
                        }
                        Err(error) => return Err(error),
                    },
                }
            }
            if is_new {
                news.push(tenant.clone());
            }
            current.insert(tenant, Arc::new(OfTenant::new(tombstones, broken)));
        }
        *self.known.write() = current;
        self.is_loaded.store(true, Ordering::Release);
        Ok(news)
    }

    /// Moves those that lie in their former place, one listing per tenant.
    async fn adopt(&self) -> Result<()> {
        let folders = self.store.list_folders(&paths::tenants_folder()).await?;
        let tenants = folders.iter().filter_map(paths::tenant_of_folder);
        let moves = tenants.map(|tenant| async move { tombstone::adopt(&self.store, &tenant).await });
        stream::iter(moves.collect::<Vec<_>>()).buffer_unordered(ADOPTIONS_MAX).try_collect().await
    }

    /// Makes a deletion durable; from then on it is kept to here.
    pub(super) async fn add(&self, tenant: &TenantId, tombstone: Tombstone) -> Result<()> {
        let _turn = self.one_change_at_a_time.lock().await;
        tombstone.put(&self.store, tenant).await?;
        self.change(tenant, |tombstones| tombstones.push(Arc::new(tombstone)));
        Ok(())
    }

    /// Forgets a deletion, here and in the store.
    pub(super) async fn remove(&self, tenant: &TenantId, id: Uuid) -> Result<()> {
        let _turn = self.one_change_at_a_time.lock().await;
        self.store.delete(&paths::tombstone(tenant, id)).await?;
        self.change(tenant, |tombstones| tombstones.retain(|tombstone| tombstone.id != id));
        Ok(())
    }

    fn change(&self, tenant: &TenantId, change: impl FnOnce(&mut Vec<Arc<Tombstone>>)) {
        let mut known = self.known.write();
        let before = known.remove(tenant).unwrap_or_default();
        let mut tombstones = before.tombstones.clone();
        change(&mut tombstones);
        if !tombstones.is_empty() || before.broken.is_some() {
            known.insert(tenant.clone(), Arc::new(OfTenant::new(tombstones, before.broken.clone())));
        }
    }

    /// What keeps matching spans out.
    pub fn screen(self: &Arc<Self>) -> Screen {
        let (for_ready, for_pass) = (Arc::clone(self), Arc::clone(self));
        Screen {
            ready: Box::new(move || {
                let tombstones = Arc::clone(&for_ready);
                async move { tombstones.load().await }.boxed()
            }),
            pass: Box::new(move |tenant, batch| for_pass.pass(tenant, batch)),
        }
    }

    fn pass(&self, tenant: &TenantId, batch: SpanBatch) -> Screened {
        let Some(of_tenant) = self.known.read().get(tenant).map(Arc::clone) else { return Screened::Now(batch) };
        let Some((first, last)) = batch.start_time_range() else { return Screened::Now(batch) };
        let traces = of_tenant.of_deleted_traces(&batch);
        let is_due = |tombstone: &&Arc<Tombstone>| {
            !matches!(tombstone.filter, SpanFilter::TraceId(_)) && tombstone.range().overlaps(first, last)
        };
        let due: Vec<Arc<Tombstone>> = of_tenant.tombstones.iter().filter(is_due).map(Arc::clone).collect();
        if due.is_empty() {
            return Screened::Now(without(batch, traces));
        }
        let (engine, tenant) = (Arc::clone(&self.engine), tenant.clone());
        let looking = async move {
            let mut hits = traces;
            for tombstone in due {
                match engine.matching_spans(&batch, &tombstone.filter, tombstone.range()).await {
                    Ok(None) => {}
                    Ok(Some(found)) => hits = Some(hits.map_or_else(|| found.clone(), |hits| &hits | &found)),
                    // They are taken out of their file instead: spans are not refused because of a deletion.
                    Err(error) => warn!(%tenant, deletion = %tombstone.id, %error, "arriving spans were not screened"),
                }
            }
            without(batch, hits)
        };
        Screened::Later(looking.boxed())
    }
}

/// The spans that were not hit.
fn without(batch: SpanBatch, hits: Option<BooleanBuffer>) -> SpanBatch {
    match hits {
        None => batch,
        Some(hits) => match batch.filter(&BooleanArray::new(!&hits, None)) {
            Ok(rest) => rest,
            Err(error) => {
                warn!(%error, "arriving spans were not screened");
                batch
            }
        },
    }
}

impl Tombstone {
    fn not_understood(path: &Path) -> Error {
        Error::new(ErrorKind::Corrupt, format!("tombstone {path} is not one of this version or before"))
    }
}
