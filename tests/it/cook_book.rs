//! The examples of `sql/examples`: each runs on an hour of the shop, and finds something.

use std::{fs, path::Path, sync::Arc, time::Duration};

use prost::Message;
use tracehouse::{
    demo::{Workload, WorkloadSettings},
    ingest::{WriteRequest, dedup},
    model::{promotion, tenant::TenantId, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
    query::QueryRequest,
};

use crate::slt::{NOW, engine, open};

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_and_finds_something() {
    let house = open(tempfile::tempdir().unwrap()).await;
    let period = Duration::from_secs(1_800);
    let start = NOW as u64 - period.as_nanos() as u64;
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    for request in Workload::new(WorkloadSettings::period(7, start, period, 4_000)) {
        let body = request.encode_to_vec();
        let decoded = decode_protobuf(&body, &promotion::standard(), &rules).unwrap();
        let write = WriteRequest { batch: decoded.batch, digest: dedup::digest(&body), received_unix_nano: NOW };
        house.ingest.write(&TenantId::single(), write).await.unwrap();
    }
    house.ingest.flush().await.unwrap();
    let engine = Arc::new(engine(&house));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/examples");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".sql").map(str::to_owned))
        .collect();
    names.sort();
    let mut faults = Vec::new();
    for name in &names {
        let text = fs::read_to_string(folder.join(format!("{name}.sql"))).unwrap();
        assert!(text.starts_with("-- "), "{name} does not say what it answers");
        let answer = async { engine.execute(QueryRequest::sql(TenantId::single(), text)).await?.collect().await };
        match answer.await {
            Ok((_, stats)) if stats.rows == 0 => {
                faults.push(format!("{name}: found nothing"));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(names.len() >= 22, "examples are missing");
}

#[test]
fn every_example_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let listed = fs::read_to_string(root.join("README.md")).unwrap();
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(listed.contains(&format!("(examples/{name})")), "sql/README.md does not list {name}");
    }
}
