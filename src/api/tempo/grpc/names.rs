//! `SearchTags`, `SearchTagValues` and their second versions.

use futures::{StreamExt, stream};

use super::{
    Messages, given, given_text,
    packets::{split, split_messages},
    time_range,
};
use crate::{
    api::tempo::{
        TempoState,
        messages::metadata_metrics,
        tags::{
            self, NamesRequest, ScopeFilter,
            values::{self, ValuesRequest},
        },
        tempopb::{
            MetadataMetrics, SearchTagValuesRequest, SearchTagValuesResponse, SearchTagValuesV2Response,
            SearchTagsRequest, SearchTagsResponse, SearchTagsV2Response, SearchTagsV2Scope, TagValue,
        },
    },
    error::Result,
    traceql::ast::FieldName,
};

fn metrics(inspected_bytes: u64) -> Option<MetadataMetrics> {
    Some(metadata_metrics(inspected_bytes))
}

fn messages<M: Send + 'static>(messages: impl Iterator<Item = M>) -> Messages<M> {
    stream::iter(messages.map(Ok).collect::<Vec<_>>()).boxed()
}

fn read(request: &SearchTagsRequest) -> Result<NamesRequest> {
    Ok(NamesRequest {
        scope: ScopeFilter::of(&request.scope)?,
        range: time_range(request.start, request.end)?,
        filter: given_text(&request.query),
        limit: given(request.max_tags_per_scope).unwrap_or(usize::MAX),
    })
}

pub(super) async fn v1(state: &TempoState, request: SearchTagsRequest) -> Result<Messages<SearchTagsResponse>> {
    let request = read(&request)?;
    let scope = request.scope;
    let names = tags::find(state, request).await?;
    let metrics = metrics(names.inspected_bytes);
    let parts = split(names.flat(scope), String::len);
    Ok(messages(parts.into_iter().map(|tag_names| SearchTagsResponse { tag_names, metrics })))
}

pub(super) async fn v2(state: &TempoState, request: SearchTagsRequest) -> Result<Messages<SearchTagsV2Response>> {
    let names = tags::find(state, read(&request)?).await?;
    let metrics = metrics(names.inspected_bytes);
    // A scope with many names is cut, too.
    let scopes = names.scopes.into_iter().flat_map(|scope| {
        let parts = split(scope.tags, String::len).into_iter();
        parts.map(move |tags| SearchTagsV2Scope { name: scope.name.to_owned(), tags })
    });
    let parts = split_messages(scopes.collect());
    Ok(messages(parts.into_iter().map(|scopes| SearchTagsV2Response { scopes, metrics })))
}

fn read_values(state: &TempoState, field: FieldName, request: &SearchTagValuesRequest) -> Result<ValuesRequest> {
    Ok(ValuesRequest {
        field,
        range: time_range(request.start, request.end)?,
        filter: given_text(&request.query),
        limit: values::values_limit(state, given(request.max_tag_values)),
    })
}

pub(super) async fn values_v1(
    state: &TempoState,
    request: SearchTagValuesRequest,
) -> Result<Messages<SearchTagValuesResponse>> {
    let name = &request.tag_name;
    let (texts, inspected_bytes) =
        values::texts(state, read_values(state, values::bare_name(name), &request)?, name).await?;
    let parts = split(texts, String::len);
    let metrics = metrics(inspected_bytes);
    Ok(messages(parts.into_iter().map(|tag_values| SearchTagValuesResponse { tag_values, metrics })))
}

pub(super) async fn values_v2(
    state: &TempoState,
    request: SearchTagValuesRequest,
) -> Result<Messages<SearchTagValuesV2Response>> {
    let field = values::identifier(&request.tag_name)?;
    let found = values::find(state, read_values(state, field, &request)?).await?;
    let metrics = metrics(found.inspected_bytes);
    let values = found.values.into_iter().map(|value| TagValue { r#type: value.value_type, value: value.value });
    let parts = split_messages(values.collect());
    Ok(messages(parts.into_iter().map(|tag_values| SearchTagValuesV2Response { tag_values, metrics })))
}
