//! Commands that are pointed at the wrong place: at a folder that a server has open, or at the port of another service.

use std::{path::Path, process::Output};

use crate::{command_line::tracehouse, support::process::Server};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    tracehouse(folder, arguments).output().unwrap()
}

/// What a command says that fails with nothing on standard output.
fn refusal(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_a_server_has_open_is_named_with_what_to_do_instead() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("d");
    let mut server = Server::start_with(&data, &["log.level=warn"], None).await.unwrap();
    let has_it = "error: a tracehouse server, or another command, has the folder d open; ";
    let check = |arguments: &[&str], instead: &str| {
        let text = refusal(folder.path(), &[arguments, &["--data", "d"]].concat());
        assert_eq!(text, format!("{has_it}{instead}\n"), "{arguments:?}");
    };
    let ask = "ask the server: --server http://127.0.0.1:32010, or neither --server nor --data";
    check(&["sql", "SELECT 1"], ask);
    check(&["traceql", "{}"], ask);
    check(&["compact"], "a server merges its small files by itself ([compaction] of the settings)");
    check(
        &["delete", "--trace-id", "0af7651916cd43dd8448eb211c80319c"],
        "ask the server: --server http://127.0.0.1:3200, the address of its Tempo API",
    );
    let beside = "stop it first, ask it with SQL (system.files, system.columns), or read a backup";
    check(&["verify"], beside);
    check(&["inspect"], beside);
    let second = Server::start_with(&data, &["log.level=warn"], None).await;
    assert!(second.is_err(), "a folder has one server");
    let listeners = ["otlp_grpc", "otlp_http", "tempo", "tempo_grpc", "flight"];
    let listeners: Vec<String> = listeners.iter().map(|name| format!("server.{name}_listen=127.0.0.1:0")).collect();
    let mut serve = vec!["serve", "--log-level", "error"];
    serve.extend(listeners.iter().flat_map(|setting| ["--set", setting]));
    check(&serve, "give this server another --data, or stop the other one");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_another_service_is_named_with_the_one_that_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(folder.path(), &["log.level=error"], None).await.unwrap();
    let url = |address: &str| format!("http://{address}");
    let [otlp_grpc, otlp_http, tempo, tempo_grpc, flight] =
        [&server.otlp_grpc, &server.otlp_http, &server.tempo, &server.tempo_grpc, &server.flight].map(|a| url(a));
    let services = [
        (&otlp_grpc, "OTLP/gRPC"),
        (&otlp_http, "OTLP/HTTP"),
        (&tempo, "the Tempo API"),
        (&tempo_grpc, "the Tempo API/gRPC"),
        (&flight, "Flight SQL"),
    ];
    let check = |arguments: &[&str], flag: &str, wanted: &str, usual: &str| {
        for (url, name) in services.iter().filter(|(_, name)| *name != wanted) {
            let text = refusal(folder.path(), &[arguments, &[flag, url]].concat());
            let expected = format!(
                "error: {url} is {name}; this needs {wanted}, which is at http://127.0.0.1:{usual} unless set otherwise\n"
            );
            assert_eq!(text, expected, "{arguments:?}");
        }
    };
    check(&["sql", "SELECT 1"], "--server", "Flight SQL", "32010");
    check(&["traceql", "{}"], "--server", "Flight SQL", "32010");
    let delete = ["delete", "--trace-id", "0af7651916cd43dd8448eb211c80319c"];
    check(&delete, "--server", "the Tempo API", "3200");
    let demo = ["demo", "--backfill", "1h", "--spans", "100", "--quiet"];
    check(&demo, "--endpoint", "OTLP/gRPC", "4317");

    let refused = refusal(folder.path(), &["sql", "SELECT nothing", "--server", &flight]);
    assert!(refused.starts_with("error: there is no column nothing"), "{refused}");
    let sent = run(folder.path(), &[&demo[..], &["--endpoint", &otlp_grpc]].concat());
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert!(String::from_utf8_lossy(&sent.stdout).starts_with("100 spans accepted in "));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_spans_are_rejected_fails() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["log.level=error", "ingest.time_window_start=2090-01-01"];
    let mut server = Server::start_with(folder.path(), &settings, None).await.unwrap();
    let endpoint = format!("http://{}", server.otlp_grpc);
    let demo = ["demo", "--backfill", "1h", "--spans", "100", "--quiet", "--endpoint", &endpoint];
    let output = run(folder.path(), &demo);
    let (told, text) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}{text}");
    assert!(told.contains("spans rejected; last refusal: rejected "), "{told}");
    assert!(text.starts_with("error: ") && text.ends_with(" of the spans were not accepted\n"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_details_of_a_failure_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("d");
    let mut server = Server::start_with(&data, &["log.level=error"], None).await.unwrap();
    let endpoint = format!("http://{}", server.otlp_grpc);
    run(folder.path(), &["demo", "--backfill", "1m", "--spans", "100", "--quiet", "--endpoint", &endpoint]);
    server.stop().await;
    let mut folders = vec![data.join("tenants")];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                let bytes = vec![7; std::fs::metadata(&path).unwrap().len() as usize];
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
    let text = refusal(folder.path(), &["sql", "SELECT sum(duration_nano) FROM spans", "--data", "d"]);
    assert!(text.starts_with("error: a file of the table cannot be read\n  caused by: "), "{text}");
    assert!(!text.contains("server"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_refused_before_it_runs_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(folder.path(), &["log.level=error"], None).await.unwrap();
    let flight = format!("http://{}", server.flight);
    for _ in 0..3 {
        let text = refusal(folder.path(), &["sql", "SELECT no_such_column FROM spans", "--server", &flight]);
        assert!(text.contains("there is no column"), "{text}");
    }
    let metrics = reqwest::get(format!("http://{}/metrics", server.tempo)).await.unwrap().text().await.unwrap();
    let counted = "tracehouse_query_seconds_count{kind=\"sql\",outcome=\"refused\"} 3";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    assert!(metrics.contains("\ntracehouse_queries_running 0\n"), "{metrics}");
    let logged =
        "SELECT count(*) AS n FROM system.queries WHERE state = 'refused' AND error LIKE 'there is no column%'";
    let output = run(folder.path(), &["sql", logged, "--server", &flight, "--format", "csv"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n3\n");
    server.stop().await;
}
