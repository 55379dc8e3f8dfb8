//! `tracehouse demo`: example traces of a small shop, sent to an OTLP endpoint.

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    neighbour::{Service, wrong_port},
    settings::SourceArgs,
};
use crate::{
    clock::SystemClock,
    config::HumanDuration,
    demo::{self, DemoCompression, DemoMode, DemoSettings, ProgressStyle},
    server::Signals,
};

/// Spans per second of a live demo: a small shop on a quiet day.
const RATE: u64 = 200;

/// Spans of a backfill.
const BACKFILL_SPANS: u64 = 100_000;

/// Arguments of `tracehouse demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// URL of an OTLP/gRPC receiver; without it, the one of the settings.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Spans per second (live: 200, backfill: as fast as they are taken).
    #[arg(long, value_name = "SPANS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Ends a live demo after this time, such as 30s or 10m; without it, Ctrl-C does.
    #[arg(long, value_name = "TIME", conflicts_with = "backfill")]
    duration: Option<HumanDuration>,
    /// Fills this much time up to now, such as 1h, instead of sending live.
    #[arg(long, value_name = "TIME")]
    backfill: Option<HumanDuration>,
    /// Spans of a backfill (100000).
    #[arg(long, value_name = "COUNT", requires = "backfill", value_parser = clap::value_parser!(u64).range(1..))]
    spans: Option<u64>,
    /// The same seed gives the same traces, but for their ids, which come from the time too: every run adds its own.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Connections, each with one request in flight.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// About how many spans a request holds.
    #[arg(long, value_name = "SPANS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    request_spans: u32,
    /// Compression of requests.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// A header to send along, such as x-scope-orgid=shop; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// No progress, only the result.
    #[arg(long)]
    quiet: bool,
    /// The services of the shop log, too: a line of JSON on standard output for each trace and each failed span.
    #[arg(long)]
    logs: bool,
    #[command(flatten)]
    sources: SourceArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl DemoArgs {
    fn settings(&self) -> anyhow::Result<DemoSettings> {
        if self.backfill.is_some_and(|period| period.get().is_zero()) {
            bail!("--backfill 0s is no time to fill; give one such as 1h");
        }
        let endpoint = match &self.endpoint {
            Some(url) => url.clone(),
            None => format!("http://{}", self.sources.load(Vec::new())?.settings().server.otlp_grpc_listen),
        };
        let mut settings = DemoSettings::new(endpoint, self.mode());
        settings.seed = self.seed;
        settings.connections = usize::from(self.connections);
        settings.request_spans = usize::try_from(self.request_spans).unwrap_or(usize::MAX);
        settings.compression = match self.compression {
            Compression::None => DemoCompression::None,
            Compression::Gzip => DemoCompression::Gzip,
            Compression::Zstd => DemoCompression::Zstd,
        };
        settings.headers.clone_from(&self.headers);
        settings.logs = self.logs;
        settings.progress = match (self.quiet, io::stderr().is_terminal()) {
            (true, _) => ProgressStyle::Silent,
            (false, true) => ProgressStyle::Bar,
            (false, false) => ProgressStyle::Lines,
        };
        Ok(settings)
    }

    fn mode(&self) -> DemoMode {
        match self.backfill {
            Some(period) => DemoMode::Backfill {
                period: period.get(),
                spans_total: self.spans.unwrap_or(BACKFILL_SPANS),
                spans_per_second_max: self.rate,
            },
            None => DemoMode::Live {
                spans_per_second: self.rate.unwrap_or(RATE),
                duration: self.duration.map(HumanDuration::get),
            },
        }
    }
}

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let endpoint = settings.endpoint.clone();
    let outcome = runtime.block_on(async {
        let Err(error) = Box::pin(play(settings)).await else { return Ok(()) };
        Err(match wrong_port(&endpoint, Service::OtlpGrpc).await {
            Some(message) => anyhow!(message),
            None => error,
        })
    });
    runtime.shutdown_timeout(Duration::ZERO);
    outcome
}

async fn play(settings: DemoSettings) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let cancel = CancellationToken::new();
    let mut playing = Box::pin(demo::run(settings, Arc::new(SystemClock), cancel.clone()));
    let report = tokio::select! {
        report = &mut playing => report?,
        _ = signals.next() => {
            cancel.cancel();
            tokio::select! {
                report = &mut playing => report?,
                signal = signals.next() => bail!("stopped at once by a second signal ({signal})"),
            }
        }
    };
    writeln!(io::stdout(), "{report}")?;
    if report.spans_rejected > 0 {
        bail!("{} of the spans were not accepted", report.spans_rejected);
    }
    Ok(())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected NAME=VALUE, such as x-scope-orgid=shop".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DemoArgs,
    }

    fn settings(arguments: &str) -> Result<DemoSettings, String> {
        let words = std::iter::once("demo").chain(arguments.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.args.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn a_demo_is_live_unless_a_backfill_is_asked_for() {
        let live = settings("--endpoint http://h:1").unwrap();
        assert_eq!(live.mode, DemoMode::Live { spans_per_second: 200, duration: None });
        let timed = settings("--endpoint http://h:1 --rate 5000 --duration 1m30s").unwrap();
        let duration = Some(Duration::from_secs(90));
        assert_eq!(timed.mode, DemoMode::Live { spans_per_second: 5_000, duration });
        assert!(!timed.logs && settings("--endpoint http://tracehouse:4317 --quiet --logs").unwrap().logs);
        let backfill = settings("--endpoint http://h:1 --backfill 1h --spans 7 --header X-Scope-OrgID=a=b").unwrap();
        let period = Duration::from_secs(3_600);
        assert_eq!(backfill.mode, DemoMode::Backfill { period, spans_total: 7, spans_per_second_max: None });
        assert_eq!(backfill.headers, [("X-Scope-OrgID".to_owned(), "a=b".to_owned())]);
    }

    #[test]
    fn arguments_that_do_not_go_together_are_refused() {
        for wrong in [
            "--backfill 0s",
            "--spans 5",
            "--backfill 1h --duration 1m",
            "--rate 0",
            "--backfill 10",
            "--header x",
            "--seed -1",
        ] {
            let error = settings(wrong).unwrap_err();
            assert!(error.starts_with("error: ") || error.starts_with("--backfill 0s is no time"), "{wrong}: {error}");
        }
    }
}
