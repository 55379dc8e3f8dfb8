//! `tempopb.StreamingQuerier`: Tempo's API over gRPC, on the port of HTTP, where Grafana streams from, and on its own.
//!
//! Every method answers with a stream of messages, each of them below [`MESSAGE_BYTES_MAX`] but for the values of one moment,
//! of which clients keep the last message alone ([`metrics`]). A search or a range of metrics says at once how many jobs it
//! has, and how many are done with every message after that, which is Grafana's progress bar. What a message tells of a
//! trace is final: Grafana keeps the first it hears. Traces come in the order of the whole answer, latest first. A stream
//! that is dropped stops its query.

mod metrics;
mod names;
mod packets;
mod search;

use futures::stream::BoxStream;
use tonic::{Request, Response, Status, codec::CompressionEncoding, metadata::MetadataValue};

use super::{
    TempoState,
    params::seconds_range,
    search::{ALL, SEARCHED},
    tempopb::{
        QueryInstantRequest, QueryInstantResponse, QueryRangeRequest, QueryRangeResponse, SearchRequest,
        SearchResponse, SearchTagValuesRequest, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsRequest,
        SearchTagsResponse, SearchTagsV2Response,
        streaming_querier_server::{StreamingQuerier, StreamingQuerierServer},
    },
};
use crate::{api::flight::status, error::Result, model::time::TimeRange};

/// Most bytes of one message, as far as it can be cut; clients of Tempo take 4 MiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The answer to a call.
type Messages<M> = BoxStream<'static, Result<M, Status>>;

/// The service.
pub(super) fn service(state: TempoState) -> StreamingQuerierServer<Querier> {
    StreamingQuerierServer::new(Querier { state })
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

/// The service's implementation.
#[derive(Debug)]
pub(super) struct Querier {
    state: TempoState,
}

/// The range of two parameters in Unix seconds, both of which are zero for all of time.
fn time_range(start: u32, end: u32) -> Result<TimeRange> {
    let seconds = |second: u32| Some(i64::from(second)).filter(|second| *second > 0);
    Ok(seconds_range(seconds(start), seconds(end))?.unwrap_or(TimeRange::ALL))
}

/// A parameter whose zero stands for the default.
fn given(number: u32) -> Option<usize> {
    usize::try_from(number).ok().filter(|number| *number > 0)
}

fn given_text(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[tonic::async_trait]
impl StreamingQuerier for Querier {
    type SearchStream = Messages<SearchResponse>;
    type SearchTagsStream = Messages<SearchTagsResponse>;
    type SearchTagsV2Stream = Messages<SearchTagsV2Response>;
    type SearchTagValuesStream = Messages<SearchTagValuesResponse>;
    type SearchTagValuesV2Stream = Messages<SearchTagValuesV2Response>;
    type MetricsQueryRangeStream = Messages<QueryRangeResponse>;
    type MetricsQueryInstantStream = Messages<QueryInstantResponse>;

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let search = search::read(&self.state, request.into_inner()).map_err(|error| status(&error))?;
        let is_of_all_time = search.query.range == TimeRange::ALL;
        let mut response = Response::new(search::stream(self.state.clone(), search));
        if is_of_all_time {
            response.metadata_mut().insert(SEARCHED, MetadataValue::from_static(ALL));
        }
        Ok(response)
    }

    async fn search_tags(
        &self,
        request: Request<SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsStream>, Status> {
        names::v1(&self.state, request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn search_tags_v2(
        &self,
        request: Request<SearchTagsRequest>,
    ) -> Result<Response<Self::SearchTagsV2Stream>, Status> {
        names::v2(&self.state, request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn search_tag_values(
        &self,
        request: Request<SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesStream>, Status> {
        names::values_v1(&self.state, request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn search_tag_values_v2(
        &self,
        request: Request<SearchTagValuesRequest>,
    ) -> Result<Response<Self::SearchTagValuesV2Stream>, Status> {
        names::values_v2(&self.state, request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn metrics_query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<Response<Self::MetricsQueryRangeStream>, Status> {
        let query = metrics::read_range(request.into_inner()).map_err(|error| status(&error))?;
        Ok(Response::new(metrics::range(self.state.clone(), query)))
    }

    async fn metrics_query_instant(
        &self,
        request: Request<QueryInstantRequest>,
    ) -> Result<Response<Self::MetricsQueryInstantStream>, Status> {
        let query = metrics::read_instant(request.into_inner()).map_err(|error| status(&error))?;
        Ok(Response::new(metrics::instant(self.state.clone(), query)))
    }
}
