//! What a front end asks: one type for every language and protocol.

use std::{borrow::Cow, time::Duration};

use datafusion::scalar::ScalarValue;

use crate::{
    model::{attributes::AttributeScope, ids::TraceId, tenant::TenantId, time::TimeRange},
    traceql::ast::FieldName,
};

/// One question to the engine.
#[derive(Clone, Debug)]
pub struct QueryRequest {
    /// Whose data is read. Nothing in the text can widen this.
    pub tenant: TenantId,
    /// What is asked.
    pub kind: QueryKind,
    /// The types that the answer comes in.
    pub form: AnswerForm,
    /// Limits for this request alone; they can only be stricter than the engine's.
    pub limits: LimitOverrides,
    /// What becomes of an answer that only a part of a giant trace gives.
    pub partial: PartialAnswers,
}

/// What becomes of an answer from a trace that is too large to be looked at as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartialAnswers {
    /// The query fails: whoever asks has no place for the mark.
    #[default]
    Refused,
    /// The answer is given, and [`QueryStats::partial`](crate::query::QueryStats) says why it is not complete.
    Marked,
}

impl QueryRequest {
    /// A request under the engine's own limits.
    ///
    /// SQL is answered in the plain form, the others in the typed one.
    pub fn new(tenant: TenantId, kind: QueryKind) -> Self {
        let form = match kind {
            QueryKind::Sql(_) => AnswerForm::Plain,
            QueryKind::TraceQl(_)
            | QueryKind::Metrics(_)
            | QueryKind::TraceById(_)
            | QueryKind::TagNames(_)
            | QueryKind::TagValues(_) => AnswerForm::Typed,
        };
        Self { tenant, kind, form, limits: LimitOverrides::default(), partial: PartialAnswers::default() }
    }

    /// A SQL statement without parameters, under the engine's own limits.
    pub fn sql(tenant: TenantId, text: impl Into<String>) -> Self {
        Self::new(tenant, QueryKind::Sql(SqlQuery { text: text.into(), params: Vec::new() }))
    }
}

/// The types that an answer comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerForm {
    /// As drivers and files outside like it: ids and attributes as text, only types that all of them know.
    Plain,
    /// For programs that know numbers, text and timestamps alone: what is nested is JSON text.
    Flat,
    /// As the engine has it: ids as bytes, attributes typed.
    Typed,
}

/// The languages of the engine.
#[derive(Clone, Debug)]
pub enum QueryKind {
    /// A SQL statement.
    Sql(SqlQuery),
    /// A TraceQL search.
    TraceQl(TraceQlQuery),
    /// Time series by TraceQL.
    Metrics(MetricsQuery),
    /// All spans of one trace.
    TraceById(TraceByIdQuery),
    /// Names of attributes: rows of `scope` and `name`.
    TagNames(TagNamesQuery),
    /// Values of an attribute: rows of `type` and `value`.
    TagValues(TagValuesQuery),
}

impl QueryKind {
    /// The name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            QueryKind::Sql(_) => "sql",
            QueryKind::TraceQl(_) => "traceql",
            QueryKind::Metrics(_) => "traceql_metrics",
            QueryKind::TraceById(_) => "trace_by_id",
            QueryKind::TagNames(_) => "tag_names",
            QueryKind::TagValues(_) => "tag_values",
        }
    }

    /// What was asked, for people who look at the queries of the process.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            QueryKind::Sql(query) => Cow::Borrowed(&query.text),
            QueryKind::TraceQl(query) => Cow::Borrowed(&query.text),
            QueryKind::Metrics(query) => Cow::Borrowed(&query.text),
            QueryKind::TraceById(query) => Cow::Owned(query.trace_id.to_string()),
            QueryKind::TagNames(query) => Cow::Borrowed(query.filter.as_deref().unwrap_or_default()),
            QueryKind::TagValues(query) => Cow::Owned(format!("{:?}", query.field)),
        }
    }
}

/// One read-only SQL statement.
#[derive(Clone, Debug)]
pub struct SqlQuery {
    /// The statement.
    pub text: String,
    /// Values of `$1`, `$2`, ... in order.
    pub params: Vec<ScalarValue>,
}

/// A TraceQL search: the matching traces, latest first.
#[derive(Clone, Debug)]
pub struct TraceQlQuery {
    /// The query.
    pub text: String,
    /// Traces are found by spans that start in this range.
    pub range: TimeRange,
    /// Most traces in the answer; `None` takes the engine's default.
    pub limit: Option<usize>,
    /// Most spans shown per trace; `None` takes the engine's default.
    pub spans_per_trace: Option<usize>,
    /// How long a trace is, from the first start to the last end of its spans.
    pub duration: DurationBounds,
    /// Only traces that come after this one in the order of answers: the next page.
    pub after: Option<TraceCursor>,
    /// Answer with the plan instead.
    pub explain: Option<Explain>,
}

/// How a query is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explain {
    /// By its plan, without running it.
    Plan,
    /// By its plan and what each operator did.
    Analyze,
}

impl Explain {
    /// The words in front of a query.
    pub fn words(self) -> &'static str {
        match self {
            Explain::Plan => "explain ",
            Explain::Analyze => "explain analyze ",
        }
    }

    /// The words at the start of a text, with the rest of it.
    pub fn split(text: &str) -> (Option<Self>, &str) {
        let text = text.trim_start();
        // The longer one first: it begins with the shorter.
        for explain in [Explain::Analyze, Explain::Plan] {
            let words = explain.words();
            if text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words)) {
                return (Some(explain), &text[words.len()..]);
            }
        }
        (None, text)
    }
}

impl TraceQlQuery {
    /// A search of all time under the engine's defaults.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            range: TimeRange::ALL,
            limit: None,
            spans_per_trace: None,
            duration: DurationBounds::default(),
            after: None,
            explain: None,
        }
    }
}

/// Time series by TraceQL: what its metrics functions give for a range, or for one moment.
#[derive(Clone, Debug)]
pub struct MetricsQuery {
    /// The query.
    pub text: String,
    /// Start of the range in Unix nanoseconds; spans at it do not count. `None` is an hour before the end.
    pub start_unix_nano: Option<i64>,
    /// End of the range in Unix nanoseconds; spans at it count. `None` is now.
    pub end_unix_nano: Option<i64>,
    /// Nanoseconds between samples; `None` or 0 chooses by the range.
    pub step_nano: Option<i64>,
    /// One sample over the whole range instead of one per step.
    pub instant: bool,
    /// Most exemplars; `None` takes the engine's limit. What the query says of it itself counts more.
    pub exemplars: Option<usize>,
    /// Most series; `None` or 0 takes the engine's limit.
    pub series_max: Option<usize>,
    /// Answer with the plan of the first function over spans instead of the series.
    pub explain: Option<Explain>,
}

impl MetricsQuery {
    /// The series of the last hour under the engine's defaults.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            start_unix_nano: None,
            end_unix_nano: None,
            step_nano: None,
            instant: false,
            exemplars: None,
            series_max: None,
            explain: None,
        }
    }
}

/// Bounds of a duration; both are inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationBounds {
    /// Least, in nanoseconds.
    pub min_nano: Option<i64>,
    /// Most, in nanoseconds.
    pub max_nano: Option<i64>,
}

/// The place of a trace in the answers of searches, which come by start from late to early, then by trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceCursor {
    /// Start of the trace in Unix nanoseconds.
    pub start_unix_nano: i64,
    /// Its id.
    pub trace_id: TraceId,
}

/// All spans of one trace, or those of them that a filter keeps.
#[derive(Clone, Debug)]
pub struct TraceByIdQuery {
    /// The trace.
    pub trace_id: TraceId,
    /// Where its spans may start, if the client is sure of it. The answer without it is the same, later.
    pub hint: Option<TimeRange>,
    /// Which spans the answer has; all of them without it.
    pub filter: Option<TraceFilter>,
}

/// A part of a trace: the spans that match, and some around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFilter {
    /// One spanset filter: `{ ... }`.
    pub text: String,
    /// Generations above a matching span that are kept.
    pub ancestors: Generations,
    /// Generations below a matching span that are kept.
    pub descendants: Generations,
}

/// How far from a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generations {
    /// Up to so many; 0 is none.
    UpTo(u32),
    /// All of them.
    All,
}

/// Names of the attributes that spans have.
#[derive(Clone, Debug)]
pub struct TagNamesQuery {
    /// Where the spans start.
    pub range: TimeRange,
    /// TraceQL that the spans match, read leniently.
    pub filter: Option<String>,
    /// The only scope that is asked for.
    pub scope: Option<AttributeScope>,
}

impl TagNamesQuery {
    /// The scopes that are asked for.
    pub(crate) fn scopes(&self) -> Vec<AttributeScope> {
        let scopes = AttributeScope::ALL.into_iter();
        scopes.filter(|scope| self.scope.is_none_or(|asked| asked == *scope)).collect()
    }
}

/// Values of one attribute or intrinsic.
#[derive(Clone, Debug)]
pub struct TagValuesQuery {
    /// Of what.
    pub field: FieldName,
    /// Where the spans start.
    pub range: TimeRange,
    /// TraceQL that the spans match, read leniently.
    pub filter: Option<String>,
    /// Most values in the answer.
    pub limit: usize,
}

/// Limits that one request may lower.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitOverrides {
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Most rows in the answer.
    pub result_rows_max: Option<u64>,
    /// Most bytes of Arrow data in the answer.
    pub result_bytes_max: Option<u64>,
}
