//! Which service answers at an address: where a command was given the port of another one, its error can say so.
//!
//! The protocols cannot tell each other apart, and their errors are noise. So each service is asked something small that
//! only it answers, over HTTP/1, which all ports of a server speak; those of other programs mostly do not, and then nothing
//! is said.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use crate::config::ServerSettings;

/// How long all questions together may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 16;

/// What listens on a port of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    OtlpGrpc,
    OtlpHttp,
    Tempo,
    TempoGrpc,
    Flight,
}

impl Service {
    const ALL: [Self; 5] = [Self::Tempo, Self::Flight, Self::OtlpGrpc, Self::OtlpHttp, Self::TempoGrpc];

    fn name(self) -> &'static str {
        match self {
            Service::OtlpGrpc => "OTLP/gRPC",
            Service::OtlpHttp => "OTLP/HTTP",
            Service::Tempo => "the Tempo API",
            Service::TempoGrpc => "the Tempo API/gRPC",
            Service::Flight => "Flight SQL",
        }
    }

    fn default_url(self) -> String {
        let defaults = ServerSettings::default();
        let address = match self {
            Service::OtlpGrpc => defaults.otlp_grpc_listen,
            Service::OtlpHttp => defaults.otlp_http_listen,
            Service::Tempo => defaults.tempo_listen,
            Service::TempoGrpc => defaults.tempo_grpc_listen,
            Service::Flight => defaults.flight_listen,
        };
        format!("http://{address}")
    }

    fn question(self) -> Question {
        /// A method that is there answers in gRPC, and not with "unimplemented".
        fn has_method(_: StatusCode, grpc_status: Option<&str>, _: &[u8]) -> bool {
            grpc_status.is_some_and(|status| status != "12")
        }
        match self {
            Service::OtlpGrpc => {
                (Method::POST, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", has_method)
            }
            // The route is there, and takes no such method.
            Service::OtlpHttp => (Method::GET, "/v1/traces", |status, _, _| status == StatusCode::METHOD_NOT_ALLOWED),
            Service::Tempo => (Method::GET, "/status/version", |status, _, body| {
                status.is_success() && String::from_utf8_lossy(body).contains("the API of Tempo")
            }),
            Service::TempoGrpc => (Method::POST, "/tempopb.StreamingQuerier/SearchTags", has_method),
            Service::Flight => (Method::POST, "/arrow.flight.protocol.FlightService/GetFlightInfo", has_method),
        }
    }
}

/// Method and route of a question, and whether an answer is that of the service.
type Question = (Method, &'static str, IsAnswer);

/// From the status, the status of gRPC and the body.
type IsAnswer = fn(StatusCode, Option<&str>, &[u8]) -> bool;

/// What to tell somebody who gave `url` where `wanted` should listen; nothing if it does, or if nobody knows.
pub(super) async fn wrong_port(url: &str, wanted: Service) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    let address = format!("{}:{}", parsed.host_str()?, parsed.port_or_known_default()?);
    let found = tokio::time::timeout(TIMEOUT, service_at(&address)).await.ok()??;
    let (name, wanted_name, usual) = (found.name(), wanted.name(), wanted.default_url());
    (found != wanted)
        .then(|| format!("{url} is {name}; this needs {wanted_name}, which is at {usual} unless set otherwise"))
}

async fn service_at(address: &str) -> Option<Service> {
    for service in Service::ALL {
        let (method, path, is_answer) = service.question();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address)
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(Full::<Bytes>::default())
            .ok()?;
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let grpc_status =
            response.headers().get("grpc-status").and_then(|value| value.to_str().ok().map(str::to_owned));
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
        if is_answer(status, grpc_status.as_deref(), &body) {
            return Some(service);
        }
    }
    None
}
