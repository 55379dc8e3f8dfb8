//! The DataFusion session of one query: built from a template, bound to one view of one tenant's data.
//!
//! Functions, planners and optimizer rules are shared. What differs per query is the memory pool, the start time, and
//! the catalogue, whose tables all read the same base table, so that a self-join sees one state of the data:
//!
//! ```text
//!  tracehouse.public.spans  = sql/views/spans.sql over the base table
//!  tracehouse.information_schema.*
//! ```
//!
//! The base table has no name in the catalogue. It has the physical types (ids as bytes, times as integers), and
//! TraceQL and trace-by-id plan on it directly.

use std::{collections::HashMap, sync::Arc};

use chrono::DateTime;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
        MemorySchemaProvider, SchemaProvider, TableProvider,
    },
    common::{
        Result as DfResult, TableReference,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{ViewTable, provider_as_source},
    execution::{
        SessionState, SessionStateDefaults,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
        session_state::SessionStateBuilder,
    },
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    prelude::SessionConfig,
    sql::parser::DFParser,
};

use crate::{
    error::Result,
    functions,
    model::schema::logical_schema,
    query::{failure, functions::view_functions, limits::QueryLimits, memory::QueryPool, rules, sandbox::growth},
    storage::{scan, store::Store},
};

/// The catalogue that all tables are in.
pub(crate) const CATALOG: &str = "tracehouse";
/// The schema that unqualified names mean.
pub(crate) const SCHEMA: &str = "public";
/// The base table's name in plans.
pub(crate) const BASE_TABLE: &str = "physical_spans";

/// The views, by name, with their text.
const VIEWS: &[(&str, &str)] = &[("spans", include_str!("../../sql/views/spans.sql"))];

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct SessionTemplate {
    state: SessionState,
    runtime: RuntimeEnv,
    spill: SpillSettings,
    views: Vec<ViewPlan>,
}

/// Where and how much a query may spill.
#[derive(Clone, Debug)]
pub(crate) struct SpillSettings {
    pub(crate) folder: std::path::PathBuf,
    pub(crate) bytes_max: u64,
}

#[derive(Debug)]
struct ViewPlan {
    name: &'static str,
    text: &'static str,
    plan: LogicalPlan,
}

impl SessionTemplate {
    /// Plans the views; fails only by a defect in them.
    pub(crate) fn try_new(
        limits: &QueryLimits,
        threads: usize,
        spill: SpillSettings,
        store: Option<&Store>,
    ) -> Result<Self> {
        let runtime = RuntimeEnvBuilder::new().build().map_err(|error| failure::from_datafusion(&error))?;
        if let Some(store) = store {
            runtime.register_object_store(Store::url().as_ref(), store.objects());
        }
        let builder = SessionStateBuilder::new()
            .with_config(session_config(limits, threads))
            .with_default_features()
            .with_table_factories(HashMap::new())
            .with_file_formats(Vec::new())
            .with_table_function_list(SessionStateDefaults::default_table_functions());
        let mut builder = functions::configure(builder);
        let functions = builder.scalar_functions().get_or_insert_default();
        functions.extend(view_functions());
        *functions = growth::bounded(std::mem::take(functions));
        let state = builder.build();
        let rules = rules::with_ours(state.optimizers());
        let state = SessionStateBuilder::new_from_existing(state).with_optimizer_rules(rules).build();
        let mut template = Self { state, runtime, spill, views: Vec::new() };
        template.views = template.plan_views().map_err(|error| failure::internal(&error))?;
        Ok(template)
    }

    fn plan_views(&self) -> DfResult<Vec<ViewPlan>> {
        let base = MemTable::try_new(logical_schema(), vec![Vec::new()])?;
        let mut builder = SessionStateBuilder::new_from_existing(self.state.clone());
        builder = builder.with_catalog_list(catalog_of(vec![(BASE_TABLE, Arc::new(base))])?);
        let state = builder.build();
        VIEWS
            .iter()
            .map(|(name, text)| {
                let mut statements = DFParser::parse_sql(text)?;
                let Some(statement) = statements.pop_front() else {
                    return datafusion::common::internal_err!("view {name} is empty");
                };
                // Resolving a table in memory never waits.
                let plan = futures::executor::block_on(state.statement_to_plan(statement))?;
                Ok(ViewPlan { name, text, plan })
            })
            .collect()
    }

    /// Names of the tables in the default schema.
    pub(crate) fn table_names(&self) -> Vec<&'static str> {
        self.views.iter().map(|view| view.name).collect()
    }

    /// A session over `base`, for one query.
    pub(crate) fn session(
        &self,
        base: &Arc<dyn TableProvider>,
        pool: Arc<QueryPool>,
        now_unix_nano: i64,
    ) -> Result<SessionState> {
        self.try_session(base, pool, now_unix_nano).map_err(|error| failure::from_datafusion(&error))
    }

    fn try_session(
        &self,
        base: &Arc<dyn TableProvider>,
        pool: Arc<QueryPool>,
        now_unix_nano: i64,
    ) -> DfResult<SessionState> {
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![self.spill.folder.clone()]))
            .with_max_temp_directory_size(self.spill.bytes_max);
        let runtime = RuntimeEnvBuilder::from_runtime_env(&self.runtime)
            .with_memory_pool(pool)
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let tables = self
            .views
            .iter()
            .map(|view| {
                let plan = over(&view.plan, base)?;
                let table: Arc<dyn TableProvider> = Arc::new(ViewTable::new(plan, Some(view.text.to_owned())));
                Ok((view.name, table))
            })
            .collect::<DfResult<Vec<_>>>()?;
        let mut state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(catalog_of(tables)?)
            .with_runtime_env(runtime)
            .build();
        let properties = state.execution_props_mut();
        properties.query_execution_start_time = Some(DateTime::from_timestamp_nanos(now_unix_nano));
        Ok(state)
    }
}

/// A scan of the base table, for plans that are not SQL.
pub(crate) fn scan_base(base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlanBuilder> {
    LogicalPlanBuilder::scan(BASE_TABLE, provider_as_source(Arc::clone(base)), None)
}

/// The same plan reading another base table.
fn over(plan: &LogicalPlan, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
    let source = provider_as_source(Arc::clone(base));
    plan.clone()
        .transform_down(|node| match node {
            LogicalPlan::TableScan(mut scan) if scan.table_name == TableReference::bare(BASE_TABLE) => {
                scan.source = Arc::clone(&source);
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            other => Ok(Transformed::no(other)),
        })
        .map(|transformed| transformed.data)
}

fn session_config(limits: &QueryLimits, threads: usize) -> SessionConfig {
    let mut options = ConfigOptions::new();
    options.catalog.create_default_catalog_and_schema = false;
    CATALOG.clone_into(&mut options.catalog.default_catalog);
    SCHEMA.clone_into(&mut options.catalog.default_schema);
    options.catalog.information_schema = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    if let Ok(depth) = datafusion::common::config::ConfigNonZeroUsize::try_new(limits.sql_depth_max) {
        options.sql_parser.recursion_limit = depth;
    }
    options.execution.time_zone = Some("UTC".to_owned());
    // Bulk look-ups by id are IN lists; each value is one comparison with a file's minimum and maximum.
    options.execution.parquet.bloom_filter_on_read = true;
    options.explain.show_schema = false;
    // The planner's and the operators' idea of what can be NULL differ at times; answers do not depend on it.
    options.execution.skip_physical_aggregate_schema_check = true;
    scan::session_config(SessionConfig::from(options).with_target_partitions(threads))
}

fn catalog_of(tables: Vec<(&str, Arc<dyn TableProvider>)>) -> DfResult<Arc<dyn CatalogProviderList>> {
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
