//! Deletion and the commands around it in processes: what a crash in the middle leaves is finished after the next start.

use std::{path::Path, process::Output, time::Duration};

use crate::{
    command_line::tracehouse,
    support::{process::Server, spans, sql},
};

const SETTINGS: &[&str] = &["compaction.interval=100ms", "flush.age_max=100ms", "log.level=warn"];

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let all = [arguments, &["--data", "."]].concat();
    tracehouse(folder, &all).output().unwrap()
}

fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

async fn count(server: &Server, condition: &str) -> i64 {
    let batches =
        sql::query(&server.flight, &format!("SELECT count(*) AS n FROM spans WHERE {condition}")).await.unwrap();
    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&batches[0]["n"]).value(0)
}

async fn send(server: &Server, numbers: std::ops::Range<u64>) {
    let mut sender = spans::sender(&server.otlp_grpc).await.unwrap();
    spans::send(&mut sender, spans::request("op", numbers, START_UNIX_NANO)).await.unwrap();
}

async fn ask_to_delete(server: &Server, condition: &str) -> Result<String, reqwest::Error> {
    let body = serde_json::json!({ "filter": { "sql": condition } });
    let url = format!("http://{}/admin/v1/delete", server.tempo);
    let response = reqwest::Client::new().post(url).json(&body).send().await?;
    response.error_for_status()?.text().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_crash_interrupts_is_finished_after_the_next_start() {
    for point in ["delete.after_tombstone", "delete.after_put", "delete.after_commit"] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(folder.path(), SETTINGS, Some(point)).await.unwrap();
        send(&server, 1..101).await;
        let condition = "span_attributes['test.number'] < '5'";
        let expected = count(&server, condition).await;
        assert!(ask_to_delete(&server, condition).await.is_err(), "the server crashes at {point}");
        assert!(server.wait_for_exit(Duration::from_secs(30)).await.is_some(), "{point}");

        let mut server = Server::start_with(folder.path(), SETTINGS, None).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while count(&server, condition).await > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{point}: the deletion is not finished");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(count(&server, "true").await, 100 - expected, "{point}");
        server.stop().await;
        let verified = run(folder.path(), &["verify"]);
        assert!(verified.status.success(), "{point}: {}", text(&verified));
        assert!(text(&verified).contains("1 deletion checked"), "{}", text(&verified));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_work_on_a_folder_without_a_server_and_on_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = ["compaction.enabled=false", "log.level=warn"];
    for part in 0..3_u64 {
        let mut server = Server::start_with(folder.path(), &quiet, None).await.unwrap();
        send(&server, part * 10 + 1..part * 10 + 11).await;
        if part == 2 {
            let url = format!("http://{}", server.tempo);
            let trace = format!("{0:016x}{0:016x}", 3);
            let deleted =
                tracehouse(folder.path(), &["delete", "--trace-id", &trace, "--server", &url]).output().unwrap();
            assert!(text(&deleted).starts_with("1 span deleted, 1 file rewritten"), "{}", text(&deleted));
            let refused =
                tracehouse(folder.path(), &["delete", "--sql", "nonsense", "--server", &url]).output().unwrap();
            assert!(!refused.status.success() && text(&refused).contains("nonsense"), "{}", text(&refused));
            let busy = run(folder.path(), &["verify"]);
            assert!(!busy.status.success(), "a folder that a server has open: {}", text(&busy));
        }
        server.stop().await;
    }
    let tables = text(&run(folder.path(), &["inspect"]));
    assert!(tables.contains("single-tenant") && tables.contains("2026-11-21T05:30:00.000000000Z"), "{tables}");
    let compacted = text(&run(folder.path(), &["compact"]));
    assert!(compacted.contains("single-tenant: 3 files"), "{compacted}");
    let files = text(&run(folder.path(), &["inspect", "files", "--format", "json"]));
    assert_eq!(files.lines().count(), 1, "{files}");
    assert!(files.contains("\"spans\":29"), "{files}");
    let columns = text(&run(folder.path(), &["inspect", "columns", "--format", "csv"]));
    assert!(columns.lines().any(|line| line.starts_with("span.http.route,Utf8,true,1,")), "{columns}");
    let deleted = text(&run(folder.path(), &["delete", "--traceql", "{ span.test.number = `7` }"]));
    assert!(deleted.starts_with("1 span deleted, 1 file rewritten"), "{deleted}");
    let verified = run(folder.path(), &["verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert!(text(&verified).contains("28 spans in 1 file"), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_beside_a_running_server_is_restored_into_another_folder() {
    let (folder, backup, restored) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Server::start_with(folder.path(), SETTINGS, None).await.unwrap();
    send(&server, 1..101).await;
    let stored = "SELECT count(*) AS n FROM system.files WHERE spans = 100";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let batches = sql::query(&server.flight, stored).await.unwrap();
        if arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&batches[0]["n"]).value(0) == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never flushed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let place = |folder: &tempfile::TempDir| folder.path().to_str().unwrap().to_owned();
    let copied = run(folder.path(), &["backup", "--to", &place(&backup)]);
    assert!(text(&copied).contains("single-tenant: 100 spans as of commit 0; 1 file"), "{}", text(&copied));
    let again = text(&run(folder.path(), &["backup", "--to", &place(&backup)]));
    assert!(again.contains("0 files of 0 B copied, 1 there already"), "{again}");
    send(&server, 101..111).await;
    server.stop().await;
    let log = text(&run(folder.path(), &["inspect", "log", "--format", "csv"]));
    assert!(log.starts_with("tenant,records,bytes,"), "{log}");

    let back = run(restored.path(), &["restore", "--from", &place(&backup)]);
    assert!(back.status.success(), "{}", text(&back));
    let refused = run(restored.path(), &["restore", "--from", &place(&backup)]);
    assert!(!refused.status.success() && text(&refused).contains("has tables already"), "{}", text(&refused));
    let mut server = Server::start_with(restored.path(), SETTINGS, None).await.unwrap();
    assert_eq!(count(&server, "true").await, 100);
    server.stop().await;
}

/// The commands of the first block of a section of the document on tables in operation.
fn documented(section: &str) -> Vec<Vec<String>> {
    let (_, rest) = include_str!("../../../src/maintain/README.md").split_once(section).unwrap();
    let (_, rest) = rest.split_once("```bash\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let lines = block.lines().map(|line| line.split(" #").next().unwrap().strip_prefix("tracehouse ").unwrap());
    let words = |line: &str| {
        let (words, quoted) = line.split_once('"').unwrap_or((line, ""));
        let quoted = Some(quoted.trim_end().trim_end_matches('"')).filter(|quoted| !quoted.is_empty());
        words.split_whitespace().chain(quoted).map(str::to_owned).collect()
    };
    lines.map(words).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_commands_of_backup_and_restore_work_in_the_documented_order() {
    let root = tempfile::tempdir().unwrap();
    let below_root = |word: &String| match word.starts_with('/') {
        true => format!("{}{word}", root.path().display()),
        false => word.clone(),
    };
    let folder = root.path().join("var/lib/tracehouse");
    std::fs::create_dir_all(&folder).unwrap();
    let mut server = Server::start_with(&folder, SETTINGS, None).await.unwrap();
    send(&server, 1..101).await;
    let url = format!("http://{}", server.tempo);
    let trace = format!("{0:016x}{0:016x}", 3);
    let deleted = tracehouse(root.path(), &["delete", "--trace-id", &trace, "--server", &url]).output().unwrap();
    assert!(deleted.status.success(), "{}", text(&deleted));
    server.stop().await;

    let commands = documented("## Backup and restore");
    let expected = [
        ("backup", "99 spans"),
        ("verify", "99 spans in 1 file"),
        ("restore", "99 spans"),
        ("verify", "1 deletion checked"),
        ("inspect", "single-tenant"),
        ("sql", "99"),
    ];
    assert_eq!(commands.len(), expected.len() + 1, "{commands:?}");
    for (command, (name, shown)) in commands.iter().zip(expected) {
        assert_eq!(command[0], name);
        let words: Vec<String> = command.iter().map(below_root).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = tracehouse(root.path(), &words).output().unwrap();
        assert!(done.status.success() && text(&done).contains(shown), "{command:?}: {}", text(&done));
    }
    // Nothing above has made a log there.
    let [serve, data, restored] = &commands[expected.len()][..] else { panic!("{commands:?}") };
    assert_eq!((serve.as_str(), data.as_str()), ("serve", "--data"));
    let restored = std::path::PathBuf::from(below_root(restored));
    assert!(!restored.join("wal").exists());
    let mut server = Server::start_with(&restored, SETTINGS, None).await.unwrap();
    assert_eq!(count(&server, "true").await, 99);
    server.stop().await;
}

#[test]
fn a_folder_without_tables_and_log_is_told_apart_from_one_without_spans() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["verify"][..], &["inspect"], &["sql", "SELECT 1"]] {
        let refused = run(folder.path(), command);
        let said = text(&refused);
        assert!(!refused.status.success() && said.contains("has neither tables nor a write-ahead log"), "{said}");
    }
}
