//! Rules between settings: what is out of range alone, and what does not go together.

use super::{ByteSize, HumanDuration, Settings, Source};

/// Deepest nesting that the stored form of attributes has room for.
const NESTING_DEPTH_MAX: usize = 64;

/// Checks `settings`; `source_of` tells where the value of a key comes from.
pub(super) fn check(settings: &Settings, source_of: impl Fn(&str) -> Source) -> Result<(), String> {
    stays_on_loopback(settings, &source_of)?;
    not_zero(settings)?;
    are_origins(&settings.ingest.cors_allowed_origins)?;
    is_prefix(&settings.server.tempo_prefix)?;
    if settings.ingest.nesting_depth_max > NESTING_DEPTH_MAX {
        let depth = settings.ingest.nesting_depth_max;
        return Err(format!("ingest.nesting_depth_max = {depth} must not be larger than {NESTING_DEPTH_MAX}"));
    }
    parts_are_large_enough(settings)?;
    let Settings { ingest, wal, buffer, flush, compaction, query, .. } = settings;
    let sizes = [
        // One group commit is one record, and a record lies in one segment.
        (
            "ingest.group_commit_bytes_max",
            ingest.group_commit_bytes_max,
            "wal.segment_bytes_max",
            wal.segment_bytes_max,
        ),
        ("ingest.request_bytes_max", ingest.request_bytes_max, "wal.segment_bytes_max", wal.segment_bytes_max),
        (
            "ingest.request_bytes_max",
            ingest.request_bytes_max,
            "ingest.in_flight_bytes_max",
            ingest.in_flight_bytes_max,
        ),
        (
            "ingest.attribute_bytes_max",
            ingest.attribute_bytes_max,
            "ingest.request_bytes_max",
            ingest.request_bytes_max,
        ),
        ("wal.segment_bytes_max", wal.segment_bytes_max, "wal.bytes_max", wal.bytes_max),
        ("flush.bytes_max", flush.bytes_max, "buffer.bytes_max", buffer.bytes_max),
        (
            "compaction.small_bytes_max",
            compaction.small_bytes_max,
            "compaction.file_bytes_max",
            compaction.file_bytes_max,
        ),
    ];
    for (small_key, small, large_key, large) in sizes {
        if small > large {
            return Err(format!("{small_key} = {small} must not be larger than {large_key} = {large}"));
        }
    }
    let counts = [
        ("query.search_limit_default", query.search_limit_default, "query.search_limit_max", query.search_limit_max),
        ("query.search_spans_default", query.search_spans_default, "query.search_spans_max", query.search_spans_max),
    ];
    for (small_key, small, large_key, large) in counts {
        if small > large {
            return Err(format!("{small_key} = {small} must not be larger than {large_key} = {large}"));
        }
    }
    settings.retention.check()?;
    if compaction.fan_in < 2 {
        return Err(format!("compaction.fan_in = {} must be at least 2", compaction.fan_in));
    }
    // A file must outlive the longest query that may have it in its snapshot, with time to spare for planning it.
    if compaction.grace.as_nanos() < query.timeout.as_nanos().saturating_mul(2) {
        let (grace, timeout) = (compaction.grace, query.timeout);
        return Err(format!("compaction.grace = {grace} must be at least twice query.timeout = {timeout}"));
    }
    Ok(())
}

fn stays_on_loopback(settings: &Settings, source_of: &impl Fn(&str) -> Source) -> Result<(), String> {
    let server = &settings.server;
    if server.insecure {
        return Ok(());
    }
    let listeners = [
        ("server.otlp_grpc_listen", server.otlp_grpc_listen),
        ("server.otlp_http_listen", server.otlp_http_listen),
        ("server.tempo_listen", server.tempo_listen),
        ("server.tempo_grpc_listen", server.tempo_grpc_listen),
        ("server.flight_listen", server.flight_listen),
    ];
    for (key, address) in listeners {
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!(
                "{key} = {address} ({}) listens beyond loopback, and there is no authentication yet: whoever reaches the \
                 port can write, read and delete; use a loopback address such as 127.0.0.1:{}, or accept it with --insecure \
                 (server.insecure = true)",
                source_of(key),
                address.port(),
            ));
        }
    }
    Ok(())
}

/// What browsers send as origin: scheme, host and a port that is not the scheme's own. One that is written otherwise would
/// allow nobody, and nobody would know why.
fn are_origins(origins: &[String]) -> Result<(), String> {
    for origin in origins.iter().filter(|origin| *origin != "*") {
        let sent = url::Url::parse(origin).ok().map(|url| url.origin()).filter(url::Origin::is_tuple);
        let sent = sent.map(|origin| origin.ascii_serialization());
        if sent.as_deref() != Some(origin.trim_end_matches('/')) {
            let instead = sent.unwrap_or_else(|| "https://shop.example".to_owned());
            return Err(format!(
                "ingest.cors_allowed_origins has {origin:?}, which is no origin of a web page; write scheme, host and \
                 port as in {instead:?}, or \"*\" for all"
            ));
        }
    }
    Ok(())
}

/// S3 refuses smaller parts than 5 MiB, but for the last.
fn parts_are_large_enough(settings: &Settings) -> Result<(), String> {
    let (given, least) = (settings.store.part_bytes, ByteSize::mib(5));
    if given < least {
        return Err(format!("store.part_bytes = {given} must not be smaller than {least}"));
    }
    Ok(())
}

/// A path can stand before others: nothing, or `/` and segments of plain characters.
fn is_prefix(prefix: &str) -> Result<(), String> {
    let is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~'))
    };
    let is_path = prefix.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_plain));
    if prefix.is_empty() || is_path {
        return Ok(());
    }
    Err(format!("server.tempo_prefix = {prefix:?} must be a path such as /tempo, without a slash at its end"))
}

fn not_zero(settings: &Settings) -> Result<(), String> {
    let Settings { ingest, wal, buffer, flush, compaction, query, store, .. } = settings;
    let sizes = [
        ("compaction.file_bytes_max", compaction.file_bytes_max),
        ("ingest.request_bytes_max", ingest.request_bytes_max),
        ("ingest.attribute_bytes_max", ingest.attribute_bytes_max),
        ("ingest.group_commit_bytes_max", ingest.group_commit_bytes_max),
        ("wal.segment_bytes_max", wal.segment_bytes_max),
        ("buffer.bytes_max", buffer.bytes_max),
        ("flush.bytes_max", flush.bytes_max),
        ("query.memory_bytes_max", query.memory_bytes_max),
        ("query.result_bytes_max", query.result_bytes_max),
        ("query.trace_bytes_max", query.trace_bytes_max),
        ("query.expression_bytes_max", query.expression_bytes_max),
    ];
    let counts = [
        ("ingest.spans_per_request_max", ingest.spans_per_request_max),
        ("ingest.attributes_per_span_max", ingest.attributes_per_span_max),
        ("ingest.nesting_depth_max", ingest.nesting_depth_max),
        ("query.result_rows_max", query.result_rows_max),
        ("query.concurrency_max", query.concurrency_max),
        ("query.search_limit_default", query.search_limit_default),
        ("store.reads_max", store.reads_max),
        ("query.tag_values_max", query.tag_values_max),
    ];
    let durations = [
        ("flush.age_max", flush.age_max),
        ("compaction.interval", compaction.interval),
        ("query.timeout", query.timeout),
        ("store.connect_timeout", store.connect_timeout),
        ("store.request_timeout", store.request_timeout),
    ];
    let zero = [
        sizes.iter().find(|(_, size)| *size == ByteSize::from_bytes(0)).map(|(key, _)| *key),
        counts.iter().find(|(_, count)| *count == 0).map(|(key, _)| *key),
        durations.iter().find(|(_, duration)| *duration == HumanDuration::seconds(0)).map(|(key, _)| *key),
    ];
    match zero.into_iter().flatten().next() {
        Some(key) => Err(format!("{key} must be greater than zero")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_change(change: impl FnOnce(&mut Settings), expected: Result<(), &str>) {
        let mut settings = Settings::default();
        change(&mut settings);
        let checked = check(&settings, |_| Source::Flag("--set".to_owned()));
        assert_eq!(checked, expected.map_err(str::to_owned));
    }

    #[test]
    fn the_defaults_pass() {
        check_change(|_| (), Ok(()));
    }

    #[test]
    fn listening_beyond_loopback_needs_insecure() {
        let everywhere = |settings: &mut Settings| {
            settings.server.tempo_listen = ([0, 0, 0, 0], 3200).into();
        };
        check_change(
            everywhere,
            Err(
                "server.tempo_listen = 0.0.0.0:3200 (flag --set) listens beyond loopback, and there is no authentication \
                 yet: whoever reaches the port can write, read and delete; use a loopback address such as 127.0.0.1:3200, or \
                 accept it with --insecure (server.insecure = true)",
            ),
        );
        check_change(
            |settings| {
                everywhere(settings);
                settings.server.insecure = true;
            },
            Ok(()),
        );
        check_change(|settings| settings.server.tempo_listen = "[::1]:0".parse().unwrap(), Ok(()));
        check_change(|settings| settings.server.tempo_prefix = "/a/tempo-2".to_owned(), Ok(()));
        for prefix in ["tempo", "/", "/tempo/", "/{id}", "//x", "/../x"] {
            let refused =
                format!("server.tempo_prefix = {prefix:?} must be a path such as /tempo, without a slash at its end");
            check_change(|settings| settings.server.tempo_prefix = prefix.to_owned(), Err(&refused));
        }
        check_change(|settings| settings.server.tempo_listen = "[::ffff:127.0.0.1]:0".parse().unwrap(), Ok(()));
    }

    #[test]
    fn what_contains_must_not_be_smaller_than_what_it_contains() {
        check_change(
            |settings| settings.ingest.group_commit_bytes_max = ByteSize::mib(65),
            Err("ingest.group_commit_bytes_max = 65MiB must not be larger than wal.segment_bytes_max = 64MiB"),
        );
        check_change(
            |settings| settings.query.search_limit_max = 10,
            Err("query.search_limit_default = 20 must not be larger than query.search_limit_max = 10"),
        );
    }

    #[test]
    fn nesting_is_bounded_by_what_can_be_stored() {
        check_change(|settings| settings.ingest.nesting_depth_max = 64, Ok(()));
        check_change(
            |settings| settings.ingest.nesting_depth_max = 65,
            Err("ingest.nesting_depth_max = 65 must not be larger than 64"),
        );
    }

    #[test]
    fn files_outlive_queries() {
        check_change(
            |settings| settings.query.timeout = HumanDuration::hours(1),
            Err("compaction.grace = 1h must be at least twice query.timeout = 1h"),
        );
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_with_what_to_write() {
        for origin in ["*", "https://shop.example", "https://shop.example/", "http://127.0.0.1:8080", "http://[::1]"] {
            check_change(|settings| settings.ingest.cors_allowed_origins = vec![origin.to_owned()], Ok(()));
        }
        for (origin, instead) in [
            ("shop.example", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("https://Shop.example", "https://shop.example"),
            ("http://shop.example:8080/cart", "http://shop.example:8080"),
            ("null", "https://shop.example"),
            ("file:///srv", "https://shop.example"),
        ] {
            let mut settings = Settings::default();
            settings.ingest.cors_allowed_origins = vec![origin.to_owned()];
            let refused = check(&settings, |_| Source::Flag("--set".to_owned())).unwrap_err();
            assert!(refused.contains(&format!("has {origin:?}")), "{refused}");
            assert!(refused.contains(&format!("as in {instead:?}")), "{refused}");
        }
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        check_change(
            |settings| settings.query.concurrency_max = 0,
            Err("query.concurrency_max must be greater than zero"),
        );
        check_change(
            |settings| settings.flush.age_max = HumanDuration::seconds(0),
            Err("flush.age_max must be greater than zero"),
        );
        check_change(|settings| settings.ingest.dedup_window = HumanDuration::seconds(0), Ok(()));
    }
}
