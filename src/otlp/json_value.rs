//! Nested attribute values as JSON text and back, by the table in [`crate::model::attributes`].
//!
//! Two writers share the rules: one walks the wire, for the decoder that never builds a tree; one takes a tree, for
//! values that came as JSON. The reader gives the tree back, exactly: key order, duplicate keys, integer or double, the
//! last bit of a double (of not-a-numbers, one stands for all).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};

use crate::otlp::{
    json_reader::{JsonError, JsonReader, Kind},
    json_text::{non_finite_name, push_display, push_string},
};

/// Deepest nesting of arrays and key-value lists in an attribute value, whatever the settings say.
pub const DEPTH_MAX: usize = 64;

/// Appends a double: always with a fraction or an exponent, so that it does not read as an integer.
pub(super) fn push_double(out: &mut String, number: f64) {
    match non_finite_name(number) {
        // The debug form is the shortest that reads back as the same double.
        None => push_display(out, format_args!("{number:?}")),
        Some(name) => push_display(out, format_args!("{{\"$double\":\"{name}\"}}")),
    }
}

/// Appends bytes.
pub(super) fn push_bytes(out: &mut String, bytes: &[u8]) {
    out.push_str("{\"$bytes\":\"");
    BASE64.encode_string(bytes, out);
    out.push_str("\"}");
}

/// Appends the start of a key-value list with this first key; what ends it.
pub(super) fn push_map_start(out: &mut String, first_key: Option<&str>) -> &'static str {
    if first_key.is_some_and(|key| key.starts_with('$')) {
        out.push_str("{\"$map\":{");
        "}}"
    } else {
        out.push('{');
        "}"
    }
}

/// Appends a tree. One that nests deeper than `depth_left` makes the result `false` and the text useless.
pub(super) fn push_tree(out: &mut String, value: Option<&Value>, depth_left: usize) -> bool {
    match value {
        // A value by reference into a dictionary, which requests with spans do not have.
        None | Some(Value::StringValueStrindex(_)) => out.push_str("null"),
        Some(Value::StringValue(text)) => push_string(out, text),
        Some(Value::BoolValue(truth)) => push_display(out, truth),
        Some(Value::IntValue(number)) => push_display(out, number),
        Some(Value::DoubleValue(number)) => push_double(out, *number),
        Some(Value::BytesValue(bytes)) => push_bytes(out, bytes),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) if depth_left == 0 => return false,
        Some(Value::ArrayValue(array)) => {
            out.push('[');
            for (index, element) in array.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                if !push_tree(out, element.value.as_ref(), depth_left - 1) {
                    return false;
                }
            }
            out.push(']');
        }
        Some(Value::KvlistValue(list)) => {
            let end = push_map_start(out, list.values.first().map(|entry| entry.key.as_str()));
            for (index, entry) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_string(out, &entry.key);
                out.push(':');
                let value = entry.value.as_ref().and_then(|any| any.value.as_ref());
                if !push_tree(out, value, depth_left - 1) {
                    return false;
                }
            }
            out.push_str(end);
        }
    }
    true
}

/// Reads what the writers write. Text that they do not write reads as the nearest value, or is an error.
pub fn parse(text: &str) -> Result<AnyValue, JsonError> {
    let mut reader = JsonReader::new(text);
    let value = any(&mut reader)?;
    reader.end()?;
    Ok(value)
}

fn any(reader: &mut JsonReader<'_>) -> Result<AnyValue, JsonError> {
    let value = match reader.kind()? {
        Kind::Null => {
            reader.null()?;
            None
        }
        Kind::Bool => Some(Value::BoolValue(reader.bool()?)),
        Kind::Number => Some(number(reader)?),
        Kind::String => Some(Value::StringValue(reader.string()?.into_owned())),
        Kind::Array => {
            let mut values = Vec::new();
            reader.array(|reader| {
                values.push(any(reader)?);
                Ok::<_, JsonError>(())
            })?;
            Some(Value::ArrayValue(ArrayValue { values }))
        }
        Kind::Object => Some(object(reader)?),
    };
    Ok(AnyValue { value })
}

fn number(reader: &mut JsonReader<'_>) -> Result<Value, JsonError> {
    let text = reader.number()?;
    if let Ok(integer) = text.parse() {
        return Ok(Value::IntValue(integer));
    }
    text.parse().map(Value::DoubleValue).map_err(|_| reader.error("expected a number"))
}

fn object(reader: &mut JsonReader<'_>) -> Result<Value, JsonError> {
    let mut list = KeyValueList::default();
    let mut special = None;
    reader.object(|reader, key| {
        if list.values.is_empty() && special.is_none() {
            special = match key.as_ref() {
                "$bytes" => Some(bytes(reader)?),
                "$double" => Some(double(reader)?),
                "$map" => Some(Value::KvlistValue(entries(reader)?)),
                _ => None,
            };
            if special.is_some() {
                return Ok(());
            }
        }
        let value = Some(any(reader)?);
        list.values.push(KeyValue { key: key.into_owned(), value, key_strindex: 0 });
        Ok::<_, JsonError>(())
    })?;
    match special {
        None => Ok(Value::KvlistValue(list)),
        Some(value) if list.values.is_empty() => Ok(value),
        Some(_) => Err(reader.error("a $ key stands alone in its object")),
    }
}

fn bytes(reader: &mut JsonReader<'_>) -> Result<Value, JsonError> {
    let text = reader.string()?;
    BASE64.decode(text.as_ref()).map(Value::BytesValue).map_err(|_| reader.error("$bytes is not base64"))
}

fn double(reader: &mut JsonReader<'_>) -> Result<Value, JsonError> {
    match reader.string()?.as_ref() {
        "NaN" => Ok(Value::DoubleValue(f64::NAN)),
        "Infinity" => Ok(Value::DoubleValue(f64::INFINITY)),
        "-Infinity" => Ok(Value::DoubleValue(f64::NEG_INFINITY)),
        _ => Err(reader.error("$double is not one of NaN, Infinity, -Infinity")),
    }
}

fn entries(reader: &mut JsonReader<'_>) -> Result<KeyValueList, JsonError> {
    let mut list = KeyValueList::default();
    reader.object(|reader, key| {
        let value = Some(any(reader)?);
        list.values.push(KeyValue { key: key.into_owned(), value, key_strindex: 0 });
        Ok::<_, JsonError>(())
    })?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) {
        let value = parse(json).unwrap();
        let mut out = String::new();
        assert!(push_tree(&mut out, value.value.as_ref(), DEPTH_MAX));
        assert_eq!(out, json);
    }

    #[test]
    fn text_reads_as_a_value_that_writes_the_same_text() {
        for json in [
            "null",
            "[]",
            "{}",
            "[1,1.0,-0.0,1e300,true,null,\"a\\nb\",[[]],{\"b\":1,\"a\":2,\"b\":3}]",
            "{\"$bytes\":\"AAH/\"}",
            "{\"$double\":\"NaN\"}",
            "{\"$double\":\"-Infinity\"}",
            "{\"$map\":{\"$map\":1}}",
            "{\"$map\":{\"$bytes\":\"x\",\"\":null}}",
            "{\"a\":1,\"$bytes\":2}",
            "9223372036854775807",
            "1.7976931348623157e308",
        ] {
            check(json);
        }
    }

    #[test]
    fn text_of_another_making_is_an_error_or_the_nearest_value() {
        for json in ["", "[", "{\"$bytes\":\"!\"}", "{\"$double\":\"1\"}", "{\"$bytes\":\"\",\"a\":1}"] {
            assert!(parse(json).is_err(), "{json}");
        }
        // An integer of more than 64 bits.
        assert_eq!(parse("9223372036854775808").unwrap().value, Some(Value::DoubleValue(9_223_372_036_854_775_808.0)));
    }
}
