//! `Search`: the first traces of a long answer come before the rest is computed.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::{Messages, given, packets::split_messages, time_range};
use crate::{
    api::{
        flight::status,
        tempo::{
            TempoState, messages,
            search::{self, Conditions, Search, duration_bounds},
            tempopb::{SearchMetrics, SearchRequest, SearchResponse},
        },
    },
    error::{Error, Result},
    query::{PartialAnswers, TraceCursor},
};

/// Traces of the first part of an answer that comes in two.
const FIRST_PART: usize = 20;

/// Longest answer that comes in one part: a part costs a search.
const ONE_PART_MAX: usize = 100;

const MILLISECOND_NANO: i64 = 1_000_000;

/// What a request asks for.
pub(super) fn read(state: &TempoState, request: SearchRequest) -> Result<Search> {
    let conditions = match request.query.is_empty() {
        true => Conditions::Tags(request.tags.into_iter().collect::<BTreeMap<_, _>>()),
        false => Conditions::Query(request.query),
    };
    let mut search = conditions.search(&state.settings)?;
    let query = &mut search.query;
    let limit = given(request.limit).unwrap_or(state.settings.search_limit_default);
    // The engine sees the parts of an answer, each of which can be within the limit.
    let most = state.engine.limits().search_limit_max;
    if limit > most {
        return Err(Error::invalid(format!("limit {limit} exceeds max limit {most}")));
    }
    query.limit = Some(limit);
    query.spans_per_trace = given(request.spans_per_span_set);
    query.range = time_range(request.start, request.end)?;
    let nanos = |millis: u32| Some(i64::from(millis) * MILLISECOND_NANO);
    query.duration = duration_bounds(nanos(request.min_duration_ms), nanos(request.max_duration_ms))?;
    Ok(search)
}

/// A search on its way.
struct Parts {
    state: TempoState,
    search: Search,
    /// Traces of the parts to come.
    limits: Vec<usize>,
    metrics: SearchMetrics,
}

/// The messages of an answer.
pub(super) fn stream(state: TempoState, search: Search) -> Messages<SearchResponse> {
    let limit = search.query.limit.unwrap_or_default();
    let limits = if limit > ONE_PART_MAX { vec![limit - FIRST_PART, FIRST_PART] } else { vec![limit] };
    let metrics = SearchMetrics { total_jobs: limits.len() as u32, ..SearchMetrics::default() };
    let first = SearchResponse { traces: Vec::new(), metrics: Some(metrics) };
    let parts = Parts { state, search, limits, metrics };
    let rest = stream::try_unfold(parts, |parts| async move { parts.next().await.map_err(|error| status(&error)) });
    let rest = rest.map_ok(|messages| stream::iter(messages.into_iter().map(Ok::<_, Status>))).try_flatten();
    stream::iter([Ok(first)]).chain(rest).boxed()
}

impl Parts {
    async fn next(mut self) -> Result<Option<(Vec<SearchResponse>, Self)>> {
        let Some(limit) = self.limits.pop() else { return Ok(None) };
        let mut search = self.search.clone();
        search.query.limit = Some(limit);
        // The messages have no place that says that an answer is partial.
        let found = search::answer(&self.state, search, PartialAnswers::Refused).await?;
        let last = found.traces.last();
        self.search.query.after = last
            .map(|last| TraceCursor { start_unix_nano: last.start_unix_nano, trace_id: last.trace_id })
            .or(self.search.query.after);
        if found.traces.len() < limit {
            self.limits.clear();
        }
        let metrics = &mut self.metrics;
        metrics.completed_jobs = metrics.total_jobs - self.limits.len() as u32;
        metrics.inspected_bytes += found.stats.inspected_bytes;
        metrics.inspected_spans += found.stats.inspected_spans;
        metrics.total_blocks = u32::try_from(found.stats.files).unwrap_or(u32::MAX);
        let spansets = self.search.spansets;
        let traces = found.traces.into_iter().map(|trace| messages::trace(trace, spansets)).collect();
        let metrics = *metrics;
        let messages =
            split_messages(traces).into_iter().map(|traces| SearchResponse { traces, metrics: Some(metrics) });
        Ok(Some((messages.collect(), self)))
    }
}
