//! `trace_id('hex')`, `span_id('hex')` and `id_hex(bytes)`.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, StringArray},
    buffer::{Buffer, OffsetBuffer},
    datatypes::DataType,
};
use datafusion::{
    common::{DataFusionError, Result, ScalarValue, exec_err, plan_err},
    logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use crate::{
    functions::documentation::documentation_of,
    model::ids::{IdError, SpanId, TraceId},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    TraceId,
    SpanId,
    Hex,
}

/// A conversion between ids as bytes and ids as text.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct IdFunction {
    kind: Kind,
    signature: Signature,
}

impl IdFunction {
    pub(crate) fn all() -> [Self; 3] {
        [Kind::TraceId, Kind::SpanId, Kind::Hex]
            .map(|kind| Self { kind, signature: Signature::user_defined(Volatility::Immutable) })
    }

    /// Whether this is `id_hex`.
    pub fn is_id_hex(&self) -> bool {
        self.kind == Kind::Hex
    }
}

impl ScalarUDFImpl for IdFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::TraceId => "trace_id",
            Kind::SpanId => "span_id",
            Kind::Hex => "id_hex",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [argument] = arg_types else {
            return plan_err!("{name}() takes one argument, got {}", arg_types.len());
        };
        match (self.kind, argument) {
            (Kind::Hex, DataType::FixedSizeBinary(_) | DataType::Binary) => Ok(vec![argument.clone()]),
            (Kind::Hex, DataType::Null) => Ok(vec![DataType::Binary]),
            (Kind::Hex, _) => plan_err!("{name}() takes an id in bytes, got {argument}"),
            (_, argument) if argument.is_string() || argument.is_null() => Ok(vec![DataType::Utf8]),
            (_, argument) => plan_err!("{name}() takes hex digits as text, got {argument}"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::TraceId => DataType::FixedSizeBinary(TraceId::LEN as i32),
            Kind::SpanId => DataType::FixedSizeBinary(SpanId::LEN as i32),
            Kind::Hex => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [argument] = args.args.as_slice() else {
            return exec_err!("{}() takes one argument", self.name());
        };
        let scalar = matches!(argument, ColumnarValue::Scalar(_));
        let argument = argument.to_array(if scalar { 1 } else { args.number_rows })?;
        let answer: ArrayRef = match self.kind {
            Kind::TraceId => parse_ids(argument.as_string(), TraceId::LEN, |text| {
                Ok(text.parse::<TraceId>().map_err(|error| invalid(&error))?.as_bytes().to_vec())
            })?,
            Kind::SpanId => parse_ids(argument.as_string(), SpanId::LEN, |text| {
                Ok(text.parse::<SpanId>().map_err(|error| invalid(&error))?.as_bytes().to_vec())
            })?,
            Kind::Hex => Arc::new(hex_of(&argument)?),
        };
        if scalar {
            return ScalarValue::try_from_array(&answer, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(answer))
    }
}

fn invalid(error: &IdError) -> DataFusionError {
    DataFusionError::Execution(error.to_string())
}

fn parse_ids(texts: &StringArray, len: usize, parse: impl Fn(&str) -> Result<Vec<u8>>) -> Result<ArrayRef> {
    let mut builder = FixedSizeBinaryBuilder::with_capacity(texts.len(), len as i32);
    for text in texts {
        match text {
            Some(text) => builder.append_value(parse(text)?)?,
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn hex_of(ids: &ArrayRef) -> Result<StringArray> {
    let ids = match ids.data_type() {
        DataType::FixedSizeBinary(_) => ids.as_fixed_size_binary(),
        DataType::Binary => return Ok(ids.as_binary::<i32>().iter().map(|id| id.map(hex::encode)).collect()),
        other => return exec_err!("id_hex() takes an id in bytes, got {other}"),
    };
    // The digits of all ids in one piece: as many for a NULL as for the others.
    let digits = 2 * usize::try_from(ids.value_length()).unwrap_or_default();
    let mut text = vec![0; digits * ids.len()];
    let pairs = text.chunks_exact_mut(2).zip(ids.value_data());
    pairs.for_each(|(pair, byte)| pair.copy_from_slice(&HEX[usize::from(*byte)]));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(digits, ids.len()));
    Ok(StringArray::try_new(offsets, Buffer::from_vec(text), ids.nulls().cloned())?)
}

/// The digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut hex = [[0; 2]; 256];
    let mut byte = 0;
    while byte < hex.len() {
        hex[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    hex
};
