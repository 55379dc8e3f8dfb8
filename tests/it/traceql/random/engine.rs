//! Spans into files and buffered batches, and an engine over them.

use std::{borrow::Cow, sync::Arc};

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Float64Type, Int64Type};
use tracehouse::{
    model::{
        attributes::{AttributeScope, AttributeType},
        batch::SpanBatch,
        builder::{
            Attribute, EventFields, LinkFields, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value,
        },
        ids::{SpanId, TraceId},
        promotion::{PromotedAttribute, Promotion},
        tenant::TenantId,
        time::TimeRange,
    },
    query::{AnswerForm, EngineOptions, QueryEngine, QueryKind, QueryLimits, QueryRequest, TraceQlQuery},
};

use super::Random;
use crate::{
    engines,
    maintain::{compact_all, house::House},
    query::data::START,
    traceql::reference::{Attr, Attributes, Found, ShownSpan, Span, Val},
};

/// How spans come to lie where they are: part after part is written, and the first of them become files.
#[derive(Clone, Debug)]
pub(in crate::traceql) struct Layout {
    /// The part of each row.
    pub(in crate::traceql) division: Vec<usize>,
    /// Parts that become a file each; later ones stay in the buffer.
    pub(in crate::traceql) files: usize,
    /// After how many of the files these are merged.
    pub(in crate::traceql) merged: usize,
}

impl Layout {
    /// Some way for so many rows.
    pub(super) fn random(random: &mut Random, rows: usize) -> Self {
        let parts = 1 + random.below(5);
        let files = random.below(parts + 1);
        let merged = random.below(files + 1);
        Self { division: (0..rows).map(|_| random.below(parts)).collect(), files, merged }
    }

    /// The rows that are there in the end: a merge keeps one of those that agree in everything.
    pub(in crate::traceql) fn rows(&self, written: &[Span]) -> Vec<Span> {
        let with_part = || written.iter().zip(&self.division);
        let of_merged = || with_part().filter(|(_, part)| **part < self.merged);
        let mut parts: Vec<usize> = of_merged().map(|(_, part)| *part).collect();
        parts.sort_unstable();
        parts.dedup();
        if parts.len() < 2 {
            return written.to_vec();
        }
        let mut rows: Vec<Span> = Vec::new();
        for (row, _) in of_merged() {
            if !rows.contains(row) {
                rows.push(row.clone());
            }
        }
        rows.extend(with_part().filter(|(_, part)| **part >= self.merged).map(|(row, _)| row.clone()));
        rows
    }

    fn part(&self, rows: &[Span], part: usize) -> Option<SpanBatch> {
        let of_part = rows.iter().zip(&self.division).filter(|(_, other)| **other == part);
        let of_part: Vec<&Span> = of_part.map(|(span, _)| span).collect();
        (!of_part.is_empty()).then(|| batch(&of_part, part))
    }
}

/// An engine, and what it reads.
#[derive(Debug)]
pub(in crate::traceql) struct Data {
    pub(in crate::traceql) engine: QueryEngine,
    _house: House,
}

impl Data {
    /// Writes the rows.
    pub(in crate::traceql) async fn of(rows: &[Span], layout: &Layout, extent: i64) -> Self {
        let house = House::open().await;
        let parts = layout.division.iter().max().map_or(0, |last| last + 1);
        for part in 0..parts.max(layout.merged) {
            if let Some(batch) = layout.part(rows, part) {
                house.write(batch).await;
            }
            if part < layout.files {
                house.ingest.flush().await.unwrap();
            }
            if part + 1 == layout.merged {
                compact_all(&house.catalog, &house.shared_clock()).await;
            }
        }
        let spill = std::env::temp_dir();
        let engine = QueryEngine::try_new(EngineOptions {
            limits: QueryLimits { trace_extent_max_nano: extent, ..QueryLimits::default() },
            threads: 1,
            ..engines::options(house.ingest.live(), &house.store, house.shared_clock(), &spill)
        });
        Self { engine: engine.unwrap(), _house: house }
    }
}

fn model(attributes: &Attributes) -> Vec<Attribute<'_>> {
    fn value(value: &Attr) -> Value<'_> {
        match value {
            Attr::Empty => Value::Empty,
            Attr::Str(text) => Value::Str(text),
            Attr::Int(value) => Value::Int(*value),
            Attr::Float(value) => Value::Float(*value),
            Attr::Bool(value) => Value::Bool(*value),
            Attr::Json(text) => Value::Json(Cow::Borrowed(text)),
        }
    }
    attributes.iter().map(|(key, attribute)| Attribute { key, value: value(attribute) }).collect()
}

/// Every second part promotes the attributes that most spans have.
fn promotion(part: usize) -> Arc<Promotion> {
    if part % 4 < 2 {
        return Arc::new(Promotion::default());
    }
    let promoted = [
        (AttributeScope::Span, "a", AttributeType::Int),
        (AttributeScope::Span, "b", AttributeType::Str),
        (AttributeScope::Resource, "service.name", AttributeType::Str),
    ];
    let attributes = promoted.map(|(scope, key, of_type)| PromotedAttribute::new(scope, key, of_type));
    Arc::new(Promotion::new(attributes))
}

fn batch(spans: &[&Span], part: usize) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion(part));
    for span in spans {
        let resource = builder.push_resource(&ResourceFields::default(), &model(&span.resource)).unwrap();
        let scope = ScopeFields { name: &span.scope_name, version: &span.scope_version, ..ScopeFields::default() };
        let scope = builder.push_scope(&scope, &model(&span.scope)).unwrap();
        let fields = SpanFields {
            trace_id: TraceId::from_bytes(u128::from(span.trace).to_be_bytes()),
            span_id: SpanId::from_bytes(span.id.to_be_bytes()),
            parent_span_id: span.parent.map(|id| SpanId::from_bytes(id.to_be_bytes())),
            trace_state: "",
            flags: 0,
            name: &span.name,
            kind: span.kind as i32,
            status_code: span.status as i32,
            status_message: &span.message,
            start_time_unix_nano: START + span.start,
            duration_nano: span.duration,
            dropped_attributes_count: 0,
            dropped_events_count: 0,
            dropped_links_count: 0,
        };
        let event_attributes: Vec<_> = span.events.iter().map(|event| model(&event.attributes)).collect();
        let events = span.events.iter().zip(&event_attributes).map(|(event, attributes)| EventFields {
            time_unix_nano: (START + event.at) as u64,
            name: &event.name,
            attributes,
            dropped_attributes_count: 0,
        });
        let ids: Vec<_> =
            span.links.iter().map(|link| (u128::from(link.trace).to_be_bytes(), link.span.to_be_bytes())).collect();
        let link_attributes: Vec<_> = span.links.iter().map(|link| model(&link.attributes)).collect();
        let links = ids.iter().zip(&link_attributes).map(|((trace, span), attributes)| LinkFields {
            trace_id: trace,
            span_id: span,
            trace_state: "",
            flags: 0,
            attributes,
            dropped_attributes_count: 0,
        });
        builder.push_span((resource, scope), &fields, &model(&span.own), events, links).unwrap();
    }
    builder.finish().unwrap()
}

/// A question about all spans that start in a range, after the start of all data.
pub(in crate::traceql) struct Question<'a> {
    pub(in crate::traceql) text: &'a str,
    pub(in crate::traceql) range: (i64, i64),
    pub(in crate::traceql) limit: usize,
    pub(in crate::traceql) shown: usize,
}

/// The answer, one line per trace and one per spanset; or why there is none.
pub(in crate::traceql) async fn ask(engine: &QueryEngine, question: &Question<'_>) -> Result<Vec<String>, String> {
    let query = TraceQlQuery {
        range: TimeRange::new(START + question.range.0, START + question.range.1),
        limit: Some(question.limit),
        spans_per_trace: Some(question.shown),
        ..TraceQlQuery::new(question.text)
    };
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::TraceQl(query));
    request.form = AnswerForm::Typed;
    let stream = engine.execute(request).await.map_err(|error| error.to_string())?;
    let (batches, _) = stream.collect().await.map_err(|error| error.to_string())?;
    Ok(batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|row| trace(batch, row)).collect::<Vec<_>>())
        .collect())
}

fn int(array: &dyn Array, row: usize) -> i64 {
    array.as_primitive::<Int64Type>().value(row)
}

fn text(array: &dyn Array, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.as_string::<i32>().value(row).to_owned())
}

fn trace(batch: &RecordBatch, row: usize) -> String {
    let id = batch["trace_id"].as_fixed_size_binary().value(row);
    let stats = batch["service_stats"].as_list::<i32>().value(row);
    let stats = stats.as_struct();
    let services = (0..stats.len()).map(|row| {
        (text(&stats["service_name"], row), int(&stats["span_count"], row), int(&stats["error_count"], row))
    });
    let head = head(
        u128::from_be_bytes(id.try_into().unwrap()) as u64,
        &text(&batch["root_service_name"], row),
        &text(&batch["root_name"], row),
        (int(&batch["start_time_unix_nano"], row) - START, int(&batch["duration_nano"], row)),
        &services.collect::<Vec<_>>(),
    );
    let sets = batch["span_sets"].as_list::<i32>().value(row);
    let sets = sets.as_struct();
    let lines = (0..sets.len()).map(|set| {
        let spans = sets["spans"].as_list::<i32>().value(set);
        let spans = spans.as_struct();
        let ids = (0..spans.len()).map(|span| {
            let id = spans["span_id"].as_fixed_size_binary().value(span);
            let id = u64::from_be_bytes(id.try_into().unwrap());
            let times = (int(&spans["start_time_unix_nano"], span) - START, int(&spans["duration_nano"], span));
            self::span(id, times, &entries(&spans["attributes"].as_map().value(span)))
        });
        let attributes = entries(&sets["attributes"].as_map().value(set));
        spanset(&attributes, int(&sets["matched"], set), &ids.collect::<Vec<_>>())
    });
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}

pub(super) fn entries(entries: &StructArray) -> Vec<(String, Val)> {
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_struct());
    let value = |row: usize| {
        let is = |name: &str| values.is_valid(row) && values[name].is_valid(row);
        if is("str") {
            Val::Str(values["str"].as_string::<i32>().value(row).to_owned())
        } else if is("int") {
            Val::Int(int(&values["int"], row))
        } else if is("float") {
            Val::Float(values["float"].as_primitive::<Float64Type>().value(row))
        } else if is("bool") {
            Val::Bool(values["bool"].as_boolean().value(row))
        } else if is("json") {
            Val::Opaque(values["json"].as_string::<i32>().value(row).to_owned())
        } else {
            Val::Missing
        }
    };
    (0..keys.len()).map(|row| (keys.value(row).to_owned(), value(row))).collect()
}

// ---- the form in which answers are compared -------------------------------------------------------------------------

fn head(
    trace: u64,
    root_service: &Option<String>,
    root_name: &Option<String>,
    (start, duration): (i64, i64),
    services: &[(Option<String>, i64, i64)],
) -> String {
    format!("trace {trace} root {root_service:?} {root_name:?} at {start} for {duration} services {services:?}")
}

fn span(id: u64, (start, duration): (i64, i64), attributes: &[(String, Val)]) -> String {
    let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{id} at {start} for {duration}{}", attributes.concat())
}

fn spanset(attributes: &[(String, Val)], matched: i64, spans: &[String]) -> String {
    // A missing value is not among the attributes.
    let there = attributes.iter().filter(|(_, value)| !["nil", "null"].contains(&value.to_string().as_str()));
    let attributes: Vec<String> = there.map(|(name, value)| format!("{name}={value}")).collect();
    format!("  [{}] {matched}: {}", attributes.join(" "), spans.join(", "))
}

/// The reference's answer in that form, with at most so many spans per spanset.
pub(in crate::traceql) fn lines(found: &Found, shown: usize) -> String {
    let times = (found.start, found.duration);
    let head = head(found.trace, &found.root_service, &found.root_name, times, &found.services);
    let spansets = found.spansets.iter().map(|of| {
        let of_span = |of: &ShownSpan| span(of.id, (of.start, of.duration), &of.attributes);
        let spans = of.spans.iter().take(shown).map(of_span);
        spanset(&of.attributes, of.spans.len() as i64, &spans.collect::<Vec<_>>())
    });
    std::iter::once(head).chain(spansets).collect::<Vec<_>>().join("\n")
}
