//! The server as a process of its own, which can be killed.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// How long a start may take before a test gives up.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an orderly stop may take before a test gives up.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server with ports that the system chose. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Address of OTLP/gRPC.
    pub(crate) otlp_grpc: String,
    /// Address of OTLP/HTTP.
    pub(crate) otlp_http: String,
    /// Address of the Tempo API.
    pub(crate) tempo: String,
    /// Address of the Tempo API over gRPC alone.
    pub(crate) tempo_grpc: String,
    /// Address of Flight SQL.
    pub(crate) flight: String,
}

impl Server {
    /// Starts the binary on `folder` with `key=value` settings and waits until it is ready; `point` names the place at
    /// which it is to crash. An error holds what it printed instead.
    pub(crate) async fn start_with(folder: &Path, settings: &[&str], point: Option<&str>) -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracehouse"));
        command.args(arguments(folder, settings));
        if let Some(point) = point {
            command.env("TRACEHOUSE_CRASHPOINT", point);
        }
        Self::start(command).await
    }

    /// Runs a command that becomes `tracehouse serve`, and waits until it is ready.
    pub(crate) async fn start(mut command: Command) -> Result<Self, String> {
        // What steers a test, or whoever runs it, is no setting of this server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRACEHOUSE_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|cause| cause.to_string())?;
        // From here on the process ends with this value, whatever happens.
        let [otlp_grpc, otlp_http, tempo, tempo_grpc, flight] = [const { String::new() }; 5];
        let mut server = Self { child, otlp_grpc, otlp_http, tempo, tempo_grpc, flight };
        let stdout = server.child.stdout.take().ok_or("no standard output")?;
        let reading = tokio::task::spawn_blocking(move || read_greeting(stdout));
        let read =
            tokio::time::timeout(START_TIMEOUT, reading).await.map_err(|_| "the server was not ready in time")?;
        let greeting = read.map_err(|cause| cause.to_string())?;
        server.otlp_grpc = address(&greeting, "OTLP/gRPC")?;
        server.otlp_http = address(&greeting, "OTLP/HTTP")?;
        server.tempo = address(&greeting, "Tempo API")?;
        server.tempo_grpc = address(&greeting, "Tempo gRPC")?;
        server.flight = address(&greeting, "Flight SQL")?;
        Ok(server)
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/<pid>/status` that gives memory, such as `VmRSS:`, in bytes.
    pub(crate) fn memory_bytes(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_default();
        value.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) * 1024
    }

    /// How the process ended, if it did by itself within `timeout`.
    pub(crate) async fn wait_for_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let ended = async {
            loop {
                match self.child.try_wait() {
                    Ok(Some(status)) => return Some(status),
                    Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(timeout, ended).await.ok().flatten()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        // Both fail if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the orderly end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let told = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status();
        assert!(told.is_ok_and(|status| status.success()), "cannot send SIGTERM");
        self.wait_for_exit(STOP_TIMEOUT).await.expect("the server stops in time")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What makes the program serve `folder` on ports that the system chooses.
pub(crate) fn arguments(folder: &Path, settings: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["serve".into(), "--data".into(), folder.into()];
    let listeners = ["otlp_grpc", "otlp_http", "tempo", "tempo_grpc", "flight"];
    let listeners = listeners.map(|listener| format!("server.{listener}_listen=127.0.0.1:0"));
    for setting in listeners.iter().map(String::as_str).chain(settings.iter().copied()) {
        arguments.extend(["--set".into(), setting.into()]);
    }
    arguments
}

/// The address in the line of the greeting that begins with `listener`.
fn address(greeting: &str, listener: &str) -> Result<String, String> {
    let line = greeting.lines().find_map(|line| line.trim().strip_prefix(listener));
    let url = line.and_then(|line| line.split_whitespace().next());
    let address = url.and_then(|url| url.split("://").nth(1)).and_then(|rest| rest.split('/').next());
    address.map(str::to_owned).ok_or_else(|| format!("no {listener} in {greeting:?}"))
}

/// Everything up to the line of the last listener, or to the end of the output if the server ends before.
fn read_greeting(stdout: impl Read) -> String {
    let mut greeting = String::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let last = line.trim_start().starts_with("Flight SQL");
        greeting.push_str(&line);
        greeting.push('\n');
        if last {
            break;
        }
    }
    greeting
}
