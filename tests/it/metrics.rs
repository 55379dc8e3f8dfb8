//! `/metrics`: what it holds is documented, and its values are those of the server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tracehouse::{clock::ManualClock, config::HumanDuration, metrics::Metrics, server::Server};

use crate::{frame, support::spans};

const NOW: i64 = 1_795_240_800_000_000_000;

/// The families of a text in Prometheus' format: kind, labels and help of each name.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>, String)> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            families.entry(current.clone()).or_default().2 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            families.get_mut(&current).unwrap().1.extend(labels.filter(|label| label != "le"));
        }
    }
    families
}

/// The documented table of all families.
fn table() -> String {
    let metrics = Metrics::new().unwrap();
    // A family with labels shows from its first sample on.
    metrics.count_request("p", "o");
    metrics.count_accepted("p", 1, 1);
    metrics.count_rejected("p", "r", 1);
    metrics.observe_query("k", "o", Duration::ZERO);
    metrics.count_store_request("o", "o");
    metrics.count_cache_blocks("f", 1);
    metrics.count_retention("l", 1, 1, 1);
    let mut table = "| metric | kind | labels | |\n|---|---|---|---|\n".to_owned();
    for (name, (kind, labels, help)) in families(&metrics.encode(0).unwrap()) {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        table.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    table
}

#[tokio::test]
async fn every_metric_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("deploy/METRICS.md");
    let document = fs::read_to_string(&path).unwrap();
    let start = document.find("| metric |").unwrap();
    let end = start + document[start..].find("\n\n").map_or(document.len() - start, |at| at + 1);
    let expected = table();
    if std::env::var_os("TRACEHOUSE_BLESS").is_some() {
        fs::write(&path, format!("{}{expected}{}", &document[..start], &document[end..])).unwrap();
    } else {
        assert_eq!(&document[start..end], expected, "TRACEHOUSE_BLESS=1 writes the table anew");
    }

    // No family is missing because nothing above gives it a sample.
    let source = fs::read_to_string(root.join("src/metrics.rs")).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap();
    for name in source.split('"').skip(1).step_by(2) {
        let is_name = name.starts_with("tracehouse_") || name.starts_with("process_");
        assert!(!is_name || expected.contains(&format!("| `{name}` |")), "{name} is not in the table");
    }

    let folder = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(folder.path())).await;
    let served = families(&frame::get(&server, "/metrics").await.text().await.unwrap());
    assert!(served.len() > 30, "{served:?}");
    for name in served.keys() {
        assert!(expected.contains(&format!("| `{name}` |")), "{name} is served and not documented");
    }
    server.stop().await.unwrap();
}

async fn flush_lag(server: &Server) -> f64 {
    let text = frame::get(server, "/metrics").await.text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("tracehouse_flush_lag_seconds ")).unwrap();
    value.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flush_lag_is_the_age_of_the_oldest_span_that_is_in_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(folder.path());
    settings.flush.age_max = HumanDuration::hours(24);
    let clock = Arc::new(ManualClock::new(NOW));
    let server = Server::start(&settings, Arc::<ManualClock>::clone(&clock)).await.unwrap();
    assert_eq!(flush_lag(&server).await, 0.0);
    let mut sender = spans::sender(&server.addresses().otlp_grpc.to_string()).await.unwrap();
    for (number, wait) in [(1, 30), (2, 7)] {
        spans::send(&mut sender, spans::request("lag", [number], NOW as u64)).await.unwrap();
        clock.advance(Duration::from_secs(wait));
    }
    // What the flusher sees of the buffer it tells a few times a second.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while flush_lag(&server).await == 0.0 {
        assert!(tokio::time::Instant::now() < deadline, "spans wait, and there is no lag");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(flush_lag(&server).await, 37.0);
    frame::get(&server, "/flush").await.error_for_status().unwrap();
    while flush_lag(&server).await != 0.0 {
        assert!(tokio::time::Instant::now() < deadline, "nothing waits, and there is a lag");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await.unwrap();
}
