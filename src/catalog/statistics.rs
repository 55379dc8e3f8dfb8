//! Statistics of a file, as Delta keeps them: rows, and least and greatest value and NULLs of some columns.
//!
//! ```text
//! {"numRecords":3,"minValues":{"duration_nano":1},"maxValues":{"duration_nano":9},"nullCount":{"duration_nano":0}}
//! ```
//!
//! A column that has only NULLs in a file has a null count and no values. Outside readers take a file without a
//! column's values for one without matching rows, so a file has statistics for all of the table's statistics columns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest text kept as a least or greatest value, in characters.
const TEXT_CHARS_MAX: usize = 64;

/// Statistics of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileStatistics {
    /// Number of rows.
    pub rows: u64,
    /// By column name.
    pub columns: BTreeMap<String, ColumnStatistics>,
}

/// Statistics of a column of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnStatistics {
    /// A lower bound of the values; absent if there are only NULLs.
    pub min: Option<StatisticsValue>,
    /// An upper bound of the values; absent if there are only NULLs.
    pub max: Option<StatisticsValue>,
    /// Number of rows that are NULL.
    pub nulls: u64,
}

/// A value of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatisticsValue {
    /// Of an integer column.
    Int(i64),
    /// Of a floating-point column; finite.
    Float(f64),
    /// Of a text column; possibly a shortened bound.
    Text(String),
}

impl ColumnStatistics {
    /// Statistics of an integer column; `None` for the range if there are only NULLs.
    pub fn of_ints(range: Option<(i64, i64)>, nulls: u64) -> Self {
        let (min, max) = range.unzip();
        Self { min: min.map(StatisticsValue::Int), max: max.map(StatisticsValue::Int), nulls }
    }

    /// Statistics of a text column, with long values shortened to bounds; `None` for the range if there are only NULLs.
    pub fn of_texts(range: Option<(&str, &str)>, nulls: u64) -> Self {
        let (min, max) = range.unzip();
        Self {
            min: min.map(|text| StatisticsValue::Text(lower_bound(text).to_owned())),
            max: max.map(|text| StatisticsValue::Text(upper_bound(text))),
            nulls,
        }
    }
}

impl FileStatistics {
    /// The integer range of a column, if the statistics have one.
    pub fn int_range(&self, column: &str) -> Option<(i64, i64)> {
        let column = self.columns.get(column)?;
        match (&column.min, &column.max) {
            (Some(StatisticsValue::Int(min)), Some(StatisticsValue::Int(max))) => Some((*min, *max)),
            _ => None,
        }
    }

    /// The JSON text for an add, with `columns` and no others.
    ///
    /// # Errors
    /// The name of a column that has no statistics here.
    pub fn to_json(&self, columns: &[String]) -> Result<String, String> {
        let mut encoded = Encoded { num_records: Some(self.rows), ..Encoded::default() };
        for name in columns {
            let column = self.columns.get(name).ok_or_else(|| name.clone())?;
            if column.nulls < self.rows && (column.min.is_none() || column.max.is_none()) {
                return Err(name.clone());
            }
            for (value, values) in [(&column.min, &mut encoded.min_values), (&column.max, &mut encoded.max_values)] {
                if let Some(value) = value {
                    values.insert(name.clone(), serde_json::to_value(value).unwrap_or_default());
                }
            }
            encoded.null_count.insert(name.clone(), Value::from(column.nulls));
        }
        serde_json::to_string(&encoded).map_err(|error| error.to_string())
    }

    /// Reads the JSON text of an add. Other writers' statistics that we have no use for (of nested columns, dates and
    /// so on) are left out; `None` if not even the number of rows is there.
    pub fn from_json(text: &str) -> Option<Self> {
        let encoded: Encoded = serde_json::from_str(text).ok()?;
        let mut columns = BTreeMap::new();
        for (name, nulls) in encoded.null_count {
            let Some(nulls) = nulls.as_u64() else { continue };
            let value = |values: &Map<String, Value>| serde_json::from_value(values.get(&name)?.clone()).ok();
            let (min, max) = (value(&encoded.min_values), value(&encoded.max_values));
            columns.insert(name, ColumnStatistics { min, max, nulls });
        }
        Some(Self { rows: encoded.num_records?, columns })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Encoded {
    num_records: Option<u64>,
    min_values: Map<String, Value>,
    max_values: Map<String, Value>,
    null_count: Map<String, Value>,
}

fn lower_bound(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// The shortened text followed by the greatest character, which sorts after every text with that start.
fn upper_bound(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) else { return text.to_owned() };
    let rest = &text[end..];
    let greatest = rest.chars().take_while(|c| *c == char::MAX).count();
    if greatest == rest.chars().count() {
        return text.to_owned();
    }
    let kept = end + greatest * char::MAX.len_utf8();
    format!("{}{}", &text[..kept], char::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn statistics_are_read_back_as_written(
            rows in 0_u64..1000,
            range in proptest::option::of((any::<i64>(), any::<i64>())),
            texts in proptest::option::of((".{0,80}", ".{0,80}")),
        ) {
            let nulls = |all: bool| if all { rows } else { 0 };
            let texts_range = texts.as_ref().map(|(min, max)| (min.as_str(), max.as_str()));
            let columns = BTreeMap::from([
                ("a.b".to_owned(), ColumnStatistics::of_ints(range, nulls(range.is_none()))),
                ("c".to_owned(), ColumnStatistics::of_texts(texts_range, nulls(texts.is_none()))),
            ]);
            let statistics = FileStatistics { rows, columns };
            let json = statistics.to_json(&["a.b".to_owned(), "c".to_owned()]).unwrap();
            prop_assert_eq!(FileStatistics::from_json(&json).unwrap(), statistics);
        }

        #[test]
        fn shortened_texts_are_bounds(text in "[a\u{10FFFF}]{50,90}", tail in "[z\u{10FFFF}]{0,30}") {
            let text = format!("{text}{tail}");
            prop_assert!(lower_bound(&text) <= text.as_str());
            prop_assert!(upper_bound(&text).as_str() >= text.as_str());
        }
    }

    #[test]
    fn a_missing_statistic_is_named() {
        let statistics = FileStatistics { rows: 1, columns: BTreeMap::new() };
        assert_eq!(statistics.to_json(&["x".to_owned()]), Err("x".to_owned()));
        assert_eq!(
            statistics.to_json(&[]).unwrap(),
            r#"{"numRecords":1,"minValues":{},"maxValues":{},"nullCount":{}}"#
        );
    }

    #[test]
    fn statistics_of_other_writers_are_used_as_far_as_they_are_understood() {
        let json = r#"{"numRecords":3,"minValues":{"a":1,"d":{"e":1}},"maxValues":{"a":2},"nullCount":{"a":0,"d":{"e":0}},"tightBounds":true}"#;
        let statistics = FileStatistics::from_json(json).unwrap();
        assert_eq!(statistics.int_range("a"), Some((1, 2)));
        assert_eq!(statistics.columns.len(), 1);
        assert!(FileStatistics::from_json(r#"{"minValues":{}}"#).is_none());
        assert!(FileStatistics::from_json("").is_none());
    }
}
