//! `system.metrics`: the samples of `/metrics` at this moment, as rows.

use std::sync::Arc;

use datafusion::arrow::{
    array::{ArrayRef, Float64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder},
    datatypes::{DataType, Field, Fields},
};
use futures::FutureExt;

use super::{SystemTable, column};
use crate::metrics::Sample;

pub(super) const TABLE: SystemTable = SystemTable {
    name: "metrics",
    columns,
    rows: |context, session, schema| {
        let now = session.execution_props().query_execution_start_time.and_then(|now| now.timestamp_nanos_opt());
        let samples = context.process.metrics.samples(now.unwrap_or_default());
        async move {
            let text = |part: fn(&Sample) -> &str| -> ArrayRef {
                Arc::new(samples.iter().map(|sample| Some(part(sample))).collect::<StringArray>())
            };
            let mut labels = MapBuilder::new(Some(names()), StringBuilder::new(), StringBuilder::new());
            for sample in &samples {
                for (name, value) in &sample.labels {
                    labels.keys().append_value(name);
                    labels.values().append_value(value);
                }
                labels.append(true)?;
            }
            let values: Float64Array = samples.iter().map(|sample| Some(sample.value)).collect();
            let columns = vec![
                text(|sample| &sample.name),
                Arc::new(labels.finish()),
                Arc::new(values),
                text(|sample| sample.kind),
                text(|sample| &sample.help),
            ];
            Ok(RecordBatch::try_new(schema, columns)?)
        }
        .boxed()
    },
};

fn names() -> MapFieldNames {
    MapFieldNames { entry: "entries".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

fn columns() -> Vec<Field> {
    let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    let labels = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false);
    vec![
        column("name", DataType::Utf8, "name of the family; of histograms with _count or _sum"),
        column("labels", labels, "labels of the sample"),
        column("value", DataType::Float64, "value at this moment"),
        column("kind", DataType::Utf8, "counter, gauge or histogram"),
        column("description", DataType::Utf8, "what it counts"),
    ]
}
