//! `system.columns`: one row per column of the table, those of promoted attributes included.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Int64Array, StringArray},
        datatypes::{DataType, Field, SchemaRef},
        record_batch::RecordBatch,
    },
    common::Result,
    execution::runtime_env::RuntimeEnv,
    parquet::file::metadata::ParquetMetaData,
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::{SystemTable, column};
use crate::{
    live::ReadView,
    model::{promotion::attribute_of_column, schema::CORE_COLUMNS},
    query::spans_table::{FOOTER_READS_MAX, scan_file},
    storage::{footer, store::Store},
};

pub(super) const TABLE: SystemTable = SystemTable {
    name: "columns",
    columns,
    rows: |context, session, schema| {
        async move {
            match context.view() {
                Some(view) => rows(schema, session.runtime_env(), view).await,
                None => Ok(RecordBatch::new_empty(schema)),
            }
        }
        .boxed()
    },
};

fn columns() -> Vec<Field> {
    vec![
        column("name", DataType::Utf8, "as the Delta table declares it"),
        column("type", DataType::Utf8, "likewise; NULL for columns that are not declared yet"),
        column("is_promoted", DataType::Boolean, "whether it is an attribute's own column"),
        column("scope", DataType::Utf8, "scope of that attribute"),
        column("key", DataType::Utf8, "key of that attribute"),
        column("files", DataType::Int64, "files that have it"),
        column(
            "values",
            DataType::Int64,
            "its values that are not NULL; of maps and lists, their entries; a reserved word, so mostly written in quotes",
        ),
        column("bytes", DataType::Int64, "its bytes in the files"),
        column("decoded_bytes", DataType::Int64, "its bytes before compression"),
    ]
}

/// What the files have of one column.
#[derive(Clone, Debug, Default)]
struct Size {
    /// As the table declares it; files that wait for their upload can have columns that are not declared yet.
    data_type: Option<String>,
    files: i64,
    /// Of its largest part, where it has parts: values in maps and lists count one by one.
    values: i64,
    bytes: i64,
    decoded_bytes: i64,
}

async fn rows(schema: SchemaRef, runtime: &Arc<RuntimeEnv>, view: &ReadView) -> Result<RecordBatch> {
    let mut sizes: BTreeMap<String, Size> = BTreeMap::new();
    for column in view.snapshot().schema().map(|schema| schema.columns()).unwrap_or_default() {
        let data_type = Some(column.data_type.to_string());
        sizes.insert(column.name.clone(), Size { data_type, ..Size::default() });
    }
    let footers = view.files().map(|file| {
        let (runtime, file) = (Arc::clone(runtime), scan_file(file));
        async move { footer::read_metadata(&runtime, &Store::url(), &file).await }
    });
    let mut footers = stream::iter(footers.collect::<Vec<_>>()).buffered(FOOTER_READS_MAX);
    while let Some(footer) = footers.try_next().await? {
        add_file(&mut sizes, &footer);
    }
    let rows: Vec<(String, Size)> = sizes.into_iter().collect();
    let is_promoted = |name: &str| {
        let is_core = CORE_COLUMNS.iter().any(|core| core.field.name() == name);
        !is_core && attribute_of_column(name).is_some()
    };
    let attributes = || rows.iter().map(|(name, _)| attribute_of_column(name).filter(|_| is_promoted(name)));
    let integers = |of: fn(&Size) -> i64| {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, size)| of(size)))) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(name, _)| name))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, size)| size.data_type.as_deref()))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|(name, _)| Some(is_promoted(name))))),
        Arc::new(StringArray::from_iter(attributes().map(|attribute| Some(attribute?.0.prefix())))),
        Arc::new(StringArray::from_iter(attributes().map(|attribute| Some(attribute?.1)))),
        integers(|size| size.files),
        integers(|size| size.values),
        integers(|size| size.bytes),
        integers(|size| size.decoded_bytes),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn add_file(sizes: &mut BTreeMap<String, Size>, footer: &ParquetMetaData) {
    let mut of_file: BTreeMap<&str, Size> = BTreeMap::new();
    for group in footer.row_groups() {
        let mut values: BTreeMap<&str, i64> = BTreeMap::new();
        for leaf in group.columns() {
            let Some(name) = leaf.column_path().parts().first() else { continue };
            let nulls = leaf.statistics().and_then(|statistics| statistics.null_count_opt()).unwrap_or(0);
            let present = leaf.num_values().saturating_sub(i64::try_from(nulls).unwrap_or(i64::MAX));
            let most = values.entry(name).or_default();
            *most = present.max(*most);
            let size = of_file.entry(name).or_default();
            size.bytes += leaf.compressed_size();
            size.decoded_bytes += leaf.uncompressed_size();
        }
        for (name, values) in values {
            of_file.entry(name).or_default().values += values;
        }
    }
    for (name, of_file) in of_file {
        let size = sizes.entry(name.to_owned()).or_default();
        size.files += 1;
        size.values += of_file.values;
        size.bytes += of_file.bytes;
        size.decoded_bytes += of_file.decoded_bytes;
    }
}
