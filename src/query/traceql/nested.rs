//! Whether events and links have an attribute.

use datafusion::logical_expr::{Expr, ScalarUDF, col, lit};

use crate::functions::ItemHas;

/// Whether an item of the list column has the key.
pub(super) fn exists(list: &str, key: &str) -> Expr {
    ScalarUDF::from(ItemHas::default()).call(vec![col(list), lit(key)])
}
