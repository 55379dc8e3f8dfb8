//! One run of a planned query: from the plan to the last batch, and the line in the log about it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    catalog::TableProvider,
    execution::SessionState,
    physical_plan::{ExecutionPlan, analyze::AnalyzeExec, execute_stream},
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    model::tenant::TenantId,
    query::{
        explained, failure,
        log::Entry,
        memory::QueryPool,
        metrics::MetricsRun,
        request::{AnswerForm, Explain, QueryRequest},
        search::rounds::{RanPlans, Rounds},
        spans_table::SpansTable,
        spansets::TraceBounds,
        stats::{QueryStats, SharedStats, add_ran_plans},
        stream::Producer,
        system::ProcessFacts,
        tags, trace, wire,
    },
};

/// Batches of an answer that are brought into its form at once.
const CONVERSIONS_AHEAD: usize = 4;

/// A query that is ready to run.
pub(crate) struct Planned {
    pub(crate) work: Work,
    pub(crate) base: Arc<dyn TableProvider>,
    pub(crate) session: SessionState,
    pub(crate) pool: Arc<QueryPool>,
    pub(crate) schema: SchemaRef,
    pub(crate) form: AnswerForm,
    pub(crate) shape: Shape,
}

/// What becomes of the work's rows before they are the answer.
pub(crate) enum Shape {
    /// Nothing.
    Same,
    /// One trace, or a part of it.
    Trace(trace::Shape),
    /// Names of attributes.
    Names(tags::names::Shape),
    /// Values of a field.
    Values(tags::values::Shape),
}

/// What there is to run.
pub(crate) enum Work {
    /// One plan, whose output is the answer.
    Plan(Arc<dyn ExecutionPlan>),
    /// A search, which plans as it goes.
    Search(Box<Rounds>),
    /// The plans of a search.
    Explained(Box<Rounds>, Explain),
    /// Time series, from several plans.
    Metrics(Box<MetricsRun>),
}

impl Work {
    /// Whether the answer is what operators did.
    fn is_analyzed(&self) -> bool {
        match self {
            Self::Plan(plan) => plan.is::<AnalyzeExec>(),
            Self::Explained(_, explain) => *explain == Explain::Analyze,
            Self::Search(_) | Self::Metrics(_) => false,
        }
    }
}

impl Planned {
    /// The answer's batches. Operators start when the first is asked for.
    fn batches(self, ran: RanPlans, stats: SharedStats) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { work, base, session, schema, form, shape, .. } = self;
        let is_analyzed = work.is_analyzed();
        let plans = Arc::clone(&ran);
        let batches = match work {
            Work::Plan(physical) => {
                ran.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&physical));
                match execute_stream(physical, session.task_ctx()) {
                    Ok(batches) => batches.boxed(),
                    Err(error) => futures::stream::iter([Err(error)]).boxed(),
                }
            }
            Work::Search(rounds) => futures::stream::once(rounds.run(ran)).boxed(),
            Work::Explained(rounds, Explain::Plan) => futures::stream::once(rounds.plans()).boxed(),
            Work::Explained(rounds, Explain::Analyze) => futures::stream::once(rounds.analyzed(ran)).boxed(),
            Work::Metrics(metrics) => metrics.run(ran, stats).boxed(),
        };
        let batches = match is_analyzed {
            true => {
                let files = async move { explained::files(&plans, base.as_ref()) };
                batches.chain(futures::stream::once(files)).boxed()
            }
            false => batches,
        };
        let batches = match shape {
            Shape::Same => batches,
            Shape::Trace(shape) => shape.apply(batches, &session.runtime_env().memory_pool),
            Shape::Names(shape) => shape.apply(batches),
            Shape::Values(shape) => shape.apply(batches),
        };
        if form == AnswerForm::Typed {
            return batches.map(|batch| batch.map_err(|error| failure::from_datafusion(&error))).boxed();
        }
        let converted = batches.map(move |batch| in_form(batch, Arc::clone(&schema), form));
        converted.buffered(CONVERSIONS_AHEAD).boxed()
    }
}

/// A batch in a form, made on another thread: attribute maps as text are dear, and one thread makes them more slowly than
/// the scan's threads bring them and a client takes them.
async fn in_form(
    batch: datafusion::error::Result<RecordBatch>,
    schema: SchemaRef,
    form: AnswerForm,
) -> Result<RecordBatch> {
    let batch = batch.map_err(|error| failure::from_datafusion(&error))?;
    let convert = async move { wire::batch_in(batch, &schema, form) };
    match AbortOnDropHandle::new(tokio::spawn(convert)).await {
        Ok(converted) => converted.map_err(|error| failure::from_datafusion(&error.into())),
        Err(failed) => Err(failure::internal(&failed)),
    }
}

/// A query that runs: it holds its place among the running ones until it ends.
pub(crate) struct Run {
    pub(crate) plan: Planned,
    pub(crate) producer: Producer,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Run {
    /// Runs to the end, whatever it is, and accounts for it.
    pub(crate) async fn finish(self, account: Account) {
        let Self { plan, producer, _permit } = self;
        let (ran, pool, base) = (RanPlans::default(), Arc::clone(&plan.pool), Arc::clone(&plan.base));
        let plans = Arc::clone(&ran);
        let bounds = plan.session.config().get_extension::<TraceBounds>();
        let (stats, last_words) = (producer.stats(), producer.last_words());
        let (started, figures) = (account.started, stats.clone());
        let at_end = |stats: &SharedStats| {
            stats.update(|stats| {
                add_ran_plans(stats, &plans);
                if let Some(spans) = SpansTable::of(base.as_ref()) {
                    spans.add_to(stats);
                }
                if let Some(bounds) = &bounds {
                    stats.tell_of_cut_traces(bounds.spans_max);
                }
                stats.peak_memory_bytes = pool.peak_bytes() as u64;
                stats.elapsed = started.elapsed();
                stats.finished = true;
            });
        };
        let scanned = || {
            let mut so_far = QueryStats::default();
            add_ran_plans(&mut so_far, &plans);
            so_far
        };
        let batches = async move { plan.batches(ran, figures) }.flatten_stream();
        let driven = AssertUnwindSafe(producer.drive(batches, scanned, at_end));
        let failed = match driven.catch_unwind().await {
            Ok(outcome) => outcome.err(),
            Err(_) => {
                let error = failure::internal(&"a query panicked");
                last_words.say(&error).await;
                Some(error)
            }
        };
        account.close(failed.as_ref(), &stats.get());
    }
}

/// What the log and the metrics hear of a query.
pub(crate) struct Account {
    pub(crate) started: Instant,
    tenant: TenantId,
    kind: &'static str,
    metrics: Arc<Metrics>,
    entry: Arc<Entry>,
}

impl Account {
    pub(crate) fn open(request: &QueryRequest, process: &ProcessFacts, now_unix_nano: i64) -> Self {
        let metrics = Arc::clone(&process.metrics);
        metrics.queries_running.inc();
        let (tenant, kind) = (request.tenant.clone(), request.kind.name());
        let entry = process.log.begin(&tenant, kind, &request.kind.text(), now_unix_nano);
        Self { started: Instant::now(), tenant, kind, metrics, entry }
    }

    /// The number of the query in the process.
    pub(crate) fn id(&self) -> u64 {
        self.entry.id()
    }

    /// The figures of the query are here from now on.
    pub(crate) fn runs(&self, stats: &SharedStats) {
        self.entry.runs(stats.clone());
    }

    pub(crate) fn close(self, error: Option<&Error>, stats: &QueryStats) {
        let elapsed = self.started.elapsed();
        let outcome = error.map_or("ok", outcome);
        self.metrics.observe_query(self.kind, outcome, elapsed);
        self.entry.ended(outcome, error, stats);
        tracing::debug!(
            tenant = %self.tenant,
            kind = self.kind,
            error = error.map(Error::message),
            ?elapsed,
            planning = ?stats.planning,
            rows = stats.rows,
            scanned_bytes = stats.scanned_bytes,
            peak_memory_bytes = stats.peak_memory_bytes,
            "query ended"
        );
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Where the client went away before the query ran, nobody closes the account.
        self.entry.abandoned();
        self.metrics.queries_running.dec();
    }
}

/// The label of a failed query.
fn outcome(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::DeadlineExceeded => "timeout",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::TooLarge | ErrorKind::ResourceExhausted => "limit",
        ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::Unavailable => "failed",
        _ => "refused",
    }
}
