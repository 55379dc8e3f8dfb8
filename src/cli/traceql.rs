//! `tracehouse traceql`: one TraceQL search, its answer in any form.

use chrono::DateTime;
use clap::Args;

use super::{
    ask::{TargetArgs, ask},
    output::OutputArgs,
    sql::query_text,
};
use crate::{
    clock::{Clock, SystemClock},
    config::HumanDuration,
    model::time::TimeRange,
    query::{Explain, MetricsQuery, QueryKind, TraceQlQuery},
    traceql,
};

/// Arguments of `tracehouse traceql`.
#[derive(Args, Debug)]
pub(super) struct TraceqlArgs {
    /// The query; - reads it from standard input.
    #[arg(value_name = "TRACEQL")]
    query: String,
    /// Looks from this long ago until now, such as 1h; without it and --start, a search is over all time and metrics
    /// are over the last hour.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["start", "end"])]
    since: Option<HumanDuration>,
    /// First moment, such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    start: Option<i64>,
    /// First moment that is outside again.
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    end: Option<i64>,
    /// Most traces, latest first; without it, the server's default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Most spans that are shown per trace; without it, the server's default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    spans_per_trace: Option<u32>,
    /// Time between samples of metrics, such as 30s; without it, about 240 samples are shown.
    #[arg(long, value_name = "TIME")]
    step: Option<HumanDuration>,
    /// Answers with the plan of the query.
    #[arg(long)]
    explain: bool,
    /// Runs the search, and answers with the plan and what each operator did.
    #[arg(long, conflicts_with = "explain")]
    analyze: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &TraceqlArgs) -> anyhow::Result<()> {
    let (text, now) = (query_text(&args.query)?, SystemClock.now_unix_nano());
    let query = match traceql::is_metrics(&text) {
        true => QueryKind::Metrics(metrics(args, text, now)),
        false => QueryKind::TraceQl(search(args, text, now)),
    };
    ask(&args.target, query, &args.output)
}

fn explain(args: &TraceqlArgs) -> Option<Explain> {
    match (args.explain, args.analyze) {
        (_, true) => Some(Explain::Analyze),
        (true, false) => Some(Explain::Plan),
        (false, false) => None,
    }
}

fn metrics(args: &TraceqlArgs, text: String, now_unix_nano: i64) -> MetricsQuery {
    let since = args.since.map(|since| now_unix_nano.saturating_sub(since.as_nanos()));
    MetricsQuery {
        start_unix_nano: args.start.or(since),
        end_unix_nano: args.end,
        step_nano: args.step.map(|step| step.as_nanos()),
        explain: explain(args),
        ..MetricsQuery::new(text)
    }
}

fn search(args: &TraceqlArgs, text: String, now_unix_nano: i64) -> TraceQlQuery {
    let range = match args.since {
        // What arrived with a clock that is a little ahead is recent, too.
        Some(since) => TimeRange::new(now_unix_nano.saturating_sub(since.as_nanos()), i64::MAX),
        None => TimeRange::new(args.start.unwrap_or(i64::MIN), args.end.unwrap_or(i64::MAX)),
    };
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    TraceQlQuery {
        range,
        limit: args.limit.map(number),
        spans_per_trace: args.spans_per_trace.map(number),
        explain: explain(args),
        ..TraceQlQuery::new(text)
    }
}

/// Unix nanoseconds of a moment in RFC 3339.
pub(super) fn parse_moment(text: &str) -> Result<i64, String> {
    let moment = DateTime::parse_from_rfc3339(text).map_err(|error| {
        format!("expected a moment such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00 ({error})")
    })?;
    moment.timestamp_nanos_opt().ok_or_else(|| "expected a moment between the years 1678 and 2262".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: TraceqlArgs,
    }

    const NOW: i64 = 10_000_000_000_000;

    fn range(arguments: &[&str]) -> Result<(i64, i64), String> {
        let alone =
            Alone::try_parse_from([&["traceql", "{}"], arguments].concat()).map_err(|error| error.to_string())?;
        let range = search(&alone.args, "{}".to_owned(), NOW).range;
        Ok((range.start_unix_nano, range.end_unix_nano))
    }

    #[test]
    fn a_search_is_over_all_time_unless_told_otherwise() {
        assert_eq!(range(&[]), Ok((i64::MIN, i64::MAX)));
        assert_eq!(range(&["--since", "1h"]), Ok((NOW - 3_600_000_000_000, i64::MAX)));
        assert_eq!(range(&["--start", "1970-01-01T01:00:01+01:00"]), Ok((1_000_000_000, i64::MAX)));
        assert_eq!(range(&["--end", "1970-01-01T00:00:00.5Z"]), Ok((i64::MIN, 500_000_000)));
        for wrong in
            [&["--start", "yesterday"][..], &["--since", "1"], &["--since", "1h", "--end", "1970-01-01T00:00:00Z"]]
        {
            assert!(range(wrong).is_err(), "{wrong:?}");
        }
    }
}
