//! The tree of settings: every key, its type, its default and its explanation, once.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use chrono::NaiveDate;

use super::{ByteSize, DataLocation, HumanDuration, LogFormat, LogLevel, Secret, WalSync, value::Value};

/// One setting of the tree, as help, errors and `tracehouse config` show it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The full key, such as `wal.bytes_max`.
    pub(super) key: String,
    /// The doc comment of the field.
    pub(super) explanation: &'static str,
    /// The form of its values.
    pub(super) expected: String,
    /// The value, as a file would give it.
    pub(super) value: toml::Value,
}

/// Why a value was not taken over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such key.
    UnknownKey,
    /// The value has another form than this one.
    Expected(String),
}

/// Declares a group of settings: the struct, its defaults, and access by the name of a key.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $explanation:literal])+ pub $key:ident: $type:ty = $default:expr, )+
            $( sections { $( $(#[doc = $section_about:literal])+ pub $section:ident: $section_type:ty, )+ } )?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $explanation])+ pub $key: $type, )+
            $( $( $(#[doc = $section_about])+ pub $section: $section_type, )+ )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $key: $default, )+
                    $( $( $section: <$section_type>::default(), )+ )?
                }
            }
        }

        impl $name {
            /// Sets the value of `key`, which is relative to this group.
            pub(super) fn set(&mut self, key: &str, value: &toml::Value) -> Result<(), Refused> {
                $( $(
                    if let Some(key) = key.strip_prefix(concat!(stringify!($section), ".")) {
                        return self.$section.set(key, value);
                    }
                )+ )?
                match key {
                    $( stringify!($key) => {
                        let read = <$type as Value>::from_toml(value);
                        self.$key = read.ok_or_else(|| Refused::Expected(<$type as Value>::expected()))?;
                    } )+
                    _ => return Err(Refused::UnknownKey),
                }
                Ok(())
            }

            /// All settings of this group, with `prefix` before their keys.
            pub(super) fn entries(&self, prefix: &str) -> Vec<Entry> {
                let own = vec![
                    $( Entry {
                        key: format!("{prefix}{}", stringify!($key)),
                        explanation: concat!($( $explanation, )+).trim_ascii(),
                        expected: <$type as Value>::expected(),
                        value: self.$key.to_toml(),
                    }, )+
                ];
                let sections: Vec<Vec<Entry>> =
                    vec![ $( $( self.$section.entries(concat!(stringify!($section), ".")), )+ )? ];
                own.into_iter().chain(sections.into_iter().flatten()).collect()
            }
        }
    };
}

/// Where things lie without configuration.
const FOLDER: &str = "./tracehouse-data";

section! {
    /// Every setting of the process. `Settings::default()` is what runs without any configuration.
    pub struct Settings {
        /// Where the tables lie: a folder, which is created if it does not exist, or a bucket: s3://bucket/prefix,
        /// gs://bucket/prefix, az://container/prefix.
        pub data: DataLocation = DataLocation::Folder(PathBuf::from(FOLDER)),
        /// Folder on this machine for the write-ahead log, for files on their way to a bucket, for cached bytes and for
        /// what queries spill; empty = the data folder, or ./tracehouse-data where data is a bucket.
        pub local_dir: Option<PathBuf> = None,
        sections {
            /// Listeners and the life of the process.
            pub server: ServerSettings,
            /// Log lines.
            pub log: LogSettings,
            /// What is accepted from senders.
            pub ingest: IngestSettings,
            /// The write-ahead log.
            pub wal: WalSettings,
            /// Spans that are stored in the log and not yet in files.
            pub buffer: BufferSettings,
            /// From the buffer to files.
            pub flush: FlushSettings,
            /// Attributes with a column of their own.
            pub promotion: PromotionSettings,
            /// From many small files to few large ones.
            pub compaction: CompactionSettings,
            /// When spans leave by themselves.
            pub retention: RetentionSettings,
            /// What is kept of deletions.
            pub deletion: DeletionSettings,
            /// Limits of queries.
            pub query: QuerySettings,
            /// Access to a bucket.
            pub store: StoreSettings,
            /// What is kept at hand of the files.
            pub cache: CacheSettings,
        }
    }
}

impl Settings {
    /// The folder of what stays on this machine.
    pub fn local_folder(&self) -> &Path {
        match (&self.local_dir, &self.data) {
            (Some(folder), _) | (None, DataLocation::Folder(folder)) => folder,
            (None, DataLocation::Bucket(_)) => Path::new(FOLDER),
        }
    }
}

impl Settings {
    /// Every key with its value as a file would give it; secrets are not in it.
    pub fn shown(&self) -> Vec<(String, String)> {
        self.entries("").into_iter().map(|entry| (entry.key, entry.value.to_string())).collect()
    }

    /// Every key with what there is to say of it; secrets are not in it.
    pub fn described(&self) -> Vec<Described> {
        let defaults = Self::default().entries("");
        self.entries("")
            .into_iter()
            .zip(defaults)
            .map(|(ours, default)| Described {
                key: ours.key,
                value: ours.value.to_string(),
                default: default.value.to_string(),
                expected: ours.expected,
                explanation: ours.explanation,
            })
            .collect()
    }
}

/// A setting for people who look it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The full key, such as `wal.bytes_max`.
    pub key: String,
    /// The value, as a file would give it.
    pub value: String,
    /// The value without configuration, likewise.
    pub default: String,
    /// The form of its values.
    pub expected: String,
    /// What it does.
    pub explanation: &'static str,
}

section! {
    /// Listeners and the life of the process.
    pub struct ServerSettings {
        /// Address of the OTLP/gRPC receiver; port 0 picks a free one.
        pub otlp_grpc_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 4317)),
        /// Address of the OTLP/HTTP receiver (protobuf and JSON on /v1/traces); port 0 picks a free one.
        pub otlp_http_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 4318)),
        /// Address of the Tempo API over HTTP and gRPC, /ready and /metrics; port 0 picks a free one.
        pub tempo_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 3200)),
        /// Path before the /api routes of the Tempo API, such as /tempo, as http_api_prefix of Tempo; empty = none.
        pub tempo_prefix: String = String::new(),
        /// Address of the Tempo API over gRPC alone; port 0 picks a free one.
        pub tempo_grpc_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9095)),
        /// Address of Flight SQL; port 0 picks a free one.
        pub flight_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 32010)),
        /// Allows listening beyond loopback without authentication: whoever reaches a port can write, read and delete.
        pub insecure: bool = false,
        /// Longest time that a stop waits for requests that run; then they are cut off. Flush and sync follow.
        pub shutdown_timeout: HumanDuration = HumanDuration::seconds(30),
    }
}

section! {
    /// Log lines, which go to standard error.
    pub struct LogSettings {
        /// Form of the lines: text for people, json for collectors.
        pub format: LogFormat = LogFormat::Text,
        /// Least important events that are logged; libraries log one level less.
        pub level: LogLevel = LogLevel::Info,
    }
}

section! {
    /// What is accepted from senders.
    pub struct IngestSettings {
        /// Largest request after decompression; a larger one is refused as a whole.
        pub request_bytes_max: ByteSize = ByteSize::mib(20),
        /// Most spans in one request; a request with more is refused as a whole.
        pub spans_per_request_max: usize = 200_000,
        /// Most attributes of one span, event, link, scope or resource; spans with more are rejected.
        pub attributes_per_span_max: usize = 1_024,
        /// Largest attribute, key and value together; spans with a larger one are rejected.
        pub attribute_bytes_max: ByteSize = ByteSize::mib(1),
        /// Deepest nesting of arrays and maps in an attribute, up to 64; spans with deeper ones are rejected.
        pub nesting_depth_max: usize = 32,
        /// Most bytes of requests between arrival and acknowledgement; beyond it senders are told to retry.
        pub in_flight_bytes_max: ByteSize = ByteSize::mib(256),
        /// Most bytes that are written to the log under one sync.
        pub group_commit_bytes_max: ByteSize = ByteSize::mib(8),
        /// How long a byte-identical retry of a request is recognised and stored once, among the last million requests;
        /// 0s stores it again.
        pub dedup_window: HumanDuration = HumanDuration::minutes(5),
        /// First day on which a span may start; earlier ones come from broken clocks and are rejected.
        pub time_window_start: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default(),
        /// How far ahead of this machine's clock a span may start; later ones are rejected.
        pub time_window_future: HumanDuration = HumanDuration::hours(24),
        /// Web origins whose pages may send OTLP/HTTP, such as `https://shop.example`; `*` stands for all.
        pub cors_allowed_origins: Vec<String> = Vec::new(),
    }
}

section! {
    /// The write-ahead log.
    pub struct WalSettings {
        /// Size after which a segment file of the log is closed and the next one begins.
        pub segment_bytes_max: ByteSize = ByteSize::mib(64),
        /// Most bytes of the whole log; beyond it senders are told to retry until a flush has made room.
        pub bytes_max: ByteSize = ByteSize::gib(10),
        /// When a request is acknowledged: always = after a sync to disk, relaxed = before it (a crash of the machine
        /// loses the last moments).
        pub sync: WalSync = WalSync::Always,
    }
}

section! {
    /// Spans that are stored in the log and not yet in files.
    pub struct BufferSettings {
        /// Most memory for buffered spans; beyond it senders are told to retry until a flush has made room.
        pub bytes_max: ByteSize = ByteSize::mib(256),
    }
}

section! {
    /// From the buffer to files.
    pub struct FlushSettings {
        /// Oldest age of a buffered span: what is lost if the disk under the log is lost.
        pub age_max: HumanDuration = HumanDuration::minutes(5),
        /// Memory of buffered spans that starts a flush before they reach that age.
        pub bytes_max: ByteSize = ByteSize::mib(96),
    }
}

section! {
    /// Attributes with a column of their own in files; nobody has to choose them.
    pub struct PromotionSettings {
        /// Most columns of attributes that a tenant's table declares by itself.
        pub columns_max: usize = 128,
        /// Columns, such as span.tenant.id, that an attribute gets as soon as it occurs.
        pub allow: Vec<String> = Vec::new(),
        /// Columns, such as span.session.token, that an attribute never gets.
        pub deny: Vec<String> = Vec::new(),
    }
}

section! {
    /// From many small files to few large ones.
    pub struct CompactionSettings {
        /// Whether the server merges files; without it, a process elsewhere or `tracehouse compact` has to.
        pub enabled: bool = true,
        /// Pause between two looks at all tables.
        pub interval: HumanDuration = HumanDuration::seconds(30),
        /// Size up to which files are merged; several times as much memory is used while they are.
        pub file_bytes_max: ByteSize = ByteSize::mib(128),
        /// Largest merge, in bytes of its files, that counts as small; small ones never wait for large ones.
        pub small_bytes_max: ByteSize = ByteSize::mib(16),
        /// Files of about one size that are merged at once: more of them rewrite less, and leave more files.
        pub fan_in: usize = 8,
        /// How long a day must have got no file before the rest of its small files is merged.
        pub settle_age: HumanDuration = HumanDuration::hours(1),
        /// How long files that were replaced or never listed stay in the store for queries that may read them.
        pub grace: HumanDuration = HumanDuration::hours(1),
    }
}

section! {
    /// When spans leave by themselves. Zero means never.
    pub struct RetentionSettings {
        /// Age at which spans leave, by their start; 0s keeps them.
        pub age_max: HumanDuration = HumanDuration::seconds(0),
        /// Most bytes of the files of one tenant; beyond it the oldest leave; 0B keeps them.
        pub bytes_max: ByteSize = ByteSize::from_bytes(0),
        /// Most bytes of the files of all tenants together; beyond it the oldest leave; 0B keeps them.
        pub total_bytes_max: ByteSize = ByteSize::from_bytes(0),
        /// Other ages for some tenants, such as `shop=720h`.
        pub age_max_by_tenant: Vec<String> = Vec::new(),
        /// Other sizes for some tenants, such as `shop=10GiB`.
        pub bytes_max_by_tenant: Vec<String> = Vec::new(),
    }
}

section! {
    /// What is kept of deletions.
    pub struct DeletionSettings {
        /// How long a deletion is remembered, so that matching spans that arrive late go too.
        pub tombstone_age_max: HumanDuration = HumanDuration::hours(30 * 24),
    }
}

section! {
    /// Limits of queries.
    pub struct QuerySettings {
        /// Most memory of all running queries together; what can spill to disk does so before a query fails.
        pub memory_bytes_max: ByteSize = ByteSize::mib(512),
        /// Most memory of one query; 0B = half of that of all queries together.
        pub query_memory_bytes_max: ByteSize = ByteSize::from_bytes(0),
        /// Most bytes that one query may spill to disk at a time.
        pub spill_bytes_max: ByteSize = ByteSize::gib(16),
        /// Most bytes that one query may read of files; 0B sets no limit.
        pub scanned_bytes_max: ByteSize = ByteSize::from_bytes(0),
        /// Most spans that one query may read; 0 sets no limit.
        pub scanned_rows_max: usize = 0,
        /// Memory for what says which files hold a trace: 2 MB for a million traces.
        pub trace_filter_bytes_max: ByteSize = ByteSize::mib(64),
        /// Memory for what says which rows of files belong to which trace, and which are roots: 20 MB for a million traces, and 1 MB for
        /// eight million spans.
        pub trace_rows_bytes_max: ByteSize = ByteSize::mib(64),
        /// Longest run of one query.
        pub timeout: HumanDuration = HumanDuration::minutes(1),
        /// Most rows in one answer.
        pub result_rows_max: usize = 10_000_000,
        /// Most bytes of Arrow data in one answer.
        pub result_bytes_max: ByteSize = ByteSize::gib(4),
        /// Most bytes of Arrow data of one trace in Tempo's API; a larger one is answered in part, and says so.
        pub trace_bytes_max: ByteSize = ByteSize::mib(256),
        /// Most queries that run at once; further ones wait for their turn.
        pub concurrency_max: usize = 16,
        /// Most queries that wait for their turn; further ones are told to retry.
        pub queue_max: usize = 64,
        /// Longest text of a query.
        pub expression_bytes_max: ByteSize = ByteSize::kib(128),
        /// How far from the asked time range the other spans of a matching trace may start.
        pub trace_extent_max: HumanDuration = HumanDuration::hours(1),
        /// Most spans of one trace that TraceQL looks at as a whole; of a larger one the earliest, and the answer says so.
        pub trace_spans_max: usize = 1_000_000,
        /// Traces in a search answer where the client names no limit.
        pub search_limit_default: usize = 20,
        /// Most traces in a search answer.
        pub search_limit_max: usize = 262_144,
        /// Spans shown per trace in a search answer where the client names no number.
        pub search_spans_default: usize = 3,
        /// Most spans shown per trace in a search answer.
        pub search_spans_max: usize = 100,
        /// Most samples of one series in a TraceQL metrics answer: range by step.
        pub metrics_intervals_max: usize = 10_000,
        /// Most series in a TraceQL metrics answer; more are cut off and the answer is marked partial.
        pub metrics_series_max: usize = 10_000,
        /// Most samples of all series of a TraceQL metrics function together: series by intervals.
        pub metrics_samples_max: usize = 10_000_000,
        /// Most exemplars in a TraceQL metrics answer.
        pub metrics_exemplars_max: usize = 100,
        /// How long before now TraceQL metrics end; 0s counts every acknowledged span.
        pub metrics_end_cutoff: HumanDuration = HumanDuration::seconds(0),
        /// How long a client that streams TraceQL metrics waits for the whole range before it is sent the newest part.
        pub stream_patience: HumanDuration = HumanDuration::seconds(1),
        /// Most values of one attribute in an answer about tags.
        pub tag_values_max: usize = 10_000,
        /// How long after its start a span is counted at /metrics/services: time for it to end and to arrive.
        pub service_metrics_delay: HumanDuration = HumanDuration::seconds(30),
        /// Most combinations of labels at /metrics/services, edges and operations together; further ones are left out.
        pub service_metrics_series_max: usize = 10_000,
    }
}

section! {
    /// Access to a bucket. What is empty comes from the environment that the service's own tools read, such as
    /// AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_ACCOUNT_NAME, or from the machine's identity.
    pub struct StoreSettings {
        /// URL of the service, where it is not the usual one; http:// allows requests without TLS.
        pub endpoint: String = String::new(),
        /// Region of an S3 bucket.
        pub region: String = String::new(),
        /// Whether an S3 bucket's name is part of the host name instead of the path.
        pub virtual_hosted_style: bool = false,
        /// Access key of S3.
        pub access_key_id: String = String::new(),
        /// Secret of that key.
        pub secret_access_key: Secret = Secret::default(),
        /// Token of temporary credentials of S3.
        pub session_token: Secret = Secret::default(),
        /// Path of a Google service account's JSON key.
        pub service_account_file: String = String::new(),
        /// Storage account of Azure.
        pub account: String = String::new(),
        /// Access key of that account.
        pub account_key: Secret = Secret::default(),
        /// Sends requests without credentials.
        pub anonymous: bool = false,
        /// Longest time for a connection to come about.
        pub connect_timeout: HumanDuration = HumanDuration::seconds(5),
        /// Longest time of one try of a request, its body included.
        pub request_timeout: HumanDuration = HumanDuration::seconds(30),
        /// How often a failed request is repeated.
        pub retries_max: usize = 8,
        /// How long a failing request is repeated; flushes are tried again after that, queries fail.
        pub retry_timeout: HumanDuration = HumanDuration::seconds(20),
        /// Objects larger than this are uploaded in parts of this size.
        pub part_bytes: ByteSize = ByteSize::mib(16),
        /// Most requests for parts of files that run at once.
        pub reads_max: usize = 64,
        /// How long a commit of another server may stay unseen by queries here; tables that are queried often cost a small
        /// request to the store in half of this time.
        pub table_age_max: HumanDuration = HumanDuration::seconds(5),
        /// How long a read may take before it is sent a second time, and the faster answer counts; 0s never does. At
        /// most one read in twenty is sent twice.
        pub hedge_after: HumanDuration = HumanDuration::seconds(0),
    }
}

section! {
    /// What is kept at hand of the files of the tables.
    pub struct CacheSettings {
        /// Most memory for footers and page indexes of files: about a byte for each span that queries go by.
        pub metadata_bytes_max: ByteSize = ByteSize::mib(256),
        /// Most memory for parts of files in a bucket; 0 keeps none.
        pub memory_bytes_max: ByteSize = ByteSize::mib(256),
        /// Most disk for parts of files in a bucket, below local_dir; they survive a restart. 0 keeps none.
        pub disk_bytes_max: ByteSize = ByteSize::gib(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_takes_its_own_value_back() {
        let mut settings = Settings::default();
        for entry in Settings::default().entries("") {
            assert_eq!(settings.set(&entry.key, &entry.value), Ok(()), "{}", entry.key);
            assert!(entry.explanation.ends_with('.'), "{} has no explanation", entry.key);
            assert!(!entry.explanation.contains("  "), "{}: {}", entry.key, entry.explanation);
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn keys_exist_only_under_their_full_name() {
        let mut settings = Settings::default();
        for key in ["", "wal", "wal.", "bytes_max", "wal.bytes_max.x", "server.wal.bytes_max"] {
            assert_eq!(settings.set(key, &toml::Value::Integer(1)), Err(Refused::UnknownKey), "{key}");
        }
    }
}
