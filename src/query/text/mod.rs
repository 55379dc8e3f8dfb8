//! Stored text is looked at where files are read, as codes, in place of being written out for the operators above.
//!
//! What an aggregate wants of a text becomes a column of the lowest projection, over the base table: a key to group by
//! ([`GROUPED_TEXT`]), or the verdict of a comparison ([`COMPARED_TEXT`]). As a part of the aggregate it would stay above what is
//! computed beside it, such as a bucket of time, and with it the text. Text that is computed or comes out of a map has no
//! dictionary, so it stays as it is.

mod compared;
mod grouped;

use std::sync::Arc;

use datafusion::{
    common::{Column, Result},
    datasource::source_as_provider,
    logical_expr::{Expr, Filter, JoinType, LogicalPlan, Projection, SubqueryAlias, expr::ScalarFunction},
};

pub(crate) use self::{compared::COMPARED_TEXT, grouped::GROUPED_TEXT};
use crate::{
    functions::{AttrFunction, AttrGet},
    model::{
        attributes::{AttributeScope, AttributeType},
        promotion::PromotedAttribute,
    },
    query::{SpansTable, ids::rejoined, session::BASE_TABLE},
};

/// A text that something is wanted of.
#[derive(Clone, Debug)]
struct Text {
    /// Which of those that are wanted it is.
    place: usize,
    /// What it is over the columns of the plan that is looked at.
    expr: Expr,
}

/// A column that was added to a plan, and what it is for.
struct Added<T> {
    column: Column,
    is_for: T,
}

/// The plan with columns that are made of those of the texts that it has from stored spans.
fn with_columns<T>(
    plan: &LogicalPlan,
    texts: &[Text],
    make: &impl Fn(&[Text]) -> Vec<(Added<T>, Expr)>,
) -> Result<(LogicalPlan, Vec<Added<T>>)> {
    if texts.is_empty() {
        return Ok((plan.clone(), Vec::new()));
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let mut below = texts_below(texts, |column| {
                let index = plan.schema().maybe_index_of_column(column)?;
                Some(projection.expr[index].clone().unalias())
            });
            let columns = projection.expr.clone();
            if let Some(base) = base_of(&projection.input) {
                below.retain(|text| base.has_as_codes(&text.expr));
                return extended(columns, &projection.input, make(&below));
            }
            let (input, added) = with_columns(&projection.input, &below, make)?;
            if added.is_empty() {
                return Ok((plan.clone(), added));
            }
            let added_columns = added.iter().map(|added| Expr::Column(added.column.clone()));
            let columns = columns.into_iter().chain(added_columns).collect();
            Ok((LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?), added))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = texts_below(texts, |column| {
                let index = plan.schema().maybe_index_of_column(column)?;
                Some(Expr::Column(Column::from(alias.input.schema().qualified_field(index))))
            });
            let (input, mut added) = with_columns(&alias.input, &below, make)?;
            for added in &mut added {
                added.column.relation = Some(alias.alias.clone());
            }
            Ok((LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?), added))
        }
        LogicalPlan::Filter(filter) if base_of(plan).is_none() => {
            let (input, added) = with_columns(&filter.input, texts, make)?;
            Ok((LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?), added))
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
            let (left, mut added) = with_columns(&join.left, &left, make)?;
            let (right, of_right) = with_columns(&join.right, &right, make)?;
            added.extend(of_right);
            if added.is_empty() {
                return Ok((plan.clone(), added));
            }
            Ok((rejoined(join, Arc::new(left), Arc::new(right), join.on.clone())?, added))
        }
        _ => {
            let Some(base) = base_of(plan) else { return Ok((plan.clone(), Vec::new())) };
            let mut texts = texts_below(texts, |column| Some(Expr::Column(column.clone())));
            texts.retain(|text| base.has_as_codes(&text.expr));
            let columns = plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
            extended(columns, plan, make(&texts))
        }
    }
}

/// The columns over a plan, and some more.
fn extended<T>(
    mut columns: Vec<Expr>,
    input: &LogicalPlan,
    more: Vec<(Added<T>, Expr)>,
) -> Result<(LogicalPlan, Vec<Added<T>>)> {
    columns.extend(more.iter().map(|(added, expr)| expr.clone().alias(&added.column.name)));
    let plan = Projection::try_new(columns, Arc::new(input.clone()))?;
    Ok((LogicalPlan::Projection(plan), more.into_iter().map(|(added, _)| added).collect()))
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
