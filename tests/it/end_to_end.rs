//! Spans in at one end, answers out at every other: through the ports of a server, and by the program's own commands.

use std::{path::Path, process::Output, sync::Arc, time::Duration};

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracehouse::{
    clock::SystemClock,
    demo::{self, DemoMode, DemoSettings},
    server::Server,
};

use crate::{command_line::tracehouse, frame, readme};

const SPANS: u64 = 3_000;

/// Sends the last ten minutes of the example shop to `server`; returns the number of spans that it took.
async fn send_demo(server: &Server) -> u64 {
    let endpoint = format!("http://{}", server.addresses().otlp_grpc);
    let mode = DemoMode::Backfill { period: Duration::from_secs(600), spans_total: SPANS, spans_per_second_max: None };
    let sent = demo::run(DemoSettings::new(endpoint, mode), Arc::new(SystemClock), CancellationToken::new());
    let report = sent.await.unwrap();
    assert_eq!((report.spans_rejected, report.spans_unsent), (0, 0), "{report}");
    assert!(report.spans_accepted >= SPANS, "{report}");
    report.spans_accepted
}

/// What the program says, off the threads that the server needs.
async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = tracehouse(folder, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The answer of a command with `--format json`.
async fn rows(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = run(folder, &[arguments, &["--format", "json"]].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_found_by_every_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = frame::start(&frame::settings(&data)).await;
    let accepted = send_demo(&server).await;
    let flight = format!("http://{}", server.addresses().flight);
    let remote = ["--server", flight.as_str()];

    let count = ["sql", "SELECT count(*) AS n FROM spans"];
    assert_eq!(rows(folder.path(), &[count, remote].concat()).await[0]["n"], accepted);
    let errors = ["traceql", "{ status = error }", "--since", "1h", "--limit", "5"];
    let found = rows(folder.path(), &[&errors[..], &remote].concat()).await;
    assert!(!found.is_empty());
    let search = frame::get(&server, "/api/search?q=%7B%20status%20%3D%20error%20%7D&limit=5").await;
    let search: Value = search.json().await.unwrap();
    assert_eq!(search["traces"].as_array().unwrap().len(), 5);
    let metrics = frame::get(&server, "/metrics").await.text().await.unwrap();
    let counted = format!("tracehouse_ingest_spans_total{{outcome=\"accepted\",protocol=\"otlp_grpc\"}} {accepted}");
    assert!(metrics.contains(&counted), "{metrics}");

    let locked = run(folder.path(), &["sql", "SELECT 1", "--data", data.to_str().unwrap()]).await;
    let message = String::from_utf8(locked.stderr).unwrap();
    assert!(!locked.status.success() && message.contains("has the folder"), "{message}");

    let explained = rows(folder.path(), &[&["traceql", "{} | rate()", "--explain"], &remote[..]].concat()).await;
    assert!(explained.iter().any(|row| row["plan"].as_str().unwrap().contains("DataSourceExec")), "{explained:?}");

    server.stop().await.unwrap();
    // Made by the server for what queries spill; a query on the folder makes nothing.
    std::fs::remove_dir_all(data.join("tmp")).unwrap();
    let local = ["--data", data.to_str().unwrap()];
    assert_eq!(rows(folder.path(), &[count, local].concat()).await[0]["n"], accepted);
    let again = rows(folder.path(), &[&errors[..], &local].concat()).await;
    assert_eq!(again.len(), found.len());
    for shows in ["--explain", "--analyze"] {
        let plans = rows(folder.path(), &[&["traceql", "{ status = error } >> { }", shows], &local[..]].concat()).await;
        let plans: Vec<&str> = plans.iter().map(|row| row["plan"].as_str().unwrap()).collect();
        assert!(plans.iter().any(|plan| plan.contains("TraceEvalExec: conditions=[status = error")), "{plans:?}");
        let has_figures = plans.iter().filter(|plan| plan.contains("Exec")).all(|plan| plan.contains("metrics=["));
        assert_eq!(has_figures, shows == "--analyze", "{plans:?}");
    }
    assert!(!data.join("tmp").exists());

    let server = frame::start(&frame::settings(&data)).await;
    let flight = format!("http://{}", server.addresses().flight);
    assert_eq!(rows(folder.path(), &[count, ["--server", flight.as_str()]].concat()).await[0]["n"], accepted);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shown_queries_run() {
    let folder = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(&folder.path().join("data"))).await;
    send_demo(&server).await;
    let flight = format!("http://{}", server.addresses().flight);
    let mut shown = 0;
    for (place, command) in readme::shown_commands() {
        if !matches!(command[1].as_str(), "sql" | "traceql") || command.iter().any(|word| word == "--data") {
            continue;
        }
        shown += 1;
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).chain(["--server", &flight]).collect();
        let output = run(folder.path(), &arguments).await;
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(shown > 0);
    server.stop().await.unwrap();
}
