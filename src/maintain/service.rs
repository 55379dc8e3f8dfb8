//! The background work of a server: looks at every table again and again until it is stopped.
//!
//! ```text
//!  small lane    refresh table -> small merges until none is due      every compaction.interval
//!  large lane    large merges until none is due                       every compaction.interval
//!  keeper        enforce tombstones, retention                        every compaction.interval
//!  sweep         delete garbage                                       every quarter of compaction.grace
//! ```
//!
//! Each is a task of its own that does one thing at a time, so a large merge holds up only large merges. A failure is
//! logged, counted and tried again at the next look.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    compact::{Compactor, Lane},
    delete::Deleter,
    retain::Retainer,
    sweep::Sweeper,
};
use crate::{
    catalog::Catalog, clock::Clock, config::Settings, error::Result, metrics::Metrics, model::tenant::TenantId,
    query::QueryEngine,
};

/// Shortest pause between two sweeps.
const SWEEP_PAUSE_MIN: Duration = Duration::from_secs(1);

/// What the background work needs.
#[derive(Clone, Debug)]
pub struct MaintenanceParts {
    /// The tables.
    pub catalog: Arc<Catalog>,
    /// Decides which spans a deletion means.
    pub engine: Arc<QueryEngine>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
}

/// The running background work. Dropping it leaves the tasks to the runtime.
#[derive(Debug)]
pub struct Maintenance {
    deleter: Arc<Deleter>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

impl Maintenance {
    /// Starts what `settings` ask for.
    pub fn start(parts: &MaintenanceParts, settings: &Settings) -> Self {
        let MaintenanceParts { catalog, engine, clock, metrics } = parts;
        let (stopped, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (interval, grace) = (settings.compaction.interval.get(), settings.compaction.grace.get());
        let shared = || (Arc::clone(catalog), Arc::clone(clock), Arc::clone(metrics));
        let rounds = |pause, what| Rounds { catalog: Arc::clone(catalog), pause, stopped: stopped.clone(), what };
        let deleter = Arc::new(Deleter::new(Arc::clone(catalog), Arc::clone(engine), Arc::clone(clock), settings));
        if settings.compaction.enabled {
            let (tables, clock, metrics) = shared();
            let compactor = Arc::new(Compactor::new(tables, clock, metrics, &settings.compaction, &settings.promotion));
            for lane in [Lane::Small, Lane::Large] {
                let (compactor, tables) = (Arc::clone(&compactor), Arc::clone(catalog));
                let pass = move |tenant: TenantId| {
                    let (compactor, tables) = (Arc::clone(&compactor), Arc::clone(&tables));
                    async move { compact(&compactor, &tables, &tenant, lane).await }
                };
                tasks.spawn(rounds(interval, "compaction").run(pass, || async { Ok(()) }));
            }
        }
        let retainer = Arc::new(Retainer::new(Arc::clone(catalog), shared().1, settings));
        let (enforcer, of_tenant) = (Arc::clone(&deleter), Arc::clone(&retainer));
        let pass = move |tenant: TenantId| {
            let (deleter, retainer) = (Arc::clone(&enforcer), Arc::clone(&of_tenant));
            async move {
                deleter.enforce(&tenant).await?;
                retainer.retain(&tenant).await.map(|_| ())
            }
        };
        let total = move || {
            let retainer = Arc::clone(&retainer);
            async move { retainer.retain_total().await.map(|_| ()) }
        };
        tasks.spawn(rounds(interval, "retention").run(pass, total));
        let (tables, clock, metrics) = shared();
        let sweeper = Arc::new(Sweeper::new(tables, clock, metrics, grace));
        let pass = move |tenant: TenantId| {
            let sweeper = Arc::clone(&sweeper);
            async move { sweeper.sweep(&tenant).await.map(|_| ()) }
        };
        tasks.spawn(rounds(SWEEP_PAUSE_MIN.max(grace / 4), "sweep").run(pass, || async { Ok(()) }));
        tasks.close();
        Self { deleter, stopped, tasks }
    }

    /// Deletes spans on request.
    pub fn deleter(&self) -> &Arc<Deleter> {
        &self.deleter
    }

    /// Stops. What was not committed is given up and left to the sweep of the next server.
    pub async fn stop(self) {
        self.stopped.cancel();
        self.tasks.wait().await;
    }
}

async fn compact(compactor: &Compactor, catalog: &Catalog, tenant: &TenantId, lane: Lane) -> Result<()> {
    if lane == Lane::Small {
        // The large lane goes by what this one has seen.
        catalog.table(tenant).await?.refresh().await?;
    }
    while compactor.compact_lane(tenant, lane).await?.commits > 0 {}
    Ok(())
}

/// A task that goes through all tenants, pauses, and begins again.
struct Rounds {
    catalog: Arc<Catalog>,
    pause: Duration,
    stopped: CancellationToken,
    what: &'static str,
}

impl Rounds {
    /// Calls `pass` for every tenant and `end` at the end of a round, until stopped.
    async fn run<F: Future<Output = Result<()>>, E: Future<Output = Result<()>>>(
        self,
        pass: impl Fn(TenantId) -> F,
        end: impl Fn() -> E,
    ) {
        let rounds = async {
            loop {
                if let Err(error) = self.round(&pass).await {
                    warn!(what = self.what, %error, "cannot list the tables; tried again");
                }
                if let Err(error) = end().await {
                    warn!(what = self.what, %error, "failed; tried again");
                }
                tokio::time::sleep(self.pause).await;
            }
        };
        tokio::select! {
            () = self.stopped.cancelled() => {}
            () = rounds => {}
        }
    }

    async fn round<F: Future<Output = Result<()>>>(&self, pass: &impl Fn(TenantId) -> F) -> Result<()> {
        for tenant in self.catalog.tenants().await? {
            if let Err(error) = pass(tenant.clone()).await {
                let source = std::error::Error::source(&error);
                warn!(what = self.what, %tenant, %error, ?source, "failed; tried again");
            }
        }
        Ok(())
    }
}
