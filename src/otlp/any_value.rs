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
