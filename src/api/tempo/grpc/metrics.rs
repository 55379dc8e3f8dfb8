//! `MetricsQueryRange` and `MetricsQueryInstant`.
//!
//! ```text
//!  range:   progress | the newest part of a range, if the whole takes its time | all series, in messages that fit
//!  instant: progress | all series, in one message
//! ```
//!
//! Clients put together what they hear of a range by series and time, and what comes later replaces what came before, so
//! the whole may repeat the newest part. Of an instant they keep the last message alone, which therefore has everything;
//! where that is more than clients take, the rest is cut off and the answer says so.

use std::time::Duration;

use futures::{
    StreamExt,
    future::{Either, select},
    stream,
};
use prost::Message;
use tonic::Status;

use super::{
    Messages, given,
    packets::{split_messages, within},
};
use crate::{
    api::{
        flight::status,
        tempo::{
            TempoState, messages,
            metrics::{self, series::FoundSeries},
            tempopb::{
                InstantSeries, PartialStatus, QueryInstantRequest, QueryInstantResponse, QueryRangeRequest,
                QueryRangeResponse, SearchMetrics, TimeSeries,
            },
        },
    },
    error::{Error, Result},
    query::{MetricsQuery, QueryStats},
    traceql::{
        self,
        ast::{Body, MetricsFunction, MetricsSource, SeriesStage},
    },
};

/// The newest part of a range is one of so many.
const PARTS: i64 = 8;

/// Most samples of one series in a message; the others follow in further ones.
const SAMPLES_MAX: usize = 1 << 14;

/// Most bytes of a message that has to be complete. Clients of Tempo take 4 MiB.
const WHOLE_BYTES_MAX: usize = (4 << 20) - (64 << 10);

/// What a request for a range asks for.
pub(super) fn read_range(request: QueryRangeRequest) -> Result<MetricsQuery> {
    let query = MetricsQuery {
        start_unix_nano: nanos("start", request.start)?,
        end_unix_nano: nanos("end", request.end)?,
        step_nano: nanos("step", request.step)?,
        instant: request.instant.unwrap_or(false),
        exemplars: given(request.exemplars),
        series_max: given(request.max_series),
        ..MetricsQuery::new(request.query)
    };
    Ok(query)
}

/// What a request for a moment asks for.
pub(super) fn read_instant(request: QueryInstantRequest) -> Result<MetricsQuery> {
    let (start_unix_nano, end_unix_nano) = (nanos("start", request.start)?, nanos("end", request.end)?);
    Ok(MetricsQuery { start_unix_nano, end_unix_nano, instant: true, ..MetricsQuery::new(request.query) })
}

/// A number of nanoseconds; zero stands for none.
fn nanos(name: &str, nanos: u64) -> Result<Option<i64>> {
    match i64::try_from(nanos) {
        Ok(0) => Ok(None),
        Ok(nanos) => Ok(Some(nanos)),
        Err(_) => Err(Error::invalid(format!("invalid {name}: {nanos} is more than {} nanoseconds", i64::MAX))),
    }
}

/// The messages of a range.
pub(super) fn range(state: TempoState, query: MetricsQuery) -> Messages<QueryRangeResponse> {
    let newest = newest_part(&query);
    let total_jobs = newest.as_ref().map_or(1, |_| PARTS as u32);
    let progress = SearchMetrics { total_jobs, ..SearchMetrics::default() };
    let first = QueryRangeResponse { metrics: Some(progress), ..QueryRangeResponse::default() };
    let patience = state.settings.stream_patience.get();
    let rest = async move {
        let Some(newest) = newest else { return stream::once(whole_range(state, query, progress)).boxed() };
        let early = early_part(state.clone(), newest, progress, patience);
        match select(Box::pin(whole_range(state, query, progress)), Box::pin(early)).await {
            Either::Left((whole, _)) => stream::iter([whole]).boxed(),
            Either::Right((early, whole)) => stream::iter([early]).chain(stream::once(whole)).boxed(),
        }
    };
    let rest = stream::once(rest).flatten().flat_map(|answer| match answer {
        Ok(messages) => stream::iter(messages.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(status(&error))]),
    });
    stream::iter([Ok::<_, Status>(first)]).chain(rest).boxed()
}

/// The newest part of a query's range, if its samples are those of the whole. Series that are ranked, compared or combined
/// depend on all of them.
fn newest_part(query: &MetricsQuery) -> Option<MetricsQuery> {
    let (start, end, step) = (query.start_unix_nano?, query.end_unix_nano?, query.step_nano?);
    let from = (end - (end - start) / PARTS) / step * step;
    if query.instant || start >= from || !is_additive(&query.text) {
        return None;
    }
    Some(MetricsQuery { start_unix_nano: Some(from), exemplars: Some(0), ..query.clone() })
}

fn is_additive(text: &str) -> bool {
    let Ok(query) = traceql::compile(text) else { return false };
    let Body::Metrics(metrics) = query.body else { return false };
    let is_of_points = metrics.tail.iter().all(|stage| matches!(stage, SeriesStage::Threshold(..)));
    match metrics.source {
        MetricsSource::Spans { call, .. } => is_of_points && !matches!(call.function, MetricsFunction::Compare { .. }),
        MetricsSource::Math(_) => false,
    }
}

/// The messages of the newest part, not before `patience` is over. Whatever stops it stops the whole, which says so.
async fn early_part(
    state: TempoState,
    query: MetricsQuery,
    progress: SearchMetrics,
    patience: Duration,
) -> Result<Vec<QueryRangeResponse>> {
    tokio::time::sleep(patience).await;
    match metrics::ask(&state, query).await {
        Ok((series, stats)) if stats.partial.is_none() => {
            let progress = SearchMetrics { completed_jobs: 1, ..cost(progress, &stats) };
            Ok(range_messages(series, progress, None))
        }
        Ok(_) | Err(_) => Ok(Vec::new()),
    }
}

async fn whole_range(
    state: TempoState,
    query: MetricsQuery,
    progress: SearchMetrics,
) -> Result<Vec<QueryRangeResponse>> {
    let (series, stats) = metrics::ask(&state, query).await?;
    let progress = SearchMetrics { completed_jobs: progress.total_jobs, ..cost(progress, &stats) };
    Ok(range_messages(series, progress, stats.partial))
}

fn cost(progress: SearchMetrics, stats: &QueryStats) -> SearchMetrics {
    SearchMetrics {
        inspected_bytes: stats.scanned_bytes,
        inspected_spans: stats.scanned_rows,
        total_blocks: u32::try_from(stats.files_scanned + stats.files_pruned).unwrap_or(u32::MAX),
        ..progress
    }
}

/// Series in messages that fit; the last one says why there are no more.
fn range_messages(
    series: Vec<FoundSeries>,
    progress: SearchMetrics,
    partial: Option<String>,
) -> Vec<QueryRangeResponse> {
    let parts = split_messages(series.into_iter().flat_map(time_series).collect());
    let message = |series| QueryRangeResponse { series, metrics: Some(progress), ..QueryRangeResponse::default() };
    let mut messages: Vec<QueryRangeResponse> = parts.into_iter().map(message).collect();
    if let (Some(last), Some(why)) = (messages.last_mut(), partial) {
        last.status = PartialStatus::Partial.into();
        last.message = why;
    }
    messages
}

/// A series; a long one in pieces, which clients join.
fn time_series(found: FoundSeries) -> Vec<TimeSeries> {
    let labels = messages::key_values(found.labels);
    let exemplars = found.exemplars.into_iter().map(messages::exemplar).collect();
    let mut pieces = found.samples.chunks(SAMPLES_MAX).map(|samples| TimeSeries {
        labels: labels.clone(),
        samples: samples.iter().copied().map(messages::sample).collect(),
        exemplars: Vec::new(),
    });
    let first = pieces.next().unwrap_or_else(|| TimeSeries { labels: labels.clone(), ..TimeSeries::default() });
    [TimeSeries { exemplars, ..first }].into_iter().chain(pieces).collect()
}

/// The messages of a moment.
pub(super) fn instant(state: TempoState, query: MetricsQuery) -> Messages<QueryInstantResponse> {
    let progress = SearchMetrics { total_jobs: 1, ..SearchMetrics::default() };
    let first = QueryInstantResponse { metrics: Some(progress), ..QueryInstantResponse::default() };
    let whole = async move {
        let (series, stats) = metrics::ask(&state, query).await.map_err(|error| status(&error))?;
        Ok(instant_message(series, &stats))
    };
    stream::iter([Ok(first)]).chain(stream::once(whole)).boxed()
}

fn instant_message(series: Vec<FoundSeries>, stats: &QueryStats) -> QueryInstantResponse {
    let one = |found: FoundSeries| {
        let value = found.samples.first()?.value;
        Some(InstantSeries { labels: messages::key_values(found.labels), value })
    };
    let mut series: Vec<InstantSeries> = series.into_iter().filter_map(one).collect();
    let all = series.len();
    series.truncate(within(&series, WHOLE_BYTES_MAX, Message::encoded_len));
    let too_many = (series.len() < all).then(|| {
        let shown = series.len();
        format!(
            "Response exceeds maximum message size of {WHOLE_BYTES_MAX} bytes, the first {shown} of {all} series are returned"
        )
    });
    let reasons: Vec<String> = stats.partial.clone().into_iter().chain(too_many).collect();
    let status = if reasons.is_empty() { PartialStatus::Complete } else { PartialStatus::Partial };
    let done = SearchMetrics { completed_jobs: 1, total_jobs: 1, ..SearchMetrics::default() };
    QueryInstantResponse {
        series,
        metrics: Some(cost(done, stats)),
        status: status.into(),
        message: reasons.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tempo::{metrics::series::Sample, search::found::Shown};

    const SECOND: i64 = 1_000_000_000;

    fn query(text: &str) -> MetricsQuery {
        MetricsQuery {
            start_unix_nano: Some(1_000 * SECOND),
            end_unix_nano: Some(1_800 * SECOND),
            step_nano: Some(15 * SECOND),
            ..MetricsQuery::new(text)
        }
    }

    fn found(label: String, samples: usize) -> FoundSeries {
        let samples = (0..samples as i64).map(|unix_milli| Sample { unix_milli, value: 1.5 }).collect();
        FoundSeries { labels: vec![("l".to_owned(), Shown::Text(label))], samples, exemplars: Vec::new() }
    }

    #[test]
    fn the_newest_part_begins_at_an_edge_and_only_where_its_samples_are_final() {
        let part = newest_part(&query("{} | rate() by(name) > 2")).unwrap();
        assert_eq!((part.start_unix_nano, part.end_unix_nano), (Some(1_695 * SECOND), Some(1_800 * SECOND)));
        for text in
            ["{} | rate() | topk(2)", "{} | compare({status = error})", "({} | rate()) / ({} | rate())", "{}", "{"]
        {
            assert!(newest_part(&query(text)).is_none(), "{text}");
        }
        let rate = query("{} | rate()");
        assert!(newest_part(&MetricsQuery { step_nano: None, ..rate.clone() }).is_none());
        assert!(newest_part(&MetricsQuery { step_nano: Some(1_000 * SECOND), ..rate }).is_none());
    }

    #[test]
    fn long_series_come_in_pieces_and_the_last_message_says_what_is_missing() {
        let series = vec![found("a".to_owned(), 100_000), found("b".to_owned(), 1), found("c".to_owned(), 0)];
        let messages = range_messages(series, SearchMetrics::default(), Some("why".to_owned()));
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|message| message.encoded_len() < super::super::MESSAGE_BYTES_MAX));
        let samples: usize = messages.iter().flat_map(|message| &message.series).map(|one| one.samples.len()).sum();
        assert_eq!(samples, 100_001);
        let (last, others) = messages.split_last().unwrap();
        assert_eq!((last.status, last.message.as_str()), (1, "why"));
        assert!(others.iter().all(|message| message.status == 0 && message.message.is_empty()));
    }

    #[test]
    fn an_instant_that_no_client_takes_is_cut_and_says_so() {
        let series: Vec<_> = (0..50).map(|index| found(format!("{index}{}", "x".repeat(100_000)), 1)).collect();
        let message = instant_message(series, &QueryStats::default());
        assert!(message.encoded_len() < 4 << 20);
        assert_eq!((message.series.len(), message.status), (41, 1));
        assert!(message.message.ends_with("the first 41 of 50 series are returned"), "{}", message.message);
    }
}
