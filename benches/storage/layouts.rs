//! The same files written in other ways: what each choice of the layout costs and saves.
//!
//! The first row is the layout of [`tracehouse::storage::writer`], put together here once more; each other row changes one
//! thing. Bytes are of whole files. Reading is of four columns, as a search for slow spans has it, and of all.

use std::{collections::HashSet, sync::Arc, time::Duration};

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray, UInt32Array},
    compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};
use tracehouse::storage::writer::WrittenFile;

use crate::thread_cpu;

const TRACE: &str = "trace_id";
const SPAN: &str = "span_id";
const PARENT: &str = "parent_span_id";
const START: &str = "start_time_unix_nano";
const LENGTH: &str = "duration_nano";
/// Short texts that every search reads, which are stored without compression.
const READ_BY_ALL: [&str; 4] = ["name", "kind", "status_code", "service_name"];

type Change = fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder;

/// In which order rows are.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Traces by their start, spans of a trace together.
    AsWritten,
    By(&'static [&'static str]),
}

/// What is changed of columns of text, of which `true` are those where most values differ.
type ChangeText = fn(WriterPropertiesBuilder, ColumnPath, bool) -> WriterPropertiesBuilder;

/// One way to write.
struct Way {
    name: &'static str,
    order: Order,
    change: Change,
    texts: Option<ChangeText>,
}

const fn way(name: &'static str, change: Change) -> Way {
    Way { name, order: Order::AsWritten, change, texts: None }
}

const fn sorted(name: &'static str, columns: &'static [&'static str]) -> Way {
    Way { name, order: Order::By(columns), change: |base| base, texts: None }
}

const fn texts(name: &'static str, texts: ChangeText) -> Way {
    Way { name, order: Order::AsWritten, change: |base| base, texts: Some(texts) }
}

fn lz4(base: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    base.set_compression(Compression::LZ4_RAW)
}

fn no_statistics_where_most_differ(
    base: WriterPropertiesBuilder,
    text: ColumnPath,
    most_differ: bool,
) -> WriterPropertiesBuilder {
    if most_differ { base.set_column_statistics_enabled(text, EnabledStatistics::None) } else { base }
}

const WAYS: &[Way] = &[
    way("as it is", |base| base),
    sorted("sorted by start", &[START]),
    sorted("sorted by trace id, start", &[TRACE, START]),
    way("row groups of 32 k", |base| base.set_max_row_group_row_count(Some(32_768))),
    way("row groups of 512 k", |base| base.set_max_row_group_row_count(Some(524_288))),
    way("pages of 2 k rows", |base| base.set_data_page_row_count_limit(2_048)),
    way("pages of 20 k rows", |base| base.set_data_page_row_count_limit(20_000)),
    way("zstd 3", |base| base.set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))),
    way("zstd 6", |base| base.set_compression(Compression::ZSTD(ZstdLevel::try_new(6).unwrap()))),
    way("lz4", lz4),
    way("no compression", |base| base.set_compression(Compression::UNCOMPRESSED)),
    way("start plain", |base| base.set_column_encoding(path(START), Encoding::PLAIN)),
    way("start byte stream split", |base| base.set_column_encoding(path(START), Encoding::BYTE_STREAM_SPLIT)),
    way("duration plain", |base| base.set_column_encoding(path(LENGTH), Encoding::PLAIN)),
    way("duration byte stream split, compressed", |base| {
        let split = base.set_column_encoding(path(LENGTH), Encoding::BYTE_STREAM_SPLIT);
        split.set_column_compression(path(LENGTH), Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
    }),
    way("duration dictionary", |base| base.set_column_dictionary_enabled(path(LENGTH), true)),
    way("trace ids with dictionary", |base| base.set_column_dictionary_enabled(path(TRACE), true)),
    way("parent ids with dictionary", |base| base.set_column_dictionary_enabled(path(PARENT), true)),
    way("span ids, starts and durations compressed", |base| {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
        [SPAN, START, LENGTH].into_iter().fold(base, |base, name| base.set_column_compression(path(name), zstd))
    }),
    way("names, kinds and the like compressed", |base| {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
        READ_BY_ALL.into_iter().fold(base, |base, name| base.set_column_compression(path(name), zstd))
    }),
    way("no bloom filter of trace ids", |base| base.set_column_bloom_filter_enabled(path(TRACE), false)),
    way("no page index", |base| base.set_statistics_enabled(EnabledStatistics::Chunk)),
    way("no statistics", |base| base.set_statistics_enabled(EnabledStatistics::None)),
    texts("texts without statistics", |base, text, _| {
        base.set_column_statistics_enabled(text, EnabledStatistics::None)
    }),
    texts("texts that differ: no statistics", no_statistics_where_most_differ),
    texts("texts that differ: no dictionary", |base, text, most_differ| {
        if most_differ { base.set_column_dictionary_enabled(text, false) } else { base }
    }),
    texts("texts that differ: bloom filter", |base, text, most_differ| match most_differ {
        true => base.set_column_bloom_filter_enabled(text.clone(), true).set_column_bloom_filter_max_ndv(text, 131_072),
        false => base,
    }),
    Way {
        name: "lz4, no statistics where texts differ",
        order: Order::AsWritten,
        change: lz4,
        texts: Some(no_statistics_where_most_differ),
    },
];

fn path(name: &str) -> ColumnPath {
    ColumnPath::new(vec![name.to_owned()])
}

fn base() -> WriterPropertiesBuilder {
    let mut base = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_max_row_group_row_count(Some(131_072))
        .set_data_page_row_count_limit(8_192)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_bloom_filter_enabled(path(TRACE), true)
        .set_column_bloom_filter_max_ndv(path(TRACE), 131_072)
        .set_column_encoding(path(START), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(path(LENGTH), Encoding::DELTA_BINARY_PACKED);
    for name in [SPAN, START, LENGTH].into_iter().chain(READ_BY_ALL) {
        base = base.set_column_compression(path(name), Compression::UNCOMPRESSED);
    }
    for name in [TRACE, SPAN, PARENT, START, LENGTH] {
        base = base.set_column_dictionary_enabled(path(name), false);
    }
    for name in [SPAN, PARENT] {
        base = base.set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    base
}

/// Writes the spans of `files` in each way, and prints a row for it.
pub(crate) fn report(files: &[WrittenFile], spans: u64) {
    println!(
        "\n{:<38} {:>12} {:>10} {:>14} {:>16} {:>14}",
        "layout", "bytes/span", "times", "write s/1M", "4 columns s/1M", "read s/1M"
    );
    let batches: Vec<RecordBatch> = files.iter().map(|file| whole(&file.bytes)).collect();
    let mut first = None;
    for way in WAYS {
        let (mut bytes, mut write, mut few, mut all) = (0, Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for batch in &batches {
            let batch = ordered(batch, way.order);
            let properties = way.properties(&batch);
            let started = thread_cpu();
            let file = written(&batch, properties);
            write += thread_cpu() - started;
            bytes += file.len();
            let started = thread_cpu();
            assert_eq!(read(&file, &[TRACE, START, LENGTH, "name"]), batch.num_rows());
            few += thread_cpu() - started;
            let started = thread_cpu();
            assert_eq!(read(&file, &[]), batch.num_rows());
            all += thread_cpu() - started;
        }
        let per_span = bytes as f64 / spans as f64;
        let first = *first.get_or_insert(per_span);
        let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / spans as f64;
        println!(
            "{:<38} {per_span:>12.2} {:>10.3} {:>14.2} {:>16.3} {:>14.2}",
            way.name,
            per_span / first,
            per_million(write),
            per_million(few),
            per_million(all)
        );
    }
}

impl Way {
    fn properties(&self, batch: &RecordBatch) -> WriterProperties {
        let mut properties = (self.change)(base());
        if let Some(change) = self.texts {
            for (field, values) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                if let Some(texts) = values.as_string_opt::<i32>() {
                    properties = change(properties, path(field.name()), most_differ(texts));
                }
            }
        }
        properties.build()
    }
}

/// As the writer tells it: from some values that are spread over the column.
fn most_differ(texts: &StringArray) -> bool {
    let count = texts.len() - texts.null_count();
    let step = count.div_ceil(1_024).max(1);
    let sample: Vec<&str> = texts.iter().flatten().step_by(step).collect();
    let distinct: HashSet<&str> = sample.iter().copied().collect();
    sample.len() >= 16 && distinct.len() * 4 > sample.len()
}

fn whole(file: &Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn ordered(batch: &RecordBatch, order: Order) -> RecordBatch {
    let Order::By(columns) = order else { return batch.clone() };
    let columns: Vec<SortColumn> =
        columns.iter().map(|name| SortColumn { values: Arc::clone(&batch[*name]), options: None }).collect();
    let rows: UInt32Array = lexsort_to_indices(&columns, None).unwrap();
    assert_eq!(rows.len(), batch[TRACE].as_fixed_size_binary().len());
    take_record_batch(batch, &rows).unwrap()
}

fn written(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

/// Rows of a file, with these columns decoded, or all of them if there are none.
fn read(file: &Bytes, columns: &[&str]) -> usize {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
    let mask = match columns {
        [] => ProjectionMask::all(),
        columns => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
    };
    let reader = builder.with_projection(mask).with_batch_size(8_192).build().unwrap();
    reader.map(|batch| batch.unwrap().num_rows()).sum()
}
