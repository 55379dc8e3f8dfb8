//! The life of a server: ports, readiness, metrics, an orderly stop.

use std::{path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tracehouse::{clock::SystemClock, config::Settings, server::Server};

/// Settings of a server of its own: free ports, its data in `data`.
pub(crate) fn settings(data: &Path) -> Settings {
    settings_on([127, 0, 0, 1], data)
}

fn settings_on(ip: [u8; 4], data: &Path) -> Settings {
    let mut settings = Settings { data: data.to_owned().into(), ..Settings::default() };
    let any_port = (ip, 0).into();
    settings.server.otlp_grpc_listen = any_port;
    settings.server.otlp_http_listen = any_port;
    settings.server.tempo_listen = any_port;
    settings.server.tempo_grpc_listen = any_port;
    settings.server.flight_listen = any_port;
    settings
}

pub(crate) async fn start(settings: &Settings) -> Server {
    Server::start(settings, Arc::new(SystemClock)).await.unwrap()
}

pub(crate) async fn get(server: &Server, path: &str) -> reqwest::Response {
    reqwest::get(format!("http://{}{path}", server.addresses().tempo)).await.unwrap()
}

#[tokio::test]
async fn a_started_server_is_ready_and_tells_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&settings(&folder.path().join("new/data"))).await;
    let ready = get(&server, "/ready").await;
    assert_eq!((ready.status().as_u16(), ready.text().await.unwrap().trim()), (200, "ready"));
    let metrics = get(&server, "/metrics").await;
    let content_type = metrics.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains(&format!("tracehouse_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))));
    assert!(metrics.contains("\nprocess_resident_memory_bytes "), "{metrics}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_listener_and_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(folder.path());
    settings.server.flight_listen = taken.local_addr().unwrap();
    let error = Server::start(&settings, Arc::new(SystemClock)).await.unwrap_err();
    assert_eq!(
        error.message(),
        format!(
            "cannot listen on {} for Flight SQL (server.flight_listen): the port is in use by another process or listener",
            settings.server.flight_listen
        )
    );
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_all_ports() {
    let folder = tempfile::tempdir().unwrap();
    // On an address that no other test uses, nobody else is given the ports that become free.
    let server = start(&settings_on([127, 0, 0, 71], folder.path())).await;
    let addresses = server.addresses();
    let mut idle = TcpStream::connect(addresses.tempo).await.unwrap();
    let mut used = TcpStream::connect(addresses.tempo).await.unwrap();
    used.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start_of_answer = [0; 15];
    used.read_exact(&mut start_of_answer).await.unwrap();
    assert_eq!(&start_of_answer, b"HTTP/1.1 200 OK");
    server.stop().await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).await.unwrap_or(0), 0);
    used.read_to_end(&mut rest).await.unwrap();
    for address in [addresses.otlp_grpc, addresses.otlp_http, addresses.tempo, addresses.flight] {
        assert!(TcpStream::connect(address).await.is_err(), "{address} is still open");
    }
}
