//! Where things lie in the store.
//!
//! ```text
//! <root>/
//!   tenants/<tenant>/spans/            one Delta table per tenant
//!     _delta_log/00000000000000000000.json ...
//!     date=2026-11-21/<uuid>.parquet   data files, by UTC day of the span's start
//!   tombstones/<tenant>/<uuid>.json    what was deleted: one small object each
//!   .temporary/                        half-written files (local disk only), never seen by readers of a table
//!   .probe/                            objects of the start-up check, deleted at once
//! ```
//!
//! Only the catalogue and outside writers touch `_delta_log`. Readers that glob `date=*/*.parquet` must find nothing
//! but whole data files, so nothing else is ever written below a table's folder.

use chrono::NaiveDate;
use object_store::path::{Path, PathPart};
use uuid::{NoContext, Timestamp, Uuid};

use crate::model::{schema::column, tenant::TenantId};

const TENANTS: &str = "tenants";
const SPANS: &str = "spans";
const TOMBSTONES: &str = "tombstones";

/// The folder below which every tenant has its own.
pub fn tenants_folder() -> Path {
    Path::from(TENANTS)
}

/// The folder of one tenant's `spans` table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableFolder(Path);

impl TableFolder {
    /// The table of `tenant`.
    ///
    /// Of the characters that a tenant's name may have, `*` is the one that object stores and file systems object to;
    /// it becomes `+`, which no tenant's name has.
    pub fn of_tenant(tenant: &TenantId) -> Self {
        let name = folder_name(tenant);
        Self(Path::from_iter([PathPart::from(TENANTS), PathPart::from(name.as_str()), PathPart::from(SPANS)]))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The object at `relative`, a path of plain segments below the folder.
    pub fn file(&self, relative: &str) -> Path {
        Path::from_iter(self.0.parts().chain(Path::from(relative).parts()))
    }
}

fn folder_name(tenant: &TenantId) -> String {
    tenant.as_str().replace('*', "+")
}

/// The folder of what was deleted, with a folder for each tenant.
pub fn all_tombstones_folder() -> Path {
    Path::from(TOMBSTONES)
}

/// The folder of what was deleted from a tenant's table.
pub fn tombstones_folder(tenant: &TenantId) -> Path {
    Path::from_iter([PathPart::from(TOMBSTONES), PathPart::from(folder_name(tenant).as_str())])
}

/// Where builds before the first release kept what was deleted from a tenant's table.
pub fn former_tombstones_folder(tenant: &TenantId) -> Path {
    let name = folder_name(tenant);
    Path::from_iter([PathPart::from(TENANTS), PathPart::from(name.as_str()), PathPart::from(TOMBSTONES)])
}

/// The place of one tombstone.
pub fn tombstone(tenant: &TenantId, id: Uuid) -> Path {
    tombstones_folder(tenant).join(format!("{id}.json"))
}

/// The tenant whose folder this is: the reverse of [`TableFolder::of_tenant`], `None` for a folder of something else.
pub fn tenant_of_folder(folder: &Path) -> Option<TenantId> {
    let name = folder.filename()?.replace('+', "*");
    TenantId::parse(&name).ok()
}

/// An id for a data file that is written now: a UUID of version 7, so that a file's name tells when it was born.
pub fn file_id(now_unix_nano: i64) -> Uuid {
    let nanos = now_unix_nano.max(0).unsigned_abs();
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    // The remainder is below 2^30.
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, rest as u32))
}

/// When a data file was born, in Unix milliseconds; `None` if its name does not tell.
pub fn born_unix_milli(path: &Path) -> Option<i64> {
    let id = Uuid::parse_str(path.filename()?.strip_suffix(".parquet")?).ok()?;
    let (seconds, nanos) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    i64::try_from(seconds.checked_mul(1_000)?).ok()?.checked_add(i64::from(nanos / 1_000_000))
}

/// The place of a data file, relative to its table's folder.
pub fn data_file(date: NaiveDate, id: Uuid) -> String {
    format!("{}={date}/{id}.parquet", column::DATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_read_back_from_its_folder() {
        for name in ["single-tenant", "a*b", "!-_.*'()", "...", "A1"] {
            let tenant = TenantId::parse(name).unwrap();
            let table = TableFolder::of_tenant(&tenant);
            let folder = Path::from_iter(table.path().parts().take(2));
            assert_eq!(tenant_of_folder(&folder), Some(tenant), "{folder}");
            assert!(!table.path().as_ref().contains('%'), "{table:?}");
        }
    }

    #[test]
    fn the_name_of_a_file_tells_when_it_was_born() {
        let date = NaiveDate::default();
        let path = Path::from(data_file(date, file_id(1_795_239_000_123_456_789)));
        assert_eq!(born_unix_milli(&path), Some(1_795_239_000_123));
        for name in [data_file(date, Uuid::new_v4()), "date=1970-01-01/part-0.parquet".to_owned()] {
            assert_eq!(born_unix_milli(&Path::from(name)), None);
        }
    }

    #[test]
    fn data_files_lie_in_a_folder_per_day() {
        let table = TableFolder::of_tenant(&TenantId::single());
        let file = data_file(NaiveDate::from_ymd_opt(2026, 11, 21).unwrap(), Uuid::nil());
        assert_eq!(
            table.file(&file).as_ref(),
            "tenants/single-tenant/spans/date=2026-11-21/00000000-0000-0000-0000-000000000000.parquet"
        );
    }
}
