//! Names of attributes by scope.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::TableProvider,
    common::Result,
    logical_expr::{LogicalPlan, LogicalPlanBuilder, col},
};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};

use super::{asked, call, maps, text};
use crate::{model::attributes::AttributeScope, query::request::TagNamesQuery};

/// Column of the scope: `resource`, `instrumentation`, `span`, `event` or `link`.
const SCOPE: &str = "scope";
/// Column of the name.
const NAME: &str = "name";

/// The columns of an answer.
pub(crate) fn answer_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(SCOPE, DataType::Utf8, false), Field::new(NAME, DataType::Utf8, true)]))
}

/// The plan that reads the spans: keys of those that match, in the order of answers.
pub(crate) fn plan(
    query: &TagNamesQuery,
    scopes: &[AttributeScope],
    extent_nano: i64,
    base: &Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let mut union: Option<LogicalPlanBuilder> = None;
    for scope in scopes {
        let names = of_scope(*scope, asked(query.range, query.filter.as_deref(), extent_nano, base)?)?;
        union = Some(match union {
            Some(union) => union.union(names.build()?)?,
            None => names,
        });
    }
    match union {
        Some(union) => union.build(),
        None => LogicalPlanBuilder::empty(false).build(),
    }
}

fn of_scope(scope: AttributeScope, spans: LogicalPlanBuilder) -> Result<LogicalPlanBuilder> {
    let (rows, map) = maps(spans, scope)?;
    rows.project([call("attr_keys", vec![map])?.alias(NAME)])?
        .unnest_column(NAME)?
        .filter(col(NAME).is_not_null())?
        .distinct()?
        .project([text(scope.prefix()).alias(SCOPE), col(NAME)])
}

/// Names, each with the prefix of its scope, in the order of answers.
pub(crate) type Names = BTreeSet<(String, String)>;

/// The way from the plan's rows to the answer's.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// What is known besides those rows.
    pub(super) listed: Names,
}

impl Shape {
    /// The answer's batch for the batches of the plan.
    pub(crate) fn apply<'a>(
        self,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'a,
    ) -> BoxStream<'a, Result<RecordBatch>> {
        futures::stream::once(async move {
            let names = batches.try_fold(self.listed, async |mut names, batch| {
                names.extend(names_of(&batch));
                Ok(names)
            });
            let (scopes, names): (Vec<String>, Vec<String>) = names.await?.into_iter().unzip();
            let columns: [ArrayRef; 2] = [Arc::new(StringArray::from(scopes)), Arc::new(StringArray::from(names))];
            Ok(RecordBatch::try_new(answer_schema(), columns.to_vec())?)
        })
        .boxed()
    }
}

fn names_of(batch: &RecordBatch) -> Vec<(String, String)> {
    let column = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    match (column(SCOPE), column(NAME)) {
        (Some(scopes), Some(names)) => {
            let pairs = scopes.iter().zip(names);
            pairs.filter_map(|(scope, name)| Some((scope?.to_owned(), name?.to_owned()))).collect()
        }
        _ => Vec::new(),
    }
}
