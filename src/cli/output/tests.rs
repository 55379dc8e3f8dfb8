use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, MapBuilder, StringArray, StringBuilder, TimestampNanosecondArray},
    ipc::reader::{FileReader, StreamReader},
};
use futures::stream;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

fn batch() -> RecordBatch {
    let mut attributes = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    attributes.keys().append_value("http.route");
    attributes.values().append_value("/a,\"b\"");
    attributes.append(true).unwrap();
    attributes.append(false).unwrap();
    let times = TimestampNanosecondArray::from(vec![1_000_000_001, 0]).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("name", Arc::new(StringArray::from(vec![Some("GET"), None])) as ArrayRef),
        ("spans", Arc::new(Int64Array::from(vec![i64::MAX, -1]))),
        ("start_time", Arc::new(times)),
        ("attributes", Arc::new(attributes.finish())),
    ])
    .unwrap()
}

fn args(format: Option<Format>, output: Option<PathBuf>, rows_max: Option<usize>) -> OutputArgs {
    OutputArgs { format, output, rows_max }
}

/// What a pipe receives for two batches under `rows_max`.
async fn piped(format: Format, rows_max: Option<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    let batches = stream::iter([Ok(batch()), Ok(batch())]);
    let args = args(Some(format), None, rows_max);
    args.write_to(format, batch().schema(), batches, &mut out, Sink::for_pipe).await.unwrap();
    out
}

async fn piped_text(format: Format, rows_max: Option<usize>) -> String {
    String::from_utf8(piped(format, rows_max).await).unwrap()
}

#[tokio::test]
async fn a_table_shows_a_bounded_number_of_rows_and_says_so() {
    let text = piped_text(Format::Table, Some(1)).await;
    insta::assert_snapshot!(text, @r#"
    +------+---------------------+--------------------------------+----------------------+
    | name | spans               | start_time                     | attributes           |
    +------+---------------------+--------------------------------+----------------------+
    | GET  | 9223372036854775807 | 1970-01-01T00:00:01.000000001Z | {http.route: /a,"b"} |
    +------+---------------------+--------------------------------+----------------------+
    1 shown, and there are more: --rows-max N shows N, --output FILE takes all
    "#);
    assert!(piped_text(Format::Table, None).await.ends_with("\n4 rows\n"));
    assert!(piped_text(Format::Table, Some(4)).await.ends_with("\n4 rows\n"));
}

#[tokio::test]
async fn json_is_one_object_per_line() {
    insta::assert_snapshot!(piped_text(Format::Json, Some(2)).await, @r#"
    {"name":"GET","spans":9223372036854775807,"start_time":"1970-01-01T00:00:01.000000001Z","attributes":{"http.route":"/a,\"b\""}}
    {"spans":-1,"start_time":"1970-01-01T00:00:00Z"}
    "#);
}

#[tokio::test]
async fn csv_holds_nested_values_as_json() {
    insta::assert_snapshot!(piped_text(Format::Csv, Some(2)).await, @r#"
    name,spans,start_time,attributes
    GET,9223372036854775807,1970-01-01T00:00:01.000000001Z,"{""http.route"":""/a,\""b\""""}"
    ,-1,1970-01-01T00:00:00Z,
    "#);
    assert_eq!(piped_text(Format::Csv, Some(0)).await, "name,spans,start_time,attributes\n");
}

#[tokio::test]
async fn arrow_in_a_pipe_is_a_stream() {
    let bytes = piped(Format::Arrow, None).await;
    let batches: Vec<RecordBatch> =
        StreamReader::try_new(bytes.as_slice(), None).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(batches, [batch(), batch()]);
}

#[tokio::test]
async fn files_have_the_format_that_their_name_says() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.parquet", "a.arrow", "a.CSV", "a.jsonl"] {
        let path = folder.path().join(name);
        let batches = stream::iter([Ok(batch())]);
        args(None, Some(path.clone()), None).write(batch().schema(), batches).await.unwrap();
        assert!(!partial_path(&path).exists());
    }
    let parquet = File::open(folder.path().join("a.parquet")).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().columns(), batch().columns());
    let arrow = File::open(folder.path().join("a.arrow")).unwrap();
    assert_eq!(FileReader::try_new(arrow, None).unwrap().next().unwrap().unwrap(), batch());
    assert!(fs::read_to_string(folder.path().join("a.CSV")).unwrap().starts_with("name,spans"));
    let error = args(None, Some("a.xlsx".into()), None).format().unwrap_err();
    assert!(error.to_string().starts_with("the name of a.xlsx does not say its format"), "{error}");
}

#[tokio::test]
async fn a_failed_query_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let batches = stream::iter([Ok(batch()), Err(anyhow::anyhow!("out of memory"))]);
    let error = args(None, Some(path), None).write(batch().schema(), batches).await.unwrap_err();
    assert_eq!(error.to_string(), "out of memory");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
