//! What the services of the shop write to their logs: a line for each trace that begins with them, and one for each failed
//! span, both with the ids by which a log leads to a trace.
//!
//! ```text
//! {"time":"2026-11-21T22:00:00.5Z","level":"error","service_name":"cart-service","trace_id":"..","span_id":"..","message":".."}
//! ```

use chrono::{DateTime, SecondsFormat};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{ResourceSpans, Span, status::StatusCode},
};
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    service_name: &'a str,
    trace_id: String,
    span_id: String,
    message: String,
}

/// The lines about the spans of a request, each with its end.
pub(super) fn lines(request: &ExportTraceServiceRequest) -> String {
    let mut lines = String::new();
    for resource in &request.resource_spans {
        let service_name = service_name(resource);
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            // Texts and numbers are always written.
            if let Some(line) = line(service_name, span).and_then(|line| serde_json::to_string(&line).ok()) {
                lines.push_str(&line);
                lines.push('\n');
            }
        }
    }
    lines
}

fn service_name(resource: &ResourceSpans) -> &str {
    let mut attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
    let name = attributes.find(|attribute| attribute.key == "service.name");
    match name.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(name)) => name,
        _ => "",
    }
}

fn line<'a>(service_name: &'a str, span: &Span) -> Option<Line<'a>> {
    let failure = span.status.as_ref().filter(|status| status.code == StatusCode::Error as i32);
    let (level, message) = match failure {
        Some(status) if status.message.is_empty() => ("error", format!("{} failed", span.name)),
        Some(status) => ("error", format!("{} failed: {}", span.name, status.message)),
        None if span.parent_span_id.is_empty() => {
            let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            ("info", format!("{} took {:.1} ms", span.name, nanos as f64 / 1e6))
        }
        None => return None,
    };
    let end = DateTime::from_timestamp_nanos(i64::try_from(span.end_time_unix_nano).unwrap_or(i64::MAX));
    Some(Line {
        time: end.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        level,
        service_name,
        trace_id: hex::encode(&span.trace_id),
        span_id: hex::encode(&span.span_id),
        message,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::demo::{Workload, WorkloadSettings};

    #[test]
    fn each_trace_and_each_failed_span_has_a_line_with_its_ids() {
        let (mut roots, mut failed, mut seen) = (0, 0, HashMap::new());
        for request in
            Workload::new(WorkloadSettings::period(7, 1_795_239_000_000_000_000, Duration::from_secs(60), 3_000))
        {
            for span in
                request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
            {
                let is_failed = span.status.as_ref().is_some_and(|status| status.code == 2);
                failed += usize::from(is_failed);
                roots += usize::from(!is_failed && span.parent_span_id.is_empty());
                seen.insert(hex::encode(&span.span_id), (hex::encode(&span.trace_id), is_failed));
            }
            for line in lines(&request).lines() {
                let line: HashMap<String, String> = serde_json::from_str(line).unwrap();
                let (trace_id, is_failed) = &seen[&line["span_id"]];
                assert_eq!((&line["trace_id"], line["level"] == "error"), (trace_id, *is_failed));
                assert!(line["time"].starts_with("2026-11-2") && line["time"].ends_with('Z'), "{line:?}");
                assert!(line["message"].contains(if *is_failed { " failed" } else { " took " }), "{line:?}");
                assert!(!line["service_name"].is_empty());
                *if *is_failed { &mut failed } else { &mut roots } -= 1;
            }
        }
        assert_eq!((roots, failed), (0, 0));
        assert!(seen.len() > 2_000);
    }
}
