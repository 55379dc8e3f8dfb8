//! What `system.functions` and `information_schema.routines` say of the functions here.

use std::{collections::HashMap, sync::LazyLock};

use datafusion::logical_expr::{DocSection, Documentation};

/// Name, how it is called, what it gives.
const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("attr_str", "attr_str(map, 'key')", "The attribute, if its value is text"),
    ("attr_int", "attr_int(map, 'key')", "The attribute, if its value is an integer"),
    ("attr_float", "attr_float(map, 'key')", "The attribute, if its value is a double"),
    ("attr_bool", "attr_bool(map, 'key')", "The attribute, if its value is a boolean"),
    ("attr_number", "attr_number(map, 'key')", "The attribute as a double, if its value is an integer or a double"),
    ("attr_text", "attr_text(map, 'key')", "The attribute as text, arrays and maps as JSON; as map['key']"),
    ("attr_json", "attr_json(map, 'key')", "The attribute as JSON"),
    ("attr_nested", "attr_nested(map, 'key')", "The attribute as JSON, if its value is an array, a map or bytes"),
    ("attr_exists", "attr_exists(map, 'key')", "Whether the attribute is there"),
    ("attr_keys", "attr_keys(map)", "The keys of the attributes"),
    ("attr_map_text", "attr_map_text(map)", "The attributes with each value as text"),
    ("trace_id", "trace_id('hex')", "A trace id as bytes"),
    ("span_id", "span_id('hex')", "A span id as bytes"),
    ("id_hex", "id_hex(bytes)", "An id as lower-case hex"),
    ("duration_text", "duration_text(nanoseconds)", "A duration as people write it, such as 3.25s"),
    ("duration_nanos", "duration_nanos('1m30s')", "The nanoseconds of a duration such as 1m30s or 1.5ms"),
    (
        "time_bucket",
        "time_bucket('5m', time)",
        "The start of the bucket of this width that the moment is in; buckets begin at 1970-01-01 UTC",
    ),
    (
        "sketch",
        "sketch(number)",
        "The distribution of numbers, from which sketch_quantile reads percentiles within 1 %",
    ),
    ("sketch_merge", "sketch_merge(sketch)", "One sketch of all that the sketches saw"),
    (
        "sketch_quantile",
        "sketch_quantile(sketch, q)",
        "The number below which a share q of what the sketch saw lies; q is from 0 to 1",
    ),
    ("sketch_count", "sketch_count(sketch)", "How many numbers the sketch saw"),
    ("text_set", "text_set(text)", "The different texts of a group, as a list in alphabetical order"),
];

static DOCUMENTATION: LazyLock<HashMap<&'static str, Documentation>> = LazyLock::new(|| {
    let section = || DocSection { include: true, label: "tracehouse", description: None };
    let built = |(name, syntax, description): &(&'static str, &'static str, &'static str)| {
        (*name, Documentation::builder(section(), *description, *syntax).build())
    };
    FUNCTIONS.iter().map(built).collect()
});

/// What there is to say of the function of this name.
pub(super) fn documentation_of(name: &str) -> Option<&'static Documentation> {
    DOCUMENTATION.get(name)
}

#[cfg(test)]
mod tests {
    use crate::functions::scalar_functions;

    #[test]
    fn every_function_says_what_it_gives() {
        for function in scalar_functions() {
            assert!(function.documentation().is_some(), "{} is not documented", function.name());
        }
    }
}
