//! Ids are compared, joined and grouped as they are stored, whatever form a query sees them in.
//!
//! The views show ids as text. Text is twice the bytes, has to be written first, and is hashed as bytes of any length. So
//! where a plan only asks whether ids are equal, it asks their bytes:
//!
//! | in the plan | rule |
//! |---|---|
//! | comparisons with text, lists of text | [`IdComparisons`](crate::functions::IdComparisons) |
//! | keys of joins | [`JOINED_IDS`] |
//! | keys of groups, `count(DISTINCT id)` | [`GROUPED_IDS`] |
//!
//! Text is made of the rows that are left, if anybody asks for it.

mod grouped;
mod joined;

use std::sync::Arc;

use datafusion::{
    common::{Column, Result, alias::AliasGenerator},
    logical_expr::{
        Expr, ExprSchemable, Filter, Join, JoinType, Limit, LogicalPlan, Projection, Sort, SubqueryAlias,
        expr::ScalarFunction,
    },
};

pub(crate) use self::{grouped::GROUPED_IDS, joined::JOINED_IDS};
use crate::functions::{IdFunction, IdNumber};

/// What stands for an id.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// The id itself.
    Bytes,
    /// Its number ([`IdNumber`]).
    Number,
}

impl Form {
    fn of(self, id: &Expr, plan: &LogicalPlan) -> Result<Option<Expr>> {
        match self {
            Self::Bytes => Ok(Some(id.clone())),
            Self::Number => Ok(IdNumber::of_id(id.clone(), &id.get_type(plan.schema())?)),
        }
    }
}

/// The plan with one more column, the id behind `text` in a form, where that column is the text of an id all the way down.
fn with_id(
    plan: &LogicalPlan,
    text: &Column,
    form: Form,
    names: &AliasGenerator,
) -> Result<Option<(LogicalPlan, Column)>> {
    let Some(index) = plan.schema().maybe_index_of_column(text) else { return Ok(None) };
    Ok(match plan {
        LogicalPlan::Projection(projection) => {
            let mut columns = projection.expr.clone();
            let shown = projection.expr[index].clone().unalias();
            if let Some(id) = id_of(&shown) {
                let Some(id) = form.of(id, &projection.input)? else { return Ok(None) };
                let name = names.next("__id");
                columns.push(id.alias(name.as_str()));
                let plan = Projection::try_new(columns, Arc::clone(&projection.input))?;
                return Ok(Some((LogicalPlan::Projection(plan), Column::new_unqualified(name))));
            }
            let Expr::Column(below) = &shown else { return Ok(None) };
            let Some((input, id)) = with_id(&projection.input, below, form, names)? else { return Ok(None) };
            columns.push(Expr::Column(id.clone()));
            Some((LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?), id))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = Column::from(alias.input.schema().qualified_field(index));
            let Some((input, id)) = with_id(&alias.input, &below, form, names)? else { return Ok(None) };
            let id = Column::new(Some(alias.alias.clone()), id.name);
            Some((LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?), id))
        }
        LogicalPlan::Filter(filter) => {
            let Some((input, id)) = with_id(&filter.input, text, form, names)? else { return Ok(None) };
            Some((LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?), id))
        }
        LogicalPlan::Sort(sort) => with_id(&sort.input, text, form, names)?
            .map(|(input, id)| (LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort.clone() }), id)),
        LogicalPlan::Limit(limit) => with_id(&limit.input, text, form, names)?
            .map(|(input, id)| (LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit.clone() }), id)),
        // Columns of both sides come out of these, and with their values.
        LogicalPlan::Join(join)
            if matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) =>
        {
            let (mut left, mut right) = (Arc::clone(&join.left), Arc::clone(&join.right));
            let is_left = left.schema().has_column(text);
            let side = if is_left { &mut left } else { &mut right };
            let Some((input, id)) = with_id(side, text, form, names)? else { return Ok(None) };
            *side = Arc::new(input);
            Some((rejoined(join, left, right, join.on.clone())?, id))
        }
        _ => None,
    })
}

/// The `x` of `id_hex(x)`.
fn id_of(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    func.inner().downcast_ref::<IdFunction>().filter(|function| function.is_id_hex())?;
    args.first()
}

/// The join with other inputs and keys.
pub(crate) fn rejoined(
    join: &Join,
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    on: Vec<(Expr, Expr)>,
) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Join(Join::try_new(
        left,
        right,
        on,
        join.filter.clone(),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?))
}
