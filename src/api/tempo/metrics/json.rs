//! The answers of `/api/metrics/query_range` and `/api/metrics/query`: series as Tempo's JSON.
//!
//! Zero values are left out and 64-bit numbers are strings, as gogo's jsonpb writes them; a sample of value 0 is its time
//! alone. Grafana decodes instant answers with a parser that refuses unknown fields, so nothing is added to Tempo's.

use serde::{Serialize, Serializer};

use super::series::{self, FoundSeries, Label};
use crate::{
    api::tempo::search::json::{AnyValue, KeyValue, Metrics, as_text, is_zero},
    query::QueryStats,
};

#[derive(Serialize)]
struct Response<S> {
    series: Vec<S>,
    metrics: Metrics,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
struct Series {
    labels: Vec<KeyValue>,
    samples: Vec<Sample>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exemplars: Vec<Exemplar>,
}

#[derive(Serialize)]
struct InstantSeries {
    labels: Vec<KeyValue>,
    #[serde(serialize_with = "number", skip_serializing_if = "is_zero")]
    value: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    #[serde(serialize_with = "as_text", skip_serializing_if = "is_zero")]
    timestamp_ms: i64,
    #[serde(serialize_with = "number", skip_serializing_if = "is_zero")]
    value: f64,
}

#[derive(Serialize)]
struct Exemplar {
    labels: Vec<KeyValue>,
    #[serde(flatten)]
    sample: Sample,
}

/// The body of an answer with samples over time.
pub(crate) fn range(series: Vec<FoundSeries>, stats: &QueryStats) -> serde_json::Result<Vec<u8>> {
    let series = series.into_iter().map(|found| Series {
        labels: labels(found.labels),
        samples: found.samples.into_iter().map(Sample::from).collect(),
        exemplars: found.exemplars.into_iter().map(Exemplar::from).collect(),
    });
    render(series.collect(), stats)
}

/// The body of an answer with one value per series.
pub(crate) fn instant(series: Vec<FoundSeries>, stats: &QueryStats) -> serde_json::Result<Vec<u8>> {
    let one = |found: FoundSeries| {
        let value = found.samples.first()?.value;
        Some(InstantSeries { labels: labels(found.labels), value })
    };
    render(series.into_iter().filter_map(one).collect(), stats)
}

fn render<S: Serialize>(series: Vec<S>, stats: &QueryStats) -> serde_json::Result<Vec<u8>> {
    let response = Response {
        series,
        metrics: Metrics::of_one_job(stats.scanned_bytes, stats.files_scanned + stats.files_pruned, stats.scanned_rows),
        status: stats.partial.as_ref().map(|_| "PARTIAL"),
        message: stats.partial.clone(),
    };
    serde_json::to_vec(&response)
}

fn labels(labels: Vec<Label>) -> Vec<KeyValue> {
    labels.into_iter().map(|(key, value)| KeyValue { key, value: AnyValue::from(value) }).collect()
}

impl From<series::Sample> for Sample {
    fn from(sample: series::Sample) -> Self {
        Self { timestamp_ms: sample.unix_milli, value: sample.value }
    }
}

impl From<series::Exemplar> for Exemplar {
    fn from(exemplar: series::Exemplar) -> Self {
        Self { labels: labels(exemplar.labels), sample: exemplar.sample.into() }
    }
}

/// A float as JSON has it: whole numbers without a fraction, and words for what is no JSON number.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    /// Beyond this, not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match *value {
        value if value.fract() == 0.0 && value.abs() < EXACT => serializer.serialize_i64(value as i64),
        value if value.is_finite() => serializer.serialize_f64(value),
        value if value.is_nan() => serializer.serialize_str("NaN"),
        value if value > 0.0 => serializer.serialize_str("Infinity"),
        _ => serializer.serialize_str("-Infinity"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::tempo::search::found::Shown;

    fn found(samples: &[(i64, f64)]) -> FoundSeries {
        let sample = |(unix_milli, value): &(i64, f64)| series::Sample { unix_milli: *unix_milli, value: *value };
        let trace = ("trace:id".to_owned(), Shown::Text("11c630e71e53275".to_owned()));
        FoundSeries {
            labels: vec![
                ("resource.service.name".to_owned(), Shown::Text("a".to_owned())),
                ("p".to_owned(), Shown::Float(0.5)),
                ("span.http.response.status_code".to_owned(), Shown::Int(500)),
            ],
            samples: samples.iter().map(sample).collect(),
            exemplars: vec![series::Exemplar {
                sample: series::Sample { unix_milli: 1_795_239_300_000, value: 0.25 },
                labels: vec![trace],
            }],
        }
    }

    fn labels() -> Value {
        json!([
            {"key": "resource.service.name", "value": {"stringValue": "a"}},
            {"key": "p", "value": {"doubleValue": 0.5}},
            {"key": "span.http.response.status_code", "value": {"intValue": "500"}},
        ])
    }

    fn parsed(bytes: serde_json::Result<Vec<u8>>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn series_look_as_in_tempo() {
        let stats = QueryStats { scanned_bytes: 7, scanned_rows: 3, files_scanned: 2, ..QueryStats::default() };
        let metrics =
            json!({"inspectedBytes": "7", "totalBlocks": 2, "completedJobs": 1, "totalJobs": 1, "inspectedSpans": "3"});
        let range = parsed(range(vec![found(&[(1_795_239_000_000, 0.0), (1_795_239_300_000, 4780.0)])], &stats));
        let expected = json!({
            "series": [{
                "labels": labels(),
                "samples": [{"timestampMs": "1795239000000"}, {"timestampMs": "1795239300000", "value": 4780}],
                "exemplars": [{
                    "labels": [{"key": "trace:id", "value": {"stringValue": "11c630e71e53275"}}],
                    "value": 0.25, "timestampMs": "1795239300000",
                }],
            }],
            "metrics": metrics,
        });
        assert_eq!(range, expected);
        let instant = parsed(instant(vec![found(&[(1, 4.155)]), found(&[])], &stats));
        assert_eq!(instant, json!({"series": [{"labels": labels(), "value": 4.155}], "metrics": metrics}));
    }

    #[test]
    fn a_part_of_an_answer_says_so_and_nothing_is_an_empty_list() {
        let stats = QueryStats { partial: Some("too many".to_owned()), ..QueryStats::default() };
        let expected = json!({
            "series": [], "metrics": {"completedJobs": 1, "totalJobs": 1}, "status": "PARTIAL", "message": "too many",
        });
        assert_eq!(parsed(range(Vec::new(), &stats)), expected);
    }
}
