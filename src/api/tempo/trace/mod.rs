//! `/api/traces/{id}` and `/api/v2/traces/{id}`.
//!
//! Grafana reads protobuf and follows pointers without looking: resource, scope, status and, in v2, the trace itself
//! must be there, if empty. An unknown trace is 404 without body in v1 and an empty trace in v2; one above the size limit
//! is 422 in v1 and a part of it in v2, marked as such. What a filter leaves out and [`repeated`] puts together is marked as
//! well.

mod repeated;
mod shared_ids;

use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message;

use self::repeated::Repetition;
use super::{
    JSON, LLM, PROTOBUF, TempoState, body,
    params::{Format, Params, check_expression, trace_id},
    refusal, text,
};
use crate::{
    error::{Error, ErrorKind, Result},
    model::time::TimeRange,
    otlp::{
        encode,
        tempo_json::{self, ListName},
        tempo_llm,
    },
    query::{Generations, LimitOverrides, QueryKind, QueryRequest, TraceByIdQuery, TraceFilter},
};

/// Where Tempo can be told to look; here all of it is one place.
const MODES: [&str; 4] = ["all", "ingesters", "blocks", "external"];

/// Filters that keep every span.
const EVERYTHING: [&str; 2] = ["{}", "{true}"];

/// `PartialStatus` of an answer that lacks something.
const PARTIAL: i32 = 1;

/// `tempopb.TraceByIDResponse`.
#[derive(Clone, PartialEq, Message)]
struct TraceByIdResponse {
    #[prost(message, optional, tag = "1")]
    trace: Option<TracesData>,
    /// `TraceByIDMetrics`, all zero.
    #[prost(message, optional, tag = "2")]
    metrics: Option<()>,
    /// `PartialStatus`: 0 complete, 1 partial.
    #[prost(int32, tag = "3")]
    status: i32,
    #[prost(string, tag = "4")]
    message: String,
}

/// What was found of a trace.
pub(super) struct Found {
    pub(super) trace: TracesData,
    /// The limit in bytes that keeps the rest out.
    pub(super) cut_at_bytes: Option<u64>,
}

pub(super) async fn v1(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let params = Params::of(query.as_deref());
    let trace = match find(&state, &id, &params, None).await {
        Ok(Found { cut_at_bytes: Some(limit), .. }) => {
            let message = format!("trace exceeds max size (max bytes: {limit}; query.trace_bytes_max)");
            return text(StatusCode::UNPROCESSABLE_ENTITY, message);
        }
        Ok(found) if found.trace.resource_spans.is_empty() => return StatusCode::NOT_FOUND.into_response(),
        Ok(found) => found.trace,
        Err(error) => return refusal(&error),
    };
    match Format::of(&headers) {
        Format::Protobuf => body(PROTOBUF, trace.encode_to_vec()),
        Format::Json | Format::Llm => {
            let mut json = String::new();
            tempo_json::push_trace(&mut json, &trace, ListName::Batches);
            body(JSON, json.into_bytes())
        }
    }
}

pub(super) async fn v2(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let params = Params::of(query.as_deref());
    let found = async {
        let (filter, repetition) = (filter(&params)?, Repetition::read(&params)?);
        if let Some(filter) = &filter {
            check_expression(&filter.text, &state.settings)?;
        }
        Ok((filter.is_some(), repetition, find(&state, &id, &params, filter).await?))
    };
    let (is_filtered, repetition, Found { mut trace, cut_at_bytes }) = match found.await {
        Ok(found) => found,
        Err(error) => return refusal(&error),
    };
    let mut reasons = Vec::new();
    if let Some(limit) = cut_at_bytes {
        reasons.push(format!("Trace exceeds maximum size of {limit} bytes, a partial trace is returned"));
    }
    if is_filtered {
        reasons.push("Trace filtered, only a subset of spans matching the filter is returned".to_owned());
    }
    if repetition.is_some_and(|repetition| repetition.summarise(&mut trace)) {
        reasons.push("Repeated spans are summarised, span_pruning=false returns all of them".to_owned());
    }
    let message = reasons.join("; ");
    match Format::of(&headers) {
        Format::Protobuf => {
            let status = if message.is_empty() { 0 } else { PARTIAL };
            let response = TraceByIdResponse { trace: Some(trace), metrics: Some(()), status, message };
            body(PROTOBUF, response.encode_to_vec())
        }
        Format::Json => {
            let mut json = String::from("{\"trace\":");
            tempo_json::push_trace(&mut json, &trace, ListName::ResourceSpans);
            json.push_str(",\"metrics\":{}");
            json.push_str(&partial_members(&message));
            json.push('}');
            body(JSON, json.into_bytes())
        }
        Format::Llm => {
            let json = format!("{{\"trace\":{}{}}}", tempo_llm::trace(&trace), partial_members(&message));
            body(LLM, json.into_bytes())
        }
    }
}

/// The members of a JSON answer that say why it is not complete, with a comma in front; nothing if it is.
fn partial_members(message: &str) -> String {
    match message {
        "" => String::new(),
        _ => format!(",\"status\":\"PARTIAL\",\"message\":{}", serde_json::Value::from(message)),
    }
}

/// `q` and what is kept around its matches.
fn filter(params: &Params) -> Result<Option<TraceFilter>> {
    let keep_hierarchy = params.flag("keep_hierarchy")?;
    let descendants = generations(params, "match_depth", 0)?;
    let ancestors = generations(params, "ancestor_depth", -1)?;
    let Some(text) = params.get("q").filter(|text| !EVERYTHING.contains(&without_spaces(text).as_str())) else {
        return Ok(None);
    };
    let ancestors = if keep_hierarchy { ancestors } else { Generations::UpTo(0) };
    Ok(Some(TraceFilter { text: text.to_owned(), ancestors, descendants }))
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

fn generations(params: &Params, name: &str, default: i64) -> Result<Generations> {
    let depth = match params.get(name).map(str::parse::<i64>) {
        None => default,
        Some(Ok(depth)) => depth,
        Some(Err(_)) => return Err(Error::invalid(format!("invalid {name}: must be a whole number of at least -1"))),
    };
    match (depth, u32::try_from(depth)) {
        (-1, _) => Ok(Generations::All),
        (_, Ok(depth)) => Ok(Generations::UpTo(depth)),
        _ => Err(Error::invalid(format!("invalid {name}: {depth} is none of -1 (all), 0, 1, ..."))),
    }
}

/// Finds a trace, or what a filter keeps of it.
pub(super) async fn find(state: &TempoState, id: &str, params: &Params, filter: Option<TraceFilter>) -> Result<Found> {
    if let Some(mode) = params.get("mode").filter(|mode| !MODES.contains(mode)) {
        return Err(Error::invalid(format!("invalid mode: {mode:?} is none of {}", MODES.join(", "))));
    }
    // The range says where to look. The answer is the whole trace, which may reach out of it.
    let range = params.time_range(state.clock.now_unix_nano())?;
    let hint = (range != TimeRange::ALL).then(|| range.widened(state.settings.trace_extent_max.as_nanos()));
    let query = TraceByIdQuery { trace_id: trace_id(id)?, hint, filter };
    let limit = state.settings.trace_bytes_max.bytes();
    let mut request = QueryRequest::new(state.tenant(), QueryKind::TraceById(query));
    request.limits = LimitOverrides { result_bytes_max: Some(limit), ..LimitOverrides::default() };
    let mut stream = state.engine.execute(request).await?;
    let (mut batches, mut cut_at_bytes) = (Vec::new(), None);
    while let Some(batch) = stream.next().await {
        match batch {
            Ok(batch) => batches.push(batch),
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                cut_at_bytes = Some(limit);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let mut trace = encode::encode(&batches)?;
    shared_ids::separate(&mut trace);
    Ok(Found { trace, cut_at_bytes })
}
