//! Functions that make much out of little.
//!
//! `repeat('x', 1000000000)` is one value of a gigabyte, made in one go, before any operator could ask the query's pool
//! for memory. So the functions whose answer is not bounded by the size of what they are given are wrapped: a bound on
//! the bytes of the answer is computed from the arguments first, and a batch above the limit is refused. Those that make
//! lists out of numbers are not there at all; the table functions of the same names give rows instead.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array},
        compute::{cast, kernels::length::length},
        datatypes::{DataType, FieldRef, Int64Type},
    },
    common::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use crate::error::{Error, ErrorKind};

/// Most bytes that a wrapped function may make out of one batch of rows.
const BATCH_BYTES_MAX: u64 = 128 << 20;

/// Functions that are left out, by name and aliases.
const LEFT_OUT: &[&str] =
    &["array_repeat", "list_repeat", "array_resize", "list_resize", "gen_series", "generate_series", "range"];

/// The functions with bounds on those that need one, and without those that are left out.
pub(crate) fn bounded(functions: impl IntoIterator<Item = Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    functions
        .into_iter()
        .filter(|function| !LEFT_OUT.contains(&function.name()))
        .map(|function| match Growth::of(function.name()) {
            Some(growth) => Arc::new(ScalarUDF::from(Bounded { inner: function, growth })),
            None => function,
        })
        .collect()
}

/// How large an answer can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// `f(text, n)`: the text, n times.
    Times,
    /// `f(text, n, ...)`: n characters.
    Width,
    /// `f(text, from, to, ...)`: `to` at every place where `from` can be.
    Replacement,
    /// `f(text, pattern, to, ...)`: `to` before and after every byte.
    Everywhere,
}

impl Growth {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "repeat" => Growth::Times,
            "lpad" | "rpad" => Growth::Width,
            "replace" => Growth::Replacement,
            "regexp_replace" => Growth::Everywhere,
            _ => return None,
        })
    }

    /// A bound on the bytes of the answer for these arguments.
    fn bytes(self, args: &[ArrayRef]) -> Result<u64> {
        let lengths = |index: usize| -> Result<Int64Array> {
            match args.get(index).filter(|arg| arg.data_type().is_string()) {
                Some(text) => Ok(cast(&length(text)?, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
                None => Ok(Int64Array::from(vec![0; args.first().map_or(0, |arg| arg.len())])),
            }
        };
        let texts = lengths(0)?;
        let others = match self {
            Growth::Times | Growth::Width => match args.get(1) {
                Some(count) => cast(count, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
                None => texts.clone(),
            },
            Growth::Replacement | Growth::Everywhere => lengths(2)?,
        };
        let patterns = lengths(1)?;
        let positive = |values: &Int64Array, row: usize| match values.is_valid(row) {
            true => u64::try_from(values.value(row)).unwrap_or_default(),
            false => 0,
        };
        let mut total: u64 = 0;
        for row in 0..texts.len() {
            let (text, other) = (positive(&texts, row), positive(&others, row));
            let bytes = match self {
                Growth::Times => text.saturating_mul(other),
                Growth::Width => other,
                Growth::Replacement => {
                    let places = text / positive(&patterns, row).max(1) + 1;
                    text.saturating_add(places.saturating_mul(other))
                }
                Growth::Everywhere => text.saturating_add(1).saturating_mul(other.saturating_add(1)),
            };
            total = total.saturating_add(bytes);
        }
        Ok(total)
    }
}

/// A function that looks at the size of its answer before it makes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let bytes = self.growth.bytes(&arrays)?;
        if bytes > BATCH_BYTES_MAX {
            let name = self.name();
            return Err(DataFusionError::External(Box::new(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{name}() would make up to {bytes} bytes at once, more than the limit of {BATCH_BYTES_MAX}"),
            ))));
        }
        self.inner.invoke_with_args(args)
    }
}
