//! `/api/traces/{id}` and `/api/v2/traces/{id}`.
//!
//! Grafana reads protobuf and follows pointers without looking: resource, scope, status and, in v2, the trace itself
//! must be there, if empty. An unknown trace is 404 without body in v1 and an empty trace in v2.

use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message;

use super::{
    JSON, PROTOBUF, TempoState, body,
    params::{Format, Params, trace_id},
    refusal, text,
};
use crate::{
    error::{Error, ErrorKind, Result},
    otlp::{
        encode,
        tempo_json::{self, ListName},
    },
    query::{QueryKind, QueryRequest, TraceByIdQuery},
};

/// Parameters of v2 that cut a trace down.
const FILTERS: [&str; 5] = ["q", "keep_hierarchy", "match_depth", "ancestor_depth", "span_pruning"];

/// Where Tempo can be told to look; here all of it is one place.
const MODES: [&str; 4] = ["all", "ingesters", "blocks", "external"];

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

pub(super) async fn v1(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let trace = match find(&state, &id, query.as_deref(), &[]).await {
        Ok(trace) if trace.resource_spans.is_empty() => return StatusCode::NOT_FOUND.into_response(),
        Ok(trace) => trace,
        // Tempo's status for a trace above its size limit.
        Err(error) if error.kind() == ErrorKind::TooLarge => {
            let message = format!("trace exceeds max size: {}", error.message());
            return text(StatusCode::UNPROCESSABLE_ENTITY, message);
        }
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
    let found = match Format::of_built(&headers) {
        Ok(format) => find(&state, &id, query.as_deref(), &FILTERS).await.map(|trace| (format, trace)),
        Err(error) => Err(error),
    };
    match found {
        Ok((Format::Protobuf, trace)) => {
            let (trace, metrics) = (Some(trace), Some(()));
            let response = TraceByIdResponse { trace, metrics, status: 0, message: String::new() };
            body(PROTOBUF, response.encode_to_vec())
        }
        Ok((_, trace)) => {
            let mut json = String::from("{\"trace\":");
            tempo_json::push_trace(&mut json, &trace, ListName::ResourceSpans);
            json.push_str(",\"metrics\":{}}");
            body(JSON, json.into_bytes())
        }
        Err(error) => refusal(&error),
    }
}

async fn find(state: &TempoState, id: &str, query: Option<&str>, not_built: &[&str]) -> Result<TracesData> {
    let params = Params::of(query);
    params.refuse("trace by id", not_built)?;
    if let Some(mode) = params.get("mode").filter(|mode| !MODES.contains(mode)) {
        return Err(Error::invalid(format!("invalid mode: {mode:?} is none of {}", MODES.join(", "))));
    }
    // The range says where other stores should look. The answer is the whole trace, so it is only checked.
    params.time_range(state.clock.now_unix_nano())?;
    let query = TraceByIdQuery { trace_id: trace_id(id)?, hint: None };
    let request = QueryRequest::new(state.tenant(), QueryKind::TraceById(query));
    let (batches, _) = state.engine.execute(request).await?.collect().await?;
    Ok(encode::encode(&batches)?)
}
