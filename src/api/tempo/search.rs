//! `/api/search`.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use super::{
    JSON, TempoState, body,
    found::FoundTrace,
    params::Params,
    refusal,
    search_json::{SearchStats, render},
};
use crate::{
    error::{Error, ErrorKind, Result},
    query::{QueryKind, QueryRequest, TraceQlQuery},
};

/// Parameters that name conditions outside of `q`.
const LEGACY: [&str; 3] = ["tags", "minDuration", "maxDuration"];

pub(super) async fn search(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    match answer(&state, query.as_deref()).await {
        Ok(bytes) => body(JSON, bytes),
        Err(error) => refusal(&error),
    }
}

async fn answer(state: &TempoState, query: Option<&str>) -> Result<Vec<u8>> {
    let params = Params::of(query);
    if params.get("q").is_some() && params.get("tags").is_some() {
        return Err(Error::invalid("invalid request: can't specify tags and q in the same query"));
    }
    params.refuse("search", &LEGACY)?;
    let limit = params.limit(&state.settings)?;
    let spans_per_trace = params.spans_per_spanset(&state.settings)?;
    let range = params.time_range(state.clock.now_unix_nano())?;
    // Without conditions every trace is found.
    let text = params.get("q").unwrap_or("{}").to_owned();
    let query =
        TraceQlQuery { limit: Some(limit), spans_per_trace: Some(spans_per_trace), range, ..TraceQlQuery::new(text) };
    let request = QueryRequest::new(state.tenant(), QueryKind::TraceQl(query));
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    let mut traces = Vec::new();
    for batch in &batches {
        traces.extend(FoundTrace::read(batch)?);
    }
    let stats = SearchStats {
        inspected_bytes: stats.scanned_bytes,
        files: stats.files_scanned + stats.files_pruned,
        file_bytes: 0,
    };
    render(traces, stats)
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot write the answer as json").with_source(cause))
}
