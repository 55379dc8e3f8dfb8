//! Attributes straight off the wire: scalars are borrowed, nested values become JSON text in one walk.

use std::borrow::Cow;

use crate::{
    model::builder::Value,
    otlp::{
        json_text::{push_display, push_string},
        json_value::{push_bytes, push_double, push_map_start},
        wire::{Pieces, Reader, WireError, delimited, fixed64, varint},
    },
};

/// Why a value was not read.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bytes are not protobuf: nothing in the request can be believed.
    Malformed(WireError),
    /// The value nests deeper than it may: its span cannot be kept.
    TooDeep,
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Malformed(error)
    }
}

/// Key and value of a `KeyValue` message as every SDK writes it: key, then a scalar, both shorter than 128 bytes and nothing
/// else. `None` for any other message, which [`key_value`] and [`value`] read.
///
/// One check for UTF-8 serves key, text and what stands between them, because lengths and tags are ASCII here.
#[inline]
pub(super) fn short(message: &[u8]) -> Option<(&str, Value<'_>)> {
    const KEY: u8 = delimited(1) as u8;
    const VALUE: u8 = delimited(2) as u8;
    const STRING: u8 = delimited(1) as u8;
    const BOOL: u8 = varint(2) as u8;
    const INT: u8 = varint(3) as u8;
    const DOUBLE: u8 = fixed64(4) as u8;
    const KEY_START: usize = 2;
    let [KEY, key_length @ 0..=0x7f, rest @ ..] = message else { return None };
    let (key, rest) = rest.split_at_checked(usize::from(*key_length))?;
    let [VALUE, length @ 0..=0x7f, value @ ..] = rest else { return None };
    if value.len() != usize::from(*length) {
        return None;
    }
    let value = match value {
        [STRING, length @ 0..=0x7f, text @ ..] if text.len() == usize::from(*length) => {
            let message = std::str::from_utf8(message).ok()?;
            let key = message.get(KEY_START..KEY_START + key.len())?;
            return Some((key, Value::Str(message.get(message.len() - text.len()..)?)));
        }
        [BOOL, truth @ 0..=0x7f] => Value::Bool(*truth != 0),
        [INT, low @ 0..=0x7f] => Value::Int(i64::from(*low)),
        [INT, low @ 0x80..=0xff, high @ 0..=0x7f] => Value::Int(i64::from(*low & 0x7f) | i64::from(*high) << 7),
        [DOUBLE, bits @ ..] => Value::Float(f64::from_le_bytes(bits.try_into().ok()?)),
        _ => return None,
    };
    Some((std::str::from_utf8(key).ok()?, value))
}

/// Key and value of a `KeyValue` message.
pub(super) fn key_value(message: &[u8]) -> Result<(&str, Pieces<'_>), WireError> {
    const KEY: u32 = delimited(1);
    const VALUE: u32 = delimited(2);
    let mut key = "";
    let mut value = Pieces::None;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            KEY => key = reader.text("the key of an attribute")?,
            VALUE => value.add(reader.bytes()?),
            _ => reader.skip(tag, "KeyValue", 2)?,
        }
    }
    Ok((key, value))
}

/// The value of an `AnyValue` message that nests up to `depth_max`.
pub(super) fn value<'a>(message: &Pieces<'a>, depth_max: usize) -> Result<Value<'a>, Stop> {
    let mut json = String::new();
    Ok(match choice(message)? {
        Choice::Empty => Value::Empty,
        Choice::Str(text) => Value::Str(text),
        Choice::Bool(truth) => Value::Bool(truth),
        Choice::Int(number) => Value::Int(number),
        Choice::Double(number) => Value::Float(number),
        nested @ (Choice::Bytes(_) | Choice::Array(_) | Choice::List(_)) => {
            write(&mut json, &nested, depth_max)?;
            Value::Json(Cow::Owned(json))
        }
    })
}

/// Which of its alternatives an `AnyValue` holds.
#[derive(Debug)]
enum Choice<'a> {
    Empty,
    Str(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    /// An `ArrayValue` message.
    Array(Pieces<'a>),
    /// A `KeyValueList` message.
    List(Pieces<'a>),
}

/// Reads one level. The last alternative counts, as for any `oneof`; the same message twice in a row is merged.
fn choice<'a>(message: &Pieces<'a>) -> Result<Choice<'a>, WireError> {
    const STRING: u32 = delimited(1);
    const BOOL: u32 = varint(2);
    const INT: u32 = varint(3);
    const DOUBLE: u32 = fixed64(4);
    const ARRAY: u32 = delimited(5);
    const LIST: u32 = delimited(6);
    const BYTES: u32 = delimited(7);
    // A reference into a dictionary, which requests with spans do not have.
    const STRING_INDEX: u32 = varint(8);
    let mut choice = Choice::Empty;
    for piece in message.slices() {
        let mut reader = Reader::new(piece);
        while let Some(tag) = reader.tag()? {
            match tag {
                STRING => choice = Choice::Str(reader.text("the value of an attribute")?),
                BOOL => choice = Choice::Bool(reader.varint()? != 0),
                INT => choice = Choice::Int(reader.varint()?.cast_signed()),
                DOUBLE => choice = Choice::Double(f64::from_bits(reader.fixed64()?)),
                BYTES => choice = Choice::Bytes(reader.bytes()?),
                ARRAY => match &mut choice {
                    Choice::Array(pieces) => pieces.add(reader.bytes()?),
                    _ => choice = Choice::Array(Pieces::One(reader.bytes()?)),
                },
                LIST => match &mut choice {
                    Choice::List(pieces) => pieces.add(reader.bytes()?),
                    _ => choice = Choice::List(Pieces::One(reader.bytes()?)),
                },
                STRING_INDEX => {
                    reader.varint()?;
                    choice = Choice::Empty;
                }
                _ => reader.skip(tag, "AnyValue", 8)?,
            }
        }
    }
    Ok(choice)
}

fn write(out: &mut String, choice: &Choice<'_>, depth_left: usize) -> Result<(), Stop> {
    match choice {
        Choice::Empty => out.push_str("null"),
        Choice::Str(text) => push_string(out, text),
        Choice::Bool(truth) => push_display(out, truth),
        Choice::Int(number) => push_display(out, number),
        Choice::Double(number) => push_double(out, *number),
        Choice::Bytes(bytes) => push_bytes(out, bytes),
        Choice::Array(_) | Choice::List(_) if depth_left == 0 => return Err(Stop::TooDeep),
        Choice::Array(message) => {
            out.push('[');
            let mut separator = "";
            each(message, "ArrayValue", |element| {
                out.push_str(std::mem::replace(&mut separator, ","));
                write(out, &self::choice(&Pieces::One(element))?, depth_left - 1)
            })?;
            out.push(']');
        }
        Choice::List(message) => {
            let mut end = None;
            each(message, "KeyValueList", |element| {
                let (key, value) = key_value(element)?;
                match end {
                    None => end = Some(push_map_start(out, Some(key))),
                    Some(_) => out.push(','),
                }
                push_string(out, key);
                out.push(':');
                write(out, &self::choice(&value)?, depth_left - 1)
            })?;
            let end = end.unwrap_or_else(|| push_map_start(out, None));
            out.push_str(end);
        }
    }
    Ok(())
}

/// Calls `take` for each element of a message whose one field is a repeated message.
fn each<'a>(
    message: &Pieces<'a>,
    name: &'static str,
    mut take: impl FnMut(&'a [u8]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    const VALUES: u32 = delimited(1);
    for piece in message.slices() {
        let mut reader = Reader::new(piece);
        while let Some(tag) = reader.tag()? {
            match tag {
                VALUES => take(reader.bytes()?)?,
                _ => reader.skip(tag, name, 1)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use proptest::{collection::vec, prelude::*};
    use prost::Message;

    use super::*;

    fn scalar() -> impl Strategy<Value = any_value::Value> {
        use any_value::Value::{BoolValue, DoubleValue, IntValue, StringValue};
        prop_oneof![
            "[a-z]{0,140}".prop_map(StringValue),
            ".{0,40}".prop_map(StringValue),
            any::<bool>().prop_map(BoolValue),
            (-1..20_000_i64).prop_map(IntValue),
            any::<f64>().prop_map(DoubleValue),
        ]
    }

    /// What the two readers of any message say.
    fn long(message: &[u8]) -> Option<(&str, Value<'_>)> {
        let (key, pieces) = key_value(message).ok()?;
        Some((key, value(&pieces, 8).ok()?))
    }

    /// By bits, as a double that is no number differs from itself.
    fn text((key, value): (&str, Value<'_>)) -> String {
        match value {
            Value::Float(number) => format!("{key} {:x}", number.to_bits()),
            value => format!("{key} {value:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_the_reader_of_short_messages_takes_reads_as_for_the_others(
            key in ".{0,20}",
            scalar in scalar(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let value = Some(AnyValue { value: Some(scalar) });
            let mut message = KeyValue { key, value, key_strindex: 0 }.encode_to_vec();
            for (place, byte) in damage {
                let place = place.index(message.len());
                message[place] = byte;
            }
            if let Some(read) = short(&message) {
                prop_assert_eq!(Some(text(read)), long(&message).map(text));
            }
        }

        #[test]
        fn short_scalars_take_the_short_way(key in "[a-z.]{0,30}", scalar in scalar()) {
            let value = AnyValue { value: Some(scalar) };
            let is_short = value.encoded_len() < 128
                && !matches!(value.value, Some(any_value::Value::IntValue(number)) if !(0..1 << 14).contains(&number));
            let message = KeyValue { key, value: Some(value), key_strindex: 0 }.encode_to_vec();
            // An empty key is not on the wire.
            let is_short = is_short && message.first() == Some(&0x0a);
            prop_assert_eq!(short(&message).is_some(), is_short);
        }
    }
}
