//! Compaction, sweep, retention and deletion: tables change their files, and no answer changes but where it is asked for.

mod asked_for;
mod bytes_per_span;
mod compaction;
mod copies;
mod damage;
mod deletion;
mod duties;
pub(crate) mod house;
mod process;
mod retention;
mod steady_state;
mod stitching;
mod sweep;
mod system_tables;

use std::sync::Arc;

use tracehouse::{
    catalog::Catalog,
    clock::Clock,
    config::{CompactionSettings, HumanDuration, PromotionSettings},
    maintain::compact::{CompactReport, Compactor},
    metrics::Metrics,
    model::tenant::TenantId,
};

/// Merges as soon as there are two files.
pub(crate) fn eager() -> CompactionSettings {
    CompactionSettings { fan_in: 2, settle_age: HumanDuration::seconds(0), ..CompactionSettings::default() }
}

/// Merges all small files of the only tenant.
pub(crate) async fn compact_all(catalog: &Arc<Catalog>, clock: &Arc<dyn Clock>) -> CompactReport {
    compact_tenant(catalog, clock, &TenantId::single()).await
}

/// Merges all small files of a tenant.
pub(crate) async fn compact_tenant(catalog: &Arc<Catalog>, clock: &Arc<dyn Clock>, tenant: &TenantId) -> CompactReport {
    let metrics = Arc::new(Metrics::new().unwrap());
    let compactor =
        Compactor::new(Arc::clone(catalog), Arc::clone(clock), metrics, &eager(), &PromotionSettings::default());
    compactor.compact(tenant).await.unwrap()
}
