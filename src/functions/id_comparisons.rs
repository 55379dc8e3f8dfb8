//! Comparisons of ids as text become comparisons of their bytes.

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator,
        expr::{InList, ScalarFunction},
        lit,
        utils::merge_schema,
    },
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use crate::functions::IdFunction;

/// Rewrites `id_hex(x) = 'text'`, `<>`, `IN` and `id_hex(x) = id_hex(y)` to the same on the bytes of `x` and `y`.
///
/// Only the text that `id_hex` gives can be equal: lower-case hex of the right length. Any other text is equal to no id,
/// which is how text compares in SQL.
#[derive(Debug)]
pub struct IdComparisons;

impl OptimizerRule for IdComparisons {
    fn name(&self) -> &str {
        "id_comparisons"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let schema = match &plan {
            LogicalPlan::TableScan(scan) => {
                if scan.filters.is_empty() {
                    return Ok(Transformed::no(plan));
                }
                DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
            }
            _ => merge_schema(&plan.inputs()),
        };
        if let LogicalPlan::Join(mut join) = plan {
            let mut changed = false;
            for (left, right) in &mut join.on {
                if let (Some(a), Some(b)) = (id_in_hex(left), id_in_hex(right))
                    && a.get_type(&schema)? == b.get_type(&schema)?
                {
                    (*left, *right) = (a.clone(), b.clone());
                    changed = true;
                }
            }
            let plan = LogicalPlan::Join(join);
            return plan
                .map_expressions(|expr| rewrite_all(expr, &schema))?
                .transform_data(|plan| Ok(Transformed::new_transformed(plan, changed)));
        }
        plan.map_expressions(|expr| rewrite_all(expr, &schema))
    }
}

fn rewrite_all(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| match rewrite_one(&expr, schema)? {
        Some(rewritten) => Ok(Transformed::yes(rewritten)),
        None => Ok(Transformed::no(expr)),
    })
}

fn rewrite_one(expr: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Eq | Operator::NotEq), right }) => {
            match (id_in_hex(left), id_in_hex(right)) {
                (Some(a), Some(b)) if a.get_type(schema)? == b.get_type(schema)? => {
                    Ok(Some(compare(a.clone(), *op, b.clone())))
                }
                (Some(id), None) => compare_literal(id, *op, right, schema),
                (None, Some(id)) => compare_literal(id, *op, left, schema),
                _ => Ok(None),
            }
        }
        Expr::InList(InList { expr, list, negated }) => match id_in_hex(expr) {
            Some(id) => in_list(id, list, *negated, schema),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

fn compare(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// The `x` of `id_hex(x)`.
fn id_in_hex(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    match args.as_slice() {
        [id] if func.inner().downcast_ref::<IdFunction>().is_some_and(IdFunction::is_id_hex) => Some(id),
        _ => None,
    }
}

/// What a text literal means as an id of `len` bytes.
enum Literal {
    Id(ScalarValue),
    Null(ScalarValue),
    NoId,
}

fn literal(expr: &Expr, len: i32) -> Option<Literal> {
    let Expr::Literal(value, _) = expr else { return None };
    let text = value.try_as_str()?;
    let Some(text) = text else { return Some(Literal::Null(ScalarValue::FixedSizeBinary(len, None))) };
    let canonical = text.len() == 2 * len as usize && !text.bytes().any(|b| b.is_ascii_uppercase());
    match hex::decode(text) {
        Ok(bytes) if canonical => Some(Literal::Id(ScalarValue::FixedSizeBinary(len, Some(bytes)))),
        _ => Some(Literal::NoId),
    }
}

fn id_len(id: &Expr, schema: &DFSchema) -> Result<Option<i32>> {
    match id.get_type(schema)? {
        DataType::FixedSizeBinary(len) => Ok(Some(len)),
        _ => Ok(None),
    }
}

/// `answer` where the id is not NULL, else NULL.
fn constant(id: &Expr, answer: bool, schema: &DFSchema) -> Result<Expr> {
    if !id.nullable(schema)? {
        return Ok(lit(answer));
    }
    let unknown = lit(ScalarValue::Boolean(None));
    Ok(match answer {
        true => id.clone().is_not_null().or(unknown),
        false => id.clone().is_null().and(unknown),
    })
}

fn compare_literal(id: &Expr, op: Operator, text: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let Some(len) = id_len(id, schema)? else { return Ok(None) };
    Ok(match literal(text, len) {
        Some(Literal::Id(value) | Literal::Null(value)) => Some(compare(id.clone(), op, lit(value))),
        Some(Literal::NoId) => Some(constant(id, op == Operator::NotEq, schema)?),
        None => None,
    })
}

fn in_list(id: &Expr, list: &[Expr], negated: bool, schema: &DFSchema) -> Result<Option<Expr>> {
    let Some(len) = id_len(id, schema)? else { return Ok(None) };
    let mut ids = Vec::with_capacity(list.len());
    for item in list {
        match literal(item, len) {
            Some(Literal::Id(value) | Literal::Null(value)) => ids.push(lit(value)),
            Some(Literal::NoId) => {}
            None => return Ok(None),
        }
    }
    if ids.is_empty() {
        return constant(id, negated, schema).map(Some);
    }
    Ok(Some(Expr::InList(InList::new(Box::new(id.clone()), ids, negated))))
}
