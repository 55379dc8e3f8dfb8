//! SQL functions on attributes and ids, and what the planner must know to use them well.
//!
//! Inside the engine an attribute column is a map from text to a typed value ([`crate::model::attributes`]). These
//! functions read it:
//!
//! | function | answer |
//! |---|---|
//! | `attr_str`, `attr_int`, `attr_float`, `attr_bool` `(map, key)` | the value if it has exactly this type, else NULL |
//! | `attr_number(map, key)` | an int or a float, as a double |
//! | `attr_text(map, key)`, `map['key']` | any scalar as text; bytes, arrays and maps as JSON; NULL for an empty value |
//! | `attr_json(map, key)` | any value as JSON, text in quotes, an empty value as `null` |
//! | `attr_nested(map, key)` | bytes, an array or a map as JSON, NULL for any other value |
//! | `attr_exists(map, key)` | whether the key is there, be its value empty or not |
//! | `attr_keys(map)` | the keys, as a list |
//! | `attr_map_text(map)` | the map with each value as `attr_text` gives it: what clients get to see |
//! | `trace_id('hex')`, `span_id('hex')` | the id as bytes |
//! | `id_hex(bytes)` | lower-case hex, which is how ids appear in `spans` |
//!
//! Beside them are [`times`], [`sketch`], and functions and operators on JSON from a crate ([`configure`]).
//!
//! 200 and `"200"` are different attributes to a tracing system, so the typed functions do not convert. `attr_number` is
//! there because SDKs for JavaScript send a double that happens to be whole as an int. A NULL map or key gives NULL.
//!
//! The functions know nothing of promoted columns: reading a stored batch, the scan rewrites calls of them to what that
//! batch has ([`crate::storage::scan::adapter`]). For this the calls have to reach the scan, hence their *placement*: a call on
//! a column and a literal key moves towards the leaves of the plan. `attr_assemble` is what the rewriting puts in place of
//! a whole map; it, `attr_rest`, which leaves attributes out that are asked for one by one, and `item_has` and `item_parts`, by
//! which TraceQL says what it asks of events and links, are not registered for use in SQL.
//!
//! Ids are compared as text in SQL and stored as bytes; [`IdComparisons`] turns such comparisons into comparisons of
//! bytes, so that statistics and bloom filters apply. [`CodedText`] takes text as the codes that files have for it,
//! [`TextMeets`] asks it for patterns, and [`IsRoot`] says which spans have no parent. Rules of the query engine put [`IdNumber`] and [`TextKey`] in place of
//! ids and text that rows are grouped by; these cannot be called in SQL either. [`percentile`] replaces aggregates of
//! DataFusion by the same ones, fed in larger pieces.

mod assemble;
mod attribute;
mod coded_text;
mod dictionaries;
mod documentation;
mod entries;
mod id_comparisons;
mod id_number;
mod ids;
mod is_root;
mod item_parts;
mod items;
mod json;
mod percentile;
mod rest;
mod sketch;
mod subscript;
#[cfg(test)]
mod tests;
mod text_at_hand;
mod text_key;
mod text_meets;
mod text_set;
mod times;

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, StringArray};
use datafusion::{
    common::{Result, ScalarValue},
    execution::{FunctionRegistry, session_state::SessionStateBuilder},
    logical_expr::{ColumnarValue, ExpressionPlacement, ScalarUDF},
};
use datafusion_functions_json::{JsonUnionEncoder, JsonUnionValue};

pub(crate) use self::json::json_at;
pub use self::{
    assemble::AttrAssemble,
    attribute::{AttrFunction, AttrGet, AttrWhole},
    coded_text::{CodedText, coded_text_type},
    dictionaries::{for_each_valid, is_same_dictionary},
    id_comparisons::IdComparisons,
    id_number::IdNumber,
    ids::IdFunction,
    is_root::IsRoot,
    item_parts::{ItemPart, ItemParts},
    items::ItemHas,
    rest::AttrRest,
    subscript::AttributeSubscripts,
    text_key::{TEXTS_MAX, TextKey, TextOfKey},
    text_meets::TextMeets,
    times::TimeFunction,
};

static SCALAR: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let get = AttrFunction::ALL.iter().map(|function| ScalarUDF::from(AttrGet::new(*function)));
    let whole = AttrWhole::all().into_iter().map(ScalarUDF::from);
    let ids = IdFunction::all().into_iter().map(ScalarUDF::from);
    let times = TimeFunction::all().into_iter().map(ScalarUDF::from);
    get.chain(whole).chain(ids).chain(times).chain(sketch::scalar()).map(Arc::new).collect()
});

/// The functions that can be called in SQL.
pub fn scalar_functions() -> &'static [Arc<ScalarUDF>] {
    &SCALAR
}

/// The function of this name, where it is one of [`scalar_functions`].
pub fn scalar_function(name: &str) -> Option<Arc<ScalarUDF>> {
    SCALAR.iter().find(|function| function.name() == name).map(Arc::clone)
}

/// Adds the functions, the meaning of `map['key']` and the rewriting of id comparisons to a session. Call it after
/// `with_default_features`: planners are asked in order, and the one for subscripts has to come first.
pub fn configure(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.scalar_functions().get_or_insert_default().extend(SCALAR.iter().map(Arc::clone));
    builder
        .aggregate_functions()
        .get_or_insert_default()
        .extend(sketch::aggregates().into_iter().chain(percentile::aggregates()).chain([text_set::aggregate()]));
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(AttributeSubscripts));
    builder.with_optimizer_rule(Arc::new(IdComparisons))
}

/// Adds what reads JSON in text, such as nested values of attributes: `->`, `->>` and the functions `json_*`.
///
/// # Errors
/// Only a defect: a session that takes no functions.
pub fn add_json(session: &mut dyn FunctionRegistry) -> Result<()> {
    datafusion_functions_json::register_all(session)
}

/// What `->` found in JSON, as JSON; NULL where it found nothing or `null`. `None` if the array is something else.
pub(crate) fn json_text(found: &ArrayRef) -> Option<StringArray> {
    let found = JsonUnionEncoder::from_union(found.as_union_opt()?.clone())?;
    let text = |row: usize| match found.get_value(row) {
        JsonUnionValue::JsonNull => None,
        JsonUnionValue::Bool(value) => Some(value.to_string()),
        JsonUnionValue::Int(value) => Some(value.to_string()),
        JsonUnionValue::Float(value) => Some(value.to_string()),
        JsonUnionValue::Str(value) => Some(serde_json::Value::from(value).to_string()),
        JsonUnionValue::Array(json) | JsonUnionValue::Object(json) => Some(json.to_owned()),
    };
    Some((0..found.len()).map(text).collect())
}

/// Where a call is evaluated that reads these arguments: in the scan, if they come from there.
pub(crate) fn placed_with<'a>(read: impl IntoIterator<Item = &'a ExpressionPlacement>) -> ExpressionPlacement {
    let is_of_scan = |arg: &ExpressionPlacement| *arg == ExpressionPlacement::Column || arg.should_push_to_leaves();
    match read.into_iter().all(is_of_scan) {
        true => ExpressionPlacement::MoveTowardsLeafNodes,
        false => ExpressionPlacement::KeepInPlace,
    }
}

/// The one value where all arguments were values and no columns.
fn scalar_if(scalar: bool, answer: ArrayRef) -> Result<ColumnarValue> {
    if scalar {
        return ScalarValue::try_from_array(&answer, 0).map(ColumnarValue::Scalar);
    }
    Ok(ColumnarValue::Array(answer))
}
