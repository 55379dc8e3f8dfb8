//! The background work of a server: looks at every table again and again until it is stopped.
//!
//! ```text
//!  small lane    refresh table -> small merges until none is due      every compaction.interval
//!  large lane    large merges until none is due                       every compaction.interval
//!  keeper        tombstones of others, enforcing, retention           every compaction.interval
//!  sweep         delete garbage                                       every quarter of compaction.grace
//! ```
//!
//! Each is a task of its own that does one thing at a time, so a large merge holds up only large merges. A failure is
//! logged, counted and tried again at the next look. A round looks only at tables that are due (`looks`): besides one listing
//! of the tables and one of the tombstones, a table costs requests when it changes, and now and then when it does not.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    compact::{Compactor, Lane},
    delete::Deleter,
    looks::Looks,
    retain::Retainer,
    sweep::Sweeper,
};
use crate::{
    catalog::Catalog, clock::Clock, config::Settings, error::Result, ingest::Ingest, metrics::Metrics,
    model::tenant::TenantId, query::QueryEngine,
};

/// Most rounds after which a table without news is looked at for merges: a quarter of an hour by default.
const COMPACTION_PAUSE_ROUNDS_MAX: u32 = 32;

/// Most rounds after which a table without news is swept: a grace, so that garbage of any origin lasts for two at most.
const SWEEP_PAUSE_ROUNDS_MAX: u32 = 4;

/// Shortest pause between two sweeps.
const SWEEP_PAUSE_MIN: Duration = Duration::from_secs(1);

/// What the background work needs.
#[derive(Clone, Debug)]
pub struct MaintenanceParts {
    /// The tables.
    pub catalog: Arc<Catalog>,
    /// Decides which spans a deletion means.
    pub engine: Arc<QueryEngine>,
    /// Holds spans that other servers' deletions mean.
    pub ingest: Arc<Ingest>,
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
        let MaintenanceParts { catalog, engine, ingest, clock, metrics } = parts;
        let (stopped, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (interval, grace) = (settings.compaction.interval.get(), settings.compaction.grace.get());
        let shared = || (Arc::clone(catalog), Arc::clone(clock), Arc::clone(metrics));
        let rounds = |pause, what| Rounds { catalog: Arc::clone(catalog), pause, stopped: stopped.clone(), what };
        let nothing = || async { Ok(()) };
        let (tables, time, counts) = shared();
        let deleter = Arc::new(Deleter::new(tables, Arc::clone(engine), time, counts, settings));
        if settings.compaction.enabled {
            let (tables, clock, metrics) = shared();
            let compactor = Arc::new(Compactor::new(tables, clock, metrics, &settings.compaction, &settings.promotion));
            for lane in [Lane::Small, Lane::Large] {
                let (compactor, tables) = (Arc::clone(&compactor), Arc::clone(catalog));
                let pass = move |tenant: TenantId| {
                    let (compactor, tables) = (Arc::clone(&compactor), Arc::clone(&tables));
                    async move { compact(&compactor, &tables, &tenant, lane).await }
                };
                tasks.spawn(rounds(interval, "compaction").run(COMPACTION_PAUSE_ROUNDS_MAX, nothing, pass, nothing));
            }
        }
        let (tables, clock, metrics) = shared();
        let retainer = Arc::new(Retainer::new(tables, clock, metrics, settings));
        let of_tenant = Arc::clone(&retainer);
        let pass = move |tenant: TenantId| {
            let retainer = Arc::clone(&of_tenant);
            async move { retainer.retain(&tenant).await.map(|_| ()) }
        };
        let (enforcer, ingest) = (Arc::clone(&deleter), Arc::clone(ingest));
        let keep_deleted = move || {
            let (deleter, ingest) = (Arc::clone(&enforcer), Arc::clone(&ingest));
            async move { keep_deleted(&deleter, &ingest).await }
        };
        let total = move || {
            let retainer = Arc::clone(&retainer);
            async move { retainer.retain_total().await.map(|_| ()) }
        };
        // Spans expire without a change of the table, so every table is asked each time; nothing but memory is.
        tasks.spawn(rounds(interval, "retention").always(keep_deleted, pass, total));
        let (tables, clock, metrics) = shared();
        let sweeper = Arc::new(Sweeper::new(tables, clock, metrics, grace));
        let pass = move |tenant: TenantId| {
            let sweeper = Arc::clone(&sweeper);
            async move { sweeper.sweep(&tenant).await.map(|_| ()) }
        };
        tasks.spawn(rounds(SWEEP_PAUSE_MIN.max(grace / 4), "sweep").run(
            SWEEP_PAUSE_ROUNDS_MAX,
            nothing,
            pass,
            nothing,
        ));
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
    while compactor.compact_lane(tenant, lane).await?.may_have_more() {}
    Ok(())
}

/// Takes up the deletions of other processes, and enforces all.
async fn keep_deleted(deleter: &Deleter, ingest: &Ingest) -> Result<()> {
    for tenant in deleter.tombstones().refresh().await? {
        // What was accepted before this was known; from now on nothing of it is.
        if let Err(error) = ingest.flush_tenant(&tenant).await {
            warn!(%tenant, %error, "cannot flush for a deletion; deleted after the next flush");
        }
    }
    for tenant in deleter.tombstones().tenants() {
        if let Err(error) = deleter.enforce(&tenant).await {
            warn!(%tenant, %error, source = ?std::error::Error::source(&error), "deletion failed; tried again");
        }
    }
    Ok(())
}

/// A task that goes through the tenants that are due, pauses, and begins again.
struct Rounds {
    catalog: Arc<Catalog>,
    pause: Duration,
    stopped: CancellationToken,
    what: &'static str,
}

impl Rounds {
    /// Calls `begin` at the beginning of a round, `pass` for every tenant that is due and `end` at the end, until stopped.
    /// One that does not change is due after `pause_rounds_max` rounds at the latest.
    async fn run<B, F, E>(
        self,
        pause_rounds_max: u32,
        begin: impl Fn() -> B,
        pass: impl Fn(TenantId) -> F,
        end: impl Fn() -> E,
    ) where
        B: Future<Output = Result<()>>,
        F: Future<Output = Result<()>>,
        E: Future<Output = Result<()>>,
    {
        self.go_round(Some(Looks::new(pause_rounds_max)), begin, pass, end).await;
    }

    /// The same with every tenant in every round.
    async fn always<B, F, E>(self, begin: impl Fn() -> B, pass: impl Fn(TenantId) -> F, end: impl Fn() -> E)
    where
        B: Future<Output = Result<()>>,
        F: Future<Output = Result<()>>,
        E: Future<Output = Result<()>>,
    {
        self.go_round(None, begin, pass, end).await;
    }

    async fn go_round<B, F, E>(
        self,
        mut looks: Option<Looks>,
        begin: impl Fn() -> B,
        pass: impl Fn(TenantId) -> F,
        end: impl Fn() -> E,
    ) where
        B: Future<Output = Result<()>>,
        F: Future<Output = Result<()>>,
        E: Future<Output = Result<()>>,
    {
        let rounds = async {
            loop {
                if let Err(error) = begin().await {
                    warn!(what = self.what, %error, "failed; tried again");
                }
                if let Err(error) = self.round(looks.as_mut(), &pass).await {
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

    async fn round<F: Future<Output = Result<()>>>(
        &self,
        mut looks: Option<&mut Looks>,
        pass: &impl Fn(TenantId) -> F,
    ) -> Result<()> {
        let tenants = self.catalog.tenants().await?;
        for tenant in &tenants {
            if let Some(looks) = looks.as_deref_mut()
                && !looks.is_due(tenant, self.catalog.known_version(tenant))
            {
                continue;
            }
            let outcome = pass(tenant.clone()).await;
            if let Err(error) = &outcome {
                let source = std::error::Error::source(error);
                warn!(what = self.what, %tenant, %error, ?source, "failed; tried again");
            }
            if let Some(looks) = looks.as_deref_mut() {
                looks.looked(tenant, outcome.ok().map(|()| self.catalog.known_version(tenant)));
            }
        }
        if let Some(looks) = looks {
            looks.retain(&tenants);
        }
        Ok(())
    }
}
