//! What queries cost while the tables grow.

use std::time::Duration;

use tracehouse::{
    clock::Clock as _,
    model::{ids::TraceId, tenant::TenantId, time::TimeRange},
    query::{QueryKind, QueryRequest, TraceByIdQuery, TraceQlQuery},
};

use crate::world::{World, process_cpu};

/// A question is put until it has cost this, or this often.
const ROUND_CPU: Duration = Duration::from_millis(100);
const ROUND_QUERIES_MAX: u32 = 20;

const QUARTER: i64 = 900_000_000_000;

/// The CPU of one query, in ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    /// One trace, without a time.
    pub(crate) trace: f64,
    /// The latest failed traces of all time.
    pub(crate) latest: f64,
    /// Every failed and slow trace of the last quarter of an hour.
    pub(crate) search: f64,
    /// Spans and durations by service in the last quarter of an hour.
    pub(crate) group: f64,
    /// A value that is nowhere, in all of time.
    pub(crate) absent: f64,
}

impl World {
    /// Puts the questions. `id` is that of a trace of the tenant.
    pub(crate) async fn costs(&self, tenant: &TenantId, id: TraceId) -> Costs {
        let now = self.clock.now_unix_nano();
        let last = TimeRange::new(now - QUARTER, now);
        let search = |text: &str, range, limit| {
            QueryKind::TraceQl(TraceQlQuery { range, limit: Some(limit), ..TraceQlQuery::new(text) })
        };
        let group = format!(
            "SELECT service_name, count(*), avg(duration_nano) FROM spans \
             WHERE start_time >= to_timestamp_nanos({}) AND start_time < to_timestamp_nanos({now}) GROUP BY 1",
            now - QUARTER
        );
        let group = QueryRequest::sql(tenant.clone(), group).kind;
        let by_id = QueryKind::TraceById(TraceByIdQuery { trace_id: id, hint: None, filter: None });
        Costs {
            trace: self.cost(tenant, by_id, |rows| rows > 0).await,
            latest: self.cost(tenant, search("{ status = error }", TimeRange::ALL, 20), |rows| rows > 0).await,
            search: self.cost(tenant, search("{ status = error && duration > 1s }", last, 1_000), |_| true).await,
            group: self.cost(tenant, group, |rows| rows > 0).await,
            absent: self
                .cost(tenant, search("{ span.user.id = \"nobody\" }", TimeRange::ALL, 20), |rows| rows == 0)
                .await,
        }
    }

    /// The mean of some queries on a warm cache, whose answers have as many rows as they should.
    async fn cost(&self, tenant: &TenantId, kind: QueryKind, is_right: fn(usize) -> bool) -> f64 {
        let (mut started, mut count) = (None, 0);
        loop {
            let request = QueryRequest::new(tenant.clone(), kind.clone());
            let (batches, _) = self.engine.execute(request).await.unwrap().collect().await.unwrap();
            let found: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            assert!(is_right(found), "{found} rows of {kind:?}");
            // The first one warms up.
            let Some(started) = started else {
                started = Some(process_cpu());
                continue;
            };
            count += 1;
            let cpu = process_cpu() - started;
            if cpu >= ROUND_CPU || count >= ROUND_QUERIES_MAX {
                return cpu.as_secs_f64() * 1e3 / f64::from(count);
            }
        }
    }
}
