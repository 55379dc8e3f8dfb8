//! `/api/search/tag/{name}/values` and `/api/v2/search/tag/{identifier}/values`: values of an attribute.
//!
//! The type of a value decides whether Grafana puts it in quotes, so it is that of the stored value: the integer 200 and the
//! text "200" are two values. Names may have slashes in them.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use http::HeaderMap;
use serde::Serialize;

use super::{MetadataMetrics, json, text_columns};
use crate::{
    api::tempo::{
        LLM, TempoState, body,
        messages::metadata_metrics,
        not_found,
        params::{Format, Params},
        protobuf, refusal,
        tempopb::{SearchTagValuesResponse, SearchTagValuesV2Response, TagValue},
    },
    error::{Error, ErrorKind, Result},
    model::time::TimeRange,
    query::{QueryKind, QueryRequest, TagValuesQuery},
    traceql::{
        ast::{Attribute, FieldName, Intrinsic, Scope},
        parse_reference,
    },
};

/// Names of the first version that are not attributes.
const NAMED: [(&str, Intrinsic); 3] = [
    ("status.code", Intrinsic::Status),
    ("root.name", Intrinsic::RootName),
    ("root.service.name", Intrinsic::RootServiceName),
];

/// Which values are asked for, whatever protocol asks.
#[derive(Clone, Debug)]
pub(crate) struct ValuesRequest {
    pub(crate) field: FieldName,
    pub(crate) range: TimeRange,
    pub(crate) filter: Option<String>,
    /// Most values.
    pub(crate) limit: usize,
}

/// Values, by type and value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) values: Vec<Value>,
    pub(crate) inspected_bytes: u64,
}

/// A value with its type.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Value {
    #[serde(rename = "type")]
    pub(crate) value_type: String,
    pub(crate) value: String,
}

/// A name of the first version, which has no scope.
pub(crate) fn bare_name(name: &str) -> FieldName {
    let named = NAMED.iter().find(|(known, _)| *known == name).map(|(_, intrinsic)| *intrinsic);
    match named.or_else(|| Intrinsic::from_name(name)) {
        Some(intrinsic) => FieldName::Intrinsic(intrinsic),
        None => FieldName::Attribute(Attribute { of_parent: false, scope: Scope::Any, key: name.to_owned() }),
    }
}

/// An identifier of TraceQL.
pub(crate) fn identifier(text: &str) -> Result<FieldName> {
    parse_reference(text).map_err(|error| {
        Error::invalid(format!("please provide a valid tagName: failed to parse identifier {text}: {error}"))
    })
}

pub(crate) async fn v1(
    State(state): State<TempoState>,
    Path(rest): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        tag_values: Vec<String>,
        metrics: MetadataMetrics,
    }
    let Some(name) = rest.strip_suffix("/values").filter(|name| !name.is_empty()) else { return not_found().await };
    let found = async {
        let request = read(&state, bare_name(name), &Params::of(query.as_deref()))?;
        let (texts, inspected_bytes) = texts(&state, request, name).await?;
        if Format::of(&headers) == Format::Protobuf {
            let metrics = Some(metadata_metrics(inspected_bytes));
            return Ok(protobuf(&SearchTagValuesResponse { tag_values: texts, metrics }));
        }
        json(&Answer { tag_values: texts, metrics: MetadataMetrics::new(inspected_bytes) })
    };
    found.await.unwrap_or_else(|error| refusal(&error))
}

/// The values as text, each once.
pub(crate) async fn texts(state: &TempoState, request: ValuesRequest, name: &str) -> Result<(Vec<String>, u64)> {
    // What Tempo answers for the tag that Jaeger's users search errors by.
    if name == "error" {
        return Ok((vec!["true".to_owned()], 0));
    }
    let found = find(state, request).await?;
    let mut texts: Vec<String> = found.values.into_iter().map(|value| value.value).collect();
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    Ok((texts, found.inspected_bytes))
}

pub(crate) async fn v2(
    State(state): State<TempoState>,
    Path(rest): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(name) = rest.strip_suffix("/values").filter(|name| !name.is_empty()) else { return not_found().await };
    let found = async {
        let found = find(&state, read(&state, identifier(name)?, &Params::of(query.as_deref()))?).await?;
        respond(found, Format::of(&headers))
    };
    found.await.unwrap_or_else(|error| refusal(&error))
}

fn respond(found: Values, format: Format) -> Result<Response> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer<T> {
        tag_values: T,
        metrics: MetadataMetrics,
    }
    if format == Format::Protobuf {
        let metrics = Some(metadata_metrics(found.inspected_bytes));
        let value = |value: Value| TagValue { r#type: value.value_type, value: value.value };
        let tag_values = found.values.into_iter().map(value).collect();
        return Ok(protobuf(&SearchTagValuesV2Response { tag_values, metrics }));
    }
    let metrics = MetadataMetrics::new(found.inspected_bytes);
    if format != Format::Llm {
        return json(&Answer { tag_values: found.values, metrics });
    }
    let mut by_type: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for value in found.values {
        by_type.entry(value.value_type).or_default().push(value.value);
    }
    match serde_json::to_vec(&Answer { tag_values: by_type, metrics }) {
        Ok(bytes) => Ok(body(LLM, bytes).into_response()),
        Err(cause) => Err(Error::new(ErrorKind::Internal, "cannot write the answer as json").with_source(cause)),
    }
}

fn read(state: &TempoState, field: FieldName, params: &Params) -> Result<ValuesRequest> {
    Ok(ValuesRequest {
        field,
        range: params.time_range(state.clock.now_unix_nano())?,
        filter: params.get("q").map(str::to_owned),
        limit: values_limit(state, params.count("limit")?),
    })
}

/// Most values for what a request asks for.
pub(crate) fn values_limit(state: &TempoState, asked: Option<usize>) -> usize {
    let most = state.settings.tag_values_max;
    asked.map_or(most, |asked| asked.min(most))
}

/// Finds values.
pub(crate) async fn find(state: &TempoState, request: ValuesRequest) -> Result<Values> {
    let ValuesRequest { field, range, filter, limit } = request;
    let query = TagValuesQuery { field, range, filter, limit };
    let request = QueryRequest::new(state.tenant(), QueryKind::TagValues(query));
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    let mut found = Values { values: Vec::new(), inspected_bytes: stats.scanned_bytes };
    for batch in &batches {
        let (types, values) = text_columns(batch)?;
        found.values.extend(
            (0..batch.num_rows())
                .map(|row| Value { value_type: types.value(row).to_owned(), value: values.value(row).to_owned() }),
        );
    }
    Ok(found)
}
