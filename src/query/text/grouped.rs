//! Rows are grouped by keys in place of stored text ([`TextKey`]).
//!
//! ```text
//!  Aggregate: by service_name, status_code, date_bin(..)       Projection: key_text(__key_1, 0) AS service_name, ...
//!    Projection: attr_str(..) AS service_name, ..        ->      Aggregate: by __key_1, date_bin(..)
//!                                                                  Projection: text_key(attr_str(..), status_code) AS __key_1, ..
//! ```
//!
//! The scan makes the keys, and reads text as the dictionaries and codes that files hold for it
//! (`storage::scan::parquet_source`), so that no text is written out but that of the groups.
//!
//! Both sides of an inner join have keys of their own. Rows that an outer join makes up have no key, which is not the key of
//! texts that are NULL, so the side that it makes them up for has none.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::{Column, Result, alias::AliasGenerator},
    logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection},
};

use super::{Added, Text, with_columns};
use crate::{
    functions::{TEXTS_MAX, TextKey, TextOfKey},
    query::rewriting::Rewriting,
};

/// Replaces stored text that groups rows by keys.
pub(crate) const GROUPED_TEXT: Rewriting = Rewriting {
    name: "grouped_text",
    rewrite: |plan, names| match plan {
        LogicalPlan::Aggregate(aggregate) => by_keys(aggregate, names),
        _ => Ok(None),
    },
};

/// Where a column of the aggregate comes from.
#[derive(Clone, Debug)]
struct Source {
    /// The column of the rewritten aggregate.
    column: usize,
    /// What gives the text back, and its position in the key, if that column is a key.
    text: Option<(Arc<TextOfKey>, usize)>,
}

/// The places of the texts in a key, and what gives them back.
struct Key {
    places: Vec<usize>,
    texts: Arc<TextOfKey>,
}

fn by_keys(aggregate: &Aggregate, names: &AliasGenerator) -> Result<Option<LogicalPlan>> {
    let mut texts = Vec::new();
    for (place, key) in aggregate.group_expr.iter().enumerate() {
        // Grouping sets put NULL in place of keys that they leave out, and refer to keys by what they are.
        if matches!(key, Expr::GroupingSet(_)) {
            return Ok(None);
        }
        if key.get_type(aggregate.input.schema())? == DataType::Utf8 {
            texts.push(Text { place, expr: key.clone().unalias() });
        }
    }
    let (input, keys) = with_columns(&aggregate.input, &texts, &|texts| keys_of(texts, names))?;
    if keys.is_empty() {
        return Ok(None);
    }
    let mut grouped_by = Vec::new();
    let mut sources = vec![None; aggregate.group_expr.len()];
    for Added { column, is_for: key } in keys {
        for (position, place) in key.places.into_iter().enumerate() {
            sources[place] = Some(Source { column: grouped_by.len(), text: Some((Arc::clone(&key.texts), position)) });
        }
        grouped_by.push(Expr::Column(column));
    }
    for (source, key) in sources.iter_mut().zip(&aggregate.group_expr).filter(|(source, _)| source.is_none()) {
        *source = Some(Source { column: grouped_by.len(), text: None });
        grouped_by.push(key.clone());
    }
    let aggregates = grouped_by.len()..grouped_by.len() + aggregate.aggr_expr.len();
    let sources = sources.into_iter().flatten().chain(aggregates.map(|column| Source { column, text: None }));
    let grouped = Aggregate::try_new(Arc::new(input), grouped_by, aggregate.aggr_expr.clone())?;
    let shown = aggregate.schema.iter().zip(sources).map(|((qualifier, was), source)| {
        let column = Expr::Column(Column::from(grouped.schema.qualified_field(source.column)));
        match source.text {
            Some((texts, position)) => texts.text(column, position).alias_qualified(qualifier.cloned(), was.name()),
            None => column,
        }
    });
    let shown = shown.collect();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(LogicalPlan::Aggregate(grouped)))?)))
}

/// Keys for texts of stored spans, and how they are made.
fn keys_of(texts: &[Text], names: &AliasGenerator) -> Vec<(Added<Key>, Expr)> {
    let key = |texts: &[Text]| {
        let (expr, back) = TextKey::of(texts.iter().map(|text| text.expr.clone()).collect());
        let column = Column::new_unqualified(names.next("__key"));
        let places = texts.iter().map(|text| text.place).collect();
        (Added { column, is_for: Key { places, texts: Arc::new(back) } }, expr)
    };
    texts.chunks(TEXTS_MAX).map(key).collect()
}
