//! Reading the names of promoted columns.

use arrow::datatypes::Field;

use crate::model::{
    attributes::{AttributeScope, AttributeType},
    promotion::PromotedAttribute,
    schema::column,
};

/// The attribute that a column of the flat shape stands for. `None` for a core column, and for one whose type no attribute
/// column has.
///
/// The name alone decides, so that a file written under another set of promoted attributes reads right.
pub fn promoted_attribute(field: &Field) -> Option<PromotedAttribute> {
    use AttributeType::{Bool, Float, Int, Str};
    let value_type =
        [Str, Int, Float, Bool].into_iter().find(|value_type| value_type.data_type() == *field.data_type())?;
    let (scope, key) = attribute_of_column(field.name())?;
    Some(PromotedAttribute::new(scope, key, value_type))
}

/// Scope and key of the attribute that a column with this name holds.
pub(crate) fn attribute_of_column(name: &str) -> Option<(AttributeScope, &str)> {
    match name {
        column::SERVICE_NAME => Some((AttributeScope::Resource, "service.name")),
        column::SERVICE_NAMESPACE => Some((AttributeScope::Resource, "service.namespace")),
        _ => {
            let (scope, key) = name.split_once('.')?;
            let scope: AttributeScope = scope.parse().ok()?;
            scope.map_column().is_some().then_some((scope, key))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{promotion, schema};

    #[test]
    fn every_promoted_column_is_recognised_by_its_name_and_no_core_column_is() {
        for attribute in promotion::standard().attributes() {
            assert_eq!(promoted_attribute(&schema::promoted_field(attribute)).as_ref(), Some(attribute));
        }
        for core in schema::CORE_COLUMNS.iter() {
            assert_eq!(promoted_attribute(&core.field), None);
        }
    }
}
