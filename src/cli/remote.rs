//! Asking a running server, over Flight SQL.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use arrow_flight::{
    FlightInfo, error::FlightError, flight_service_client::FlightServiceClient, sql::client::FlightSqlServiceClient,
};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use url::Url;

use super::{
    ask::Answer,
    neighbour::{Service, wrong_port},
};
use crate::query::{Explain, MetricsQuery, QueryKind, TraceQlQuery};

/// How long a server has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest message of a server that is believed; batches of wide rows stay far below it.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A connection to the Flight SQL port of a server.
#[derive(Debug)]
pub(super) struct Remote {
    url: String,
    client: FlightSqlServiceClient<Channel>,
}

impl Remote {
    /// Connects to a URL such as `http://127.0.0.1:32010`.
    pub(super) async fn connect(server: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(endpoint(server)?)?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("cannot reach a server at {server}; `tracehouse serve` starts one"))?;
        let client = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { url: server.to_owned(), client: FlightSqlServiceClient::new_from_inner(client) })
    }

    /// Runs a query: the schema of the answer, and the answer.
    pub(super) async fn ask(mut self, query: QueryKind) -> anyhow::Result<Answer> {
        let text = match query {
            QueryKind::Sql(sql) => sql.text,
            QueryKind::TraceQl(search) => {
                for (name, value) in search_headers(&search) {
                    self.client.set_header(name, value);
                }
                format!("{}{}", search.explain.map(Explain::words).unwrap_or_default(), search.text)
            }
            QueryKind::Metrics(metrics) => {
                for (name, value) in metrics_headers(&metrics) {
                    self.client.set_header(name, value);
                }
                format!("{}{}", metrics.explain.map(Explain::words).unwrap_or_default(), metrics.text)
            }
            QueryKind::TraceById(_) | QueryKind::TagNames(_) | QueryKind::TagValues(_) => {
                bail!("a server is asked for traces and attributes by SQL")
            }
        };
        match self.client.execute(text, None).await {
            Ok(info) => self.fetch(info),
            // What another service makes of the question is an error of the protocol.
            Err(error) => Err(match is_refusal(&error) {
                true => None,
                false => wrong_port(&self.url, Service::Flight).await,
            }
            .map_or_else(|| server_error(error), |message| anyhow!(message))),
        }
    }

    fn fetch(self, info: FlightInfo) -> anyhow::Result<Answer> {
        let endpoints = info.endpoint.clone();
        let schema = info.try_decode_schema().context("the server sent a schema that cannot be read")?;
        let parts = stream::try_unfold((self.client, endpoints.into_iter()), |(mut client, mut rest)| async move {
            let Some(endpoint) = rest.next() else { return anyhow::Ok(None) };
            let ticket = endpoint.ticket.context("the server sent an answer without a ticket")?;
            let batches = client.do_get(ticket).await.map_err(server_error)?;
            Ok(Some((batches.map_err(server_error), (client, rest))))
        });
        Ok(Answer { schema: Arc::new(schema), batches: parts.try_flatten().boxed() })
    }
}

/// What tells the server that a statement is TraceQL, and the parts of a search that are not in its text.
fn search_headers(search: &TraceQlQuery) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("x-tracehouse-language", "traceql".to_owned()),
        ("x-tracehouse-start", search.range.start_unix_nano.to_string()),
        ("x-tracehouse-end", search.range.end_unix_nano.to_string()),
    ];
    headers.extend(search.limit.map(|limit| ("x-tracehouse-limit", limit.to_string())));
    headers.extend(search.spans_per_trace.map(|spans| ("x-tracehouse-spans-per-trace", spans.to_string())));
    headers
}

/// The same for time series.
fn metrics_headers(metrics: &MetricsQuery) -> Vec<(&'static str, String)> {
    let mut headers = vec![("x-tracehouse-language", "traceql".to_owned())];
    headers.extend(metrics.start_unix_nano.map(|start| ("x-tracehouse-start", start.to_string())));
    headers.extend(metrics.end_unix_nano.map(|end| ("x-tracehouse-end", end.to_string())));
    headers.extend(metrics.step_nano.map(|step| ("x-tracehouse-step", step.to_string())));
    headers
}

/// The address to connect to; Flight's own names for plain gRPC are taken too.
fn endpoint(server: &str) -> anyhow::Result<String> {
    let bad = || format!("{server} is not the URL of a server; expected one such as http://127.0.0.1:32010");
    let url = Url::parse(server).with_context(bad)?;
    let plain = match url.scheme() {
        "http" | "grpc" | "grpc+tcp" => true,
        "https" | "grpcs" | "grpc+tls" => false,
        _ => bail!(bad()),
    };
    if !plain {
        bail!("not supported yet: TLS ({server})");
    }
    let host = url.host_str().with_context(bad)?;
    let port = url.port_or_known_default().with_context(bad)?;
    Ok(format!("http://{host}:{port}"))
}

/// Whether a server of ours said no to the question, rather than not understanding it.
fn is_refusal(error: &FlightError) -> bool {
    let FlightError::Tonic(status) = error else { return false };
    !matches!(status.code(), Code::Unimplemented | Code::Internal | Code::Unknown | Code::Unavailable)
}

/// The server's message alone: it is written for the person who asked.
fn server_error(error: FlightError) -> anyhow::Error {
    match error {
        FlightError::Tonic(status) if !status.message().is_empty() => anyhow!("{}", status.message()),
        error => anyhow::Error::new(error).context("the server's answer cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_url() {
        assert_eq!(endpoint("http://localhost:32010").unwrap(), "http://localhost:32010");
        assert_eq!(endpoint("grpc://[::1]:5").unwrap(), "http://[::1]:5");
        assert_eq!(endpoint("http://h").unwrap(), "http://h:80");
        assert_eq!(endpoint("grpc+tls://h:1").unwrap_err().to_string(), "not supported yet: TLS (grpc+tls://h:1)");
        for wrong in ["localhost:32010", "127.0.0.1:32010", "ftp://h:1", "", "grpc://h"] {
            let error = endpoint(wrong).unwrap_err().to_string();
            assert!(error.contains("is not the URL of a server"), "{error}");
        }
    }
}
