//! What assistants can ask.

use chrono::DateTime;
use serde_json::{Value, json};

use crate::{
    api::tempo::{
        TempoState,
        metrics::{self, json as series_json},
        params::Params,
        search::{self, Conditions, json as search_json},
        tags::{
            self, NamesRequest, ScopeFilter,
            values::{self, ValuesRequest},
        },
        trace,
    },
    error::{Error, ErrorKind, Result},
    model::time::TimeRange,
    otlp::tempo_llm,
    query::{MetricsQuery, PartialAnswers},
};

/// The range of a question that names none, up to now.
const RANGE_DEFAULT_NANO: i64 = 3_600_000_000_000;

/// The documents, by name.
const DOCS: [(&str, &str); 4] = [
    ("basic", include_str!("docs/basic.md")),
    ("aggregates", include_str!("docs/aggregates.md")),
    ("structural", include_str!("docs/structural.md")),
    ("metrics", include_str!("docs/metrics.md")),
];

/// Where the documents are as resources: this and a name.
const DOCS_PLACE: &str = "docs://traceql/";

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Search,
    Instant,
    Range,
    Trace,
    Names,
    Values,
    Docs,
}

const TOOLS: [Tool; 7] = [Tool::Search, Tool::Instant, Tool::Range, Tool::Trace, Tool::Names, Tool::Values, Tool::Docs];

/// The tool with a name.
pub(super) fn named(name: &str) -> Option<Tool> {
    TOOLS.into_iter().find(|tool| tool.name() == name)
}

/// All tools, as assistants are told of them.
pub(super) fn list() -> Vec<Value> {
    let described = |tool: &Tool| json!({"name": tool.name(), "description": tool.description(), "inputSchema": tool.schema(), "annotations": {"readOnlyHint": true}});
    TOOLS.iter().map(described).collect()
}

/// The documents as resources.
pub(super) fn resources() -> Vec<Value> {
    let one = |(name, _): &(&str, &str)| json!({"uri": format!("{DOCS_PLACE}{name}"), "name": format!("TraceQL: {name}"), "mimeType": "text/markdown"});
    DOCS.iter().map(one).collect()
}

/// The text of a resource.
pub(super) fn resource(uri: &str) -> Option<&'static str> {
    document(uri.strip_prefix(DOCS_PLACE)?)
}

fn document(name: &str) -> Option<&'static str> {
    DOCS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Search => "traceql-search",
            Tool::Instant => "traceql-metrics-instant",
            Tool::Range => "traceql-metrics-range",
            Tool::Trace => "get-trace",
            Tool::Names => "get-attribute-names",
            Tool::Values => "get-attribute-values",
            Tool::Docs => "docs-traceql",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Tool::Search => "Finds traces by a TraceQL search, the latest first.",
            Tool::Instant => "One value per series of a TraceQL metrics query, over the whole range.",
            Tool::Range => "Time series of a TraceQL metrics query.",
            Tool::Trace => "All spans of a trace.",
            Tool::Names => "Names of attributes by scope, for use in queries.",
            Tool::Values => "Values of an attribute, such as resource.service.name, with their types.",
            Tool::Docs => "How TraceQL is written.",
        }
    }

    fn schema(self) -> Value {
        let text = |description: &str| json!({"type": "string", "description": description});
        let (start, end) =
            (text("Start, RFC 3339; an hour before the end without it."), text("End, RFC 3339; now without it."));
        let ranged = |query: &str| json!({"type": "object", "required": ["query"], "properties": {"query": text(query), "start": start, "end": end}});
        match self {
            Tool::Search => ranged("A TraceQL search, such as { status = error }."),
            Tool::Instant | Tool::Range => {
                ranged("A TraceQL metrics query, such as { } | rate() by(resource.service.name).")
            }
            Tool::Trace => {
                json!({"type": "object", "required": ["trace_id"], "properties": {"trace_id": text("The trace id in hex.")}})
            }
            Tool::Names => {
                let scope = text("Only this scope: resource, span, event, link, instrumentation or intrinsic.");
                json!({"type": "object", "properties": {"scope": scope}})
            }
            Tool::Values => {
                let name = text("The attribute with its scope, such as span.http.route.");
                let filter = text("TraceQL that the spans match, such as { resource.service.name = \"shop\" }.");
                json!({"type": "object", "required": ["name"], "properties": {"name": name, "filter-query": filter}})
            }
            Tool::Docs => {
                let name = json!({"type": "string", "enum": DOCS.map(|(name, _)| name), "description": "What about."});
                json!({"type": "object", "required": ["name"], "properties": {"name": name}})
            }
        }
    }

    /// The result for these arguments.
    pub(super) async fn call(self, state: &TempoState, arguments: &Value) -> Result<Value> {
        let arguments = Arguments { tool: self, values: arguments };
        match self {
            Tool::Search => {
                let mut search = Conditions::Query(arguments.text("query")?).search(&state.settings)?;
                let (start, end) = arguments.range(state.clock.now_unix_nano())?;
                search.query.range = TimeRange::new(start, end.saturating_add(1));
                search.query.limit = Some(state.settings.search_limit_default);
                search.query.spans_per_trace = Some(state.settings.search_spans_default);
                let spansets = search.spansets;
                let found = search::answer(state, search, PartialAnswers::Marked).await?;
                let json = search_json::render(found.traces, spansets, found.stats);
                let mut shown = result("search-results", &as_text(json)?);
                if let (Some(why), Some(content)) = (found.partial, shown["content"].as_array_mut()) {
                    content.push(json!({"type": "text", "text": format!("the answer is partial: {why}")}));
                }
                Ok(shown)
            }
            Tool::Instant | Tool::Range => {
                let (start, end) = arguments.range(state.clock.now_unix_nano())?;
                let is_instant = self == Tool::Instant;
                let query = MetricsQuery {
                    start_unix_nano: Some(start),
                    end_unix_nano: Some(end),
                    instant: is_instant,
                    exemplars: Some(0),
                    ..MetricsQuery::new(arguments.text("query")?)
                };
                let (series, stats) = metrics::ask(state, query).await?;
                Ok(match is_instant {
                    true => result("metrics-instant", &as_text(series_json::instant(series, &stats))?),
                    false => result("metrics-range", &as_text(series_json::range(series, &stats))?),
                })
            }
            Tool::Trace => {
                let found = trace::find(state, &arguments.text("trace_id")?, &Params::default(), None).await?;
                if found.trace.resource_spans.is_empty() {
                    return Err(Error::new(ErrorKind::NotFound, "no trace has this id"));
                }
                let mut shown = json!({"trace": tempo_llm::trace(&found.trace)});
                if let Some(limit) = found.cut_at_bytes {
                    let message =
                        format!("the trace exceeds the maximum size of {limit} bytes, a part of it is returned");
                    shown["message"] = Value::from(message);
                }
                Ok(result("trace", &shown.to_string()))
            }
            Tool::Names => {
                let scope = ScopeFilter::of(&arguments.optional("scope")?.unwrap_or_default())?;
                let request = NamesRequest { scope, range: TimeRange::ALL, filter: None, limit: usize::MAX };
                let names = tags::find(state, request).await?;
                Ok(result("attribute-names", &json!({"scopes": names.scopes}).to_string()))
            }
            Tool::Values => {
                let field = values::identifier(&arguments.text("name")?)?;
                let filter = arguments.optional("filter-query")?;
                let limit = values::values_limit(state, None);
                let found = values::find(state, ValuesRequest { field, range: TimeRange::ALL, filter, limit }).await?;
                Ok(result("attribute-values", &json!({"tagValues": found.values}).to_string()))
            }
            Tool::Docs => {
                let name = arguments.text("name")?;
                match document(&name) {
                    Some(text) => Ok(result_as("traceql-docs", "markdown", text)),
                    None => {
                        let known = DOCS.map(|(name, _)| name).join(", ");
                        Err(Error::invalid(format!("invalid name: {name:?} is none of {known}")))
                    }
                }
            }
        }
    }
}

fn as_text(json: serde_json::Result<Vec<u8>>) -> Result<String> {
    let text = json.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| Error::new(ErrorKind::Internal, "cannot write the answer as json"))
}

fn result(kind: &str, json: &str) -> Value {
    result_as(kind, "json", json)
}

fn result_as(kind: &str, encoding: &str, text: &str) -> Value {
    let meta = json!({"type": kind, "encoding": encoding, "version": "1"});
    json!({"content": [{"type": "text", "text": text}], "_meta": meta})
}

/// What a tool is called with.
struct Arguments<'a> {
    tool: Tool,
    values: &'a Value,
}

impl Arguments<'_> {
    fn optional(&self, name: &str) -> Result<Option<String>> {
        match &self.values[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            _ => Err(Error::invalid(format!("invalid {name} of {}: it must be text", self.tool.name()))),
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        self.optional(name)?.ok_or_else(|| Error::invalid(format!("{} needs the argument {name}", self.tool.name())))
    }

    /// Start and end in Unix nanoseconds.
    fn range(&self, now_unix_nano: i64) -> Result<(i64, i64)> {
        let moment = |name: &str| -> Result<Option<i64>> {
            let Some(text) = self.optional(name)? else { return Ok(None) };
            let moment = DateTime::parse_from_rfc3339(&text).ok().and_then(|moment| moment.timestamp_nanos_opt());
            moment
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("invalid {name}: {text:?} is no moment as in RFC 3339")))
        };
        let end = moment("end")?.unwrap_or(now_unix_nano);
        let start = moment("start")?.unwrap_or(end.saturating_sub(RANGE_DEFAULT_NANO));
        match start < end {
            true => Ok((start, end)),
            false => Err(Error::invalid("start must be before end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traceql;

    #[test]
    fn every_query_of_the_documents_parses() {
        let mut queries = 0;
        for (name, text) in DOCS {
            for block in text.split("```").skip(1).step_by(2) {
                for query in block.lines().filter(|line| !line.trim().is_empty()) {
                    traceql::compile(query).unwrap_or_else(|error| panic!("{name}: {query}: {error}"));
                    queries += 1;
                }
            }
        }
        assert!(queries > 20, "{queries}");
    }

    #[test]
    fn ranges_are_an_hour_up_to_now_unless_they_are_named() {
        let range = |values: Value| Arguments { tool: Tool::Search, values: &values }.range(10 * RANGE_DEFAULT_NANO);
        assert_eq!(range(json!({})).unwrap(), (9 * RANGE_DEFAULT_NANO, 10 * RANGE_DEFAULT_NANO));
        let given = json!({"start": "1970-01-01T00:00:01Z", "end": "1970-01-01T00:00:02Z"});
        assert_eq!(range(given).unwrap(), (1_000_000_000, 2_000_000_000));
        for wrong in [json!({"end": "soon"}), json!({"end": 5}), json!({"start": "2999-01-01T00:00:00Z"})] {
            assert!(range(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
