//! What comes out of whole traces: rows per trace, or rows per span.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int64Builder, ListArray, MapArray,
            RecordBatch, RecordBatchOptions, StringBuilder, StructArray, UInt32Array,
        },
        buffer::OffsetBuffer,
        compute::{interleave, take},
        datatypes::{DataType, Fields},
    },
    common::{Result, exec_datafusion_err, internal_err},
};

use super::{
    program::{Place, Program, Source, SpanColumn, SpanColumnValue, passing_column},
    stages::{Owned, Spanset, Trace},
    texts::Texts,
    trace::{Columns, TraceSpans},
};
use crate::{
    model::{
        attributes,
        ids::{SpanId, TraceId},
    },
    query::{search::schema, traceql::shown::ValueBuilder},
    traceql::plan::Dynamic,
};

/// Attribute maps whose values come from elsewhere, by position.
#[derive(Debug, Default)]
struct Maps {
    keys: StringBuilder,
    sources: Vec<(usize, usize)>,
    lengths: Vec<usize>,
    length: usize,
}

impl Maps {
    fn entry(&mut self, key: &str, source: (usize, usize)) {
        self.keys.append_value(key);
        self.sources.push(source);
        self.length += 1;
    }

    fn end(&mut self) {
        self.lengths.push(std::mem::take(&mut self.length));
    }

    fn finish(mut self, arrays: &[&dyn Array]) -> Result<ArrayRef> {
        let values = interleave(arrays, &self.sources)?;
        let entries =
            StructArray::try_new(attributes::entry_fields(), vec![Arc::new(self.keys.finish()), values], None)?;
        let DataType::Map(field, sorted) = attributes::map_type() else {
            return internal_err!("attribute maps are maps");
        };
        Ok(Arc::new(MapArray::try_new(field, OffsetBuffer::from_lengths(self.lengths), entries, None, sorted)?))
    }
}

fn append(values: &mut ValueBuilder, value: &Owned) {
    match value {
        Owned::Missing => values.append(&Dynamic::Missing, None),
        Owned::Bool(value) => values.append(&Dynamic::Bool(*value), None),
        Owned::Int(value) => values.append(&Dynamic::Int(*value), None),
        Owned::Float(value) => values.append(&Dynamic::Float(*value), None),
        Owned::Text(text) => values.append(&Dynamic::text(text), None),
        Owned::Json(json) => values.append(&Dynamic::Opaque, Some(json)),
    }
}

/// Rows of a search's answer, over the traces of one batch.
#[derive(Debug)]
pub(super) struct TraceRows<'a> {
    program: &'a Program,
    spans_max: usize,
    shown: Vec<(&'a str, Vec<ShownSource<'a>>)>,
    trace_ids: FixedSizeBinaryBuilder,
    root_services: StringBuilder,
    root_names: StringBuilder,
    starts: Int64Builder,
    durations: Int64Builder,
    matched: Int64Builder,
    set_counts: Vec<usize>,
    sets: Sets,
    services: Services,
}

#[derive(Debug)]
enum ShownSource<'a> {
    /// The column at a position in `arrays` of the batch's shown columns.
    Column(usize, &'a ArrayRef),
    Late(&'a crate::traceql::ast::FieldName),
}

#[derive(Debug)]
struct Sets {
    matched: Int64Builder,
    attributes: Maps,
    attribute_values: ValueBuilder,
    attribute_count: usize,
    span_counts: Vec<usize>,
    span_ids: FixedSizeBinaryBuilder,
    names: StringBuilder,
    starts: Int64Builder,
    durations: Int64Builder,
    shown: Maps,
    late: ValueBuilder,
    late_count: usize,
}

#[derive(Debug, Default)]
struct Services {
    counts: Vec<usize>,
    names: StringBuilder,
    spans: Int64Builder,
    errors: Int64Builder,
    /// By place of a name: how many traces there were when it came up last, and where its counts are among those of the
    /// trace.
    places: Vec<(usize, usize)>,
}

/// The spans and errors of a service in a trace.
type ServiceCounts<'a> = (Option<&'a str>, i64, i64);

impl Services {
    fn add(&mut self, columns: &Columns<'_>, rows: &[u32]) {
        let mut counts = self.counts_of(columns, rows);
        counts.sort_unstable_by_key(|(name, ..)| *name);
        // A name can have several places.
        counts.dedup_by(|again, first| {
            let is_same = again.0 == first.0;
            if is_same {
                (first.1, first.2) = (first.1 + again.1, first.2 + again.2);
            }
            is_same
        });
        self.counts.push(counts.len());
        for (name, spans, errors) in counts {
            self.names.append_option(name);
            self.spans.append_value(spans);
            self.errors.append_value(errors);
        }
    }

    fn counts_of<'a>(&mut self, columns: &Columns<'a>, rows: &[u32]) -> Vec<ServiceCounts<'a>> {
        let (mut counts, mut nameless) = (Vec::<ServiceCounts<'a>>::new(), None);
        let trace = self.counts.len() + 1;
        self.places.resize(columns.services.map_or(0, Texts::places), (0, 0));
        for row in rows.iter().map(|row| *row as usize) {
            let named = columns.services.filter(|services| !services.is_null(row));
            let at = match named.map(|services| &mut self.places[services.place(row)]) {
                Some((last, at)) if *last == trace => *at,
                Some(place) => {
                    *place = (trace, counts.len());
                    counts.push((columns.service(row), 0, 0));
                    place.1
                }
                None => *nameless.get_or_insert_with(|| {
                    counts.push((None, 0, 0));
                    counts.len() - 1
                }),
            };
            counts[at].1 += 1;
            counts[at].2 += i64::from(columns.is_error(row));
        }
        counts
    }
}

fn list(fields: &Fields, columns: Vec<ArrayRef>, lengths: Vec<usize>) -> Result<ArrayRef> {
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(schema::item(fields.clone()), offsets, Arc::new(items), None)?))
}

impl<'a> TraceRows<'a> {
    pub(super) fn try_new(program: &'a Program, batch: &'a RecordBatch, spans_max: usize) -> Result<Self> {
        let mut position = 0;
        let mut shown = Vec::with_capacity(program.shown.len());
        for (key, sources) in &program.shown {
            let mut bound = Vec::with_capacity(sources.len());
            for source in sources {
                bound.push(match source {
                    Source::Late(name) => ShownSource::Late(name),
                    Source::Column(name) => {
                        let column = batch.column_by_name(name);
                        let column = column.ok_or_else(|| exec_datafusion_err!("spans come without column {name}"))?;
                        position += 1;
                        ShownSource::Column(position - 1, column)
                    }
                });
            }
            shown.push((key.as_str(), bound));
        }
        Ok(Self {
            program,
            spans_max,
            shown,
            trace_ids: FixedSizeBinaryBuilder::new(TraceId::LEN as i32),
            root_services: StringBuilder::new(),
            root_names: StringBuilder::new(),
            starts: Int64Builder::new(),
            durations: Int64Builder::new(),
            matched: Int64Builder::new(),
            set_counts: Vec::new(),
            sets: Sets {
                matched: Int64Builder::new(),
                attributes: Maps::default(),
                attribute_values: ValueBuilder::default(),
                attribute_count: 0,
                span_counts: Vec::new(),
                span_ids: FixedSizeBinaryBuilder::new(SpanId::LEN as i32),
                names: StringBuilder::new(),
                starts: Int64Builder::new(),
                durations: Int64Builder::new(),
                shown: Maps::default(),
                late: ValueBuilder::default(),
                late_count: 0,
            },
            services: Services::default(),
        })
    }

    /// Adds a trace with its final spansets, of which none is empty.
    pub(super) fn add(&mut self, columns: &Columns<'a>, trace: &TraceSpans<'a>, spansets: &[Spanset]) -> Result<()> {
        let whole = trace.whole();
        let first = trace.row(0);
        self.trace_ids.append_value(columns.trace_id(first))?;
        self.root_services.append_option(whole.root.and_then(|root| columns.service(root)));
        self.root_names.append_option(whole.root.map(|root| columns.names.value(root)));
        self.starts.append_value(whole.start);
        self.durations.append_value(whole.duration());
        // A span is in one spanset only.
        self.matched.append_value(spansets.iter().map(|spanset| spanset.spans.len() as i64).sum());
        self.set_counts.push(spansets.len());
        for spanset in spansets {
            self.add_spanset(columns, trace, spanset)?;
        }
        self.services.add(columns, trace.rows());
        Ok(())
    }

    fn add_spanset(&mut self, columns: &Columns<'a>, trace: &TraceSpans<'a>, spanset: &Spanset) -> Result<()> {
        let sets = &mut self.sets;
        sets.matched.append_value(spanset.spans.len() as i64);
        for (name, value) in spanset.attributes.iter().filter(|(_, value)| *value != Owned::Missing) {
            append(&mut sets.attribute_values, value);
            sets.attributes.entry(name, (0, sets.attribute_count));
            sets.attribute_count += 1;
        }
        sets.attributes.end();
        let late_array = self.shown.iter().flat_map(|(_, sources)| sources);
        let late_array = late_array.filter(|source| matches!(source, ShownSource::Column(..))).count();
        let spans = &spanset.spans[..spanset.spans.len().min(self.spans_max.max(1))];
        sets.span_counts.push(spans.len());
        for span in spans {
            let row = trace.row(*span);
            sets.span_ids.append_value(columns.span_id(row))?;
            sets.names.append_value(columns.names.value(row));
            sets.starts.append_value(columns.starts[row]);
            sets.durations.append_value(columns.durations[row]);
            for (key, sources) in &self.shown {
                for source in sources {
                    match source {
                        ShownSource::Column(position, column) if column.is_valid(row) => {
                            sets.shown.entry(key, (*position, row));
                            break;
                        }
                        ShownSource::Column(..) => {}
                        ShownSource::Late(name) => {
                            let (value, json) = trace.late(name, *span);
                            if json.is_some() || !matches!(value, Dynamic::Missing | Dynamic::Opaque) {
                                sets.late.append(&value, json);
                                sets.shown.entry(key, (late_array, sets.late_count));
                                sets.late_count += 1;
                                break;
                            }
                        }
                    }
                }
            }
            sets.shown.end();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<RecordBatch> {
        let mut sets = self.sets;
        let late = std::mem::take(&mut sets.late).finish()?;
        let mut arrays: Vec<&dyn Array> = Vec::new();
        for source in self.shown.iter().flat_map(|(_, sources)| sources) {
            if let ShownSource::Column(_, column) = source {
                arrays.push(column.as_ref());
            }
        }
        arrays.push(late.as_ref());
        let spans: Vec<ArrayRef> = vec![
            Arc::new(sets.span_ids.finish()),
            Arc::new(sets.names.finish()),
            Arc::new(sets.starts.finish()),
            Arc::new(sets.durations.finish()),
            sets.shown.finish(&arrays)?,
        ];
        let set_values = sets.attribute_values.finish()?;
        let set_columns: Vec<ArrayRef> = vec![
            sets.attributes.finish(&[set_values.as_ref()])?,
            Arc::new(sets.matched.finish()),
            list(&schema::span_fields(), spans, sets.span_counts)?,
        ];
        let services: Vec<ArrayRef> = vec![
            Arc::new(self.services.names.finish()),
            Arc::new(self.services.spans.finish()),
            Arc::new(self.services.errors.finish()),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.trace_ids.finish()),
            Arc::new(self.root_services.finish()),
            Arc::new(self.root_names.finish()),
            Arc::new(self.starts.finish()),
            Arc::new(self.durations.finish()),
            Arc::new(self.matched.finish()),
            list(&schema::spanset_fields(), set_columns, self.set_counts)?,
            list(&schema::service_fields(), services, self.services.counts)?,
        ];
        Ok(RecordBatch::try_new(self.program.schema(), columns)?)
    }
}

/// Rows per span of final spansets, over the traces of one batch.
#[derive(Debug)]
pub(super) struct SpanRows<'a> {
    program: &'a Program,
    batch: &'a RecordBatch,
    columns: &'a [SpanColumn],
    rows: Vec<u32>,
    /// By column that does not pass through.
    computed: Vec<ComputedColumn>,
}

#[derive(Debug)]
enum ComputedColumn {
    Values(Box<ValueBuilder>),
    /// Whether the condition at a position holds.
    Holds(usize, BooleanBuilder),
    Ints(Int64Builder),
    Floats(Float64Builder),
}

impl ComputedColumn {
    /// The column of a value; the conditions of columns start at `next_condition`.
    fn of(value: &SpanColumnValue, next_condition: &mut usize) -> Option<Self> {
        match value {
            SpanColumnValue::Expr(..) => None,
            SpanColumnValue::Late(_) | SpanColumnValue::LateNumber(_) => Some(Self::Values(Box::default())),
            SpanColumnValue::Holds(_) => {
                *next_condition += 1;
                Some(Self::Holds(*next_condition - 1, BooleanBuilder::new()))
            }
            SpanColumnValue::Place(Place::CriticalPathShare) => Some(Self::Floats(Float64Builder::new())),
            SpanColumnValue::Place(_) => Some(Self::Ints(Int64Builder::new())),
        }
    }

    fn finish(self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Values(values) => values.finish()?,
            Self::Holds(_, mut bools) => Arc::new(bools.finish()),
            Self::Ints(mut ints) => Arc::new(ints.finish()),
            Self::Floats(mut floats) => Arc::new(floats.finish()),
        })
    }
}

impl<'a> SpanRows<'a> {
    pub(super) fn new(program: &'a Program, batch: &'a RecordBatch, columns: &'a [SpanColumn]) -> Self {
        let mut next_condition = program.plan.conditions.len();
        let of = |column: &SpanColumn| ComputedColumn::of(&column.value, &mut next_condition);
        let computed = columns.iter().filter_map(of).collect();
        Self { program, batch, columns, rows: Vec::new(), computed }
    }

    pub(super) fn add(&mut self, trace: &TraceSpans<'a>, spansets: &[Spanset]) {
        for span in spansets.iter().flat_map(|spanset| &spanset.spans) {
            self.rows.push(trace.row(*span) as u32);
            let sources = self.columns.iter().map(|column| &column.value);
            let sources = sources.filter(|source| !matches!(source, SpanColumnValue::Expr(..)));
            for (source, column) in sources.zip(&mut self.computed) {
                match (source, column) {
                    (SpanColumnValue::Late(name), ComputedColumn::Values(values)) => {
                        let (value, json) = trace.late(name, *span);
                        match value {
                            Dynamic::Int(nanos) if name.is_duration() => {
                                append(values, &Owned::Int(nanos).into_duration());
                            }
                            value => values.append(&value, json),
                        }
                    }
                    (SpanColumnValue::LateNumber(name), ComputedColumn::Values(values)) => {
                        let (value, json) = trace.late(name, *span);
                        values.append(&value, json);
                    }
                    (_, ComputedColumn::Holds(condition, bools)) => bools.append_value(trace.holds(*condition, *span)),
                    (SpanColumnValue::Place(place), column) => match (trace.place(*place, *span), column) {
                        (Some(Dynamic::Int(value)), ComputedColumn::Ints(ints)) => ints.append_value(value),
                        (Some(Dynamic::Float(value)), ComputedColumn::Floats(floats)) => floats.append_value(value),
                        (_, ComputedColumn::Ints(ints)) => ints.append_null(),
                        (_, ComputedColumn::Floats(floats)) => floats.append_null(),
                        (_, ComputedColumn::Values(values)) => values.append(&Dynamic::Missing, None),
                        (_, ComputedColumn::Holds(_, bools)) => bools.append_null(),
                    },
                    _ => {}
                }
            }
        }
    }

    pub(super) fn finish(self) -> Result<RecordBatch> {
        let indices = UInt32Array::from(self.rows);
        let mut computed = self.computed.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in self.columns {
            columns.push(match (&column.value, &column.name) {
                (SpanColumnValue::Expr(..), name) => match self.batch.column_by_name(&passing_column(name)) {
                    Some(passing) => take(passing, &indices, None)?,
                    None => return internal_err!("spans come without column {name}"),
                },
                (_, name) => match computed.next() {
                    Some(column) => column.finish()?,
                    None => return internal_err!("column {name} was not computed"),
                },
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        Ok(RecordBatch::try_new_with_options(self.program.schema(), columns, &options)?)
    }
}
