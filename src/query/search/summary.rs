//! `trace_summary(...)`: the aggregate that makes one row of an answer out of the spans of a trace.
//!
//! Its state travels between partial and final aggregation as three lists: one entry per span, at most one root, and the
//! kept matching spans with their shown values in Arrow's row format.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Int64Array, Int64Builder,
            ListArray, MapArray, StringArray, StringBuilder, StructArray, UInt8Builder, UInt32Array, new_empty_array,
        },
        buffer::OffsetBuffer,
        compute::{concat, take},
        datatypes::{DataType, Field, FieldRef, Fields, Int64Type, UInt8Type},
        row::{RowConverter, SortField},
    },
    common::{Result, ScalarValue, internal_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};

use super::{
    schema,
    state::{Facts, Match, Root, SpanKey, TraceState},
};
use crate::model::{
    attributes,
    ids::SpanId,
    schema::{KINDS, column},
};

/// Column of whether a span has no parent.
pub(super) const IS_ROOT: &str = "is_root";
/// Column of the service's name.
pub(super) const SERVICE: &str = "service";
/// Column of whether a span's status is an error.
pub(super) const IS_ERROR: &str = "is_error";
/// Column of whether a span matches.
pub(super) const MATCHES: &str = "matches";

/// The first arguments, by their columns; then come the shown values.
pub(super) const ARGUMENTS: [&str; 9] = [
    column::SPAN_ID,
    column::KIND,
    IS_ROOT,
    column::START_TIME,
    column::DURATION,
    column::NAME,
    SERVICE,
    IS_ERROR,
    MATCHES,
];

/// The aggregate that shows at most `spans_max` spans, with attributes under `keys`.
pub(super) fn udaf(keys: Vec<String>, spans_max: usize) -> Arc<AggregateUDF> {
    let signature = Signature::any(ARGUMENTS.len() + keys.len(), Volatility::Immutable);
    Arc::new(AggregateUDF::from(TraceSummary { keys: keys.into(), spans_max: spans_max.max(1), signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TraceSummary {
    keys: Arc<[String]>,
    spans_max: usize,
    signature: Signature,
}

impl AggregateUDFImpl for TraceSummary {
    fn name(&self) -> &str {
        "trace_summary"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(schema::summary_fields()))
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let value = SortField::new(DataType::Struct(attributes::value_fields()));
        let rows = RowConverter::new(vec![value; self.keys.len()])?;
        Ok(Box::new(Summary { keys: Arc::clone(&self.keys), rows, state: TraceState::new(self.spans_max) }))
    }

    fn state_fields(&self, _: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let list = |name: &str, fields| Arc::new(Field::new(name, DataType::List(schema::item(fields)), true));
        Ok(vec![
            list("trace_summary[spans]", fact_fields()),
            list("trace_summary[root]", root_fields()),
            list("trace_summary[matches]", match_fields()),
        ])
    }
}

struct Summary {
    keys: Arc<[String]>,
    rows: RowConverter,
    state: TraceState,
}

impl fmt::Debug for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Summary").field("keys", &self.keys).field("state", &self.state).finish_non_exhaustive()
    }
}

fn kind_number(kind: &str) -> u8 {
    KINDS.iter().position(|known| *known == kind).map_or(u8::MAX, |number| number as u8)
}

fn optional(texts: &StringArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

impl Accumulator for Summary {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [ids, kinds, roots, starts, durations, names, services, errors, matches, shown @ ..] = values else {
            return internal_err!("trace_summary() got {} arguments", values.len());
        };
        let ids = ids.as_fixed_size_binary();
        let (kinds, names, services) =
            (kinds.as_string::<i32>(), names.as_string::<i32>(), services.as_string::<i32>());
        let (roots, errors, matches) = (roots.as_boolean(), errors.as_boolean(), matches.as_boolean());
        let (starts, durations) = (starts.as_primitive::<Int64Type>(), durations.as_primitive::<Int64Type>());
        for row in 0..ids.len() {
            let Ok(id) = <[u8; SpanId::LEN]>::try_from(ids.value(row)) else {
                return internal_err!("a span id has {} bytes", ids.value_length());
            };
            let key = SpanKey { id: u64::from_be_bytes(id), kind: kind_number(kinds.value(row)) };
            let (start, duration) = (starts.value(row), durations.value(row));
            let service = optional(services, row).map(|service| self.state.text(service));
            let is_match = matches.is_valid(row) && matches.value(row);
            if roots.value(row) {
                let name = self.state.text(names.value(row));
                self.state.add_root(Root { start, key, service: service.clone(), name });
            }
            if is_match && self.state.wants(start, key) {
                let name = self.state.text(names.value(row));
                let shown = self.encoded(shown, row)?;
                self.state.add_match(Match { start, key, duration, name, shown });
            }
            let is_error = errors.is_valid(row) && errors.value(row);
            self.state.add_span(key, Facts { start, duration, service, is_error, matches: is_match });
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some((start, end)) = self.state.bounds() else {
            return ScalarValue::try_new_null(&DataType::Struct(schema::summary_fields()));
        };
        let root = self.state.root();
        let text = |text: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        let int = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let columns = vec![
            text(root.and_then(|root| root.service.as_deref())),
            text(root.map(|root| root.name.as_ref())),
            int(Some(start)),
            int(Some(end.saturating_sub(start))),
            int(Some(self.state.matched())),
            one_list(self.shown_spans()?),
            one_list(self.service_stats()?),
            int(self.state.matches().first().map(|first| first.start)),
        ];
        Ok(ScalarValue::Struct(Arc::new(StructArray::try_new(schema::summary_fields(), columns, None)?)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.size() + self.state.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let lists = [facts_array(&self.state)?, root_array(&self.state)?, matches_array(&self.state)?];
        Ok(lists
            .into_iter()
            .map(|values| ScalarValue::List(Arc::new(one_list(values).as_list::<i32>().clone())))
            .collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [facts, roots, matches] = states else {
            return internal_err!("trace_summary() has three state columns, got {}", states.len());
        };
        // The groups do not matter here: all rows are of this trace.
        let values = |lists: &ArrayRef| -> StructArray {
            let lists: &ListArray = lists.as_list();
            let (first, last) = (lists.value_offsets()[0], lists.value_offsets()[lists.len()]);
            lists.values().slice(first as usize, (last - first) as usize).as_struct().clone()
        };
        self.merge_facts(&values(facts));
        self.merge_roots(&values(roots));
        self.merge_matches(&values(matches));
        Ok(())
    }
}

impl Summary {
    fn encoded(&mut self, shown: &[ArrayRef], row: usize) -> Result<Box<[u8]>> {
        if shown.is_empty() {
            return Ok(Box::default());
        }
        let row: Vec<ArrayRef> = shown.iter().map(|column| column.slice(row, 1)).collect();
        let rows = self.rows.convert_columns(&row)?;
        Ok(Box::from(rows.row(0).as_ref()))
    }

    fn merge_facts(&mut self, facts: &StructArray) {
        let keys = keys_of(facts);
        let (starts, durations) = (ints(facts, "start"), ints(facts, "duration"));
        let services = facts["service"].as_string::<i32>();
        let (errors, matches) = (facts["is_error"].as_boolean(), facts["matches"].as_boolean());
        for (row, key) in keys.into_iter().enumerate() {
            let service = optional(services, row).map(|service| self.state.text(service));
            let (is_error, matches) = (errors.value(row), matches.value(row));
            let (start, duration) = (starts.value(row), durations.value(row));
            self.state.add_span(key, Facts { start, duration, service, is_error, matches });
        }
    }

    fn merge_roots(&mut self, roots: &StructArray) {
        let starts = ints(roots, "start");
        let (services, names) = (roots["service"].as_string::<i32>(), roots["name"].as_string::<i32>());
        for (row, key) in keys_of(roots).into_iter().enumerate() {
            let service = optional(services, row).map(|service| self.state.text(service));
            let name = self.state.text(names.value(row));
            self.state.add_root(Root { start: starts.value(row), key, service, name });
        }
    }

    fn merge_matches(&mut self, matches: &StructArray) {
        let (starts, durations) = (ints(matches, "start"), ints(matches, "duration"));
        let (names, shown) = (matches["name"].as_string::<i32>(), matches["shown"].as_binary::<i32>());
        for (row, key) in keys_of(matches).into_iter().enumerate() {
            let (start, duration) = (starts.value(row), durations.value(row));
            if self.state.wants(start, key) {
                let name = self.state.text(names.value(row));
                self.state.add_match(Match { start, key, duration, name, shown: Box::from(shown.value(row)) });
            }
        }
    }

    fn shown_spans(&self) -> Result<StructArray> {
        let matches = self.state.matches();
        let mut ids = FixedSizeBinaryBuilder::new(SpanId::LEN as i32);
        let (mut names, mut starts, mut durations) = (StringBuilder::new(), Int64Builder::new(), Int64Builder::new());
        for found in matches {
            ids.append_value(found.key.id.to_be_bytes())?;
            names.append_value(&found.name);
            starts.append_value(found.start);
            durations.append_value(found.duration);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ids.finish()),
            Arc::new(names.finish()),
            Arc::new(starts.finish()),
            Arc::new(durations.finish()),
            Arc::new(self.shown_attributes(matches)?),
        ];
        Ok(StructArray::try_new(schema::span_fields(), columns, None)?)
    }

    /// The shown values as attribute maps, without those that a span does not have.
    fn shown_attributes(&self, matches: &[Match]) -> Result<MapArray> {
        let columns = match self.keys.is_empty() {
            true => Vec::new(),
            false => {
                let parser = self.rows.parser();
                self.rows.convert_rows(matches.iter().map(|found| parser.parse(&found.shown)))?
            }
        };
        let (mut keys, mut lengths) = (StringBuilder::new(), Vec::with_capacity(matches.len()));
        let mut sources = Vec::new();
        for row in 0..matches.len() {
            let before = sources.len();
            for (index, (column, key)) in columns.iter().zip(self.keys.iter()).enumerate() {
                if column.is_valid(row) {
                    keys.append_value(key);
                    sources.push((index * matches.len() + row) as u32);
                }
            }
            lengths.push(sources.len() - before);
        }
        let all = match columns.is_empty() {
            true => new_empty_array(&DataType::Struct(attributes::value_fields())),
            false => {
                let parts: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
                concat(&parts)?
            }
        };
        let values = take(&all, &UInt32Array::from(sources), None)?;
        let entries = StructArray::try_new(attributes::entry_fields(), vec![Arc::new(keys.finish()), values], None)?;
        let DataType::Map(field, sorted) = attributes::map_type() else {
            return internal_err!("attribute maps are maps");
        };
        Ok(MapArray::try_new(field, OffsetBuffer::from_lengths(lengths), entries, None, sorted)?)
    }

    fn service_stats(&self) -> Result<StructArray> {
        let (mut names, mut spans, mut errors) = (StringBuilder::new(), Int64Builder::new(), Int64Builder::new());
        for (name, counts) in self.state.services() {
            names.append_option(name);
            spans.append_value(counts.spans);
            errors.append_value(counts.errors);
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(names.finish()), Arc::new(spans.finish()), Arc::new(errors.finish())];
        Ok(StructArray::try_new(schema::service_fields(), columns, None)?)
    }
}

/// A list column of one row, which holds all `values`.
fn one_list(values: StructArray) -> ArrayRef {
    let item = schema::item(values.fields().clone());
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(item, offsets, Arc::new(values), None))
}

fn key_fields() -> [Field; 2] {
    // Arrow sorts and hashes signed integers alike; the bits are those of the id.
    [Field::new("id", DataType::Int64, false), Field::new("kind", DataType::UInt8, false)]
}

fn fields_after_key(fields: impl IntoIterator<Item = Field>) -> Fields {
    key_fields().into_iter().chain(fields).collect()
}

fn fact_fields() -> Fields {
    fields_after_key([
        Field::new("start", DataType::Int64, false),
        Field::new("duration", DataType::Int64, false),
        Field::new("service", DataType::Utf8, true),
        Field::new("is_error", DataType::Boolean, false),
        Field::new("matches", DataType::Boolean, false),
    ])
}

fn root_fields() -> Fields {
    fields_after_key([
        Field::new("start", DataType::Int64, false),
        Field::new("service", DataType::Utf8, true),
        Field::new("name", DataType::Utf8, false),
    ])
}

fn match_fields() -> Fields {
    fields_after_key([
        Field::new("start", DataType::Int64, false),
        Field::new("duration", DataType::Int64, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("shown", DataType::Binary, false),
    ])
}

fn ints<'a>(values: &'a StructArray, name: &str) -> &'a Int64Array {
    values[name].as_primitive::<Int64Type>()
}

fn keys_of(values: &StructArray) -> Vec<SpanKey> {
    let ids = ints(values, "id").values().iter();
    let kinds = values["kind"].as_primitive::<UInt8Type>().values();
    ids.zip(kinds).map(|(id, kind)| SpanKey { id: id.cast_unsigned(), kind: *kind }).collect()
}

/// Builders of the two key columns.
#[derive(Default)]
struct KeyColumns {
    ids: Int64Builder,
    kinds: UInt8Builder,
}

impl KeyColumns {
    fn append(&mut self, key: SpanKey) {
        self.ids.append_value(key.id.cast_signed());
        self.kinds.append_value(key.kind);
    }

    fn finish(mut self, fields: Fields, rest: Vec<ArrayRef>) -> Result<StructArray> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.ids.finish()), Arc::new(self.kinds.finish())];
        columns.extend(rest);
        Ok(StructArray::try_new(fields, columns, None)?)
    }
}

fn facts_array(state: &TraceState) -> Result<StructArray> {
    let (mut keys, mut services) = (KeyColumns::default(), StringBuilder::new());
    let (mut starts, mut durations) = (Int64Builder::new(), Int64Builder::new());
    let (mut errors, mut matches) = (BooleanBuilder::new(), BooleanBuilder::new());
    for (key, facts) in state.spans() {
        keys.append(*key);
        starts.append_value(facts.start);
        durations.append_value(facts.duration);
        services.append_option(facts.service.as_deref());
        errors.append_value(facts.is_error);
        matches.append_value(facts.matches);
    }
    let rest: Vec<ArrayRef> = vec![
        Arc::new(starts.finish()),
        Arc::new(durations.finish()),
        Arc::new(services.finish()),
        Arc::new(errors.finish()),
        Arc::new(matches.finish()),
    ];
    keys.finish(fact_fields(), rest)
}

fn root_array(state: &TraceState) -> Result<StructArray> {
    let (mut keys, mut starts) = (KeyColumns::default(), Int64Builder::new());
    let (mut services, mut names) = (StringBuilder::new(), StringBuilder::new());
    if let Some(root) = state.root() {
        keys.append(root.key);
        starts.append_value(root.start);
        services.append_option(root.service.as_deref());
        names.append_value(&root.name);
    }
    let rest: Vec<ArrayRef> = vec![Arc::new(starts.finish()), Arc::new(services.finish()), Arc::new(names.finish())];
    keys.finish(root_fields(), rest)
}

fn matches_array(state: &TraceState) -> Result<StructArray> {
    let mut keys = KeyColumns::default();
    let (mut starts, mut durations) = (Int64Builder::new(), Int64Builder::new());
    let (mut names, mut shown) = (StringBuilder::new(), BinaryBuilder::new());
    for found in state.matches() {
        keys.append(found.key);
        starts.append_value(found.start);
        durations.append_value(found.duration);
        names.append_value(&found.name);
        shown.append_value(&found.shown);
    }
    let rest: Vec<ArrayRef> = vec![
        Arc::new(starts.finish()),
        Arc::new(durations.finish()),
        Arc::new(names.finish()),
        Arc::new(shown.finish()),
    ];
    keys.finish(match_fields(), rest)
}
