//! The DataFusion session of one query: built from a template, bound to one view of one tenant's data.
//!
//! Functions, planners and optimizer rules are shared. What differs per query is the memory pool, the start time, and
//! the catalogue, whose tables all read the same base table, so that a self-join sees one state of the data:
//!
//! ```text
//!  tracehouse.public.*  = the views ([`crate::query::views`]) over the base table
//!  tracehouse.system.*  = what the process and the table know of themselves ([`crate::query::system`])
//!  tracehouse.information_schema.*
//!  traceql('...'), trace('id')  plans over the base table
//! ```
//!
//! TraceQL, trace by id and tags plan over the base table with functions that they hold themselves, so their sessions have
//! neither a catalogue nor names of functions: to fill those costs more than many of their plans. Rules about what only
//! statements have are left out for the same reason.
//!
//! The base table has no name in the catalogue. It has the physical types (ids as bytes, times as integers), and
//! TraceQL and trace-by-id plan on it directly.

use std::{collections::HashMap, fmt, sync::Arc};

use chrono::DateTime;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider, TableFunction, TableProvider, information_schema::INFORMATION_SCHEMA,
    },
    common::{Result as DfResult, config::ConfigOptions},
    datasource::provider_as_source,
    execution::{
        SessionState, SessionStateDefaults,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
        session_state::SessionStateBuilder,
    },
    logical_expr::LogicalPlanBuilder,
    prelude::SessionConfig,
};

use crate::{
    error::Result,
    functions,
    query::{
        failure,
        functions::view_functions,
        limits::QueryLimits,
        memory::QueryPool,
        planning::{Bounded, Checkpoints},
        request::PartialAnswers,
        rules,
        sandbox::{SpelledTable, growth},
        spansets::{TraceBounds, TracePlanner},
        system::{
            SYSTEM_SCHEMA, SystemContext, SystemSchema,
            information::{Comments, Information},
        },
        table_functions::TableFunctions,
        views::{self, View},
    },
    storage::{scan, store::Store, trace_filters::TraceFilters, trace_rows::TraceRows},
};

/// The catalogue that all tables are in.
pub(crate) const CATALOG: &str = "tracehouse";
/// The schema that unqualified names mean.
pub(crate) const SCHEMA: &str = "public";
/// The base table's name in plans.
pub(crate) const BASE_TABLE: &str = "physical_spans";

/// Opens the session of one query: what its names mean, if it has any; memory pool; start of the query in Unix nanoseconds.
type OpenSession = dyn Fn(Option<SystemContext>, Arc<QueryPool>, i64) -> DfResult<SessionState> + Send + Sync;

/// What all sessions share.
///
/// The shared state lives in a closure, out of the type: of every future that borrows the engine the compiler proves that
/// it can move between threads, and for the types of plans each of those proofs takes seconds.
pub(crate) struct SessionTemplate {
    open: Box<OpenSession>,
    names: Vec<&'static str>,
    spelled: Vec<SpelledTable>,
}

impl fmt::Debug for SessionTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTemplate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The state that sessions start from.
struct Shared {
    state: SessionState,
    /// The same without functions by name, and without rules about what only statements have.
    bare: SessionState,
    runtime: RuntimeEnv,
    spill: SpillSettings,
    views: Vec<View>,
    comments: Arc<Comments>,
    extent_nano: i64,
    text_bytes_max: usize,
}

/// Where and how much a query may spill.
#[derive(Clone, Debug)]
pub(crate) struct SpillSettings {
    pub(crate) folder: std::path::PathBuf,
    pub(crate) bytes_max: u64,
}

impl SessionTemplate {
    /// Plans the views; fails only by a defect in them.
    pub(crate) fn try_new(
        limits: &QueryLimits,
        threads: usize,
        spill: SpillSettings,
        store: Option<&Store>,
    ) -> Result<Self> {
        let mut runtime = RuntimeEnvBuilder::new();
        if let Some(bytes) = store.and_then(Store::metadata_cache_bytes_max) {
            runtime = runtime.with_metadata_cache_limit(bytes);
        }
        let runtime = runtime.build().map_err(|error| failure::from_datafusion(&error))?;
        if let Some(store) = store {
            runtime.register_object_store(Store::url().as_ref(), store.objects());
        }
        let builder = SessionStateBuilder::new()
            .with_config(session_config(limits, threads))
            .with_query_planner(Arc::new(TracePlanner))
            .with_default_features()
            .with_table_factories(HashMap::new())
            .with_file_formats(Vec::new())
            .with_table_function_list(SessionStateDefaults::default_table_functions());
        let mut builder = functions::configure(builder);
        builder.expr_planners().get_or_insert_default().insert(0, Arc::new(Checkpoints));
        builder.relation_planners().get_or_insert_default().insert(0, Arc::new(Checkpoints));
        let functions = builder.scalar_functions().get_or_insert_default();
        functions.extend(view_functions());
        *functions = growth::bounded(std::mem::take(functions));
        let mut state = builder.build();
        functions::add_json(&mut state).map_err(|error| failure::internal(&error))?;
        let rules = rules::with_ours(state.optimizers());
        let analyzing = state.analyzer().rules.iter().map(|rule| Arc::new(Bounded(Arc::clone(rule))) as _).collect();
        let physical = rules::physical_with_ours(state.physical_optimizers());
        let state = SessionStateBuilder::new_from_existing(state)
            .with_optimizer_rules(rules)
            .with_analyzer_rules(analyzing)
            .with_physical_optimizer_rules(physical)
            .build();
        let views = views::plan_all(&state).map_err(|error| failure::internal(&error))?;
        let names = views.iter().map(|view| view.name).collect();
        let spelled = views.iter().filter_map(View::spelled).collect();
        let (extent_nano, text_bytes_max) = (limits.trace_extent_max_nano, limits.text_bytes_max);
        let comments = Arc::new(Comments::of(&views));
        let mut once = state.config().clone();
        once.options_mut().optimizer.max_passes = 1;
        let bare = SessionStateBuilder::new_from_existing(state.clone())
            .with_config(once)
            .with_optimizer_rules(rules::of_scans(state.optimizers()))
            .with_scalar_functions(Vec::new())
            .with_aggregate_functions(Vec::new())
            .with_window_functions(Vec::new())
            .build();
        let shared = Shared { state, bare, runtime, spill, views, comments, extent_nano, text_bytes_max };
        let open = Box::new(move |context: Option<_>, pool, now_unix_nano| {
            let mut state = match context {
                Some(context) => shared.session(context, pool)?,
                None => shared.bare_session(pool)?,
            };
            let properties = state.execution_props_mut();
            properties.query_execution_start_time = Some(DateTime::from_timestamp_nanos(now_unix_nano));
            Ok(state)
        });
        Ok(Self { open, names, spelled })
    }

    /// Names of the tables in the default schema.
    pub(crate) fn table_names(&self) -> &[&'static str] {
        &self.names
    }

    /// Tables with capitals in the names of their columns.
    pub(crate) fn spelled_tables(&self) -> &[SpelledTable] {
        &self.spelled
    }

    /// A session for one query, over the base table of `context` if it has names of tables.
    pub(crate) fn session(
        &self,
        context: Option<SystemContext>,
        pool: Arc<QueryPool>,
        now_unix_nano: i64,
    ) -> Result<SessionState> {
        (self.open)(context, pool, now_unix_nano).map_err(|error| failure::from_datafusion(&error))
    }
}

impl Shared {
    fn runtime(&self, pool: Arc<QueryPool>) -> DfResult<Arc<RuntimeEnv>> {
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![self.spill.folder.clone()]))
            .with_max_temp_directory_size(self.spill.bytes_max);
        RuntimeEnvBuilder::from_runtime_env(&self.runtime)
            .with_memory_pool(pool)
            .with_disk_manager_builder(disk)
            .build_arc()
    }

    fn bare_session(&self, pool: Arc<QueryPool>) -> DfResult<SessionState> {
        let runtime = self.runtime(pool)?;
        Ok(SessionStateBuilder::new_from_existing(self.bare.clone()).with_runtime_env(runtime).build())
    }

    fn session(&self, context: SystemContext, pool: Arc<QueryPool>) -> DfResult<SessionState> {
        let (runtime, base) = (self.runtime(pool)?, &Arc::clone(&context.base));
        let tables = self
            .views
            .iter()
            .map(|view| Ok((view.name, view.table(base, self.extent_nano)?)))
            .collect::<DfResult<Vec<_>>>()?;
        let functions = self.table_functions(base);
        let system: Arc<dyn SchemaProvider> = Arc::new(SystemSchema(Arc::new(context)));
        let described = catalog_of(tables)?;
        let catalogs = catalog_of(Vec::new())?;
        for catalog in [&described, &catalogs].into_iter().filter_map(|list| list.catalog(CATALOG)) {
            catalog.register_schema(SYSTEM_SCHEMA, Arc::clone(&system))?;
        }
        if let (Some(from), Some(to)) = (described.catalog(CATALOG), catalogs.catalog(CATALOG)) {
            if let Some(public) = from.schema(SCHEMA) {
                to.register_schema(SCHEMA, public)?;
            }
            let mut names = self.state.table_functions().clone();
            names.extend(functions.iter().map(|function| (function.name().to_owned(), Arc::clone(function))));
            let information = Information::new(described, names, Arc::clone(&self.comments));
            to.register_schema(INFORMATION_SCHEMA, Arc::new(information))?;
        }
        let mut state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(catalogs)
            .with_runtime_env(runtime)
            .build();
        for function in functions {
            state.register_udtf(function.name(), Arc::clone(function.function()));
        }
        Ok(state)
    }

    fn table_functions(&self, base: &Arc<dyn TableProvider>) -> Vec<Arc<TableFunction>> {
        let view = self.views.iter().find(|view| view.name == "spans");
        let functions = view.map(|view| TableFunctions {
            base: Arc::clone(base),
            view: view.plan.clone(),
            extent_nano: self.extent_nano,
            text_bytes_max: self.text_bytes_max,
        });
        functions.map(TableFunctions::all).unwrap_or_default()
    }
}

/// A scan of the base table, for plans that are not SQL.
pub(crate) fn scan_base(base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlanBuilder> {
    LogicalPlanBuilder::scan(BASE_TABLE, provider_as_source(Arc::clone(base)), None)
}

fn session_config(limits: &QueryLimits, threads: usize) -> SessionConfig {
    let mut options = ConfigOptions::new();
    options.catalog.create_default_catalog_and_schema = false;
    CATALOG.clone_into(&mut options.catalog.default_catalog);
    SCHEMA.clone_into(&mut options.catalog.default_schema);
    // Ours is in the catalogue, with the comments of columns.
    options.catalog.information_schema = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Errors say where in the statement they are.
    options.sql_parser.collect_spans = true;
    if let Ok(depth) = datafusion::common::config::ConfigNonZeroUsize::try_new(limits.sql_depth_max) {
        options.sql_parser.recursion_limit = depth;
    }
    options.execution.time_zone = Some("UTC".to_owned());
    // Bulk look-ups by id are IN lists; each value is one comparison with a file's minimum and maximum.
    options.execution.parquet.bloom_filter_on_read = true;
    options.explain.show_schema = false;
    // The planner's and the operators' idea of what can be NULL differ at times; answers do not depend on it.
    options.execution.skip_physical_aggregate_schema_check = true;
    let filters = Arc::new(TraceFilters::new(limits.trace_filter_bytes_max));
    let rows = Arc::new(TraceRows::new(limits.trace_rows_bytes_max));
    let spans_max = limits.trace_spans_max.max(1);
    let bounds = Arc::new(TraceBounds { spans_max, partial: PartialAnswers::Refused });
    let config = SessionConfig::from(options).with_target_partitions(threads);
    scan::session_config(config.with_extension(filters).with_extension(rows).with_extension(bounds))
}

/// A catalogue with these tables in the default schema.
pub(crate) fn catalog_of(tables: Vec<(&str, Arc<dyn TableProvider>)>) -> DfResult<Arc<dyn CatalogProviderList>> {
    let schema = MemorySchemaProvider::new();
    for (name, table) in tables {
        schema.register_table(name.to_owned(), table)?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema))?;
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(Arc::new(list))
}
