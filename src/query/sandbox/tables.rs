//! How many tables a statement reads once its common table expressions are written out.
//!
//! An expression that is named twice is planned twice, so a chain of them doubles at each link, and a short text makes a
//! plan without end:
//!
//! ```text
//!  WITH a AS (SELECT * FROM spans),      1
//!       b AS (SELECT * FROM a, a),       2
//!       c AS (SELECT * FROM b, b),       4
//!       ...
//! ```

use std::collections::{HashMap, VecDeque};

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Query};

use crate::error::{Error, ErrorKind, Result};

/// Most tables of a statement.
const TABLES_MAX: usize = 500;

/// Counts while a statement is walked through.
#[derive(Debug, Default)]
pub(super) struct TableCount {
    /// The queries around the place that the walk is at.
    open: Vec<OpenQuery>,
    /// Tables behind each named expression; by its largest, where a name is used again.
    named: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct OpenQuery {
    /// Names of its expressions that have not been seen yet. They are walked through first, in this order.
    names: VecDeque<String>,
    tables: usize,
}

impl TableCount {
    pub(super) fn enter(&mut self, query: &Query) {
        let expressions = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = expressions.map(|expression| folded(&expression.alias.name)).collect();
        self.open.push(OpenQuery { names, tables: 0 });
    }

    pub(super) fn leave(&mut self) -> Result<()> {
        let tables = self.open.pop().map_or(0, |query| query.tables);
        if tables > TABLES_MAX {
            let message = format!(
                "the query reads {tables} tables when its WITH clauses are written out, more than the limit of {TABLES_MAX}"
            );
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let Some(around) = self.open.last_mut() else { return Ok(()) };
        match around.names.pop_front() {
            Some(name) => {
                let known = self.named.entry(name).or_default();
                *known = tables.max(*known);
            }
            None => around.tables = around.tables.saturating_add(tables),
        }
        Ok(())
    }

    pub(super) fn relation(&mut self, name: &ObjectName) {
        let behind = match name.0.as_slice() {
            [ObjectNamePart::Identifier(name)] => self.named.get(&folded(name)).copied(),
            _ => None,
        };
        if let Some(query) = self.open.last_mut() {
            query.tables = query.tables.saturating_add(behind.unwrap_or(1).max(1));
        }
    }
}

/// A name as the planner looks it up.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use crate::query::{limits::QueryLimits, sandbox::CheckedStatement};

    fn check(text: &str) -> Result<(), String> {
        let checked = CheckedStatement::parse(text, &QueryLimits::default(), &[]);
        checked.map(drop).map_err(|error| error.message().to_owned())
    }

    fn doubled(links: usize) -> String {
        let link = |n: usize| format!("t{} AS (SELECT * FROM T{n}, \"t{n}\")", n + 1);
        let links: Vec<String> = (0..links).map(link).collect();
        format!("WITH t0 AS (SELECT * FROM spans), {} SELECT * FROM t{}", links.join(", "), links.len())
    }

    #[test]
    fn expressions_that_double_are_refused_where_they_pass_the_limit() {
        assert_eq!(check(&doubled(8)), Ok(()));
        assert_eq!(
            check(&doubled(9)).unwrap_err(),
            "the query reads 512 tables when its WITH clauses are written out, more than the limit of 500"
        );
        assert!(check(&doubled(100)).is_err());
        // Within a subquery, and as an operand.
        assert!(check(&format!("SELECT 1 WHERE 1 IN ({})", doubled(12))).is_err());
        assert_eq!(check("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT * FROM t) SELECT * FROM t, t, t"), Ok(()));
    }
}
