//! Reading text as the dictionary and the codes that a file holds.
//!
//! Which Arrow type the reader makes of a column is said by the schema in the file's footer, and there it is plain text. For
//! scans that gain by it, the footer is changed after it is read ([`changed_footer`]): columns of which every page has codes
//! become dictionaries.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema};
use parquet::{
    arrow::parquet_to_arrow_schema,
    errors::Result,
    file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder},
};

use crate::{
    functions::coded_text_type,
    model::schema::column,
    storage::{changed_footer, dictionary, footer::KEYS_METADATA},
};

/// The type that the values of a column have, in codes or not.
pub(crate) fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// Gives what the footer says of attributes to a field, too, since a schema loses its own metadata where a scan adds the number of
/// the row.
fn with_entries(footer: &FileMetaData, mut fields: Vec<Arc<Field>>) -> Vec<Arc<Field>> {
    let entries = footer.key_value_metadata().into_iter().flatten();
    let told = entries.filter(|entry| entry.key == KEYS_METADATA);
    let told: HashMap<String, String> =
        told.filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?))).collect();
    if let Some(field) = fields.iter_mut().find(|field| field.name() == column::TRACE_STATE) {
        *field = Arc::new(field.as_ref().clone().with_metadata(told));
    }
    fields
}

/// The footer with codes for text.
pub(crate) fn with_codes(metadata: &ParquetMetaData) -> Result<ParquetMetaData> {
    let footer = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
    let fields: Vec<Arc<Field>> = schema
        .fields()
        .iter()
        .map(|field| match *field.data_type() == DataType::Utf8 && dictionary::is_all_codes(metadata, field.name()) {
            true => Arc::new(field.as_ref().clone().with_data_type(coded_text_type())),
            false => Arc::clone(field),
        })
        .collect();
    let fields = with_entries(footer, fields);
    let entries = changed_footer::entries_with(footer, &Schema::new(fields));
    let footer = FileMetaData::new(
        footer.version(),
        footer.num_rows(),
        footer.created_by().map(str::to_owned),
        Some(entries),
        footer.schema_descr_ptr(),
        footer.column_orders().cloned(),
    );
    Ok(ParquetMetaDataBuilder::new(footer)
        .set_row_groups(metadata.row_groups().to_vec())
        .set_column_index(metadata.column_index().cloned())
        .set_offset_index(metadata.offset_index().cloned())
        .build())
}
