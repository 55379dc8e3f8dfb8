//! Values in batches that are in no file yet.
//!
//! A batch has its resources and instrumentation scopes once for all spans that share them, so their values are read there:
//! of those that a span of the asked range refers to.

use std::{collections::HashSet, hash::Hash};

use datafusion::arrow::{
    array::{Array, AsArray, MapArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int64Type, UInt32Type},
};

use super::values::{Value, push_elements};
use crate::model::{
    attributes::{AttributeScope, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR},
    batch::SpanBatch,
    schema::column,
    time::TimeRange,
};

/// The values of a flat column; `None` if it is not one of scalars.
pub(super) fn in_column(batch: &SpanBatch, name: &str, range: TimeRange) -> Option<Vec<Value>> {
    let rows = Rows::of_range(batch, range);
    let Some((table, rows)) = rows.of_column(name) else { return Some(Vec::new()) };
    let values = table.column_by_name(name)?;
    Some(match values.data_type() {
        DataType::Utf8 => {
            let texts = values.as_string::<i32>();
            distinct(rows.filter(|row| texts.is_valid(*row)).map(|row| texts.value(row)), |text| {
                Value::Text((*text).to_owned())
            })
        }
        DataType::Int64 => {
            let ints = values.as_primitive::<Int64Type>();
            distinct(rows.filter(|row| ints.is_valid(*row)).map(|row| ints.value(row)), |int| Value::Int(*int))
        }
        DataType::Float64 => {
            let floats = values.as_primitive::<Float64Type>();
            let bits = rows.filter(|row| floats.is_valid(*row)).map(|row| floats.value(row).to_bits());
            distinct(bits, |bits| Value::Float(f64::from_bits(*bits)))
        }
        DataType::Boolean => {
            let truths = values.as_boolean();
            distinct(rows.filter(|row| truths.is_valid(*row)).map(|row| truths.value(row)), |truth| Value::Bool(*truth))
        }
        _ => return None,
    })
}

/// The values of a key in the maps of a scope; `None` if the maps have another form.
pub(super) fn in_maps(batch: &SpanBatch, scope: AttributeScope, key: &str, range: TimeRange) -> Option<Vec<Value>> {
    let rows = Rows::of_range(batch, range);
    let list = match scope {
        AttributeScope::Event => column::EVENTS,
        AttributeScope::Link => column::LINKS,
        _ => {
            let name = scope.map_column()?;
            let (table, rows) = rows.of_column(name)?;
            return entries(table.column_by_name(name)?.as_map_opt()?, key, rows);
        }
    };
    let lists = batch.spans().column_by_name(list)?.as_list_opt::<i32>()?;
    let maps = lists.values().as_struct_opt()?.column_by_name("attributes")?.as_map_opt()?;
    let offsets = lists.value_offsets();
    let items = rows.spans().filter(|row| lists.is_valid(*row));
    entries(maps, key, items.flat_map(|row| offsets[row] as usize..offsets[row + 1] as usize))
}

/// The names of the events.
pub(super) fn of_events(batch: &SpanBatch, range: TimeRange) -> Option<Vec<Value>> {
    let rows = Rows::of_range(batch, range);
    let lists = batch.spans().column_by_name(column::EVENTS)?.as_list_opt::<i32>()?;
    let names = lists.values().as_struct_opt()?.column_by_name("name")?.as_string_opt::<i32>()?;
    let offsets = lists.value_offsets();
    let items = rows.spans().filter(|row| lists.is_valid(*row));
    let items = items.flat_map(|row| offsets[row] as usize..offsets[row + 1] as usize);
    let texts = items.filter(|item| names.is_valid(*item)).map(|item| names.value(item));
    Some(distinct(texts, |text| Value::Text((*text).to_owned())))
}

fn entries(maps: &MapArray, key: &str, rows: impl Iterator<Item = usize>) -> Option<Vec<Value>> {
    let (offsets, keys) = (maps.value_offsets(), maps.keys().as_string_opt::<i32>()?);
    let values = maps.values().as_struct_opt()?;
    let texts = values.column(VALUE_STR).as_string_opt::<i32>()?;
    let ints = values.column(VALUE_INT).as_primitive_opt::<Int64Type>()?;
    let floats = values.column(VALUE_FLOAT).as_primitive_opt::<Float64Type>()?;
    let truths = values.column(VALUE_BOOL).as_boolean_opt()?;
    let jsons = values.column(VALUE_JSON).as_string_opt::<i32>()?;
    let places = rows
        .filter(|row| maps.is_valid(*row))
        .flat_map(|row| offsets[row] as usize..offsets[row + 1] as usize)
        .filter(|entry| keys.value(*entry) == key);
    let (mut seen_texts, mut seen_jsons, mut seen_numbers) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut found = Vec::new();
    for entry in places {
        if texts.is_valid(entry) {
            if seen_texts.insert(texts.value(entry)) {
                found.push(Value::Text(texts.value(entry).to_owned()));
            }
            continue;
        }
        if jsons.is_valid(entry) {
            if seen_jsons.insert(jsons.value(entry)) {
                push_elements(jsons.value(entry), &mut found);
            }
            continue;
        }
        let (number, value) = if ints.is_valid(entry) {
            ((VALUE_INT, ints.value(entry).cast_unsigned()), Value::Int(ints.value(entry)))
        } else if floats.is_valid(entry) {
            ((VALUE_FLOAT, floats.value(entry).to_bits()), Value::Float(floats.value(entry)))
        } else if truths.is_valid(entry) {
            ((VALUE_BOOL, u64::from(truths.value(entry))), Value::Bool(truths.value(entry)))
        } else {
            continue;
        };
        if seen_numbers.insert(number) {
            found.push(value);
        }
    }
    Some(found)
}

fn distinct<T: Eq + Hash>(values: impl Iterator<Item = T>, value: impl Fn(&T) -> Value) -> Vec<Value> {
    let seen: HashSet<T> = values.collect();
    seen.iter().map(value).collect()
}

/// The rows of the tables of a batch that belong to spans of a range.
struct Rows<'a> {
    batch: &'a SpanBatch,
    /// Whether a span is in the range; all are if `None`.
    in_range: Option<Vec<bool>>,
}

impl<'a> Rows<'a> {
    fn of_range(batch: &'a SpanBatch, range: TimeRange) -> Self {
        let is_inside = batch.start_time_range().is_some_and(|starts| range.holds(starts));
        let starts = batch.start_times().values();
        let in_range = (!is_inside).then(|| starts.iter().map(|start| range.contains(*start)).collect());
        Self { batch, in_range }
    }

    fn spans(&self) -> impl Iterator<Item = usize> + '_ {
        let in_range = self.in_range.as_deref();
        (0..self.batch.num_spans()).filter(move |row| in_range.is_none_or(|in_range| in_range[*row]))
    }

    /// The table that has a column, and its rows; `None` if none has it.
    fn of_column(&self, name: &str) -> Option<(&'a RecordBatch, Box<dyn Iterator<Item = usize> + '_>)> {
        let has = |table: &RecordBatch| table.schema_ref().column_with_name(name).is_some();
        if has(self.batch.spans()) {
            return Some((self.batch.spans(), Box::new(self.spans())));
        }
        let of_index = |table: &'a RecordBatch, index: &str| {
            let indexes = self.batch.spans()[index].as_primitive::<UInt32Type>().values();
            let mut used = vec![false; table.num_rows()];
            self.spans().for_each(|row| used[indexes[row] as usize] = true);
            let rows = used.into_iter().enumerate().filter(|(_, used)| *used).map(|(row, _)| row);
            (table, Box::new(rows) as Box<dyn Iterator<Item = usize>>)
        };
        if has(self.batch.resources()) {
            return Some(of_index(self.batch.resources(), column::RESOURCE_INDEX));
        }
        has(self.batch.scopes()).then(|| of_index(self.batch.scopes(), column::SCOPE_INDEX))
    }
}
