//! Flags that give settings, shared by the commands.

use std::{env, path::PathBuf};

use clap::Args;

use crate::config::{ConfigError, Effective, Flag, Sources};

/// Where settings come from besides the environment.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct SourceArgs {
    /// Settings file (TOML); also TRACEHOUSE_CONFIG.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, for example --set flush.age_max=1m; may be repeated, the last one wins.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_assignment)]
    assignments: Vec<(String, String)>,
}

/// Flags of their own for what is set most often.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ServerFlags {
    /// Where the tables lie: a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix (data).
    #[arg(long, value_name = "PLACE")]
    data: Option<String>,
    /// Folder of the log and of caches, where it is not the data folder (local_dir).
    #[arg(long, value_name = "DIR")]
    local_dir: Option<String>,
    /// Address of the OTLP/gRPC receiver (server.otlp_grpc_listen).
    #[arg(long, value_name = "ADDRESS")]
    otlp_grpc_listen: Option<String>,
    /// Address of the OTLP/HTTP receiver (server.otlp_http_listen).
    #[arg(long, value_name = "ADDRESS")]
    otlp_http_listen: Option<String>,
    /// Address of the Tempo API, /ready and /metrics (server.tempo_listen).
    #[arg(long, value_name = "ADDRESS")]
    tempo_listen: Option<String>,
    /// Address of the Tempo API over gRPC alone (server.tempo_grpc_listen).
    #[arg(long, value_name = "ADDRESS")]
    tempo_grpc_listen: Option<String>,
    /// Address of Flight SQL (server.flight_listen).
    #[arg(long, value_name = "ADDRESS")]
    flight_listen: Option<String>,
    /// Allows listening beyond loopback without authentication (server.insecure).
    #[arg(long)]
    insecure: bool,
    /// Least important events that are logged: off, error, warn, info, debug, trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of log lines: text, json (log.format).
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl SourceArgs {
    /// The settings of this process; `flags` are weaker than `--set`, which names its key in full.
    pub(super) fn load(&self, flags: Vec<Flag>) -> Result<Effective, ConfigError> {
        let set = |(key, value): &(String, String)| flag("--set", key, value);
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect();
        let flags = flags.into_iter().chain(self.assignments.iter().map(set)).collect();
        Effective::load(&Sources { file: self.config.clone(), environment, flags })
    }
}

impl ServerFlags {
    /// The settings that these flags give.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let given = [
            ("--data", "data", &self.data),
            ("--local-dir", "local_dir", &self.local_dir),
            ("--otlp-grpc-listen", "server.otlp_grpc_listen", &self.otlp_grpc_listen),
            ("--otlp-http-listen", "server.otlp_http_listen", &self.otlp_http_listen),
            ("--tempo-listen", "server.tempo_listen", &self.tempo_listen),
            ("--tempo-grpc-listen", "server.tempo_grpc_listen", &self.tempo_grpc_listen),
            ("--flight-listen", "server.flight_listen", &self.flight_listen),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ];
        let mut flags: Vec<Flag> =
            given.into_iter().filter_map(|(name, key, value)| Some(flag(name, key, value.as_deref()?))).collect();
        if self.insecure {
            flags.push(flag("--insecure", "server.insecure", "true"));
        }
        flags
    }
}

/// A setting given by the flag `name`.
pub(super) fn flag(name: &str, key: &str, value: &str) -> Flag {
    Flag { name: name.to_owned(), key: key.to_owned(), value: value.to_owned() }
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, such as flush.age_max=1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_has_a_key_and_a_value() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_assignment("log.level = debug"), pair("log.level", "debug"));
        assert_eq!(parse_assignment("a=b=c"), pair("a", "b=c"));
        assert_eq!(parse_assignment("a="), pair("a", ""));
        assert!(parse_assignment("=b").is_err());
        assert!(parse_assignment("data").is_err());
    }

    #[test]
    fn every_flag_sets_an_existing_key() {
        let text = |value: &str| Some(value.to_owned());
        let flags = ServerFlags {
            data: text("d"),
            local_dir: text("l"),
            otlp_grpc_listen: text("127.0.0.1:1"),
            otlp_http_listen: text("127.0.0.1:2"),
            tempo_listen: text("127.0.0.1:3"),
            tempo_grpc_listen: text("127.0.0.1:4"),
            flight_listen: text("0.0.0.0:5"),
            insecure: true,
            log_level: text("warn"),
            log_format: text("json"),
        };
        let effective = Effective::load(&Sources { flags: flags.flags(), ..Sources::default() }).unwrap();
        assert!(effective.settings().server.insecure);
        assert_eq!(effective.source("server.flight_listen").to_string(), "flag --flight-listen");
    }
}
