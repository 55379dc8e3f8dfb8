//! What a server does for its tables by itself: every duty of its maintenance shows in the tables, in the metrics and in the
//! log.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use tracehouse::clock::{Clock as _, SystemClock};

use super::house::files_below;
use crate::support::{
    process::{Server, arguments},
    spans, sql,
};

const DAY: i64 = 24 * 3600 * 1_000_000_000;

/// A server whose log can be read.
struct Logged {
    server: Server,
    log: PathBuf,
}

impl Logged {
    /// A server with quick rounds and these settings.
    async fn start(folder: &Path, settings: &[&str]) -> Self {
        let log = folder.join("log.txt");
        let quick = ["compaction.interval=50ms", "log.format=json"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracehouse"));
        command.args(arguments(folder, &[&quick, settings].concat())).stderr(File::create(&log).unwrap());
        Self { server: Server::start(command).await.unwrap(), log }
    }

    async fn number(&self, text: &str) -> i64 {
        let batches = sql::query(&self.server.flight, text).await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    /// Waits until a query for one number gives this.
    async fn wait_for(&self, text: &str, expected: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.number(text).await;
            if found == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{text}: {found} and not {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("http://{}/metrics", self.server.tempo)).await.unwrap().text().await.unwrap();
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        value.trim().parse().unwrap()
    }

    /// The lines of the log with this message, once there is one.
    async fn lines(&self, message: &str) -> Vec<serde_json::Value> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines = whole.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let found: Vec<_> = lines.filter(|line| line["message"] == message).collect();
            if !found.is_empty() {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "no {message} in {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Files with some spans each, which start at these moments.
async fn files(folder: &Path, starts: &[i64]) {
    for (file, start) in starts.iter().enumerate() {
        let first = file as u64 * 100 + 1;
        let numbers: Range<u64> = first..first + 10 * (file as u64 + 1);
        let mut server = Server::start_with(folder, &["compaction.enabled=false"], None).await.unwrap();
        let mut sender = spans::sender(&server.otlp_grpc).await.unwrap();
        spans::send(&mut sender, spans::request("op", numbers, *start as u64)).await.unwrap();
        // It flushes.
        server.stop().await;
    }
}

const SPANS: &str = "SELECT count(*) FROM spans";
const FILES: &str = "SELECT count(*) FROM system.files";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_removes_what_is_too_old_or_too_much_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemClock.now_unix_nano();
    // Ten, twenty, thirty and forty spans.
    files(folder.path(), &[now - 9 * DAY, now - 6 * DAY, now - 3 * DAY, now]).await;
    let quiet = "compaction.enabled=false";

    let mut logged = Logged::start(folder.path(), &[quiet, "retention.age_max=192h"]).await;
    logged.wait_for(SPANS, 90).await;
    let lines = logged.lines("retention").await;
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(logged.metric(r#"tracehouse_retention_files_total{limit="age_max"}"#).await, 1.0);
    assert_eq!((&line["tenant"], &line["limit"]), (&"single-tenant".into(), &"age_max".into()));
    assert_eq!((&line["files"], &line["spans"]), (&1.into(), &10.into()));
    let nine_days_ago = chrono::DateTime::from_timestamp_nanos(now - 9 * DAY).format("%Y-%m-%dT").to_string();
    for end in ["oldest", "newest"] {
        assert!(line[end].as_str().is_some_and(|moment| moment.starts_with(&nine_days_ago)), "{line}");
    }
    let newest = "SELECT CAST(sum(bytes) AS BIGINT) FROM system.files WHERE spans >= ";
    let (of_two, of_one) = (logged.number(&format!("{newest} 30")).await, logged.number(&format!("{newest} 40")).await);
    logged.server.stop().await;

    for (setting, limit, bytes, spans, files) in [
        (format!("retention.bytes_max={of_two}B"), "bytes_max", of_two, 70, 2),
        (format!("retention.total_bytes_max={of_one}B"), "total_bytes_max", of_one, 40, 1),
    ] {
        let mut logged = Logged::start(folder.path(), &[quiet, &setting]).await;
        logged.wait_for(SPANS, spans).await;
        assert_eq!(logged.number(FILES).await, files, "{limit}");
        let lines = logged.lines("retention").await;
        let [line] = &lines[..] else { panic!("{limit}: {lines:?}") };
        let metric = |of: &str| format!("tracehouse_retention_{of}_total{{limit=\"{limit}\"}}");
        assert_eq!(logged.metric(&metric("files")).await, 1.0);
        assert_eq!((&line["tenant"], &line["limit"]), (&"single-tenant".into(), &limit.into()));
        assert_eq!(line["bytes"], logged.metric(&metric("bytes")).await as u64, "{line}");
        assert!(line["oldest"].is_string() && line["newest"].is_string(), "{line}");
        assert!(logged.number("SELECT CAST(sum(bytes) AS BIGINT) FROM system.files").await <= bytes);
        logged.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_merges_files_in_both_lanes_and_sweeps() {
    for small_bytes_max in ["16MiB", "1B"] {
        let folder = tempfile::tempdir().unwrap();
        let day = SystemClock.now_unix_nano() / DAY * DAY;
        files(folder.path(), &[day, day + 1_000, day + 2_000]).await;
        // Born in 2023, and in no table.
        let table = folder.path().join("tenants/single-tenant/spans");
        let in_day = std::fs::read_dir(&table).unwrap().map(|entry| entry.unwrap().path());
        let in_day = in_day.into_iter().find(|path| path.to_string_lossy().contains("date=")).unwrap();
        let orphan = in_day.join("018bcfe5-6800-7000-8000-000000000000.parquet");
        std::fs::write(&orphan, b"left by a crash").unwrap();

        let small = format!("compaction.small_bytes_max={small_bytes_max}");
        let mut logged = Logged::start(folder.path(), &["compaction.settle_age=0s", &small]).await;
        logged.wait_for(FILES, 1).await;
        assert_eq!(logged.number(SPANS).await, 60);
        let lane = if small_bytes_max == "1B" { "Large" } else { "Small" };
        assert_eq!(logged.lines("compacted").await[0]["lane"], lane);
        assert!(logged.metric("tracehouse_compaction_merges_total").await >= 1.0);

        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while orphan.exists() {
            assert!(tokio::time::Instant::now() < deadline, "never swept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(files_below(&table), 4, "replaced files stay for the grace");
        logged.lines("deleted files that no table lists").await;
        assert_eq!(logged.metric("tracehouse_swept_files_total").await, 1.0);
        logged.server.stop().await;
    }
}
