//! What is computed from spans: `/api/metrics/query_range` and `/api/metrics/query` here, which answer TraceQL metrics, always
//! as JSON; the service graph in [`graph`]; the counts of Tempo 2 in [`summary`];
//! what Prometheus scrapes of services in [`services`].

pub(crate) mod graph;
pub(crate) mod json;
mod peers;
pub(crate) mod series;
pub(crate) mod services;
pub(crate) mod summary;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use chrono::DateTime;

use self::series::FoundSeries;
use crate::{
    api::tempo::{
        JSON, TempoState, body,
        params::{Params, check_expression},
        refusal,
    },
    error::{Error, ErrorKind, Result},
    query::{MetricsQuery, PartialAnswers, QueryKind, QueryRequest, QueryStats},
    traceql::literal::parse_duration,
};

pub(crate) async fn range(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    answer(&state, query.as_deref(), false).await.unwrap_or_else(|error| refusal(&error))
}

pub(crate) async fn instant(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    answer(&state, query.as_deref(), true).await.unwrap_or_else(|error| refusal(&error))
}

async fn answer(state: &TempoState, query: Option<&str>, instant: bool) -> Result<Response> {
    let params = Params::of(query);
    let query = metrics_query(&params, state.clock.now_unix_nano(), instant)?;
    let (series, stats) = ask(state, query).await?;
    let rendered = if instant { json::instant(series, &stats) } else { json::range(series, &stats) };
    let bytes = rendered
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot write the answer as json").with_source(cause))?;
    Ok(body(JSON, bytes))
}

/// The series of a query, in the order of answers, and what they cost.
pub(crate) async fn ask(state: &TempoState, query: MetricsQuery) -> Result<(Vec<FoundSeries>, QueryStats)> {
    check_expression(&query.text, &state.settings)?;
    let mut request = QueryRequest::new(state.tenant(), QueryKind::Metrics(query));
    request.partial = PartialAnswers::Marked;
    let (batches, stats) = state.engine.execute(request).await?.collect().await?;
    let mut series = Vec::new();
    for batch in &batches {
        series.extend(FoundSeries::read(batch)?);
    }
    Ok((series, stats))
}

fn metrics_query(params: &Params, now_unix_nano: i64, instant: bool) -> Result<MetricsQuery> {
    let text = params.get("q").or_else(|| params.get("query")).unwrap_or_default();
    let (start, end) = (params.moment("start")?, params.moment("end")?);
    let since = params.since()?;
    Ok(MetricsQuery {
        start_unix_nano: match (start, since) {
            (None, Some(since)) => Some(end.unwrap_or(now_unix_nano).saturating_sub(since)),
            (start, _) => start,
        },
        end_unix_nano: end,
        step_nano: params.get("step").map(step).transpose()?,
        instant: instant || params.flag("instant")?,
        exemplars: params.number("exemplars")?,
        series_max: params.number("maxSeries")?,
        ..MetricsQuery::new(text)
    })
}

impl Params {
    /// A moment in Unix nanoseconds: given as Unix seconds, also with a fraction, as Unix nanoseconds (more than ten
    /// digits), or as RFC 3339.
    fn moment(&self, name: &str) -> Result<Option<i64>> {
        const SECONDS_DIGITS_MAX: usize = 10;
        let Some(text) = self.get(name) else { return Ok(None) };
        let invalid = || {
            Error::invalid(format!("invalid {name}: {text:?} is neither unix seconds, unix nanoseconds nor RFC 3339"))
        };
        if let Ok(number) = text.parse::<i64>() {
            let is_seconds = text.len() <= SECONDS_DIGITS_MAX;
            return Ok(Some(if is_seconds { number.checked_mul(1_000_000_000).ok_or_else(invalid)? } else { number }));
        }
        if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()) {
            // The fraction apart from the seconds, which leave no digits for it.
            let nanos = seconds.trunc() * 1e9 + (seconds.fract() * 1e9).round();
            // A float that is not below the greatest integer is that one rounded up, or more.
            let fits = nanos.abs() < i64::MAX as f64;
            return if fits { Ok(Some(nanos as i64)) } else { Err(invalid()) };
        }
        let moment = DateTime::parse_from_rfc3339(text).map_err(|_| invalid())?;
        moment.timestamp_nanos_opt().map(Some).ok_or_else(invalid)
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number =
            text.parse().map_err(|_| Error::invalid(format!("invalid {name}: must be a non-negative number")))?;
        Ok(Some(number))
    }
}

fn step(text: &str) -> Result<i64> {
    if text.starts_with('-') {
        return Err(Error::invalid("step must be greater than 0"));
    }
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() => Ok((seconds * 1e9).round() as i64),
        _ => parse_duration(text).map_err(|cause| Error::invalid(format!("invalid step: {cause}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn read(query: &str) -> Result<MetricsQuery> {
        metrics_query(&Params::of(Some(query)), 1_000 * SECOND, false)
    }

    #[test]
    fn moments_come_in_all_of_tempos_forms() {
        let range = |query| read(query).map(|query| (query.start_unix_nano, query.end_unix_nano)).unwrap();
        assert_eq!(range(""), (None, None));
        assert_eq!(range("start=10&end=20"), (Some(10 * SECOND), Some(20 * SECOND)));
        assert_eq!(range("start=1700000000000000001"), (Some(1_700_000_000_000_000_001), None));
        assert_eq!(range("start=1.5&end=1970-01-01T00:00:02.25Z"), (Some(3 * SECOND / 2), Some(9 * SECOND / 4)));
        assert_eq!(range("since=1h"), (Some(-2_600 * SECOND), None));
        assert_eq!(range("since=1m&end=500"), (Some(440 * SECOND), Some(500 * SECOND)));
        for wrong in ["start=yesterday", "end=NaN", "since=1", "step=soon", "exemplars=-1", "start=9999999999999999999"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn steps_are_seconds_or_durations() {
        let step = |query| read(query).map(|query| query.step_nano);
        assert_eq!(step("step=30s").unwrap(), Some(30 * SECOND));
        assert_eq!(step("step=0.5").unwrap(), Some(SECOND / 2));
        assert_eq!(step("step=1h30m").unwrap(), Some(5_400 * SECOND));
        assert_eq!(step("").unwrap(), None);
        assert_eq!(step("step=-5").unwrap_err().message(), "step must be greater than 0");
    }
}
