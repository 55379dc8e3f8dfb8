//! Rows are grouped by keys in place of stored text ([`TextKey`]).
//!
//! ```text
//!  Aggregate: by service_name, status_code, date_bin(..)       Projection: key_text(__key_1, 0) AS service_name, ...
//!    Projection: attr_str(..) AS service_name, ..        ->      Aggregate: by __key_1, date_bin(..)
//!                                                                  Projection: text_key(attr_str(..), status_code) AS __key_1, ..
//! ```
//!
//! The scan makes the keys, and reads text as the dictionaries and codes that files hold for it
//! (`storage::parquet_source`), so that no text is written out but that of the groups. For that a key is a column of
//! the lowest projection: as a part of the aggregate it would stay above what is computed beside it, such as a bucket of time.
//! Text that is computed or comes out of a map has no dictionary, so it stays as it is.
//!
//! Both sides of an inner join have keys of their own. Rows that an outer join makes up have no key, which is not the key of
//! texts that are NULL, so the side that it makes them up for has none.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::DataType,
    common::{Column, Result, alias::AliasGenerator, tree_node::Transformed},
    datasource::source_as_provider,
    logical_expr::{
        Aggregate, Expr, ExprSchemable, Filter, JoinType, LogicalPlan, Projection, SubqueryAlias, expr::ScalarFunction,
    },
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use crate::{
    functions::{AttrFunction, AttrGet, TEXTS_MAX, TextKey, TextOfKey},
    model::{
        attributes::{AttributeScope, AttributeType},
        promotion::PromotedAttribute,
    },
    query::{SpansTable, ids::rejoined, session::BASE_TABLE},
};

/// Replaces stored text that groups rows by keys.
#[derive(Debug)]
pub(crate) struct GroupedText;

impl OptimizerRule for GroupedText {
    fn name(&self) -> &str {
        "grouped_text"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        Ok(match by_keys(aggregate, config.alias_generator())? {
            Some(rewritten) => Transformed::yes(rewritten),
            None => Transformed::no(plan),
        })
    }
}

/// A text that rows are grouped by.
#[derive(Clone, Debug)]
struct Text {
    /// Its place among the keys of the aggregate.
    place: usize,
    /// What it is over the columns of the plan that is looked at.
    expr: Expr,
}

/// Where a column of the aggregate comes from.
#[derive(Clone, Debug)]
struct Source {
    /// The column of the rewritten aggregate.
    column: usize,
    /// What gives the text back, and its position in the key, if that column is a key.
    text: Option<(Arc<TextOfKey>, usize)>,
}

/// A column of keys that was added to a plan, and the places of the texts in it.
struct Key {
    column: Column,
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
    let (input, keys) = with_keys(&aggregate.input, &texts, names)?;
    if keys.is_empty() {
        return Ok(None);
    }
    let mut grouped_by = Vec::new();
    let mut sources = vec![None; aggregate.group_expr.len()];
    for key in keys {
        for (position, place) in key.places.into_iter().enumerate() {
            sources[place] = Some(Source { column: grouped_by.len(), text: Some((Arc::clone(&key.texts), position)) });
        }
        grouped_by.push(Expr::Column(key.column));
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

/// The plan with columns of keys for those texts that it has from stored spans.
fn with_keys(plan: &LogicalPlan, texts: &[Text], names: &AliasGenerator) -> Result<(LogicalPlan, Vec<Key>)> {
    if texts.is_empty() {
        return Ok((plan.clone(), Vec::new()));
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let mut below = texts_below(texts, |column| {
                let index = plan.schema().maybe_index_of_column(column)?;
                Some(projection.expr[index].clone().unalias())
            });
            let mut columns = projection.expr.clone();
            if let Some(base) = base_of(&projection.input) {
                below.retain(|text| base.has_as_codes(&text.expr));
                let keys = keys_of(&below, names);
                columns.extend(keys.iter().map(|(key, expr)| expr.clone().alias(&key.column.name)));
                let plan = Projection::try_new(columns, Arc::clone(&projection.input))?;
                return Ok((LogicalPlan::Projection(plan), keys.into_iter().map(|(key, _)| key).collect()));
            }
            let (input, keys) = with_keys(&projection.input, &below, names)?;
            if keys.is_empty() {
                return Ok((plan.clone(), keys));
            }
            columns.extend(keys.iter().map(|key| Expr::Column(key.column.clone())));
            Ok((LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?), keys))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = texts_below(texts, |column| {
                let index = plan.schema().maybe_index_of_column(column)?;
                Some(Expr::Column(Column::from(alias.input.schema().qualified_field(index))))
            });
            let (input, mut keys) = with_keys(&alias.input, &below, names)?;
            for key in &mut keys {
                key.column.relation = Some(alias.alias.clone());
            }
            Ok((LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?), keys))
        }
        LogicalPlan::Filter(filter) => {
            let (input, keys) = with_keys(&filter.input, texts, names)?;
            Ok((LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?), keys))
        }
        LogicalPlan::Join(join) => {
            let keeps = |sides: &[JoinType]| sides.contains(&join.join_type);
            let of_side = |side: &LogicalPlan, is_kept: bool| -> Vec<Text> {
                let is_of_side = |text: &&Text| {
                    is_kept && text.expr.column_refs().iter().all(|column| side.schema().has_column(column))
                };
                texts.iter().filter(is_of_side).cloned().collect()
            };
            let left = of_side(&join.left, keeps(&[JoinType::Inner, JoinType::Left]));
            let right = of_side(&join.right, keeps(&[JoinType::Inner, JoinType::Right]));
            let (left, mut keys) = with_keys(&join.left, &left, names)?;
            let (right, of_right) = with_keys(&join.right, &right, names)?;
            keys.extend(of_right);
            if keys.is_empty() {
                return Ok((plan.clone(), keys));
            }
            Ok((rejoined(join, Arc::new(left), Arc::new(right), join.on.clone())?, keys))
        }
        _ => Ok((plan.clone(), Vec::new())),
    }
}

/// The table of stored spans that a plan reads, if it only leaves some of them out.
fn base_of(plan: &LogicalPlan) -> Option<Base> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == BASE_TABLE => {
            let provider = source_as_provider(&scan.source).ok()?;
            let spans = SpansTable::of(provider.as_ref());
            Some(Base { promoted: spans.map(SpansTable::promoted) })
        }
        LogicalPlan::Filter(filter) => base_of(&filter.input),
        _ => None,
    }
}

/// The stored spans.
struct Base {
    /// Attributes with columns of their own, where that is known.
    promoted: Option<Vec<PromotedAttribute>>,
}

impl Base {
    /// Whether files can have the text as codes: it is a column, or an attribute with one. A map has text.
    fn has_as_codes(&self, text: &Expr) -> bool {
        let Some(promoted) = &self.promoted else { return true };
        let Expr::ScalarFunction(ScalarFunction { args, .. }) = text else { return true };
        let [Expr::Column(map), Expr::Literal(key, _)] = args.as_slice() else { return false };
        let (scope, key) = (AttributeScope::of_map_column(&map.name), key.try_as_str().flatten());
        let is_it = |attribute: &PromotedAttribute| {
            Some(attribute.scope) == scope && Some(&*attribute.key) == key && attribute.value_type == AttributeType::Str
        };
        promoted.iter().any(is_it)
    }
}

/// What the texts are over the columns of the plan below: a column, or an attribute. Others are left out.
fn texts_below(texts: &[Text], column_below: impl Fn(&Column) -> Option<Expr>) -> Vec<Text> {
    let below = |text: &Text| {
        let expr = match &text.expr {
            Expr::Column(column) => column_below(column)?,
            Expr::ScalarFunction(ScalarFunction { func, args }) => {
                let [Expr::Column(map), key] = args.as_slice() else { return None };
                let args = vec![column_below(map)?, key.clone()];
                Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(func), args))
            }
            _ => return None,
        };
        is_stored_text(&expr).then_some(Text { place: text.place, expr })
    };
    texts.iter().filter_map(below).collect()
}

fn is_stored_text(text: &Expr) -> bool {
    match text {
        Expr::Column(_) => true,
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let get = func.inner().downcast_ref::<AttrGet>().map(AttrGet::function);
            let is_text = matches!(get, Some(AttrFunction::Str | AttrFunction::Text));
            is_text && matches!(args.as_slice(), [Expr::Column(_), Expr::Literal(..)])
        }
        _ => false,
    }
}

/// Keys for texts of stored spans, and how they are made.
fn keys_of(texts: &[Text], names: &AliasGenerator) -> Vec<(Key, Expr)> {
    let key = |texts: &[Text]| {
        let (expr, back) = TextKey::of(texts.iter().map(|text| text.expr.clone()).collect());
        let column = Column::new_unqualified(names.next("__key"));
        let places = texts.iter().map(|text| text.place).collect();
        (Key { column, places, texts: Arc::new(back) }, expr)
    };
    texts.chunks(TEXTS_MAX).map(key).collect()
}
