//! `tracehouse serve`: the server, until a signal or a request stops it.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use tracing::info;

use super::settings::{ServerFlags, SourceArgs};
use crate::{
    clock::SystemClock,
    config::{ServerSettings, Settings},
    server::{Addresses, Server, Signals, init_logs},
};

/// Arguments of `tracehouse serve`.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    flags: ServerFlags,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let effective = args.sources.load(args.flags.flags())?;
    let settings = effective.settings();
    init_logs(&settings.log).context("cannot set up logging")?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(settings));
    // After a second signal there may be work left, and nobody waits for it.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let server = tokio::select! {
        started = Box::pin(Server::start(settings, Arc::new(SystemClock))) => started?,
        signal = signals.next() => {
            info!(signal, "stopped while starting");
            return Ok(());
        }
    };
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().write_all(greeting(settings, server.addresses()).as_bytes());
    tokio::select! {
        signal = signals.next() => info!(signal, "received"),
        () = server.asked_to_stop() => {}
    }
    tokio::select! {
        stopped = Box::pin(server.stop()) => Ok(stopped?),
        signal = signals.next() => {
            bail!("stopped at once by a second signal ({signal}); what was acknowledged is in the log")
        }
    }
}

/// Where everything listens and what to try next.
fn greeting(settings: &Settings, addresses: Addresses) -> String {
    let Addresses { otlp_grpc, otlp_http, tempo, flight, .. } = addresses;
    let defaults = ServerSettings::default();
    // With the default ports the clients' defaults fit, and the examples are shorter.
    let server_flag =
        if flight == defaults.flight_listen { String::new() } else { format!(" --server http://{flight}") };
    let endpoint_flag =
        if otlp_grpc == defaults.otlp_grpc_listen { String::new() } else { format!(" --endpoint http://{otlp_grpc}") };
    format!(
        "tracehouse {version} is ready, with its data in {data}

  OTLP/gRPC    http://{otlp_grpc}
  OTLP/HTTP    http://{otlp_http}/v1/traces
  Tempo API    http://{tempo}  (the URL for a Tempo data source in Grafana; also /ready and /metrics)
  Flight SQL   grpc://{flight}

Try next:
  tracehouse demo{endpoint_flag}
  tracehouse sql{server_flag} 'SELECT service_name, count(*) FROM spans GROUP BY service_name'
  tracehouse traceql{server_flag} '{{ status = error }}'
  curl -G http://{tempo}/api/search --data-urlencode 'q={{ status = error }}'

Ctrl-C stops it; everything that was acknowledged is kept.
",
        version = env!("CARGO_PKG_VERSION"),
        data = settings.data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_shows_commands_that_reach_this_server() {
        let settings = Settings::default();
        let ServerSettings {
            otlp_grpc_listen: otlp_grpc,
            otlp_http_listen: otlp_http,
            tempo_listen: tempo,
            tempo_grpc_listen: tempo_grpc,
            flight_listen: flight,
            ..
        } = settings.server;
        let usual = Addresses { otlp_grpc, otlp_http, tempo, tempo_grpc, flight };
        let text = greeting(&settings, usual);
        assert!(text.contains("  tracehouse demo\n"), "{text}");
        assert!(text.contains("  tracehouse traceql '{ status = error }'\n"), "{text}");
        let moved = Addresses { flight: ([127, 0, 0, 1], 5).into(), otlp_grpc: ([127, 0, 0, 1], 6).into(), ..usual };
        let text = greeting(&settings, moved);
        assert!(text.contains("  tracehouse demo --endpoint http://127.0.0.1:6\n"), "{text}");
        assert!(text.contains("  tracehouse traceql --server http://127.0.0.1:5 '{ status = error }'\n"), "{text}");
    }
}
