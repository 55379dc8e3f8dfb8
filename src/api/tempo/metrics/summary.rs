//! `/api/metrics/summary`, a route of Tempo 2: how many spans, how many errors and how slow, by values of attributes.
//!
//! ```text
//!  q={resource.service.name="shop"}&groupBy=name,.code
//!  {"summaries": [{"spanCount": "20", "errorSpanCount": "2", "series": [{"key": "name", "value": {"type": 5, "s": "GET /"}}],
//!                  "p99": "..", "p95": "..", "p90": "..", "p50": ".."}]}
//! ```
//!
//! It is made of TraceQL metrics over one interval, so percentiles are as exact as `quantile_over_time`. Durations are
//! nanoseconds. Without a range it counts all spans up to now.

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;

use super::{
    ask,
    series::{FoundSeries, Label},
};
use crate::{
    api::tempo::{TempoState, params::Params, refusal, search::found::Shown, tags::json},
    error::{Error, Result},
    model::time::TimeRange,
    query::MetricsQuery,
    traceql::{
        self,
        ast::{Body, SpansetExpr, StageKind},
        parse_reference,
    },
};

/// Most attributes to group by. A quantile is one more label, and TraceQL takes five.
const GROUPS_MAX: usize = 4;

/// Most groups of an answer.
const SUMMARIES_MAX: usize = 10_000;

/// The percentiles of an answer, as their place in [`Summary`].
const QUANTILES: [f64; 4] = [0.99, 0.95, 0.9, 0.5];

#[derive(Serialize)]
struct Answer {
    summaries: Vec<Summary>,
}

/// One group, with 64-bit numbers as text, as Tempo's JSON has them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    span_count: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_span_count: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    series: Vec<KeyValue>,
    p99: String,
    p95: String,
    p90: String,
    p50: String,
}

#[derive(Serialize)]
struct KeyValue {
    key: String,
    value: Static,
}

/// `tempopb.TraceQLStatic`: a number that says which of the others counts.
#[derive(Default, Serialize)]
struct Static {
    r#type: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<bool>,
}

impl From<Shown> for Static {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Int(int) => Self { r#type: 3, n: Some(int.to_string()), ..Self::default() },
            Shown::Float(float) => Self { r#type: 4, f: Some(float), ..Self::default() },
            Shown::Text(text) => Self { r#type: 5, s: Some(text), ..Self::default() },
            Shown::Bool(truth) => Self { r#type: 6, b: Some(truth), ..Self::default() },
        }
    }
}

pub(crate) async fn summary(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    answer(&state, query.as_deref()).await.unwrap_or_else(|error| refusal(&error))
}

/// What is asked for.
#[derive(Debug)]
struct Question {
    filter: String,
    by: String,
    range: TimeRange,
    limit: usize,
}

fn read(params: &Params, now_unix_nano: i64) -> Result<Question> {
    let text = params.get("q").ok_or_else(|| Error::invalid("invalid q: it is missing"))?;
    let groups: Vec<&str> = params.get("groupBy").into_iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    if groups.len() > GROUPS_MAX {
        return Err(Error::invalid(format!(
            "groupBy has {} attributes, and at most {GROUPS_MAX} can be taken",
            groups.len()
        )));
    }
    for group in &groups {
        parse_reference(group).map_err(|error| Error::invalid(format!("invalid groupBy: {group}: {error}")))?;
    }
    let by = if groups.is_empty() { String::new() } else { format!(" by({})", groups.join(", ")) };
    let range = params.time_range(now_unix_nano)?;
    let limit = params.count("limit")?.unwrap_or(SUMMARIES_MAX);
    if limit > SUMMARIES_MAX {
        return Err(Error::invalid(format!("limit {limit} exceeds max limit {SUMMARIES_MAX}")));
    }
    Ok(Question { filter: one_filter(text)?, by, range, limit })
}

/// The inside of a query that is one filter on spans.
fn one_filter(text: &str) -> Result<String> {
    let wrong = || Error::invalid("invalid q: it must be one spanset filter, such as { status = error }");
    let query = traceql::compile(text)?;
    let Body::Spansets(pipeline) = query.body else { return Err(wrong()) };
    match pipeline.stages.as_slice() {
        [stage] => match &stage.kind {
            StageKind::Spansets(SpansetExpr::Filter(filter)) => Ok(filter.to_string()),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

async fn answer(state: &TempoState, query: Option<&str>) -> Result<Response> {
    let now = state.clock.now_unix_nano();
    let Question { filter, by, range, limit } = read(&Params::of(query), now)?;
    let run = async |text: String| {
        let query = MetricsQuery {
            // An interval has its right edge and not its left one.
            start_unix_nano: Some(range.start_unix_nano.max(1) - 1),
            end_unix_nano: Some(range.end_unix_nano.min(now.saturating_add(1)) - 1),
            instant: true,
            exemplars: Some(0),
            ..MetricsQuery::new(text)
        };
        ask(state, query).await.map(|(series, _)| series)
    };
    let counts = run(format!("{{ {filter} }} | count_over_time(){by}")).await?;
    let errors = run(format!("{{ ({filter}) && status = error }} | count_over_time(){by}")).await?;
    let quantiles = QUANTILES.map(|quantile| quantile.to_string()).join(", ");
    let durations = run(format!("{{ {filter} }} | quantile_over_time(duration, {quantiles}){by}")).await?;
    json(&Answer { summaries: summaries(counts, &errors, &durations, limit) })
}

/// Groups by count, the largest first.
fn summaries(
    counts: Vec<FoundSeries>,
    errors: &[FoundSeries],
    durations: &[FoundSeries],
    limit: usize,
) -> Vec<Summary> {
    let value = |found: &FoundSeries| found.samples.first().map_or(0.0, |sample| sample.value);
    let errors: BTreeMap<String, f64> = errors.iter().map(|found| (identity(&found.labels), value(found))).collect();
    let mut by_group: BTreeMap<String, [f64; QUANTILES.len()]> = BTreeMap::new();
    for found in durations {
        let quantile = found.labels.iter().find_map(|(key, shown)| match shown {
            Shown::Float(quantile) if key == "p" => QUANTILES.iter().position(|known| known == quantile),
            _ => None,
        });
        if let Some(place) = quantile {
            by_group.entry(identity(&found.labels)).or_default()[place] = value(found);
        }
    }
    let mut counts: Vec<(u64, FoundSeries)> = counts.into_iter().map(|found| (value(&found) as u64, found)).collect();
    counts.retain(|(count, _)| *count > 0);
    counts.sort_by(|(a, _), (b, _)| b.cmp(a));
    counts.truncate(limit);
    let summary = |(count, found): (u64, FoundSeries)| {
        let group = identity(&found.labels);
        let failed = errors.get(&group).map_or(0, |errors| *errors as u64);
        let seconds = by_group.get(&group).copied().unwrap_or_default();
        let [p99, p95, p90, p50] = seconds.map(|seconds| ((seconds * 1e9).round() as u64).to_string());
        let labels = found.labels.into_iter().filter(|(key, _)| !key.starts_with("__"));
        Summary {
            span_count: count.to_string(),
            error_span_count: (failed > 0).then(|| failed.to_string()),
            series: labels.map(|(key, shown)| KeyValue { key, value: shown.into() }).collect(),
            p99,
            p95,
            p90,
            p50,
        }
    };
    counts.into_iter().map(summary).collect()
}

/// The labels of a group, without those that a function adds.
fn identity(labels: &[Label]) -> String {
    let own = labels.iter().filter(|(key, _)| key != "p" && !key.starts_with("__"));
    own.map(|(key, shown)| format!("{key}={shown:?};")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        read(&Params::of(Some(query)), 0).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_question_is_one_filter_and_a_few_attributes() {
        let question = read(&Params::of(Some("q=%7B.a=1%7D&groupBy=name,span.b&start=10&end=20")), 0).unwrap();
        assert_eq!((question.filter.as_str(), question.by.as_str()), (".a = 1", " by(name, span.b)"));
        assert_eq!(refused(""), "invalid q: it is missing");
        for text in ["q=%7B%7D%7Crate()", "q=%7B%7D%26%26%7B%7D", "q=%7B%7D%7Ccount()%3E1"] {
            assert!(refused(text).starts_with("invalid q: it must be one spanset filter"), "{text}");
        }
        assert!(refused("q=%7B%7D&groupBy=nope").starts_with("invalid groupBy: nope"));
        assert_eq!(refused("q=%7B%7D&groupBy=.a,.b,.c,.d,.e"), "groupBy has 5 attributes, and at most 4 can be taken");
        assert_eq!(refused("q=%7B%7D&limit=20000"), "limit 20000 exceeds max limit 10000");
    }
}
