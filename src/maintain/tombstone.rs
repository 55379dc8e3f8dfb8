//! Tombstones: what was deleted, kept so that nothing of it comes back.
//!
//! ```text
//!  tombstones/<tenant>/<uuid>.json
//!    {"version":1,"id":"<uuid>","created_unix_nano":..,"filter":{"trace_id":"<hex>"},"start_unix_nano":..,"end_unix_nano":..}
//! ```
//!
//! A deletion writes its tombstone before it touches a file, so a crash leaves at most a deletion that is not finished,
//! which whoever maintains the table next finishes. From then on a span goes if it matches the filter and starts within
//! `[start_unix_nano, end_unix_nano)`, whether it was in a file, was buffered or in a log, or arrives later.
//!
//! The tombstones of all tenants lie in one folder apart from the tables, so that one listing finds them. Those that a build before
//! the first release left in `tenants/<tenant>/tombstones/` are read there, and moved by the first process that maintains the
//! tables ([`adopt`]): a deletion holds however old it is.
//!
//! It stays for `deletion.tombstone_age_max`; then spans that arrive late stay. Only the maintenance deletes tombstones. One
//! that cannot be read stops the maintenance of its tenant, because not to know what was deleted is no licence to keep it.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tracing::info;
use uuid::Uuid;

use crate::{
    error::{Error, ErrorKind, Result},
    model::{tenant::TenantId, time::TimeRange},
    query::SpanFilter,
    storage::{
        paths,
        store::{PutNew, Store},
    },
};

/// The version of the form above, and the greatest that is understood.
const VERSION: u32 = 1;

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    version: u32,
    /// Its name.
    pub id: Uuid,
    /// When the deletion was asked for, in Unix nanoseconds.
    pub created_unix_nano: i64,
    /// Which spans go.
    pub filter: SpanFilter,
    start_unix_nano: i64,
    end_unix_nano: i64,
}

impl Tombstone {
    /// A tombstone for spans that match `filter` and start within `range`.
    pub fn new(filter: SpanFilter, range: TimeRange, now_unix_nano: i64) -> Self {
        let TimeRange { start_unix_nano, end_unix_nano } = range;
        let id = paths::file_id(now_unix_nano);
        Self { version: VERSION, id, created_unix_nano: now_unix_nano, filter, start_unix_nano, end_unix_nano }
    }

    /// When the spans start that go.
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.start_unix_nano, self.end_unix_nano)
    }

    pub(super) fn path(&self, tenant: &TenantId) -> Path {
        paths::tombstone(tenant, self.id)
    }

    /// Makes it durable.
    pub(super) async fn put(&self, store: &Store, tenant: &TenantId) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|cause| Error::new(ErrorKind::Internal, "cannot encode a tombstone").with_source(cause))?;
        // What exists under a random name is this very tombstone, from an earlier try.
        let (PutNew::Created | PutNew::AlreadyExists) = store.put_new(&self.path(tenant), bytes.into()).await?;
        Ok(())
    }

    /// Reads one; `None` if there is none.
    ///
    /// # Errors
    /// It is not one, or of a later version: of kind [`ErrorKind::Corrupt`].
    pub(super) async fn read(store: &Store, path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = store.get(path).await? else { return Ok(None) };
        let corrupt =
            || Error::new(ErrorKind::Corrupt, format!("tombstone {path} is not one of version {VERSION} or before"));
        let tombstone: Self = serde_json::from_slice(&bytes).map_err(|cause| corrupt().with_source(cause))?;
        if tombstone.version > VERSION { Err(corrupt()) } else { Ok(Some(tombstone)) }
    }
}

/// The tombstones of a tenant in the store, oldest first.
///
/// # Errors
/// One that cannot be read or understood.
pub(super) async fn list(store: &Store, tenant: &TenantId) -> Result<Vec<Tombstone>> {
    let mut tombstones = Vec::new();
    let former = store.list(&paths::former_tombstones_folder(tenant));
    let mut objects = store.list(&paths::tombstones_folder(tenant)).chain(former);
    while let Some(object) = objects.try_next().await? {
        // Gone between the two requests: expired.
        tombstones.extend(Tombstone::read(store, &object.location).await?);
    }
    tombstones.sort_by_key(|tombstone| (tombstone.created_unix_nano, tombstone.id));
    // One whose move a crash has cut short is in both places.
    tombstones.dedup_by_key(|tombstone| tombstone.id);
    Ok(tombstones)
}

/// The tombstones of a tenant that lie in their former place: each with its bytes, and the place that it belongs to.
pub(super) async fn former(store: &Store, tenant: &TenantId) -> Result<Vec<Former>> {
    let mut found = Vec::new();
    let mut objects = store.list(&paths::former_tombstones_folder(tenant));
    while let Some(object) = objects.try_next().await? {
        let place = object.location.filename().map(|name| paths::tombstones_folder(tenant).join(name));
        if let (Some(place), Some(bytes)) = (place, store.get(&object.location).await?) {
            found.push(Former { location: object.location, place, bytes });
        }
    }
    Ok(found)
}

/// A tombstone in its former place.
#[derive(Debug)]
pub(super) struct Former {
    location: Path,
    pub(super) place: Path,
    pub(super) bytes: Bytes,
}

/// Moves the tombstones of a tenant out of their former place.
pub(super) async fn adopt(store: &Store, tenant: &TenantId) -> Result<()> {
    for Former { location, place, bytes } in former(store, tenant).await? {
        // One that is there is this one: the first try was cut short before it deleted.
        let (PutNew::Created | PutNew::AlreadyExists) = store.put_new(&place, bytes).await?;
        store.delete(&location).await?;
        info!(%tenant, from = %location, to = %place, "moved a tombstone");
    }
    Ok(())
}
