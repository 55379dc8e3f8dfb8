//! What an engine needs to answer over spans that are stored and buffered.

use std::{path::Path, sync::Arc, time::Duration};

use futures::FutureExt;
use tracehouse::{
    clock::Clock,
    live::Live,
    metrics::Metrics,
    query::{EngineOptions, QueryLimits, SpansTable},
    storage::store::Store,
};

/// Two threads, a time limit that no test meets, and otherwise what a server starts with.
pub(crate) fn options(live: &Arc<Live>, store: &Store, clock: Arc<dyn Clock>, spill: &Path) -> EngineOptions {
    let (live, tables_store) = (Arc::clone(live), store.clone());
    EngineOptions {
        tables: Arc::new(move |tenant| {
            let (live, tenant, store) = (Arc::clone(&live), tenant.clone(), tables_store.clone());
            async move { Ok(Arc::new(SpansTable::new(live.view(&tenant).await?).reading(&store)) as _) }.boxed()
        }),
        store: Some(store.clone()),
        limits: QueryLimits { timeout: Duration::from_secs(120), ..QueryLimits::default() },
        threads: 2,
        spill_folder: spill.to_owned(),
        clock,
        metrics: Arc::new(Metrics::new().unwrap()),
        settings: Arc::default(),
    }
}
