//! `system.functions`: what SQL can call.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, StringArray},
        datatypes::{DataType, Field},
    },
    catalog::Session,
    logical_expr::Documentation,
};
use futures::FutureExt;

use super::{SystemTable, column};
use crate::query::sandbox::TABLE_FUNCTIONS;

pub(super) const TABLE: SystemTable = SystemTable {
    name: "functions",
    columns,
    rows: |_, session, schema| {
        let functions = all(session);
        async move {
            let text = |part: fn(&Function) -> Option<&str>| -> ArrayRef {
                Arc::new(functions.iter().map(part).collect::<StringArray>())
            };
            let columns = vec![
                text(|function| Some(&function.name)),
                text(|function| Some(function.kind)),
                text(|function| function.alias_of.as_deref()),
                text(|function| function.syntax.as_deref()),
                text(|function| function.description.as_deref()),
            ];
            Ok(RecordBatch::try_new(schema, columns)?)
        }
        .boxed()
    },
};

fn columns() -> Vec<Field> {
    vec![
        column("name", DataType::Utf8, "name that a query calls"),
        column("kind", DataType::Utf8, "scalar, aggregate, window or table"),
        column("alias_of", DataType::Utf8, "the function's own name, where this one is an alias"),
        column("syntax", DataType::Utf8, "how it is called"),
        column("description", DataType::Utf8, "what it gives"),
    ]
}

struct Function {
    name: String,
    kind: &'static str,
    alias_of: Option<String>,
    syntax: Option<String>,
    description: Option<String>,
}

impl Function {
    fn new(name: &str, own_name: &str, kind: &'static str, documentation: Option<&Documentation>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            alias_of: (name != own_name).then(|| own_name.to_owned()),
            syntax: documentation.map(|text| text.syntax_example.clone()),
            description: documentation.map(|text| text.description.clone()),
        }
    }
}

/// All functions by name.
fn all(session: &dyn Session) -> Vec<Function> {
    let scalar = session.scalar_functions().iter();
    let scalar = scalar.map(|(name, found)| Function::new(name, found.name(), "scalar", found.documentation()));
    let aggregate = session.aggregate_functions().iter();
    let aggregate =
        aggregate.map(|(name, found)| Function::new(name, found.name(), "aggregate", found.documentation()));
    let window = session.window_functions().iter();
    let window = window.map(|(name, found)| Function::new(name, found.name(), "window", found.documentation()));
    let table = TABLE_FUNCTIONS.iter().map(|function| Function {
        name: function.name.to_owned(),
        kind: "table",
        alias_of: None,
        syntax: Some(function.syntax.to_owned()),
        description: Some(function.description.to_owned()),
    });
    let mut functions: Vec<Function> = scalar.chain(aggregate).chain(window).chain(table).collect();
    functions.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
    functions
}
