//! Reading text as the dictionary and the codes that a file holds.
//!
//! Which Arrow type the reader makes of a column is said by the schema in the file's footer, and there it is plain text. For
//! scans that gain by it, the footer is changed after it is read ([`changed_footer`]): columns of which every page has codes
//! become dictionaries.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use parquet::{arrow::parquet_to_arrow_schema, errors::Result, file::metadata::ParquetMetaData};

use crate::{
    functions::coded_text_type,
    storage::{dictionary, scan::changed_footer},
};

/// The type that the values of a column have, in codes or not.
pub(crate) fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// The footer with codes for text.
pub(crate) fn with_codes(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let footer = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
    let fields: Vec<Arc<Field>> = schema
        .fields()
        .iter()
        .map(|field| match *field.data_type() == DataType::Utf8 && dictionary::is_all_codes(&metadata, field.name()) {
            true => Arc::new(field.as_ref().clone().with_data_type(coded_text_type())),
            false => Arc::clone(field),
        })
        .collect();
    Ok(changed_footer::with_schema(metadata, &Schema::new(fields)))
}
