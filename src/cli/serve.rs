//! `tracehouse serve`: the server, until a signal or a request stops it.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use tracing::info;

use super::{
    folder,
    settings::{ServerFlags, SourceArgs},
};
use crate::{
    clock::SystemClock,
    config::{ServerSettings, Settings, WalSync},
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
        started = Box::pin(Server::start(settings, Arc::new(SystemClock))) => started.map_err(|error| {
            folder::in_use(error, "give this server another --data, or stop the other one")
        })?,
        signal = signals.next() => {
            info!(signal, "stopped while starting");
            return Ok(());
        }
    };
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().write_all(greeting(settings, server.addresses(), server.answers_queries()).as_bytes());
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
fn greeting(settings: &Settings, addresses: Addresses, answers_queries: bool) -> String {
    let Addresses { otlp_grpc, otlp_http, tempo, tempo_grpc, flight } = addresses;
    let defaults = ServerSettings::default();
    // With the default ports the clients' defaults fit, and the examples are shorter.
    let server_flag =
        if flight == defaults.flight_listen { String::new() } else { format!(" --server http://{flight}") };
    let endpoint_flag =
        if otlp_grpc == defaults.otlp_grpc_listen { String::new() } else { format!(" --endpoint http://{otlp_grpc}") };
    let state = match answers_queries {
        true => "is ready, with its data in",
        false => "takes spans, and answers queries as soon as it can reach its tables in",
    };
    let caution = match settings.wal.sync {
        WalSync::Always => "",
        WalSync::Relaxed => {
            "
wal.sync = relaxed: spans are acknowledged before they are on disk, and a crash of the machine loses the last of them.
"
        }
    };
    format!(
        "tracehouse {version} {state} {data}

  OTLP/gRPC    http://{otlp_grpc}
  OTLP/HTTP    http://{otlp_http}/v1/traces
  Tempo API    http://{tempo}  (the URL for a Tempo data source in Grafana; also /ready and /metrics)
  Tempo gRPC   http://{tempo_grpc}  (its streaming calls alone)
  Flight SQL   grpc://{flight}
{caution}
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
        let text = greeting(&settings, usual, true);
        assert!(text.contains("  tracehouse demo\n"), "{text}");
        assert!(text.contains("  tracehouse traceql '{ status = error }'\n"), "{text}");
        let moved = Addresses { flight: ([127, 0, 0, 1], 5).into(), otlp_grpc: ([127, 0, 0, 1], 6).into(), ..usual };
        let text = greeting(&settings, moved, true);
        assert!(text.contains("  tracehouse demo --endpoint http://127.0.0.1:6\n"), "{text}");
        assert!(text.contains("  tracehouse traceql --server http://127.0.0.1:5 '{ status = error }'\n"), "{text}");
    }

    #[test]
    fn the_greeting_tells_every_port_and_what_is_not_as_usual() {
        let mut settings = Settings::default();
        let address = |port| ([127, 0, 0, 1], port).into();
        let [otlp_grpc, otlp_http, tempo, tempo_grpc, flight] = [1, 2, 3, 4, 5].map(address);
        let addresses = Addresses { otlp_grpc, otlp_http, tempo, tempo_grpc, flight };
        let usual = greeting(&settings, addresses, true);
        for line in [
            "  OTLP/gRPC    http://127.0.0.1:1\n",
            "  OTLP/HTTP    http://127.0.0.1:2/v1/traces\n",
            "  Tempo API    http://127.0.0.1:3  (",
            "  Tempo gRPC   http://127.0.0.1:4  (",
            "  Flight SQL   grpc://127.0.0.1:5\n",
            " is ready, ",
        ] {
            assert!(usual.contains(line), "{line:?} is not in {usual}");
        }
        assert!(!usual.contains("relaxed"), "{usual}");
        settings.wal.sync = WalSync::Relaxed;
        assert!(greeting(&settings, addresses, true).contains("\nwal.sync = relaxed: spans are acknowledged before"));
        let away = greeting(&settings, addresses, false);
        assert!(!away.contains("is ready") && away.contains("takes spans, and answers queries as soon as"), "{away}");
    }
}
