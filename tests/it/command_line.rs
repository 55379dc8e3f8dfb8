//! The program itself: what it prints, and how it ends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Far more than an exit takes, and less than the shutdown timeout that a test sets.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The program in a folder of its own, without the settings of whoever runs the tests.
pub(crate) fn tracehouse(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracehouse"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRACEHOUSE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Where a server of [`serve`] listens.
struct Listening {
    otlp_http: SocketAddr,
    tempo: SocketAddr,
    /// What it printed.
    greeting: Vec<String>,
}

/// A server on free ports of `ip`.
fn serve(folder: &Path, ip: &str, more: &[&str]) -> (Child, Listening) {
    let address = format!("{ip}:0");
    let mut arguments = vec!["serve"];
    for listen in
        ["--otlp-grpc-listen", "--otlp-http-listen", "--tempo-listen", "--tempo-grpc-listen", "--flight-listen"]
    {
        arguments.extend([listen, &address]);
    }
    arguments.extend(more);
    let mut child = tracehouse(folder, &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let greeting: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let address = |name: &str| -> SocketAddr {
        let url = greeting.iter().find_map(|line| line.trim_start().strip_prefix(name));
        let url = url.unwrap_or_else(|| panic!("{name} is not in {greeting:#?}")).trim_start();
        url.split_once("://").unwrap().1.split(['/', ' ']).next().unwrap().parse().unwrap()
    };
    let names = ["OTLP/gRPC", "OTLP/HTTP", "Tempo API", "Tempo gRPC", "Flight SQL"];
    for address in names.map(address) {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    let listening = Listening { otlp_http: address("OTLP/HTTP"), tempo: address("Tempo API"), greeting };
    // What follows must not fill the pipe.
    thread::spawn(move || lines.for_each(drop));
    (child, listening)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + EXIT_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("the program did not end");
}

fn errors(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_signal_stops_the_server_in_order() {
    for name in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, _) = serve(folder.path(), "127.0.0.1", &["--log-format", "json"]);
        signal(&child, name);
        assert_eq!(wait(&mut child).code(), Some(0), "{name}");
        let log = errors(&mut child);
        let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["message"], "stopped", "{log}");
        assert!(folder.path().join("tracehouse-data").is_dir());
    }
}

#[test]
fn a_second_signal_stops_the_server_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // On an address that no other test uses, nobody else is given the ports that become free.
    let (mut child, Listening { otlp_http, tempo, .. }) =
        serve(folder.path(), "127.0.0.72", &["--set", "server.shutdown_timeout=1h"]);
    let mut half = TcpStream::connect(otlp_http).unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    half.write_all(format!("{head}content-length: 1000\r\n\r\n").as_bytes()).unwrap();
    // The server asks for the body, so the request runs.
    half.read_exact(&mut [0; 8]).unwrap();
    signal(&child, "-TERM");
    // The listeners close when the stop has begun.
    while TcpStream::connect(tempo).is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "-TERM");
    assert_eq!(wait(&mut child).code(), Some(1));
    let log = errors(&mut child);
    assert!(
        log.ends_with("error: stopped at once by a second signal (SIGTERM); what was acknowledged is in the log\n")
    );
}

/// The body of what the server answers, whatever its status.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn a_log_that_is_not_synced_shows_wherever_one_looks() {
    for (sync, is_relaxed) in [("relaxed", true), ("always", false)] {
        let folder = tempfile::tempdir().unwrap();
        let setting = format!("wal.sync={sync}");
        let more = ["--set", &setting, "--log-format", "json"];
        let (mut child, Listening { tempo, greeting, .. }) = serve(folder.path(), "127.0.0.1", &more);
        let greeted = greeting.iter().any(|line| line.starts_with("wal.sync = relaxed: spans are acknowledged before"));
        assert_eq!(greeted, is_relaxed, "{greeting:#?}");
        let status = get(tempo, "/status");
        assert!(status.contains(&format!("on disk (wal.sync = {sync})\n")) || is_relaxed, "{status}");
        assert_eq!(status.contains("loses the last of them (wal.sync = relaxed)\n"), is_relaxed, "{status}");
        assert!(status.contains("\nqueries: answered\n"), "{status}");
        let metrics = get(tempo, "/metrics");
        assert!(metrics.contains(&format!("\ntracehouse_wal_sync_relaxed {}\n", u8::from(is_relaxed))), "{metrics}");
        signal(&child, "-TERM");
        assert_eq!(wait(&mut child).code(), Some(0));
        let log = errors(&mut child);
        let warned = log.lines().any(|line| line.contains("\"WARN\"") && line.contains("wal.sync = relaxed"));
        assert_eq!(warned, is_relaxed, "{log}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, _) = serve(folder.path(), "127.0.0.1", &[]);
    signal(&child, "-TERM");
    wait(&mut child);
    for format in ["csv", "json", "arrow", "parquet", "table"] {
        let statement = "SELECT value FROM generate_series(1, 500000)";
        let data = ["sql", statement, "--data", "tracehouse-data", "--format", format];
        let mut child = tracehouse(folder.path(), &data).spawn().unwrap();
        // Far less than there is, and more than nothing.
        child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        assert_eq!((wait(&mut child).code(), errors(&mut child).as_str()), (Some(0), ""), "{format}");
    }
}

#[test]
fn a_name_of_this_machine_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        tracehouse(folder.path(), &["config", "--set", "server.tempo_listen=localhost:3201"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("server.tempo_listen ")).unwrap();
    assert!(line.contains("\"127.0.0.1:3201\""), "{line}");
}

#[test]
fn a_port_in_use_ends_the_program_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = tracehouse(folder.path(), &["serve", "--otlp-grpc-listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let expected =
        format!("error: cannot listen on {address} for OTLP/gRPC (server.otlp_grpc_listen): the port is in use");
    assert!(log.contains(&expected), "{log}");
}

#[test]
fn the_effective_settings_are_printed_with_their_sources() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.toml"), "[wal]\nbytes_max = '1GiB'").unwrap();
    let output = tracehouse(folder.path(), &["config", "--data", "d"])
        .env("TRACEHOUSE_CONFIG", "t.toml")
        .env("TRACEHOUSE_LOG_LEVEL", "warn")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("data "), "data = \"d\" # flag --data");
    assert_eq!(line("wal.bytes_max "), "wal.bytes_max = \"1GiB\" # file t.toml");
    assert_eq!(line("log.level "), "log.level = \"warn\" # environment TRACEHOUSE_LOG_LEVEL");
    assert_eq!(line("wal.sync "), "wal.sync = \"always\" # default");
}

#[test]
fn wrong_settings_end_the_program_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let output = tracehouse(folder.path(), &["serve"]).env("TRACEHOUSE_FLUSH_AGE", "1m").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: unknown setting TRACEHOUSE_FLUSH_AGE (environment TRACEHOUSE_FLUSH_AGE); did you mean \
         TRACEHOUSE_FLUSH_AGE_MAX?\n"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.73:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let output = tracehouse(folder.path(), &["sql", "SELECT 1", "--server", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.starts_with(&format!("error: cannot reach a server at {url}; `tracehouse serve` starts one\n")),
        "{log}"
    );
}
