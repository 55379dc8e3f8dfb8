//! `system.settings`: every setting of the process, with its default and its explanation. Secrets are not in it.

use std::sync::Arc;

use datafusion::arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, StringArray},
    datatypes::{DataType, Field},
};
use futures::FutureExt;

use super::{SystemTable, column};

pub(super) const TABLE: SystemTable = SystemTable {
    name: "settings",
    columns,
    rows: |context, _, schema| {
        let settings = context.process.settings.described();
        let text = |part: fn(&crate::config::Described) -> &str| -> ArrayRef {
            Arc::new(settings.iter().map(|setting| Some(part(setting))).collect::<StringArray>())
        };
        let changed = settings.iter().map(|setting| Some(setting.value != setting.default));
        let columns = vec![
            text(|setting| &setting.key),
            text(|setting| &setting.value),
            text(|setting| &setting.default),
            Arc::new(changed.collect::<BooleanArray>()),
            text(|setting| &setting.expected),
            text(|setting| setting.explanation),
        ];
        async move { Ok(RecordBatch::try_new(schema, columns)?) }.boxed()
    },
};

fn columns() -> Vec<Field> {
    vec![
        column("name", DataType::Utf8, "full key, such as wal.bytes_max"),
        column("value", DataType::Utf8, "value in this process, as a settings file writes it"),
        column("default_value", DataType::Utf8, "value without any configuration"),
        column("is_changed", DataType::Boolean, "whether the two differ"),
        column("expected", DataType::Utf8, "form of its values"),
        column("description", DataType::Utf8, "what it does"),
    ]
}
