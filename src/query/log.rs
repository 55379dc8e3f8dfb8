//! The queries that run and those that ended lately, for [`system.queries`](crate::query::system).
//!
//! A bounded list in memory; what it forgets first is what began first. It holds no rows, only texts, which are cut.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::Error,
    model::tenant::TenantId,
    query::stats::{QueryStats, SharedStats},
};

/// Most queries that are remembered, the running ones included.
const QUERIES_MAX: usize = 1_000;

/// Most bytes of a text or message that are remembered.
const TEXT_BYTES_MAX: usize = 4_096;

/// The state of a query that has not ended.
const RUNNING: &str = "running";

/// The queries of a process.
#[derive(Debug, Default)]
pub(crate) struct QueryLog {
    last: AtomicU64,
    entries: Mutex<VecDeque<Arc<Entry>>>,
}

/// One query that was begun; [`QueryLog::begin`] makes it.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    tenant: TenantId,
    kind: &'static str,
    text: String,
    started_unix_nano: i64,
    started: Instant,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
enum Progress {
    Running(SharedStats),
    Ended { state: &'static str, error: Option<String>, stats: Box<QueryStats>, elapsed: Duration },
}

/// A query as it is at a moment.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) id: u64,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) state: &'static str,
    pub(crate) error: Option<String>,
    pub(crate) started_unix_nano: i64,
    pub(crate) elapsed: Duration,
    pub(crate) stats: QueryStats,
}

impl QueryLog {
    /// Remembers a query from its arrival on.
    pub(crate) fn begin(
        &self,
        tenant: &TenantId,
        kind: &'static str,
        text: &str,
        started_unix_nano: i64,
    ) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            tenant: tenant.clone(),
            kind,
            text: cut(text),
            started_unix_nano,
            started: Instant::now(),
            progress: Mutex::new(Progress::Running(SharedStats::default())),
        });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= QUERIES_MAX {
            entries.pop_front();
        }
        entries.push_back(Arc::clone(&entry));
        entry
    }

    /// The queries of one tenant, the latest first.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Vec<Logged> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().filter(|entry| entry.tenant == *tenant).map(|entry| entry.now()).collect()
    }
}

impl Entry {
    /// Its number in the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Takes the figures of the query from here until it ends.
    pub(crate) fn runs(&self, stats: SharedStats) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress::Running(stats);
    }

    /// The query has ended, in one of the states of `system.queries`.
    pub(crate) fn ended(&self, state: &'static str, error: Option<&Error>, stats: &QueryStats) {
        let error = error.map(|error| cut(error.message()));
        let elapsed = self.started.elapsed();
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) =
            Progress::Ended { state, error, stats: Box::new(stats.clone()), elapsed };
    }

    /// Nobody waits for the query any more; one that has ended stays as it did.
    pub(crate) fn abandoned(&self) {
        let is_running = matches!(*self.progress.lock().unwrap_or_else(PoisonError::into_inner), Progress::Running(_));
        if is_running {
            self.ended("cancelled", None, &QueryStats::default());
        }
    }

    fn now(&self) -> Logged {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, error, stats, elapsed) = match &*progress {
            Progress::Running(stats) => (RUNNING, None, stats.get(), self.started.elapsed()),
            Progress::Ended { state, error, stats, elapsed } => {
                (*state, error.clone(), QueryStats::clone(stats), *elapsed)
            }
        };
        Logged {
            id: self.id,
            kind: self.kind,
            text: self.text.clone(),
            state,
            error,
            started_unix_nano: self.started_unix_nano,
            elapsed,
            stats,
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_forgets_what_began_first_and_shows_only_the_tenants_own() {
        let log = QueryLog::default();
        let (ours, other) = (TenantId::single(), TenantId::parse("other").unwrap());
        for _ in 0..QUERIES_MAX {
            log.begin(&other, "sql", "SELECT 1", 5);
        }
        let long = "x".repeat(3 * TEXT_BYTES_MAX);
        let entry = log.begin(&ours, "sql", &long, 7);
        let shown = log.of_tenant(&ours);
        assert_eq!((shown.len(), shown[0].state, shown[0].text.len()), (1, RUNNING, TEXT_BYTES_MAX));
        assert_eq!(log.of_tenant(&other).len(), QUERIES_MAX - 1);
        entry.ended("refused", Some(&Error::invalid("no")), &QueryStats::default());
        let shown = log.of_tenant(&ours);
        assert_eq!((shown[0].state, shown[0].error.as_deref(), shown[0].id), ("refused", Some("no"), 1_001));
    }
}
