//! The walk over a statement's tree that finds what does not only read.

use std::ops::ControlFlow;

use datafusion::{
    common::TableReference,
    sql::{
        parser::Statement as DfStatement,
        sqlparser::ast::{Expr, ObjectName, ObjectNamePart, Query, Select, Statement, TableFactor, Visit, Visitor},
    },
};

use crate::{
    error::{Error, Result},
    query::{
        sandbox::tables::TableCount,
        system::{SYSTEM_SCHEMA, table_names},
    },
};

/// A table function that may be called.
#[derive(Debug)]
pub(crate) struct AllowedTableFunction {
    pub(crate) name: &'static str,
    pub(crate) syntax: &'static str,
    pub(crate) description: &'static str,
}

/// Table functions that exist. All produce rows lazily, so the limits on time and rows bound them.
pub(crate) const TABLE_FUNCTIONS: &[AllowedTableFunction] = &[
    AllowedTableFunction {
        name: "generate_series",
        syntax: "generate_series(start, stop[, step])",
        description: "Numbers or timestamps from start to stop, both inside",
    },
    AllowedTableFunction {
        name: "range",
        syntax: "range(start, stop[, step])",
        description: "Numbers or timestamps from start to stop, without stop",
    },
    AllowedTableFunction {
        name: "trace",
        syntax: "trace('id')",
        description: "The spans of one trace, with their places in its tree and their time on its critical path",
    },
    AllowedTableFunction {
        name: "traceql",
        syntax: "traceql('{ ... }'[, start[, end]])",
        description: "The spans that a TraceQL query selects",
    },
];

fn is_table_function(name: &str) -> bool {
    TABLE_FUNCTIONS.iter().any(|function| function.name == name)
}

const ALLOWED: &str = "allowed are SELECT, EXPLAIN, SHOW and DESCRIBE";

/// Refuses a statement that is not allowed as the one statement of a query.
pub(super) fn check(statement: &DfStatement) -> Result<()> {
    match statement {
        DfStatement::Statement(inner) => match inner.as_ref() {
            Statement::Query(_) => walk(inner.as_ref()),
            Statement::Explain { statement, .. } => explained(statement),
            Statement::ExplainTable { table_name, .. } => name_is_plain(table_name),
            Statement::ShowTables { .. }
            | Statement::ShowColumns { .. }
            | Statement::ShowFunctions { .. }
            | Statement::ShowVariable { .. } => walk(inner.as_ref()),
            other => Err(refused(&verb(&other.to_string()))),
        },
        DfStatement::Explain(explain) => match explain.statement.as_ref() {
            DfStatement::Statement(inner) => explained(inner),
            other => Err(refused(&format!("EXPLAIN {}", verb(&other.to_string())))),
        },
        DfStatement::CopyTo(_) => Err(refused("COPY")),
        DfStatement::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        DfStatement::Reset(_) => Err(refused("RESET")),
    }
}

fn explained(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Query(_) => walk(statement),
        other => Err(refused(&format!("EXPLAIN {}", verb(&other.to_string())))),
    }
}

fn refused(what: &str) -> Error {
    Error::invalid(format!("{what} is not allowed: SQL here only reads; {ALLOWED}"))
}

/// The first word of a statement, for the message.
fn verb(statement: &str) -> String {
    statement.split_whitespace().next().unwrap_or("this statement").to_uppercase()
}

fn walk(statement: &Statement) -> Result<()> {
    match statement.visit(&mut Walk::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Refuses a table that does not exist. `known` are the names in the default schema.
pub(super) fn check_table(reference: &TableReference, known: &[&str]) -> Result<()> {
    if reference.catalog().is_some_and(|catalog| catalog != super::super::session::CATALOG) {
        return Err(unknown_table(&reference.to_string(), reference.table(), known));
    }
    match reference.schema() {
        // The parser lists calls of table functions among the tables.
        None if is_table_function(reference.table()) => Ok(()),
        None | Some(super::super::session::SCHEMA) if known.contains(&reference.table()) => Ok(()),
        // The planner names what is there and what is not.
        Some("information_schema") => Ok(()),
        Some(SYSTEM_SCHEMA) => check_system_table(reference),
        _ => Err(unknown_table(&reference.to_string(), reference.table(), known)),
    }
}

fn check_system_table(reference: &TableReference) -> Result<()> {
    let known = table_names();
    if known.contains(&reference.table()) {
        return Ok(());
    }
    Err(unknown_table(&reference.to_string(), reference.table(), &known))
}

fn unknown_table(written: &str, table: &str, known: &[&str]) -> Error {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &table.to_lowercase()), *name))
        .filter(|(distance, _)| *distance <= 3)
        .min();
    let tables = known.join(", ");
    Error::invalid(match nearest {
        Some((_, name)) => format!("there is no table {written}; did you mean {name}? tables are: {tables}"),
        None => format!("there is no table {written}; tables are: {tables}"),
    })
}

/// Refuses names that are a path or an address in disguise.
fn name_is_plain(name: &ObjectName) -> Result<()> {
    for part in &name.0 {
        let ObjectNamePart::Identifier(identifier) = part else { continue };
        let text = &identifier.value;
        let path = text.contains(['/', '\\', ':', '*', '?', '[', '\0']) || text.starts_with(['.', '~']);
        let file = text.contains('.') && identifier.quote_style.is_some();
        if path || file {
            return Err(Error::invalid(format!(
                "{text:?} is not a table: files and addresses cannot be queried with SQL here"
            )));
        }
    }
    Ok(())
}

fn table_function_is_allowed(name: &ObjectName) -> Result<()> {
    name_is_plain(name)?;
    let written = name.to_string().to_lowercase();
    if is_table_function(&written) {
        return Ok(());
    }
    let functions = TABLE_FUNCTIONS.iter().map(|function| function.name).collect::<Vec<_>>().join(", ");
    Err(Error::invalid(format!("there is no table function {written}; table functions are: {functions}, unnest")))
}

#[derive(Default)]
struct Walk {
    depth: usize,
    tables: TableCount,
}

fn flow(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl Visitor for Walk {
    type Break = Box<Error>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Self::Break> {
        self.depth += 1;
        // The outermost statement was checked by its caller; below it there are only the bodies of queries.
        if self.depth > 1 {
            return flow(Err(refused(&verb(&statement.to_string()))));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if !query.locks.is_empty() {
            return flow(Err(refused("SELECT ... FOR UPDATE")));
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return flow(Err(refused("SETTINGS or FORMAT in a query")));
        }
        self.tables.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Self::Break> {
        flow(self.tables.leave())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            return flow(Err(refused("SELECT INTO")));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Self::Break> {
        self.tables.relation(name);
        flow(name_is_plain(name))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        flow(match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                table_function_is_allowed(name)
            }
            TableFactor::TableFunction { expr: Expr::Function(function), .. } => {
                table_function_is_allowed(&function.name)
            }
            TableFactor::Table { .. }
            | TableFactor::Derived { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. } => Ok(()),
            other => Err(Error::invalid(format!("{} is not allowed in FROM", verb(&other.to_string())))),
        })
    }
}
