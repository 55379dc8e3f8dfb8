//! `/api/search/tags` and `/api/v2/search/tags`: names of attributes.

pub(crate) mod values;

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, RecordBatch};
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::HeaderMap;
use serde::Serialize;

use crate::{
    api::tempo::{
        JSON, TempoState, body,
        messages::metadata_metrics,
        params::{Format, Params},
        protobuf, refusal,
        tempopb::{SearchTagsResponse, SearchTagsV2Response, SearchTagsV2Scope},
    },
    error::{Error, ErrorKind, Result},
    model::{attributes::AttributeScope, time::TimeRange},
    query::{QueryKind, QueryRequest, TagNamesQuery},
};

/// The scope of what every span has.
const INTRINSIC: &str = "intrinsic";

/// The intrinsics that are listed, in both spellings. Those of nested sets are not: nobody picks them.
const INTRINSICS: [&str; 25] = [
    "duration",
    "event:name",
    "event:timeSinceStart",
    "instrumentation:name",
    "instrumentation:version",
    "kind",
    "link:spanID",
    "link:traceID",
    "name",
    "rootName",
    "rootServiceName",
    "span:duration",
    "span:id",
    "span:kind",
    "span:name",
    "span:parentID",
    "span:status",
    "span:statusMessage",
    "status",
    "statusMessage",
    "trace:duration",
    "trace:id",
    "trace:rootName",
    "trace:rootService",
    "traceDuration",
];

/// Attribute scopes in the order of answers.
const SCOPES: [AttributeScope; AttributeScope::COUNT] = [
    AttributeScope::Resource,
    AttributeScope::Span,
    AttributeScope::Event,
    AttributeScope::Link,
    AttributeScope::Scope,
];

/// Which names are asked for, whatever protocol asks.
#[derive(Clone, Debug)]
pub(crate) struct NamesRequest {
    pub(crate) scope: ScopeFilter,
    pub(crate) range: TimeRange,
    pub(crate) filter: Option<String>,
    /// Most names per scope.
    pub(crate) limit: usize,
}

/// Which scopes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeFilter {
    /// All of them.
    All,
    /// What every span has.
    Intrinsic,
    /// What the language calls the scope of a trace, which has intrinsics only.
    Trace,
    /// One scope of attributes.
    Attributes(AttributeScope),
}

impl ScopeFilter {
    /// The scopes that a word stands for.
    pub(crate) fn of(word: &str) -> Result<Self> {
        Ok(match word {
            "" | "none" => ScopeFilter::All,
            INTRINSIC => ScopeFilter::Intrinsic,
            "trace" => ScopeFilter::Trace,
            _ => match word.parse() {
                Ok(scope) => ScopeFilter::Attributes(scope),
                Err(()) => return Err(Error::invalid(format!("invalid scope: {word}"))),
            },
        })
    }
}

/// Names by scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) scopes: Vec<ScopeNames>,
    pub(crate) inspected_bytes: u64,
}

/// Names of one scope, in order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScopeNames {
    pub(crate) name: &'static str,
    pub(crate) tags: Vec<String>,
}

impl Names {
    /// All names without their scopes; intrinsics only if nothing else was asked for.
    pub(crate) fn flat(self, scope: ScopeFilter) -> Vec<String> {
        let scopes = self.scopes.into_iter().filter(|names| scope == ScopeFilter::Intrinsic || names.name != INTRINSIC);
        scopes.flat_map(|names| names.tags).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// `tempopb.MetadataMetrics` in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetadataMetrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    inspected_bytes: Option<String>,
}

impl MetadataMetrics {
    pub(crate) fn new(inspected_bytes: u64) -> Self {
        Self { inspected_bytes: (inspected_bytes > 0).then(|| inspected_bytes.to_string()) }
    }
}

pub(crate) async fn v1(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        tag_names: Vec<String>,
        metrics: MetadataMetrics,
    }
    let found = async {
        let request = read(&state, &Params::of(query.as_deref()))?;
        let scope = request.scope;
        let names = find(&state, request).await?;
        if Format::of(&headers) == Format::Protobuf {
            let metrics = Some(metadata_metrics(names.inspected_bytes));
            return Ok(protobuf(&SearchTagsResponse { tag_names: names.flat(scope), metrics }));
        }
        let metrics = MetadataMetrics::new(names.inspected_bytes);
        json(&Answer { tag_names: names.flat(scope), metrics })
    };
    found.await.unwrap_or_else(|error| refusal(&error))
}

pub(crate) async fn v2(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    #[derive(Serialize)]
    struct Answer {
        scopes: Vec<ScopeNames>,
        metrics: MetadataMetrics,
    }
    let found = async {
        let names = find(&state, read(&state, &Params::of(query.as_deref()))?).await?;
        if Format::of(&headers) == Format::Protobuf {
            let metrics = Some(metadata_metrics(names.inspected_bytes));
            let scope = |names: ScopeNames| SearchTagsV2Scope { name: names.name.to_owned(), tags: names.tags };
            let scopes = names.scopes.into_iter().map(scope).collect();
            return Ok(protobuf(&SearchTagsV2Response { scopes, metrics }));
        }
        let metrics = MetadataMetrics::new(names.inspected_bytes);
        json(&Answer { scopes: names.scopes, metrics })
    };
    found.await.unwrap_or_else(|error| refusal(&error))
}

pub(crate) fn json(answer: &impl Serialize) -> Result<Response> {
    match serde_json::to_vec(answer) {
        Ok(bytes) => Ok(body(JSON, bytes)),
        Err(cause) => Err(Error::new(ErrorKind::Internal, "cannot write the answer as json").with_source(cause)),
    }
}

fn read(state: &TempoState, params: &Params) -> Result<NamesRequest> {
    Ok(NamesRequest {
        scope: ScopeFilter::of(params.get("scope").unwrap_or_default())?,
        range: params.time_range(state.clock.now_unix_nano())?,
        filter: params.get("q").map(str::to_owned),
        limit: params.count("limit")?.unwrap_or(usize::MAX),
    })
}

/// Finds names.
pub(crate) async fn find(state: &TempoState, request: NamesRequest) -> Result<Names> {
    let NamesRequest { scope, range, filter, limit } = request;
    let mut names = Names::default();
    if matches!(scope, ScopeFilter::All | ScopeFilter::Intrinsic) {
        let tags = INTRINSICS.iter().take(limit).map(|name| (*name).to_owned()).collect();
        names.scopes.push(ScopeNames { name: INTRINSIC, tags });
    }
    let only = match scope {
        ScopeFilter::Intrinsic | ScopeFilter::Trace => return Ok(names),
        ScopeFilter::All => None,
        ScopeFilter::Attributes(scope) => Some(scope),
    };
    let query = TagNamesQuery { range, filter, scope: only };
    let request = QueryRequest::new(state.tenant(), QueryKind::TagNames(query));
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    names.inspected_bytes = stats.scanned_bytes;
    for scope in SCOPES {
        let mut tags = Vec::new();
        for batch in &batches {
            let (scopes, found) = text_columns(batch)?;
            let rows = (0..batch.num_rows()).filter(|row| scopes.value(*row) == scope.prefix());
            tags.extend(rows.map(|row| found.value(row).to_owned()));
        }
        tags.truncate(limit);
        if !tags.is_empty() {
            names.scopes.push(ScopeNames { name: scope.prefix(), tags });
        }
    }
    Ok(names)
}

/// The two columns of an answer, which are text.
pub(crate) fn text_columns(batch: &RecordBatch) -> Result<(&arrow::array::StringArray, &arrow::array::StringArray)> {
    let text = |index: usize| batch.columns().get(index).and_then(|column| column.as_string_opt::<i32>());
    match (text(0), text(1)) {
        (Some(first), Some(second)) if first.null_count() + second.null_count() == 0 => Ok((first, second)),
        _ => Err(Error::new(ErrorKind::Internal, "the answer about attributes has unexpected columns")),
    }
}
