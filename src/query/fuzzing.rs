//! Entry points for `fuzz/` and `benches/`: any text through everything that stands between a TraceQL query and its first
//! span. Not part of the interface.

use std::{env, sync::Arc};

use datafusion::{catalog::TableProvider, datasource::MemTable};
use futures::FutureExt;
use tokio::runtime::{Builder, Runtime};

use crate::{
    clock::ManualClock,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    model::{schema::logical_schema, tenant::TenantId},
    query::{
        EngineOptions, Explain, MetricsQuery, QueryEngine, QueryKind, QueryLimits, QueryRequest, TraceQlQuery, failure,
    },
    traceql,
};

/// 2026-11-21T05:20:00Z.
const NOW_UNIX_NANO: i64 = 1_795_238_400_000_000_000;

/// An engine with one thread over a table without spans.
///
/// # Errors
/// The engine cannot be made.
pub fn engine_without_spans() -> Result<QueryEngine> {
    let internal = |error: &dyn std::fmt::Display| failure::internal(error);
    let table = MemTable::try_new(logical_schema(), vec![Vec::new()]).map_err(|error| internal(&error))?;
    let table: Arc<dyn TableProvider> = Arc::new(table);
    QueryEngine::try_new(EngineOptions {
        store: None,
        tables: Arc::new(move |_: &TenantId| {
            let table = Arc::clone(&table);
            async move { Ok(table) }.boxed()
        }),
        limits: QueryLimits::default(),
        threads: 1,
        spill_folder: env::temp_dir(),
        clock: Arc::new(ManualClock::new(NOW_UNIX_NANO)),
        metrics: Arc::new(Metrics::new().map_err(|error| internal(&error))?),
        settings: Arc::default(),
    })
}

/// An engine over a table without spans, and what it runs on.
#[derive(Debug)]
pub struct Planner {
    engine: QueryEngine,
    runtime: Runtime,
}

impl Planner {
    /// An engine with a thread of its own.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn try_new() -> Result<Self> {
        let engine = engine_without_spans()?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failure::internal(&error))?;
        Ok(Self { engine, runtime })
    }

    /// Reads, checks and plans a query, up to the operators that would run. `None` if the text is refused, as it may be.
    ///
    /// # Errors
    /// A defect: the text is valid, and could not be planned.
    pub fn plan(&self, text: &str) -> Result<Option<usize>> {
        let explain = Some(Explain::Plan);
        let kind = match traceql::is_metrics(text) {
            true => QueryKind::Metrics(MetricsQuery { explain, ..MetricsQuery::new(text) }),
            false => QueryKind::TraceQl(TraceQlQuery { explain, ..TraceQlQuery::new(text) }),
        };
        let request = QueryRequest::new(TenantId::single(), kind);
        let planned = self.runtime.block_on(async { self.engine.execute(request).await?.collect().await });
        match planned {
            Ok((plans, _)) => Ok(Some(plans.iter().map(|batch| batch.num_rows()).sum())),
            Err(error) => refused(error),
        }
    }
}

fn refused(error: Error) -> Result<Option<usize>> {
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt => Err(error),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_texts_are_planned_and_others_refused() {
        let planner = Planner::try_new().unwrap();
        assert_eq!(planner.plan("{ .a = 1 } >> { rootName = `x` } | by(name) | count() > 1").unwrap(), Some(4));
        assert_eq!(planner.plan("{} | rate() by(.a)").unwrap(), Some(2));
        assert_eq!(planner.plan("{ .a = }").unwrap(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_planned_or_refused(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{ .a = 1 }", "{ rootName != nil && .b > 2 }", "{ event.c =~ `x.*` }", " >> ", " && ", " | count() > 1",
                " | by(name)", " | select(.d)", " | rate()", " | rate() by(.e)", " | compare({ .a })", " + ", "(", ")",
            ]), 0..8)
        ) {
            thread_local!(static PLANNER: Planner = Planner::try_new().unwrap());
            PLANNER.with(|planner| planner.plan(&parts.concat()).map(|_| ())).unwrap();
        }
    }
}
