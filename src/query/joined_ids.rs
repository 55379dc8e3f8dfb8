//! Spans join by the bytes of their ids.
//!
//! The views show ids as text. A join of two views on `trace_id` would write out the text of every id on both sides, and
//! hash twice the bytes. So where both keys of a join are the text of ids, the ids themselves are brought up to the join
//! and compared instead, and the text is made of the rows that are left, if anybody asks for it:
//!
//! ```text
//!  Join: a.trace_id = b.trace_id                       Projection: a.*, b.* as before
//!    SubqueryAlias: a                                    Join: a.__id_1 = b.__id_2
//!      Projection: id_hex(trace_id) AS trace_id            SubqueryAlias: a
//!    SubqueryAlias: b                              ->        Projection: id_hex(trace_id) AS trace_id, trace_id AS __id_1
//!      ...                                                   ...
//! ```
//!
//! What the join learns of one side can then also prune files of the other side, which have no text of ids.

use std::sync::Arc;

use datafusion::{
    common::{Column, Result, alias::AliasGenerator, tree_node::Transformed},
    logical_expr::{
        Expr, Filter, Join, JoinType, Limit, LogicalPlan, Projection, Sort, SubqueryAlias, expr::ScalarFunction,
    },
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use crate::functions::IdFunction;

/// Replaces keys of joins that are the text of ids by the ids.
#[derive(Debug)]
pub(crate) struct JoinedIds;

impl OptimizerRule for JoinedIds {
    fn name(&self) -> &str {
        "joined_ids"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
        Ok(match by_bytes(join, config.alias_generator())? {
            Some(rewritten) => Transformed::yes(rewritten),
            None => Transformed::no(plan),
        })
    }
}

fn by_bytes(join: &Join, names: &AliasGenerator) -> Result<Option<LogicalPlan>> {
    let (mut left, mut right) = (Arc::clone(&join.left), Arc::clone(&join.right));
    let mut on = join.on.clone();
    let mut is_changed = false;
    for (left_key, right_key) in &mut on {
        let (Expr::Column(left_text), Expr::Column(right_text)) = (&*left_key, &*right_key) else { continue };
        let Some((with_left, left_id)) = with_bytes(&left, left_text, names)? else { continue };
        let Some((with_right, right_id)) = with_bytes(&right, right_text, names)? else { continue };
        let type_in = |plan: &LogicalPlan, id: &Column| {
            plan.schema().qualified_field_from_column(id).map(|(_, field)| field.data_type().clone())
        };
        if type_in(&with_left, &left_id)? != type_in(&with_right, &right_id)? {
            continue;
        }
        (left, right) = (Arc::new(with_left), Arc::new(with_right));
        (*left_key, *right_key) = (Expr::Column(left_id), Expr::Column(right_id));
        is_changed = true;
    }
    if !is_changed {
        return Ok(None);
    }
    let columns = join.schema.columns().into_iter().map(Expr::Column).collect();
    let joined = rejoined(join, left, right, on)?;
    Ok(Some(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined))?)))
}

fn rejoined(
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

/// The plan with one more column, the id behind `text`, where that column is the text of an id all the way down.
fn with_bytes(plan: &LogicalPlan, text: &Column, names: &AliasGenerator) -> Result<Option<(LogicalPlan, Column)>> {
    let Some(index) = plan.schema().maybe_index_of_column(text) else { return Ok(None) };
    Ok(match plan {
        LogicalPlan::Projection(projection) => {
            let mut columns = projection.expr.clone();
            let shown = projection.expr[index].clone().unalias();
            if let Some(id) = id_of(&shown) {
                let name = names.next("__id");
                columns.push(id.clone().alias(name.as_str()));
                let plan = Projection::try_new(columns, Arc::clone(&projection.input))?;
                return Ok(Some((LogicalPlan::Projection(plan), Column::new_unqualified(name))));
            }
            let Expr::Column(below) = &shown else { return Ok(None) };
            let Some((input, id)) = with_bytes(&projection.input, below, names)? else { return Ok(None) };
            columns.push(Expr::Column(id.clone()));
            Some((LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?), id))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = Column::from(alias.input.schema().qualified_field(index));
            let Some((input, id)) = with_bytes(&alias.input, &below, names)? else { return Ok(None) };
            let id = Column::new(Some(alias.alias.clone()), id.name);
            Some((LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?), id))
        }
        LogicalPlan::Filter(filter) => {
            let Some((input, id)) = with_bytes(&filter.input, text, names)? else { return Ok(None) };
            Some((LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?), id))
        }
        LogicalPlan::Sort(sort) => with_bytes(&sort.input, text, names)?
            .map(|(input, id)| (LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort.clone() }), id)),
        LogicalPlan::Limit(limit) => with_bytes(&limit.input, text, names)?
            .map(|(input, id)| (LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit.clone() }), id)),
        // Columns of both sides come out of these, and with their values.
        LogicalPlan::Join(join)
            if matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) =>
        {
            let (mut left, mut right) = (Arc::clone(&join.left), Arc::clone(&join.right));
            let is_left = left.schema().has_column(text);
            let side = if is_left { &mut left } else { &mut right };
            let Some((input, id)) = with_bytes(side, text, names)? else { return Ok(None) };
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
