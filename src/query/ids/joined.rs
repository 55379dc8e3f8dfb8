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
    common::{Column, Result, alias::AliasGenerator},
    logical_expr::{Expr, Join, LogicalPlan, Projection},
};

use super::{Form, rejoined, with_id};
use crate::query::rewriting::Rewriting;

/// Replaces keys of joins that are the text of ids by the ids.
pub(crate) const JOINED_IDS: Rewriting = Rewriting {
    name: "joined_ids",
    rewrite: |plan, names| match plan {
        LogicalPlan::Join(join) => by_bytes(join, names),
        _ => Ok(None),
    },
};

fn by_bytes(join: &Join, names: &AliasGenerator) -> Result<Option<LogicalPlan>> {
    let (mut left, mut right) = (Arc::clone(&join.left), Arc::clone(&join.right));
    let mut on = join.on.clone();
    let mut is_changed = false;
    for (left_key, right_key) in &mut on {
        let (Expr::Column(left_text), Expr::Column(right_text)) = (&*left_key, &*right_key) else { continue };
        let Some((with_left, left_id)) = with_id(&left, left_text, Form::Bytes, names)? else { continue };
        let Some((with_right, right_id)) = with_id(&right, right_text, Form::Bytes, names)? else { continue };
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
