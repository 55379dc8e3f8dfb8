//! `span_attributes['key']` in SQL.

use datafusion::{
    common::{DFSchema, Result},
    logical_expr::{
        Expr, ExprSchemable, GetFieldAccess, lit,
        planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr},
    },
};

use crate::{functions, functions::AttrFunction, model::attributes::is_attribute_map};

/// Plans a subscript of an attribute map as `attr_text`; anything else is left to the next planner.
#[derive(Debug)]
pub struct AttributeSubscripts;

impl ExprPlanner for AttributeSubscripts {
    fn plan_field_access(
        &self,
        raw: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        if !is_attribute_map(&raw.expr.get_type(schema)?) {
            return Ok(PlannerResult::Original(raw));
        }
        let key = match &raw.field_access {
            GetFieldAccess::NamedStructField { name } => lit(name.clone()),
            GetFieldAccess::ListIndex { key } => Expr::clone(key),
            GetFieldAccess::ListRange { .. } => return Ok(PlannerResult::Original(raw)),
        };
        match functions::scalar_function(AttrFunction::Text.name()) {
            Some(attr_text) => Ok(PlannerResult::Planned(attr_text.call(vec![raw.expr, key]))),
            None => Ok(PlannerResult::Original(raw)),
        }
    }
}
