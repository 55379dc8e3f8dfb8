//! Asking an engine for time series.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Float64Type, Int64Type},
};
use tracehouse::{
    model::tenant::TenantId,
    query::{AnswerForm, MetricsQuery, QueryEngine, QueryKind, QueryRequest},
};

use super::engine::entries;
use crate::{
    query::data::START,
    traceql::reference::{Answer, Buckets, label_text},
};

/// What time a question for series is about, after the start of all data.
#[derive(Clone, Copy, Debug)]
pub(in crate::traceql) struct Times {
    pub(in crate::traceql) start: i64,
    pub(in crate::traceql) end: i64,
    /// None asks for one value.
    pub(in crate::traceql) step: Option<i64>,
}

impl Times {
    /// The buckets that they mean.
    pub(in crate::traceql) fn buckets(self) -> Buckets {
        match self.step {
            Some(step) => Buckets::of_range(START, (self.start, self.end), step),
            None => Buckets::instant(self.start, self.end),
        }
    }
}

/// The answer, or why there is none.
pub(in crate::traceql) async fn ask(engine: &QueryEngine, text: &str, times: Times) -> Result<Answer, String> {
    let query = MetricsQuery {
        start_unix_nano: Some(START + times.start),
        end_unix_nano: Some(START + times.end),
        step_nano: times.step,
        instant: times.step.is_none(),
        exemplars: Some(0),
        ..MetricsQuery::new(text)
    };
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::Metrics(query));
    request.form = AnswerForm::Typed;
    let stream = engine.execute(request).await.map_err(|error| error.to_string())?;
    let (batches, _) = stream.collect().await.map_err(|error| error.to_string())?;
    Ok(batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| series(batch, row))).collect())
}

fn series(batch: &RecordBatch, row: usize) -> (String, Vec<(i64, f64)>) {
    let labels = entries(&batch["labels"].as_map().value(row));
    let samples = batch["samples"].as_list::<i32>().value(row);
    let samples = samples.as_struct();
    let times = samples["time_unix_nano"].as_primitive::<Int64Type>();
    let values = samples["value"].as_primitive::<Float64Type>();
    let samples = (0..samples.len()).map(|sample| (times.value(sample) - START, values.value(sample)));
    (label_text(&labels), samples.collect())
}

/// Whether two answers are the same, but for the last digits of what goes through a logarithm.
pub(in crate::traceql) fn are_same(one: &Answer, other: &Answer) -> bool {
    let close = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs());
    let same = |a: &(String, Vec<(i64, f64)>), b: &(String, Vec<(i64, f64)>)| {
        let samples = || a.1.iter().zip(&b.1);
        a.0 == b.0 && a.1.len() == b.1.len() && samples().all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
    };
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same(a, b))
}

/// An answer as a reader sees it, a line per series.
pub(in crate::traceql) fn shown(answer: &Answer) -> String {
    let line = |(labels, samples): &(String, Vec<(i64, f64)>)| {
        let samples: Vec<String> = samples.iter().map(|(time, value)| format!("{time}:{value}")).collect();
        format!("{labels} {}", samples.join(" "))
    };
    let lines: Vec<String> = answer.iter().map(line).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
}
