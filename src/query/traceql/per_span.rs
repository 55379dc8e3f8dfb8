//! Functions of one span that a query brings along: what they compute is known when it is planned, their arguments are
//! the columns that its fields come from.
//!
//! In a plan such a function shows its text as the first argument, for whoever reads the plan; functions of one name are
//! equal if their texts are.

use std::{
    fmt::Debug,
    hash::{Hash, Hasher},
};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray},
    datatypes::DataType,
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit,
    },
};

use super::inputs::{self, InputRows, Inputs};
use crate::{model::schema::column, traceql::ast::FieldName};

/// What is computed of each span.
pub(super) trait PerSpan: Debug + Send + Sync + 'static {
    /// The function's name.
    const NAME: &'static str;
    /// Whether it asks which spans have no parent.
    const READS_ROOTS: bool;

    /// The type of its values.
    fn data_type() -> DataType;

    /// What it computes, as text.
    fn text(&self) -> String;

    /// Calls `visit` with every field that it reads.
    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName));

    /// Calls `visit` with every field whose value it reads; of the others, whether they are there is enough.
    fn for_each_value(&self, visit: &mut dyn FnMut(&FieldName)) {
        self.for_each_field(visit);
    }

    /// The values of a batch.
    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef>;
}

/// The spans of a batch.
pub(super) struct Spans<'a> {
    pub(super) count: usize,
    pub(super) rows: InputRows<'a>,
    roots: Option<&'a BooleanArray>,
}

impl Spans<'_> {
    /// Whether a span has no parent, for functions that ask for it.
    pub(super) fn is_root(&self, row: usize) -> bool {
        self.roots.is_some_and(|roots| roots.value(row))
    }
}

/// The function, called on the columns that it needs.
pub(super) fn call<P: PerSpan>(what: P) -> Expr {
    let mut fields = Vec::new();
    what.for_each_field(&mut |name| fields.push(name.clone()));
    let mut values = Vec::new();
    what.for_each_value(&mut |name| values.push(name.clone()));
    let mut inputs = Inputs::reading(fields, |name| values.contains(name));
    let root = P::READS_ROOTS.then(|| inputs.arg(col(column::PARENT_SPAN_ID).is_null()));
    let text = what.text();
    let mut args = vec![lit(text.as_str())];
    args.extend(inputs.args.iter().cloned());
    let signature = Signature::variadic_any(Volatility::Immutable);
    ScalarUDF::from(Function { what, text, inputs, root, signature }).call(args)
}

#[derive(Debug)]
struct Function<P> {
    what: P,
    text: String,
    inputs: Inputs,
    /// The argument that says whether a span has no parent.
    root: Option<usize>,
    signature: Signature,
}

impl<P> PartialEq for Function<P> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<P> Eq for Function<P> {}

impl<P> Hash for Function<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl<P: PerSpan> ScalarUDFImpl for Function<P> {
    fn name(&self) -> &str {
        P::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(P::data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = inputs::arrays(&args)?;
        let columns = columns.get(1..).unwrap_or_default();
        let roots = match self.root {
            None => None,
            Some(root) => match columns.get(root).and_then(|column| column.as_boolean_opt()) {
                Some(roots) => Some(roots),
                None => return exec_err!("{}() lacks an argument", P::NAME),
            },
        };
        let spans = Spans { count: args.number_rows, rows: self.inputs.rows(columns)?, roots };
        Ok(ColumnarValue::Array(self.what.values(&spans)?))
    }
}
