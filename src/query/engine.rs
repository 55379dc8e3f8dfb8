//! The one engine: admission, view, plan, run.

use std::{path::PathBuf, sync::Arc};

use datafusion::{
    arrow::{
        array::AsArray,
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::TableProvider,
    common::ParamValues,
    execution::{SessionState, context::SQLOptions},
    logical_expr::LogicalPlan,
    physical_plan::empty::EmptyExec,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    clock::Clock,
    config::Settings,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    model::{attributes::AttributeScope, tenant::TenantId},
    query::{
        admission::Admission,
        failure,
        limits::QueryLimits,
        memory::{ProcessMemory, QueryPool},
        metrics::{self, MetricsRun},
        planning::Planning,
        request::{AnswerForm, Explain, MetricsQuery, QueryKind, QueryRequest, SqlQuery, TraceByIdQuery, TraceQlQuery},
        run::{Account, Planned, Run, Shape, Work},
        sandbox::{self, CheckedStatement},
        search::{self, Search, rounds::Rounds},
        session::{SessionTemplate, SpillSettings},
        spansets::TraceBounds,
        stats::{QueryStats, SharedStats},
        stream::{self, QueryStream, timed_out},
        system::{ProcessFacts, SystemContext},
        tags::{self, known::Known},
        trace::{self, TraceById},
        wire,
    },
    storage::store::Store,
    traceql,
};

/// Stack of a thread that plans or runs queries, in bytes. Expressions may nest as deep as the limits allow, and their
/// trees are walked and dropped by recursion.
const THREAD_STACK_BYTES: usize = 16 << 20;

/// Opens one consistent state of a tenant's spans, as the base table: the columns of
/// [`logical_schema`](crate::model::schema::logical_schema).
pub type BaseTables = Arc<dyn Fn(&TenantId) -> BoxFuture<'static, Result<Arc<dyn TableProvider>>> + Send + Sync>;

/// How to build a [`QueryEngine`].
pub struct EngineOptions {
    /// Where the spans come from.
    pub tables: BaseTables,
    /// Where the files of the tables lie; `None` if the tables have none.
    pub store: Option<Store>,
    /// Limits of all queries.
    pub limits: QueryLimits,
    /// Threads that plan and run queries.
    pub threads: usize,
    /// Folder for what queries spill. It must exist; files in it are the engine's.
    pub spill_folder: PathBuf,
    /// Tells queries what `now()` is.
    pub clock: Arc<dyn Clock>,
    /// Where time and outcome of queries are counted.
    pub metrics: Arc<Metrics>,
    /// What `system.settings` shows; the limits above are what counts.
    pub settings: Arc<Settings>,
}

impl std::fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineOptions").field("limits", &self.limits).field("threads", &self.threads).finish()
    }
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The schema that its answer will have.
    pub schema: SchemaRef,
    /// Its parameters in order, named `$1`, `$2`, ...; type `Null` where any will do.
    pub parameters: SchemaRef,
}

/// The columns of a search's answer, or of its plans.
fn search_schema(query: &TraceQlQuery) -> SchemaRef {
    match query.explain {
        None => search::answer_schema(),
        Some(_) => search::explained_schema(),
    }
}

/// A table that SQL can name.
#[derive(Clone, Debug)]
pub struct NamedTable {
    /// The schema that it is in.
    pub schema: String,
    /// Its name in there.
    pub name: String,
    /// Its columns, in the plain form.
    pub columns: SchemaRef,
}

/// Plans, runs and accounts for every query of the process.
#[derive(Debug)]
pub struct QueryEngine {
    parts: Arc<Parts>,
    admission: Admission,
    /// Always there until the engine is dropped.
    runtime: Option<Runtime>,
}

struct Parts {
    tables: BaseTables,
    template: SessionTemplate,
    limits: QueryLimits,
    memory: Arc<ProcessMemory>,
    clock: Arc<dyn Clock>,
    process: Arc<ProcessFacts>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("limits", &self.limits).field("memory", &self.memory).finish()
    }
}

impl QueryEngine {
    /// An engine with threads of its own, so that a heavy query never delays the network.
    pub fn try_new(options: EngineOptions) -> Result<Self> {
        let EngineOptions { tables, store, limits, threads, spill_folder, clock, metrics, settings } = options;
        let process = Arc::new(ProcessFacts { settings, metrics, log: Arc::default() });
        let spill = SpillSettings { folder: spill_folder, bytes_max: limits.query_spill_bytes_max };
        let template = SessionTemplate::try_new(&limits, threads, spill, store.as_ref())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("query")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| failure::internal(&error))?;
        let memory = Arc::new(ProcessMemory::new(limits.memory_bytes_max));
        let admission = Admission::new(limits.concurrency_max, limits.queue_max);
        let parts = Arc::new(Parts { tables, template, limits, memory, clock, process });
        Ok(Self { parts, admission, runtime: Some(runtime) })
    }

    /// Runs a query; the answer streams while it is computed. Dropping the stream stops the query.
    pub async fn execute(&self, request: QueryRequest) -> Result<QueryStream> {
        let account = Account::open(&request, &self.parts.process, self.parts.clock.now_unix_nano());
        match self.start(request, &account).boxed().await {
            Ok((run, stream)) => {
                self.runtime()?.spawn(run.finish(account));
                Ok(stream)
            }
            Err(error) => {
                account.close(Some(&error), &QueryStats::default());
                Err(error)
            }
        }
    }

    async fn start(&self, request: QueryRequest, account: &Account) -> Result<(Run, QueryStream)> {
        let limits = self.parts.limits.of_run(&request.limits);
        let deadline = account.started + limits.timeout;
        let permit = self.admission.enter(deadline).await?;
        let parts = Arc::clone(&self.parts);
        let planning = async move { parts.plan_to_run(&request).await }.boxed();
        let plan = self.on_runtime(deadline, limits.timeout, planning).await?;
        let stats = SharedStats::default();
        account.runs(&stats);
        stats.update(|stats| stats.planning = account.started.elapsed());
        let (producer, stream) = stream::channel(account.id(), SchemaRef::clone(&plan.schema), stats, limits, deadline);
        Ok((Run { plan, producer, _permit: permit }, stream))
    }

    /// Plans a query without running it. Parameters need not have values. What is refused here is accounted for like a query
    /// that is refused before it runs; nothing else is.
    pub async fn prepare(&self, request: QueryRequest) -> Result<Prepared> {
        let limits = self.parts.limits.of_run(&request.limits);
        let (parts, asked, started) = (Arc::clone(&self.parts), request.clone(), Instant::now());
        let started_unix_nano = self.parts.clock.now_unix_nano();
        let preparing = async move { parts.prepare(&request).await }.boxed();
        let prepared = self.on_runtime(started + limits.timeout, limits.timeout, preparing).await;
        if let Err(error) = &prepared {
            let mut account = Account::open(&asked, &self.parts.process, started_unix_nano);
            account.started = started;
            account.close(Some(error), &QueryStats::default());
        }
        prepared
    }

    /// The tables that SQL can name, those about the data and the server included, with the columns that their rows have
    /// outside.
    pub async fn tables(&self, tenant: &TenantId) -> Result<Vec<NamedTable>> {
        let text = "SELECT table_schema, table_name FROM information_schema.tables \
                    WHERE table_schema <> 'information_schema' ORDER BY table_schema, table_name";
        let (batches, _) = self.execute(QueryRequest::sql(tenant.clone(), text)).await?.collect().await?;
        let mut tables = Vec::new();
        for batch in &batches {
            let (schemas, names) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
            for (schema, name) in schemas.iter().flatten().zip(names.iter().flatten()) {
                let all = QueryRequest::sql(tenant.clone(), format!("SELECT * FROM \"{schema}\".\"{name}\""));
                let columns = self.prepare(all).await?.schema;
                tables.push(NamedTable { schema: schema.to_owned(), name: name.to_owned(), columns });
            }
        }
        Ok(tables)
    }

    /// The catalogue that tables are in, and the schema that a name without one means.
    pub fn namespace(&self) -> (&'static str, &'static str) {
        (crate::query::session::CATALOG, crate::query::session::SCHEMA)
    }

    /// The engine's limits.
    pub fn limits(&self) -> &QueryLimits {
        &self.parts.limits
    }

    /// Bytes of memory that running queries hold.
    pub fn memory_used_bytes(&self) -> usize {
        self.parts.memory.used_bytes()
    }

    /// A session over a table of the caller's, for plans of this crate's own.
    pub(crate) fn session_over(&self, base: &Arc<dyn TableProvider>) -> Result<SessionState> {
        self.parts.session(&TenantId::single(), base, Names::All).map(|(session, _)| session)
    }

    /// Runs `work` on the engine's threads, beside the queries that were admitted.
    pub(crate) async fn run_within<T: Send + 'static>(
        &self,
        timeout: std::time::Duration,
        work: BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        self.on_runtime(Instant::now() + timeout, timeout, work).await
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::new(ErrorKind::Unavailable, "the query engine is shutting down"))
    }

    /// Runs `work` on the engine's threads; it stops when the caller goes away or at the deadline.
    ///
    /// The work is boxed so that the plans in it are no part of the callers' types (see [`SessionTemplate`]).
    async fn on_runtime<T: Send + 'static>(
        &self,
        deadline: Instant,
        timeout: std::time::Duration,
        work: BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        let caller_left = CancellationToken::new();
        let _caller = caller_left.clone().drop_guard();
        let bounded = Planning { deadline, timeout, caller_left }.bound(work);
        let task = AbortOnDropHandle::new(self.runtime()?.spawn(bounded));
        match tokio::time::timeout_at(deadline, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failed)) => Err(failure::internal(&failed)),
            Err(_) => Err(timed_out(timeout)),
        }
    }
}

impl Drop for QueryEngine {
    fn drop(&mut self) {
        // Waiting for threads is not allowed inside of another runtime; running queries are cancelled.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Parts {
    fn session(
        &self,
        tenant: &TenantId,
        base: &Arc<dyn TableProvider>,
        names: Names,
    ) -> Result<(SessionState, Arc<QueryPool>)> {
        let pool = Arc::new(QueryPool::new(self.limits.query_memory_bytes_max, Arc::clone(&self.memory)));
        let now = self.clock.now_unix_nano();
        let (tenant, base, process) = (tenant.clone(), Arc::clone(base), Arc::clone(&self.process));
        let context = (names == Names::All).then_some(SystemContext { tenant, base, process });
        Ok((self.template.session(context, Arc::clone(&pool), now)?, pool))
    }

    async fn plan_to_run(&self, request: &QueryRequest) -> Result<Planned> {
        let base = (self.tables)(&request.tenant).await?;
        let (mut session, pool) = self.session(&request.tenant, &base, Names::of(&request.kind))?;
        let bounds = TraceBounds { spans_max: self.limits.trace_spans_max.max(1), partial: request.partial };
        session.config_mut().set_extension(Arc::new(bounds));
        let form = request.form;
        if let QueryKind::TraceQl(query) = &request.kind {
            let search = self.search(query)?;
            let schema = wire::schema_in(&search_schema(query), form);
            let rounds = Box::new(Rounds { search, base: Arc::clone(&base), session: session.clone() });
            let work = match query.explain {
                None => Work::Search(rounds),
                Some(explain) => Work::Explained(rounds, explain),
            };
            return Ok(Planned { work, base, session, pool, schema, form, shape: Shape::Same });
        }
        if let QueryKind::Metrics(query) = &request.kind
            && query.explain.is_none()
        {
            let metrics = self.metrics(query, &base, &session, form)?;
            let schema = wire::schema_in(&metrics::answer_schema(form), form);
            let work = Work::Metrics(Box::new(metrics));
            return Ok(Planned { work, base, session, pool, schema, form, shape: Shape::Same });
        }
        let tags = tags::known::known(&request.kind, &base, &session)
            .await
            .map_err(|error| failure::from_datafusion(&error))?;
        let (logical, base, told) = match tags {
            Some(Known { plan: Some(plan), rest, shape }) => (plan, rest, Some(shape)),
            Some(Known { plan: None, rest: base, shape }) => {
                let (_, schema) = shaped(&request.kind, Arc::new(Schema::empty()));
                let nothing = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
                return Ok(Planned { work: Work::Plan(nothing), base, session, pool, schema, form, shape });
            }
            None => (self.logical(request, &base, &session).await?, base, None),
        };
        let optimized = session.optimize(&logical).map_err(|error| failure::from_datafusion(&error))?;
        let schema = wire::schema_in(optimized.schema().as_arrow(), form);
        let (shape, schema) = shaped(&request.kind, schema);
        let physical = session
            .query_planner()
            .create_physical_plan(&optimized, &session)
            .await
            .map_err(|error| failure::from_datafusion(&error))?;
        let shape = told.unwrap_or(shape);
        Ok(Planned { work: Work::Plan(physical), base, session, pool, schema, form, shape })
    }

    async fn prepare(&self, request: &QueryRequest) -> Result<Prepared> {
        let base = (self.tables)(&request.tenant).await?;
        let (session, _) = self.session(&request.tenant, &base, Names::of(&request.kind))?;
        let logical = match &request.kind {
            QueryKind::Sql(query) if query.params.is_empty() => self.sql(query, &session).await?,
            QueryKind::TraceQl(query) => {
                self.search(query)?;
                let schema = wire::schema_in(&search_schema(query), request.form);
                return Ok(Prepared { schema, parameters: Arc::new(Schema::empty()) });
            }
            QueryKind::Metrics(query) if query.explain.is_none() => {
                self.metrics(query, &base, &session, request.form)?;
                let schema = wire::schema_in(&metrics::answer_schema(request.form), request.form);
                return Ok(Prepared { schema, parameters: Arc::new(Schema::empty()) });
            }
            _ => self.logical(request, &base, &session).await?,
        };
        let parameters = parameters_of(&logical)?;
        // A parameter without a type can stop the optimizer where the value would not.
        let optimized = match session.optimize(&logical) {
            Ok(optimized) => optimized,
            Err(_) if !parameters.fields().is_empty() => logical,
            Err(error) => return Err(failure::from_datafusion(&error)),
        };
        let (_, schema) = shaped(&request.kind, wire::schema_in(optimized.schema().as_arrow(), request.form));
        Ok(Prepared { schema, parameters })
    }

    async fn logical(
        &self,
        request: &QueryRequest,
        base: &Arc<dyn TableProvider>,
        session: &SessionState,
    ) -> Result<LogicalPlan> {
        match &request.kind {
            QueryKind::Sql(query) => {
                let plan = self.sql(query, session).await?;
                bind(plan, query)
            }
            QueryKind::Metrics(query) => {
                let metrics = self.metrics(query, base, session, request.form)?;
                metrics
                    .explained(query.explain.unwrap_or(Explain::Plan))
                    .map_err(|error| failure::from_datafusion(&error))
            }
            QueryKind::TraceById(query) => {
                let query = self.trace_by_id(query)?;
                query.plan(base).map_err(|error| failure::from_datafusion(&error))
            }
            QueryKind::TagNames(query) => {
                let plan = tags::names::plan(query, &query.scopes(), self.limits.trace_extent_max_nano, base);
                plan.map_err(|error| failure::from_datafusion(&error))
            }
            QueryKind::TagValues(query) => {
                let plan = tags::values::plan(query, &AttributeScope::ALL, self.limits.trace_extent_max_nano, base);
                plan.map_err(|error| failure::from_datafusion(&error))
            }
            QueryKind::TraceQl(_) => Err(failure::internal(&"a search is more than one plan")),
        }
    }

    /// Checks a TraceQL metrics query.
    fn metrics(
        &self,
        query: &MetricsQuery,
        base: &Arc<dyn TableProvider>,
        session: &SessionState,
        form: AnswerForm,
    ) -> Result<MetricsRun> {
        sandbox::check_text_length(&query.text, &self.limits)?;
        let now = self.clock.now_unix_nano();
        MetricsRun::try_new(query, now, &self.limits, Arc::clone(base), session.clone(), form)
    }

    fn trace_by_id(&self, query: &TraceByIdQuery) -> Result<TraceById> {
        if let Some(filter) = &query.filter {
            sandbox::check_text_length(&filter.text, &self.limits)?;
        }
        TraceById::compile(query)
    }

    /// Checks and lowers a TraceQL search.
    fn search(&self, query: &TraceQlQuery) -> Result<Search> {
        sandbox::check_text_length(&query.text, &self.limits)?;
        let limits = &self.limits;
        let limit = query.limit.unwrap_or(limits.search_limit_default);
        if limit > limits.search_limit_max {
            let most = limits.search_limit_max;
            return Err(Error::invalid(format!("limit {limit} exceeds max limit {most}")));
        }
        let spans_per_trace = query.spans_per_trace.unwrap_or(limits.search_spans_default);
        if spans_per_trace > limits.search_spans_max {
            let most = limits.search_spans_max;
            return Err(Error::invalid(format!("spans per span set exceeds {most}. received {spans_per_trace}")));
        }
        let spansets = traceql::search(&query.text)?.spansets;
        Ok(Search {
            spansets,
            range: query.range,
            extent_nano: limits.trace_extent_max_nano,
            limit,
            spans_per_set: spans_per_trace,
            duration: query.duration,
            after: query.after,
        })
    }

    async fn sql(&self, query: &SqlQuery, session: &SessionState) -> Result<LogicalPlan> {
        let statement = CheckedStatement::parse(&query.text, &self.limits, self.template.spelled_tables())?;
        statement.check_tables(session, self.template.table_names())?;
        let plan = session
            .statement_to_plan(statement.into_inner())
            .await
            .map_err(|error| failure::from_datafusion(&error))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|error| failure::from_datafusion(&error))?;
        Ok(plan)
    }
}

/// Which names a session knows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Names {
    /// Tables, views and functions.
    All,
    /// None, for plans that are made of the things themselves.
    Nothing,
}

impl Names {
    fn of(kind: &QueryKind) -> Self {
        match kind {
            QueryKind::Sql(_) => Self::All,
            QueryKind::TraceQl(_)
            | QueryKind::Metrics(_)
            | QueryKind::TraceById(_)
            | QueryKind::TagNames(_)
            | QueryKind::TagValues(_) => Self::Nothing,
        }
    }
}

/// What becomes of the rows of a plan with `schema`, and the schema that they have then.
fn shaped(kind: &QueryKind, schema: SchemaRef) -> (Shape, SchemaRef) {
    match kind {
        QueryKind::TraceById(query) => {
            let shape = trace::Shape::new(query);
            let schema = shape.schema(&schema);
            (Shape::Trace(shape), schema)
        }
        QueryKind::TagNames(_) => (Shape::Names(tags::names::Shape::default()), tags::names::answer_schema()),
        QueryKind::TagValues(query) => (Shape::Values(tags::values::Shape::new(query)), tags::values::answer_schema()),
        QueryKind::Sql(_) | QueryKind::TraceQl(_) | QueryKind::Metrics(_) => (Shape::Same, schema),
    }
}

/// The parameters of a plan, `$1` first.
fn parameters_of(plan: &LogicalPlan) -> Result<SchemaRef> {
    let types = plan.get_parameter_types().map_err(|error| failure::from_datafusion(&error))?;
    let mut numbered = Vec::with_capacity(types.len());
    for (name, data_type) in types {
        let number: Option<usize> = name.strip_prefix('$').and_then(|digits| digits.parse().ok());
        let Some(number) = number.filter(|number| *number > 0) else {
            return Err(Error::invalid(format!("parameter {name} has no number; parameters are ?, or $1, $2, ...")));
        };
        numbered.push((number, Field::new(name, data_type.unwrap_or(DataType::Null), true)));
    }
    numbered.sort_by_key(|(number, _)| *number);
    let count = numbered.len();
    if numbered.last().is_some_and(|(number, _)| *number != count) {
        return Err(Error::invalid("parameters have to be numbered without gaps from $1"));
    }
    Ok(Arc::new(Schema::new(numbered.into_iter().map(|(_, field)| field).collect::<Vec<_>>())))
}

/// The plan with the values in place of its parameters.
fn bind(plan: LogicalPlan, query: &SqlQuery) -> Result<LogicalPlan> {
    let (wanted, given) = (parameters_of(&plan)?.fields().len(), query.params.len());
    if wanted != given {
        return Err(Error::invalid(format!("the query has {wanted} parameters and got {given} values")));
    }
    if given == 0 {
        return Ok(plan);
    }
    plan.with_param_values(ParamValues::from(query.params.clone())).map_err(|error| failure::from_datafusion(&error))
}
