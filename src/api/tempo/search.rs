//! `/api/search`: TraceQL, or the tags of before it.
//!
//! Without a range all data is searched. The answer has no field that Tempo's has not, so whatever goes beyond it is in
//! headers: [`NEXT_PAGE`] is the place after the last trace of a full page, and comes back as parameter `cursor`.

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName};

use super::{
    JSON, TempoState, body,
    found::FoundTrace,
    legacy, messages,
    params::{Format, Params},
    protobuf, refusal,
    search_json::{SearchStats, Spansets, render},
    tempopb::SearchResponse,
};
use crate::{
    error::{Error, ErrorKind, Result},
    query::{DurationBounds, QueryKind, QueryRequest, QueryStats, TraceCursor, TraceQlQuery},
};

/// The header with the cursor of the next page.
const NEXT_PAGE: HeaderName = HeaderName::from_static("tracehouse-next-cursor");

/// Parameters that are not tags.
const KNOWN: [&str; 11] = [
    "q",
    "tags",
    "minDuration",
    "maxDuration",
    "limit",
    "start",
    "end",
    "since",
    "spss",
    "skip_ast_transformations",
    "cursor",
];

/// What is searched, whatever protocol asks.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) query: TraceQlQuery,
    /// Whether the answer shows spans; searches by tags do not.
    pub(super) spansets: Spansets,
}

/// What a search found.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) traces: Vec<FoundTrace>,
    pub(super) stats: SearchStats,
}

/// The conditions of a search.
#[derive(Clone, Debug)]
pub(super) enum Conditions {
    /// TraceQL.
    Query(String),
    /// Tags by key; none find everything.
    Tags(BTreeMap<String, String>),
}

impl Conditions {
    /// A search under these conditions, of all time.
    pub(super) fn search(self) -> Result<Search> {
        Ok(match self {
            Conditions::Query(text) => Search { query: TraceQlQuery::new(text), spansets: Spansets::Shown },
            Conditions::Tags(tags) if tags.is_empty() => {
                Search { query: TraceQlQuery::new("{}"), spansets: Spansets::Left }
            }
            Conditions::Tags(tags) => {
                Search { query: TraceQlQuery::new(legacy::query(&tags)?), spansets: Spansets::Left }
            }
        })
    }
}

pub(super) async fn search(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match respond(&state, query.as_deref(), Format::of(&headers)).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    }
}

async fn respond(state: &TempoState, query: Option<&str>, format: Format) -> Result<Response> {
    let params = Params::of(query);
    let search = read(state, &params)?;
    let (spansets, limit) = (search.spansets, search.query.limit);
    let Answer { traces, stats } = answer(state, search).await?;
    let next = traces.last().filter(|_| Some(traces.len()) == limit).map(cursor_after);
    let answer = match format {
        Format::Protobuf => {
            let traces = traces.into_iter().map(|trace| messages::trace(trace, spansets)).collect();
            protobuf(&SearchResponse { traces, metrics: Some(messages::search_metrics(stats)) })
        }
        Format::Json | Format::Llm => {
            let bytes = render(traces, spansets, stats).map_err(|cause| {
                Error::new(ErrorKind::Internal, "cannot write the answer as json").with_source(cause)
            })?;
            body(JSON, bytes)
        }
    };
    Ok(match next {
        Some(next) => ([(NEXT_PAGE, next)], answer).into_response(),
        None => answer,
    })
}

fn read(state: &TempoState, params: &Params) -> Result<Search> {
    let mut search = conditions(params)?.search()?;
    let query = &mut search.query;
    query.limit = Some(params.limit(&state.settings)?);
    query.spans_per_trace = Some(params.spans_per_spanset(&state.settings)?);
    query.range = params.time_range(state.clock.now_unix_nano())?;
    query.duration = duration_bounds(params.duration_nano("minDuration")?, params.duration_nano("maxDuration")?)?;
    query.after = params.get("cursor").map(cursor).transpose()?;
    Ok(search)
}

fn conditions(params: &Params) -> Result<Conditions> {
    match (params.get("q"), params.get("tags")) {
        (Some(_), Some(_)) => Err(Error::invalid("invalid request: can't specify tags and q in the same query")),
        (Some(query), None) => Ok(Conditions::Query(query.to_owned())),
        (None, Some(tags)) => Ok(Conditions::Tags(legacy::tags(tags)?)),
        // The oldest form of all: any parameter is a tag.
        (None, None) if params.get("start").is_none() && params.get("end").is_none() => {
            Ok(Conditions::Tags(params.others(&KNOWN)))
        }
        (None, None) => Ok(Conditions::Tags(BTreeMap::new())),
    }
}

/// Bounds from a request, in which zero stands for none.
pub(super) fn duration_bounds(min_nano: Option<i64>, max_nano: Option<i64>) -> Result<DurationBounds> {
    let (min_nano, max_nano) = (min_nano.filter(|nanos| *nanos > 0), max_nano.filter(|nanos| *nanos > 0));
    match (min_nano, max_nano) {
        (Some(min), Some(max)) if max <= min => {
            Err(Error::invalid("invalid maxDuration: must be greater than minDuration"))
        }
        _ => Ok(DurationBounds { min_nano, max_nano }),
    }
}

/// Runs a search to its end.
pub(super) async fn answer(state: &TempoState, search: Search) -> Result<Answer> {
    let request = QueryRequest::new(state.tenant(), QueryKind::TraceQl(search.query));
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    let mut traces = Vec::new();
    for batch in &batches {
        traces.extend(FoundTrace::read(batch)?);
    }
    Ok(Answer { traces, stats: search_stats(&stats) })
}

fn search_stats(stats: &QueryStats) -> SearchStats {
    SearchStats {
        inspected_bytes: stats.scanned_bytes,
        files: stats.files_scanned + stats.files_pruned,
        inspected_spans: stats.scanned_rows,
    }
}

/// `start-id`, as [`cursor`] reads it.
fn cursor_after(trace: &FoundTrace) -> String {
    format!("{}-{}", trace.start_unix_nano, trace.trace_id)
}

fn cursor(text: &str) -> Result<TraceCursor> {
    let parts = text.rsplit_once('-').and_then(|(start, id)| Some((start.parse().ok()?, id.parse().ok()?)));
    match parts {
        Some((start_unix_nano, trace_id)) => Ok(TraceCursor { start_unix_nano, trace_id }),
        None => Err(Error::invalid(format!("invalid cursor: {text:?} is none that an answer gave"))),
    }
}
