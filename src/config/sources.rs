//! From the four sources to the effective settings.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{
    Settings, check, nearest,
    settings::{Entry, Refused},
};
use crate::crashpoint;

/// Environment variables of this process have this prefix.
const ENVIRONMENT_PREFIX: &str = "TRACEHOUSE_";

/// The variable that names the settings file; it is not a setting.
const FILE_VARIABLE: &str = "TRACEHOUSE_CONFIG";

/// Where a value comes from, in rising order of strength.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The default of [`Settings`].
    Default,
    /// The settings file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// A command-line flag, by name.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as typed, such as `--data` or `--set`.
    pub name: String,
    /// The key that it sets.
    pub key: String,
    /// The text of the value.
    pub value: String,
}

/// What the process was given, before it is read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The settings file of the command line; it wins over the one named by `TRACEHOUSE_CONFIG`.
    pub file: Option<PathBuf>,
    /// The environment; variables without the prefix `TRACEHOUSE_` are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, of which later ones win.
    pub flags: Vec<Flag>,
}

/// The settings are wrong; the message says where and how.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The settings file is not TOML.
    #[error("the settings file {} is not valid TOML: {error}", path.display())]
    ParseFile {
        /// The file.
        path: PathBuf,
        /// The place and the reason; shown in the message since it points into the file.
        error: Box<toml::de::Error>,
    },
    /// A key or variable that does not exist.
    #[error("unknown setting {name} ({origin}){}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// The key as written, or the environment variable.
        name: String,
        /// Where it was given.
        origin: Source,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong form.
    #[error("{key} = {value} ({origin}): expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// Where it was given.
        origin: Source,
        /// The value as written.
        value: String,
        /// The form that is expected.
        expected: String,
    },
    /// Values that do not go together, or are out of range.
    #[error("{0}")]
    Conflict(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name}?"),
        None => "; `tracehouse config` lists all settings".to_owned(),
    }
}

/// The settings that a process runs with, each with its source.
#[derive(Clone, Debug)]
pub struct Effective {
    settings: Settings,
    sources: BTreeMap<String, Source>,
}

/// One line of `tracehouse config`.
#[derive(Clone, Debug)]
pub struct EffectiveEntry {
    /// The full key, such as `wal.bytes_max`.
    pub key: String,
    /// The value as TOML; secrets are hidden.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
    /// What the setting does.
    pub explanation: &'static str,
    /// The form of its values.
    pub expected: String,
}

impl Effective {
    /// Lays the sources over the defaults and checks the result.
    ///
    /// # Errors
    /// The first fault found, in the order file, environment, flags, rules between settings.
    pub fn load(given: &Sources) -> Result<Self, ConfigError> {
        let mut effective = Self { settings: Settings::default(), sources: BTreeMap::new() };
        let known = Settings::default().entries("");
        effective.take_file(given, &known)?;
        effective.take_environment(given, &known)?;
        for flag in &given.flags {
            let value = toml::Value::String(flag.value.clone());
            effective.take(&flag.key, &value, Source::Flag(flag.name.clone()), &known)?;
        }
        check::check(&effective.settings, |key| effective.source(key)).map_err(ConfigError::Conflict)?;
        Ok(effective)
    }

    /// The settings themselves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the value of `key` comes from.
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// All settings in the order of the tree.
    pub fn entries(&self) -> Vec<EffectiveEntry> {
        let entry = |entry: Entry| EffectiveEntry {
            value: entry.value.to_string(),
            source: self.source(&entry.key),
            key: entry.key,
            explanation: entry.explanation,
            expected: entry.expected,
        };
        self.settings.entries("").into_iter().map(entry).collect()
    }

    fn take_file(&mut self, given: &Sources, known: &[Entry]) -> Result<(), ConfigError> {
        let from_environment = || {
            let (_, path) = given.environment.iter().find(|(name, _)| name == FILE_VARIABLE)?;
            Some(PathBuf::from(path))
        };
        let Some(path) = given.file.clone().or_else(from_environment) else { return Ok(()) };
        let text = fs::read_to_string(&path).map_err(|source| ConfigError::ReadFile { path: path.clone(), source })?;
        let table: toml::Table =
            text.parse().map_err(|error| ConfigError::ParseFile { path: path.clone(), error: Box::new(error) })?;
        self.take_table("", &table, &path, known)
    }

    fn take_table(
        &mut self,
        prefix: &str,
        table: &toml::Table,
        path: &Path,
        known: &[Entry],
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let section = format!("{key}.");
            match value {
                toml::Value::Table(inner) if known.iter().any(|entry| entry.key.starts_with(&section)) => {
                    self.take_table(&section, inner, path, known)?;
                }
                // A misspelt section is reported with the keys in it, which say more about what was meant.
                toml::Value::Table(inner) if prefix.is_empty() && !inner.is_empty() => {
                    self.take_table(&section, inner, path, known)?;
                }
                _ => self.take(&key, value, Source::File(path.to_owned()), known)?,
            }
        }
        Ok(())
    }

    fn take_environment(&mut self, given: &Sources, known: &[Entry]) -> Result<(), ConfigError> {
        let variables: BTreeMap<String, &str> =
            known.iter().map(|entry| (variable_of(&entry.key), entry.key.as_str())).collect();
        let ours = |name: &str| {
            name.starts_with(ENVIRONMENT_PREFIX)
                && ![FILE_VARIABLE, crashpoint::VARIABLE].contains(&name)
                && !is_kubernetes_service_variable(name)
        };
        for (name, value) in given.environment.iter().filter(|(name, _)| ours(name)) {
            let origin = Source::Environment(name.clone());
            let Some(key) = variables.get(name) else {
                let nearest = nearest(name, variables.keys().map(String::as_str)).map(str::to_owned);
                return Err(ConfigError::UnknownKey { name: name.clone(), origin, nearest });
            };
            self.take(key, &toml::Value::String(value.clone()), origin, known)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &toml::Value, origin: Source, known: &[Entry]) -> Result<(), ConfigError> {
        match self.settings.set(key, value) {
            Ok(()) => {
                self.sources.insert(key.to_owned(), origin);
                Ok(())
            }
            Err(Refused::UnknownKey) => {
                let nearest = nearest(key, known.iter().map(|entry| entry.key.as_str())).map(str::to_owned);
                Err(ConfigError::UnknownKey { name: key.to_owned(), origin, nearest })
            }
            Err(Refused::Expected(expected)) => {
                Err(ConfigError::BadValue { key: key.to_owned(), origin, value: value.to_string(), expected })
            }
        }
    }
}

/// The environment variable that sets `key`.
fn variable_of(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Kubernetes gives every container variables for the services of its namespace, `TRACEHOUSE_PORT_3200_TCP_ADDR` and the
/// like for a service called `tracehouse`. They are not meant for this process and must not keep it from starting.
fn is_kubernetes_service_variable(name: &str) -> bool {
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name);
    rest == "PORT" || ["PORT_", "SERVICE_HOST", "SERVICE_PORT"].iter().any(|start| rest.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::{ByteSize, HumanDuration};

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Effective, String> {
        let mut written = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        written.write_all(file.as_bytes()).unwrap();
        let flag = |(key, value): &(&str, &str)| Flag {
            name: "--set".to_owned(),
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let given = Sources {
            file: Some(written.path().to_owned()),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            flags: flags.iter().map(flag).collect(),
        };
        let path = written.path().display().to_string();
        Effective::load(&given).map_err(|error| error.to_string().replace(&path, "t.toml"))
    }

    fn check_error(loaded: Result<Effective, String>, expected: &str) {
        assert_eq!(loaded.map(|_| ()), Err(expected.to_owned()));
    }

    #[test]
    fn each_source_is_stronger_than_the_one_before() {
        let file = "data = 'a'\n[wal]\nbytes_max = '1GiB'\nsegment_bytes_max = '32MiB'\n[flush]\nage_max = '1m'";
        let environment = [("TRACEHOUSE_WAL_BYTES_MAX", "2GiB"), ("TRACEHOUSE_FLUSH_AGE_MAX", "2m"), ("HOME", "/x")];
        let effective = load(file, &environment, &[("flush.age_max", "3m")]).unwrap();
        let settings = effective.settings();
        assert_eq!(settings.data, PathBuf::from("a").into());
        assert_eq!(settings.wal.segment_bytes_max, ByteSize::mib(32));
        assert_eq!(settings.wal.bytes_max, ByteSize::gib(2));
        assert_eq!(settings.flush.age_max, HumanDuration::minutes(3));
        assert_eq!(effective.source("log.level"), Source::Default);
        assert!(matches!(effective.source("data"), Source::File(_)));
        assert_eq!(effective.source("wal.bytes_max").to_string(), "environment TRACEHOUSE_WAL_BYTES_MAX");
        assert_eq!(effective.source("flush.age_max").to_string(), "flag --set");
        assert_eq!(effective.entries().len(), Settings::default().entries("").len());
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest_known_one() {
        check_error(
            load("[server]\ntempo_lisen = '[::1]:0'", &[], &[]),
            "unknown setting server.tempo_lisen (file t.toml); did you mean server.tempo_listen?",
        );
        check_error(
            load("[sever]\ninsecure = true", &[], &[]),
            "unknown setting sever.insecure (file t.toml); did you mean server.insecure?",
        );
        check_error(
            load("[zzz]", &[], &[]),
            "unknown setting zzz (file t.toml); `tracehouse config` lists all settings",
        );
        check_error(
            load("", &[("TRACEHOUSE_WAL_BYTE_MAX", "1GiB")], &[]),
            "unknown setting TRACEHOUSE_WAL_BYTE_MAX (environment TRACEHOUSE_WAL_BYTE_MAX); did you mean \
             TRACEHOUSE_WAL_BYTES_MAX?",
        );
        check_error(
            load("", &[], &[("insecure", "true")]),
            "unknown setting insecure (flag --set); did you mean server.insecure?",
        );
    }

    #[test]
    fn bad_values_name_the_key_the_source_the_value_and_the_form() {
        check_error(
            load("[flush]\nage_max = 300", &[], &[]),
            "flush.age_max = 300 (file t.toml): expected a duration such as 30s, 5m or 1h30m",
        );
        check_error(
            load("", &[("TRACEHOUSE_LOG_FORMAT", "xml")], &[]),
            "log.format = \"xml\" (environment TRACEHOUSE_LOG_FORMAT): expected one of text, json",
        );
        check_error(
            load("[server.insecure]\nx = 1", &[], &[]),
            "server.insecure = { x = 1 } (file t.toml): expected true or false",
        );
        let broken = load("data = ", &[], &[]).map(|_| ()).unwrap_err();
        assert!(
            broken.starts_with("the settings file t.toml is not valid TOML: TOML parse error at line 1"),
            "{broken}"
        );
    }

    #[test]
    fn the_environment_may_name_the_file_and_the_command_line_wins() {
        let environment = vec![(FILE_VARIABLE.to_owned(), "/nonexistent/tracehouse.toml".to_owned())];
        let missing = Effective::load(&Sources { environment: environment.clone(), ..Sources::default() }).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read the settings file /nonexistent/tracehouse.toml");
        let file = tempfile::NamedTempFile::new().unwrap();
        let given = Sources { file: Some(file.path().to_owned()), environment, flags: Vec::new() };
        assert!(Effective::load(&given).is_ok());
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_ignored() {
        let environment = [
            ("TRACEHOUSE_PORT", "tcp://10.0.0.1:3200"),
            ("TRACEHOUSE_PORT_3200_TCP_ADDR", "10.0.0.1"),
            ("TRACEHOUSE_SERVICE_HOST", "10.0.0.1"),
            ("TRACEHOUSE_SERVICE_PORT_HTTP", "3200"),
        ];
        assert!(load("", &environment, &[]).is_ok());
    }

    #[test]
    fn the_variable_of_crash_tests_is_not_a_setting() {
        assert!(load("", &[(crashpoint::VARIABLE, "wal.cut.after_carry")], &[]).is_ok());
    }

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let entries = Settings::default().entries("");
        let variables: std::collections::BTreeSet<String> =
            entries.iter().map(|entry| variable_of(&entry.key)).collect();
        assert_eq!(variables.len(), entries.len());
        assert!(!variables.iter().any(|name| is_kubernetes_service_variable(name) || name == FILE_VARIABLE));
    }
}
