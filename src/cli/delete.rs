//! `tracehouse delete`: deletes spans for good, on a running server or in a data folder.

use std::io::{self, Write};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::{
    counted::counted,
    folder::{FolderArgs, block_on},
    neighbour::{Service, wrong_port},
    traceql::parse_moment,
};
use crate::{
    query::SpanFilter,
    server::{DELETE_ROUTE, DeleteRequest},
};

/// Largest answer of a server that is believed.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Arguments of `tracehouse delete`.
#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only spans that start at this moment or later, such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment, allow_hyphen_values = true)]
    start: Option<i64>,
    /// Only spans that start before this moment; without it, now, and for a trace id no limit.
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment, allow_hyphen_values = true)]
    end: Option<i64>,
    /// Tenant whose spans are deleted; without it, the only one of a server without tenants.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// URL of a running server's Tempo API; without it, the data folder is changed by this process.
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    server: Option<String>,
    #[command(flatten)]
    folder: FolderArgs,
}

/// Which spans.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct FilterArgs {
    /// All spans of the trace with this id.
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,
    /// The spans that a TraceQL filter matches, such as '{ span.user.id = "7" }'.
    #[arg(long, value_name = "TRACEQL")]
    traceql: Option<String>,
    /// The spans for which a SQL condition is true, such as "service_name = 'shop'".
    #[arg(long, value_name = "CONDITION")]
    sql: Option<String>,
}

pub(super) fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let request = request(args)?;
    block_on(async {
        let (spans, files) = match &args.server {
            Some(server) => {
                let report = ask(server, &request).await?;
                let number = |name: &str| report[name].as_u64().unwrap_or_default();
                (number("spans"), number("files"))
            }
            None => {
                let folder = args
                    .folder
                    .own("ask the server: --server http://127.0.0.1:3200, the address of its Tempo API")
                    .await?;
                let report = folder.delete(request).await;
                let closed = folder.close().await;
                let report = report?;
                closed?;
                (report.spans, report.files as u64)
            }
        };
        writeln!(
            io::stdout(),
            "{} deleted, {} rewritten; matching spans that arrive later go too",
            counted(spans, "span"),
            counted(files, "file")
        )?;
        Ok(())
    })
}

fn request(args: &DeleteArgs) -> anyhow::Result<DeleteRequest> {
    let FilterArgs { trace_id, traceql, sql } = &args.filter;
    let filter = match (trace_id, traceql, sql) {
        (Some(id), None, None) => SpanFilter::TraceId(id.clone()),
        (None, Some(text), None) => SpanFilter::Traceql(text.clone()),
        (None, None, Some(text)) => SpanFilter::Sql(text.clone()),
        _ => bail!("give one of --trace-id, --traceql and --sql"),
    };
    let (start_unix_nano, end_unix_nano) = (args.start, args.end);
    Ok(DeleteRequest { tenant: args.tenant.clone(), filter, start_unix_nano, end_unix_nano })
}

/// Sends the request to a server, and waits for as long as it takes.
async fn ask(server: &str, request: &DeleteRequest) -> anyhow::Result<serde_json::Value> {
    let url = Url::parse(server).with_context(|| format!("{server:?} is not a URL"))?;
    if url.scheme() != "http" {
        bail!("{server:?} is not a URL such as http://127.0.0.1:3200");
    }
    let host = url.host_str().ok_or_else(|| anyhow!("{server:?} names no host"))?;
    let address = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.with_context(|| format!("cannot reach a server at {server}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
    let request = http::Request::post(DELETE_ROUTE)
        .header(http::header::HOST, &address)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)?;
    let response = sender.send_request(request).await.context("the server did not answer")?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let answer = answer.map_err(|cause| anyhow!("the server's answer broke off: {cause}"))?.to_bytes();
    let report = serde_json::from_slice(&answer);
    let is_ours = !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) && report.is_ok();
    if !is_ours && let Some(message) = wrong_port(server, Service::Tempo).await {
        bail!(message);
    }
    if !status.is_success() {
        bail!("the server answered {status}: {}", String::from_utf8_lossy(&answer).trim());
    }
    report.context("the server's answer cannot be read")
}
