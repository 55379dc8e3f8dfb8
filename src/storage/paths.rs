//! Where things lie in the store.
//!
//! ```text
//! <root>/
//!   tenants/<tenant>/spans/            one Delta table per tenant
//!     _delta_log/00000000000000000000.json ...
//!     date=2026-11-21/<uuid>.parquet   data files, by UTC day of the span's start
//!   .temporary/                        half-written files (local disk only), never seen by readers of a table
//!   .probe/                            objects of the start-up check, deleted at once
//! ```
//!
//! Only the catalogue and outside writers touch `_delta_log`. Readers that glob `date=*/*.parquet` must find nothing
//! but whole data files, so nothing else is ever written below a table's folder.

use chrono::NaiveDate;
use object_store::path::{Path, PathPart};
use uuid::Uuid;

use crate::model::{schema::column, tenant::TenantId};

const TENANTS: &str = "tenants";
const SPANS: &str = "spans";

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
        let folder = tenant.as_str().replace('*', "+");
        Self(Path::from_iter([PathPart::from(TENANTS), PathPart::from(folder.as_str()), PathPart::from(SPANS)]))
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

/// The tenant whose folder this is: the reverse of [`TableFolder::of_tenant`], `None` for a folder of something else.
pub fn tenant_of_folder(folder: &Path) -> Option<TenantId> {
    let name = folder.filename()?.replace('+', "*");
    TenantId::parse(&name).ok()
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
    fn data_files_lie_in_a_folder_per_day() {
        let table = TableFolder::of_tenant(&TenantId::single());
        let file = data_file(NaiveDate::from_ymd_opt(2026, 11, 21).unwrap(), Uuid::nil());
        assert_eq!(
            table.file(&file).as_ref(),
            "tenants/single-tenant/spans/date=2026-11-21/00000000-0000-0000-0000-000000000000.parquet"
        );
    }
}
