//! What a search found, for eyes: a line per trace, and in its last column a line per span that matched.
//!
//! The answer itself has lists of structs in it, which a table can only show as text that is hundreds of columns wide. Every
//! other form has it whole.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, ListArray, StringArray, StructArray},
    datatypes::{DataType, Int64Type},
    error::ArrowError,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use chrono::{DateTime, SecondsFormat};

use crate::traceql::literal::format_duration;

/// Characters of a span's name or attributes that are shown.
const TEXT_CHARS_MAX: usize = 100;

/// The columns that only the answer of a search has.
const OF_A_SEARCH: [&str; 4] = ["root_service_name", "root_name", "span_sets", "service_stats"];

/// The rows of a search as lines of a table; `None` if these are no rows of a search.
pub(super) fn for_eyes(batch: &RecordBatch) -> Option<Result<RecordBatch, ArrowError>> {
    OF_A_SEARCH.iter().all(|name| batch.column_by_name(name).is_some()).then(|| lines(batch))
}

fn lines(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let started = numbers(batch, "start_time_unix_nano")?.values().iter().map(|nanos| moment(*nanos));
    let durations = numbers(batch, "duration_nano")?.values().iter().map(|nanos| duration(*nanos));
    let services = list(batch, "service_stats")?;
    let spansets = list(batch, "span_sets")?;
    let rows = 0..batch.num_rows();
    let (spans, errors) = (of_services(services, "span_count")?, of_services(services, "error_count")?);
    let matching = rows.map(|row| matching(&spansets.value(row))).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_from_iter([
        ("trace_id", Arc::clone(column(batch, "trace_id")?)),
        ("started", Arc::new(StringArray::from_iter_values(started)) as ArrayRef),
        ("duration", Arc::new(StringArray::from_iter_values(durations))),
        ("root_service_name", Arc::clone(column(batch, "root_service_name")?)),
        ("root_name", Arc::clone(column(batch, "root_name")?)),
        ("spans", Arc::new(spans)),
        ("errors", Arc::new(errors)),
        ("matched", Arc::clone(column(batch, "matched")?)),
        ("matching spans", Arc::new(StringArray::from(matching))),
    ])
}

/// The sum over the services of each trace.
fn of_services(services: &ListArray, name: &str) -> Result<Int64Array, ArrowError> {
    let sum = |row| {
        let services = services.value(row);
        Ok(Some(field(services.as_struct(), name)?.as_primitive::<Int64Type>().values().iter().sum()))
    };
    (0..services.len()).map(sum).collect()
}

/// The shown spans of a trace, a line each.
fn matching(spansets: &ArrayRef) -> Result<String, ArrowError> {
    let mut lines = Vec::new();
    for spans in field(spansets.as_struct(), "spans")?.as_list::<i32>().iter().flatten() {
        let spans = spans.as_struct();
        let names = field(spans, "name")?.as_string::<i32>();
        let durations = field(spans, "duration_nano")?.as_primitive::<Int64Type>();
        let attributes = field(spans, "attributes")?;
        let attributes = ArrayFormatter::try_new(attributes.as_ref(), &FormatOptions::default())?;
        for row in 0..spans.len() {
            let attributes = attributes.value(row).to_string();
            let line = format!(
                "{} {} {}",
                shortened(names.value(row)),
                duration(durations.value(row)),
                shortened(&attributes)
            );
            lines.push(line.trim_end_matches(" {}").to_owned());
        }
    }
    Ok(lines.join("\n"))
}

/// Text of one line and a bounded length.
fn shortened(text: &str) -> String {
    let mut shown: String =
        text.chars().take(TEXT_CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char }).collect();
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A duration with four digits that count.
fn duration(nanos: i64) -> String {
    let mut unit = 1_i64;
    while nanos / unit >= 10_000 {
        unit *= 10;
    }
    format_duration(nanos.saturating_add(unit / 2) / unit * unit)
}

fn moment(unix_nano: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nano).to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| missing(name))
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, ArrowError> {
    column(batch, name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing(name))
}

fn list<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ListArray, ArrowError> {
    let column = column(batch, name)?;
    let of_structs =
        matches!(column.data_type(), DataType::List(item) if matches!(item.data_type(), DataType::Struct(_)));
    column.as_list_opt().filter(|_| of_structs).ok_or_else(|| missing(name))
}

fn field<'a>(of: &'a StructArray, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    of.column_by_name(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("the answer of a search has no usable column {name}"))
}

#[cfg(test)]
mod tests {
    use arrow::{
        datatypes::{Field, Schema},
        json::ReaderBuilder,
        util::pretty::pretty_format_batches,
    };

    use super::*;

    fn answer(json: &str) -> RecordBatch {
        let list =
            |fields: Vec<Field>| DataType::List(Arc::new(Field::new("item", DataType::Struct(fields.into()), true)));
        let number = |name: &str| Field::new(name, DataType::Int64, false);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let entry = DataType::Struct(vec![Field::new("keys", DataType::Utf8, false), text("values")].into());
        let map = DataType::Map(Arc::new(Field::new("entries", entry, false)), false);
        let attributes = || Field::new("attributes", map.clone(), true);
        let span = vec![text("span_id"), text("name"), number("duration_nano"), attributes()];
        let schema = Schema::new(vec![
            text("trace_id"),
            text("root_service_name"),
            text("root_name"),
            number("start_time_unix_nano"),
            number("duration_nano"),
            number("matched"),
            Field::new("span_sets", list(vec![attributes(), Field::new("spans", list(span), true)]), true),
            Field::new("service_stats", list(vec![number("span_count"), number("error_count")]), true),
        ]);
        ReaderBuilder::new(Arc::new(schema)).build(json.as_bytes()).unwrap().next().unwrap().unwrap()
    }

    #[test]
    fn a_trace_is_a_line_and_its_spans_are_lines_of_the_last_column() {
        let batch = answer(
            r#"{"trace_id": "2a11", "root_service_name": "api", "root_name": "POST /orders", "matched": 2,
                "start_time_unix_nano": 1795300727116488158, "duration_nano": 122187826,
                "span_sets": [{"attributes": {}, "spans": [
                    {"span_id": "a", "name": "charge\ncard", "duration_nano": 999, "attributes": {"user.id": "7"}},
                    {"span_id": "b", "name": "ship", "duration_nano": 61000000999, "attributes": {}}]}],
                "service_stats": [{"span_count": 3, "error_count": 1}, {"span_count": 4, "error_count": 1}]}
               {"trace_id": "2a12", "matched": 0, "start_time_unix_nano": 0, "duration_nano": 0,
                "span_sets": [], "service_stats": []}"#,
        );
        let table = pretty_format_batches(&[for_eyes(&batch).unwrap().unwrap()]).unwrap().to_string();
        insta::assert_snapshot!(table, @r"
        +----------+--------------------------+----------+-------------------+--------------+-------+--------+---------+--------------------------------+
        | trace_id | started                  | duration | root_service_name | root_name    | spans | errors | matched | matching spans                 |
        +----------+--------------------------+----------+-------------------+--------------+-------+--------+---------+--------------------------------+
        | 2a11     | 2026-11-21T22:38:47.116Z | 122.2ms  | api               | POST /orders | 7     | 2      | 2       | charge card 999ns {user.id: 7} |
        |          |                          |          |                   |              |       |        |         | ship 1m1s                      |
        | 2a12     | 1970-01-01T00:00:00.000Z | 0s       |                   |              | 0     | 0      | 0       |                                |
        +----------+--------------------------+----------+-------------------+--------------+-------+--------+---------+--------------------------------+
        ");
        let named = RecordBatch::try_from_iter([("span_sets", Arc::clone(batch.column(7)))]).unwrap();
        assert!(for_eyes(&named).is_none());
    }

    #[test]
    fn four_digits_of_a_duration_count() {
        let shown = [0, 7, 9_999, 10_006, 122_187_826, 61_000_000_999, i64::MAX].map(duration);
        assert_eq!(shown, ["0s", "7ns", "9.999\u{b5}s", "10.01\u{b5}s", "122.2ms", "1m1s", "2561944h26m40s"]);
        assert_eq!(shortened(&"x".repeat(101)), format!("{}...", "x".repeat(100)));
    }
}
