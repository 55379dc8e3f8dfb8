//! The tables of SQL that are queries: each is a file under `sql/views`, planned once, bound to a query's base table.
//!
//! ```text
//!  spans, span_events, span_links, otel_traces    row by row: conditions move through the plan to the scan
//!  traces, service_edges                          whole traces: widened scan, conditions applied again ([`whole`])
//!  attributes                                     the lists of keys that files carry ([`keys`]); no span is read
//! ```
//!
//! A view reads the base table and nothing else, so a query sees one state of the data however many views it joins.

mod keys;
mod whole;

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    catalog::TableProvider,
    common::{
        Result, TableReference, internal_err,
        tree_node::{Transformed, TreeNodeRecursion},
    },
    datasource::{MemTable, ViewTable, provider_as_source},
    execution::{SessionState, session_state::SessionStateBuilder},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    sql::parser::DFParser,
};

use crate::{
    model::schema::logical_schema,
    query::{
        sandbox::SpelledTable,
        session::{BASE_TABLE, catalog_of},
    },
};

/// What the rows of a view are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Each row comes from one span.
    Spans,
    /// A row comes from several spans of one trace; its columns `start_time` and `date` are of one of them.
    WholeTraces,
    /// A row comes from lists of attributes, file by file.
    Keys,
}

/// The views, by name, with their text.
const VIEWS: &[(&str, Reads, &str)] = &[
    ("spans", Reads::Spans, include_str!("../../../sql/views/spans.sql")),
    ("traces", Reads::WholeTraces, include_str!("../../../sql/views/traces.sql")),
    ("span_events", Reads::Spans, include_str!("../../../sql/views/span_events.sql")),
    ("span_links", Reads::Spans, include_str!("../../../sql/views/span_links.sql")),
    ("service_edges", Reads::WholeTraces, include_str!("../../../sql/views/service_edges.sql")),
    ("attributes", Reads::Keys, include_str!("../../../sql/views/attributes.sql")),
    ("otel_traces", Reads::Spans, include_str!("../../../sql/views/otel_traces.sql")),
];

/// A view whose text has been planned.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) name: &'static str,
    reads: Reads,
    text: &'static str,
    /// Over an empty base table.
    pub(crate) plan: LogicalPlan,
}

/// Plans all views; fails only by a defect in them.
pub(crate) fn plan_all(state: &SessionState) -> Result<Vec<View>> {
    let base = MemTable::try_new(logical_schema(), vec![Vec::new()])?;
    let keys = MemTable::try_new(keys::schema(), vec![Vec::new()])?;
    let catalogs = catalog_of(vec![(BASE_TABLE, Arc::new(base)), (KEYS_TABLE, Arc::new(keys))])?;
    let state = SessionStateBuilder::new_from_existing(state.clone()).with_catalog_list(catalogs).build();
    VIEWS
        .iter()
        .map(|(name, reads, text)| {
            let mut statements = DFParser::parse_sql(text)?;
            let Some(statement) = statements.pop_front() else { return internal_err!("view {name} is empty") };
            // Resolving a table in memory never waits.
            let plan = futures::executor::block_on(state.statement_to_plan(statement))?;
            Ok(View { name, reads: *reads, text, plan })
        })
        .collect()
}

impl View {
    /// What its columns mean, from the top of its file: lines of the form `--   name: meaning`.
    pub(crate) fn comments(&self) -> BTreeMap<String, String> {
        let mut comments = BTreeMap::new();
        let mut last: Option<String> = None;
        for line in self.text.lines().map_while(|line| line.strip_prefix("--")) {
            match (line.strip_prefix("   ").and_then(|entry| entry.split_once(": ")), &last) {
                (Some((names, meaning)), _) if !names.starts_with(' ') => {
                    for name in names.split(", ") {
                        comments.insert(name.to_owned(), meaning.to_owned());
                    }
                    last = Some(names.to_owned());
                }
                // A longer one goes on, further in.
                (_, Some(names)) if line.starts_with("     ") => {
                    for name in names.split(", ") {
                        if let Some(comment) = comments.get_mut(name) {
                            comment.push(' ');
                            comment.push_str(line.trim());
                        }
                    }
                }
                _ => last = None,
            }
        }
        comments
    }

    /// Its columns, if their names have capitals.
    pub(crate) fn spelled(&self) -> Option<SpelledTable> {
        let columns: Vec<String> = self.plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        let has_capitals = columns.iter().any(|name| name.contains(char::is_uppercase));
        has_capitals.then_some(SpelledTable { name: self.name, columns })
    }

    /// The view as a table over `base`; `extent_nano` is how far apart the spans of a trace may start.
    pub(crate) fn table(&self, base: &Arc<dyn TableProvider>, extent_nano: i64) -> Result<Arc<dyn TableProvider>> {
        Ok(match self.reads {
            Reads::Spans => {
                let plan = over(&self.plan, BASE_TABLE, base, None)?;
                Arc::new(ViewTable::new(plan, Some(self.text.to_owned())))
            }
            Reads::Keys => {
                let lists: Arc<dyn TableProvider> = Arc::new(keys::KeyLists::new(Arc::clone(base)));
                let plan = over(&self.plan, KEYS_TABLE, &lists, None)?;
                Arc::new(ViewTable::new(plan, Some(self.text.to_owned())))
            }
            Reads::WholeTraces => {
                Arc::new(whole::WholeTraces::new(self.plan.clone(), self.text, Arc::clone(base), extent_nano))
            }
        })
    }
}

/// The name that the lists of attributes have in the text of a view.
const KEYS_TABLE: &str = "physical_keys";

/// The same plan reading another table of this name, of which only the rows that meet `condition`.
fn over(
    plan: &LogicalPlan,
    name: &str,
    base: &Arc<dyn TableProvider>,
    condition: Option<&Expr>,
) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::clone(base));
    plan.clone()
        .transform_down_with_subqueries(|node| match node {
            LogicalPlan::TableScan(mut scan) if scan.table_name == TableReference::bare(name) => {
                scan.source = Arc::clone(&source);
                let mut builder = LogicalPlanBuilder::from(LogicalPlan::TableScan(scan));
                if let Some(condition) = condition {
                    builder = builder.filter(condition.clone())?;
                }
                Ok(Transformed::new(builder.build()?, true, TreeNodeRecursion::Jump))
            }
            other => Ok(Transformed::no(other)),
        })
        .map(|transformed| transformed.data)
}
