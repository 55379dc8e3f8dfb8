//! The forms in which an answer leaves the engine.
//!
//! Inside, attributes keep their OTLP types and columns have whatever Arrow type an operator found convenient. Outside
//! there are drivers that know a few plain types, and that compare the schema that was announced with the schema that
//! arrives. So each type has one form outside, at any depth, and every field is nullable: whether the optimizer found
//! out that a column has no NULL does not show.
//!
//! | inside | [`plain`] | [`flat`] |
//! |---|---|---|
//! | attribute map (text to typed value) | map of text to text | JSON text, values typed |
//! | attribute value (struct of five) | text | text |
//! | other maps, lists of all kinds, structs | map, list, struct of plain types | JSON text |
//! | union, which is what `->` finds in JSON | JSON text | JSON text |
//! | ids: fixed-size binary of 8 or 16 bytes | lower-case hex text | lower-case hex text |
//! | string views, large strings, dictionaries of them | `Utf8` | `Utf8` |
//! | binary of all kinds | `Binary` | lower-case hex text |
//! | dictionary, run-end encoded | its values | its values |
//! | timestamps | the same | in nanoseconds, UTC, without a zone |
//! | dates | the same | such timestamps, of midnight |
//! | durations | the same | in nanoseconds |
//! | decimals | the same | `Float64` |
//! | times of day, intervals, NULL | the same | text |
//!
//! The flat form is for programs that know numbers, text and nanosecond timestamps and nothing else, or, as the JDBC
//! driver, fail on timestamps with a zone.

mod flat;
mod json;
mod plain;

use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
};

use crate::query::request::AnswerForm;

/// The schema that an answer with this schema inside has in a form.
pub(crate) fn schema_in(schema: &Schema, form: AnswerForm) -> SchemaRef {
    match form {
        AnswerForm::Plain => plain::plain_schema(schema),
        AnswerForm::Flat => flat::flat_schema(schema),
        AnswerForm::Typed => schema.clone().into(),
    }
}

/// The same rows in a form; `schema` is [`schema_in`] of the planned schema.
pub(crate) fn batch_in(batch: RecordBatch, schema: &SchemaRef, form: AnswerForm) -> Result<RecordBatch, ArrowError> {
    match form {
        AnswerForm::Plain => plain::to_plain(&batch, schema),
        AnswerForm::Flat => flat::to_flat(&batch, schema),
        AnswerForm::Typed => Ok(batch),
    }
}
