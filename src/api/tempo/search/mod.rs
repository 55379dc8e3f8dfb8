//! `/api/search`: TraceQL, or the tags of before it.
//!
//! Without a range all data is searched, up to the last acknowledged span. The answer has no field that Tempo's has not, so
//! whatever goes beyond it is in headers: [`SEARCHED`] says so of such a search; [`NEXT_PAGE`] is the place after the last
//! trace of a full page, and comes back as parameter `cursor`; [`PARTIAL`] says why an answer is not complete.

pub(crate) mod found;
pub(crate) mod json;
mod legacy;

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use self::{
    found::FoundTrace,
    json::{SearchStats, Spansets, render},
};
use crate::{
    api::tempo::{
        JSON, TempoState, body, messages,
        params::{Format, Params, check_expression},
        protobuf, refusal,
        tempopb::SearchResponse,
    },
    config::QuerySettings,
    error::{Error, ErrorKind, Result},
    model::time::TimeRange,
    query::{DurationBounds, PartialAnswers, QueryKind, QueryRequest, QueryStats, TraceCursor, TraceQlQuery},
};

/// The header that names the range of a search for which the client named none, over gRPC as over HTTP.
pub(crate) const SEARCHED: &str = "tracehouse-searched-range";

/// The range of such a search: everything that is stored.
pub(crate) const ALL: &str = "all";

/// The header that says why an answer is not complete.
const PARTIAL: HeaderName = HeaderName::from_static("tracehouse-partial");

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
pub(crate) struct Search {
    pub(crate) query: TraceQlQuery,
    /// Whether the answer shows spans; searches by tags do not.
    pub(crate) spansets: Spansets,
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) traces: Vec<FoundTrace>,
    pub(crate) stats: SearchStats,
    /// Why these are not all, where a limit cut the answer.
    pub(crate) partial: Option<String>,
}

/// The conditions of a search.
#[derive(Clone, Debug)]
pub(crate) enum Conditions {
    /// TraceQL.
    Query(String),
    /// Tags by key; none find everything.
    Tags(BTreeMap<String, String>),
}

impl Conditions {
    /// A search under these conditions, of all time.
    pub(crate) fn search(self, settings: &QuerySettings) -> Result<Search> {
        if let Conditions::Query(text) = &self {
            check_expression(text, settings)?;
        }
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

pub(crate) async fn search(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match respond(&state, query.as_deref(), Format::of(&headers)).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    }
}

async fn respond(state: &TempoState, query: Option<&str>, format: Format) -> Result<Response> {
    let params = Params::of(query);
    let search = read(state, &params)?;
    let (spansets, limit) = (search.spansets, search.query.limit);
    let is_of_all_time = search.query.range == TimeRange::ALL;
    let Answer { traces, stats, partial } = answer(state, search, PartialAnswers::Marked).await?;
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
    let mut answer = answer;
    let texts = [(NEXT_PAGE, next), (PARTIAL, partial)].into_iter();
    let texts = texts.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text?).ok()?)));
    let range = is_of_all_time.then(|| (HeaderName::from_static(SEARCHED), HeaderValue::from_static(ALL)));
    answer.headers_mut().extend(texts.chain(range));
    Ok(answer)
}

fn read(state: &TempoState, params: &Params) -> Result<Search> {
    let mut search = conditions(params)?.search(&state.settings)?;
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
pub(crate) fn duration_bounds(min_nano: Option<i64>, max_nano: Option<i64>) -> Result<DurationBounds> {
    let (min_nano, max_nano) = (min_nano.filter(|nanos| *nanos > 0), max_nano.filter(|nanos| *nanos > 0));
    match (min_nano, max_nano) {
        (Some(min), Some(max)) if max <= min => {
            Err(Error::invalid("invalid maxDuration: must be greater than minDuration"))
        }
        _ => Ok(DurationBounds { min_nano, max_nano }),
    }
}

/// Runs a search to its end; `partial` says whether there is a place for [`Answer::partial`].
pub(crate) async fn answer(state: &TempoState, search: Search, partial: PartialAnswers) -> Result<Answer> {
    let mut request = QueryRequest::new(state.tenant(), QueryKind::TraceQl(search.query));
    request.partial = partial;
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    let mut traces = Vec::new();
    for batch in &batches {
        traces.extend(FoundTrace::read(batch)?);
    }
    Ok(Answer { traces, stats: search_stats(&stats), partial: stats.partial })
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
