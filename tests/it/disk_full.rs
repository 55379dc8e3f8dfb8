//! A disk that is full, for real: a small file system of its own, filled up before the server starts.
//!
//! Mounting needs a namespace that not every machine allows; where it is refused, the test has nothing to say, and the
//! failures that the log's own tests inject have to do.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use tonic::Code;

use crate::support::{
    process::{self, Server},
    spans, sql,
};

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;

/// Mounts six megabytes at `$DATA`, of which five are taken until the file `$SIGNAL` exists, and becomes the server.
const SCRIPT: &str = r#"
    set -e
    mount -t tmpfs -o size=6m tmpfs "$DATA"
    head -c 5242880 /dev/zero > "$DATA/filler"
    ( for i in $(seq 1200); do [ -e "$SIGNAL" ] && break; sleep 0.1; done; rm "$DATA/filler" ) > /dev/null 2>&1 &
    exec "$@"
"#;

fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command
}

fn can_mount(folder: &Path) -> bool {
    let mut command = in_namespace("mount -t tmpfs -o size=6m tmpfs \"$1\"; exit $?");
    command.arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

async fn count(server: &Server) -> u64 {
    let counted = sql::query(&server.flight, "SELECT count(*) AS n FROM spans").await.unwrap();
    counted[0]["n"].as_primitive::<Int64Type>().value(0).cast_unsigned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_acknowledgements_and_nothing_else_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (data, signal) = (folder.path().join("data"), folder.path().join("signal"));
    std::fs::create_dir(&data).unwrap();
    if !can_mount(&data) {
        return;
    }
    let mut command = in_namespace(SCRIPT);
    command.arg(env!("CARGO_BIN_EXE_tracehouse")).args(process::arguments(&data, &["flush.age_max=24h"]));
    command.env("DATA", &data).env("SIGNAL", &signal).stderr(Stdio::null());
    let mut server = Server::start(command).await.unwrap();
    let mut sender = spans::sender(&server.otlp_grpc).await.unwrap();

    let mut stored = 0;
    let refused = loop {
        let request = spans::request("full", stored + 1..=stored + 300, START_UNIX_NANO);
        match spans::send(&mut sender, request).await {
            Ok(()) => stored += 300,
            Err(status) => break status,
        }
        assert!(stored < 1_000_000, "the disk is never full");
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("no space left on the disk"), "{refused}");
    assert!(!refused.details().is_empty(), "a hint when to retry");
    assert!(stored > 0);
    assert_eq!(count(&server).await, stored, "what was acknowledged, and nothing of what was refused");

    std::fs::write(&signal, "").unwrap();
    let mut tries = 0;
    while spans::send(&mut sender, spans::request("full", [stored + 1], START_UNIX_NANO)).await.is_err() {
        tries += 1;
        assert!(tries < 600, "the log does not go on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(&server).await, stored + 1);
    assert!(server.stop().await.success());
}
