//! Query parameters of the Tempo routes: what is accepted, the defaults, and Tempo's words for what is not.

use std::collections::{BTreeMap, HashMap};

use crate::{
    config::QuerySettings,
    error::{Error, Result},
    model::{ids::TraceId, time::TimeRange},
    traceql::literal::parse_duration,
};

const SECOND_NANO: i64 = 1_000_000_000;

/// The decoded query string. Of a parameter that is given twice, the first one counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(HashMap<String, String>);

impl Params {
    /// Reads a query string as it stands in the URL, without the question mark.
    pub(super) fn of(query: Option<&str>) -> Self {
        let mut params = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned() {
            params.entry(name).or_insert(value);
        }
        Self(params)
    }

    /// The value of a parameter that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    fn unix_seconds(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let largest = i64::MAX / SECOND_NANO - 1;
        match text.parse::<i64>() {
            Ok(0) => Ok(None),
            Ok(seconds) if (0..=largest).contains(&seconds) => Ok(Some(seconds)),
            Ok(seconds) => {
                Err(Error::invalid(format!("invalid {name}: {seconds} is outside of 0 to {largest} unix seconds")))
            }
            Err(_) => Err(Error::invalid(format!("invalid {name}: {text:?} is not a whole number of unix seconds"))),
        }
    }

    /// The range of `start` and `end` in Unix seconds, or of `since` before now; all of time without them.
    pub(super) fn time_range(&self, now_unix_nano: i64) -> Result<TimeRange> {
        let range = seconds_range(self.unix_seconds("start")?, self.unix_seconds("end")?)?;
        match (range, self.since()?) {
            (Some(range), _) => Ok(range),
            (None, None) => Ok(TimeRange::ALL),
            (None, Some(since)) => Ok(TimeRange::new(now_unix_nano.saturating_sub(since), i64::MAX)),
        }
    }

    /// `since`: how far back, in nanoseconds.
    pub(super) fn since(&self) -> Result<Option<i64>> {
        let Some(text) = self.get("since") else { return Ok(None) };
        match parse_duration(text) {
            Ok(nanos) => Ok(Some(nanos)),
            Err(_) => Err(Error::invalid(format!("invalid since: {text:?} is not a duration such as 30m, 12h or 7d"))),
        }
    }

    /// `limit`: how many traces a search returns.
    pub(super) fn limit(&self, settings: &QuerySettings) -> Result<usize> {
        let max = settings.search_limit_max;
        match self.get("limit").map(str::parse::<usize>) {
            None => Ok(settings.search_limit_default),
            Some(Ok(0) | Err(_)) => Err(Error::invalid("invalid limit: must be a positive number")),
            Some(Ok(limit)) if limit > max => Err(Error::invalid(format!("limit {limit} exceeds max limit {max}"))),
            Some(Ok(limit)) => Ok(limit),
        }
    }

    /// `spss`: how many spans of a spanset are shown. 0 stands for the default, as in Tempo.
    pub(super) fn spans_per_spanset(&self, settings: &QuerySettings) -> Result<usize> {
        let max = settings.search_spans_max;
        match self.get("spss").map(str::parse::<usize>) {
            None | Some(Ok(0)) => Ok(settings.search_spans_default),
            Some(Err(_)) => Err(Error::invalid("invalid spss: must be a non-negative number")),
            Some(Ok(spss)) if spss > max => {
                Err(Error::invalid(format!("spans per span set exceeds {max}. received {spss}")))
            }
            Some(Ok(spss)) => Ok(spss),
        }
    }

    /// A duration as Go writes it, in nanoseconds: `1.5s`, `1m30s`, `0`.
    pub(super) fn duration_nano(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match go_duration_nano(text) {
            Some(nanos) => Ok(Some(nanos)),
            None => Err(Error::invalid(format!("invalid {name}: {text:?} is not a duration such as 100ms or 1m30s"))),
        }
    }

    /// The parameters that are none of `known` and not empty.
    pub(super) fn others(&self, known: &[&str]) -> BTreeMap<String, String> {
        let others = self.0.iter().filter(|(name, value)| !known.contains(&name.as_str()) && !value.is_empty());
        others.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// A parameter that is a count; zero stands for none.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>> {
        match self.get(name).map(str::parse::<usize>) {
            None | Some(Ok(0)) => Ok(None),
            Some(Ok(count)) => Ok(Some(count)),
            Some(Err(_)) => Err(Error::invalid(format!("invalid {name}: must be a non-negative number"))),
        }
    }

    /// A parameter that is `true` or `false`; false without it.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => Ok(true),
                "false" | "f" | "0" => Ok(false),
                _ => Err(Error::invalid(format!("invalid {name}: {text:?} is none of true, false"))),
            },
        }
    }
}

/// The range of two moments in Unix seconds, if they are given; whatever protocol asks.
///
/// The second that `end` names is inside: clients cut the fraction off, and the newest spans would be lost with it.
pub(super) fn seconds_range(start: Option<i64>, end: Option<i64>) -> Result<Option<TimeRange>> {
    match (start, end) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start >= end => {
            Err(Error::invalid(format!("http parameter start must be before end. received start={start} end={end}")))
        }
        (Some(start), Some(end)) => Ok(Some(TimeRange::new(start * SECOND_NANO, (end + 1) * SECOND_NANO))),
        _ => Err(Error::invalid("only one of start and end provided: must provide both or neither")),
    }
}

/// Refuses a query whose text is longer than the limit.
pub(super) fn check_expression(text: &str, settings: &QuerySettings) -> Result<()> {
    let (length, most) = (text.len() as u64, settings.expression_bytes_max.bytes());
    match length > most {
        true => Err(Error::invalid(format!(
            "TraceQL expression exceeds the configured maximum size of {most} bytes (query.expression_bytes_max): it has \
             {length}"
        ))),
        false => Ok(()),
    }
}

/// The trace id in a URL path.
pub(super) fn trace_id(text: &str) -> Result<TraceId> {
    text.parse().map_err(|cause: crate::model::ids::IdError| Error::invalid(cause.to_string()))
}

/// Units of durations in Go, the longer of two with one beginning first.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];

fn go_duration_nano(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut nanos = 0.0;
    if rest == "0" {
        return Some(0);
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let (unit, size) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        nanos += number.parse::<f64>().ok()? * size;
        rest = &tail[unit.len()..];
    }
    // The cast saturates.
    (!text.is_empty()).then_some(nanos.round() as i64)
}

/// What the `Accept` header asks for. As Tempo does, it is searched for a known type, and JSON is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The message of the gRPC API.
    Protobuf,
    /// The JSON form of that message, by the rules of gogo's jsonpb.
    Json,
    /// The compact JSON for language models.
    Llm,
}

impl Format {
    /// The format that a request asks for.
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let accept = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("application/protobuf") {
            Format::Protobuf
        } else if accept.contains("application/json") || !accept.contains("application/vnd.grafana.llm") {
            Format::Json
        } else {
            Format::Llm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn ranges_follow_tempo_and_include_the_last_second() {
        let range = |query| Params::of(Some(query)).time_range(100 * SECOND_NANO);
        assert_eq!(range("start=10&end=20").unwrap(), TimeRange::new(10 * SECOND_NANO, 21 * SECOND_NANO));
        assert_eq!(range("start=0&end=0").unwrap(), TimeRange::ALL);
        assert_eq!(range("since=1m").unwrap(), TimeRange::new(40 * SECOND_NANO, i64::MAX));
        assert_eq!(range("since=1h30m").unwrap(), TimeRange::new(-5300 * SECOND_NANO, i64::MAX));
        assert_eq!(
            refused(range("start=20&end=10")),
            "http parameter start must be before end. received start=20 end=10"
        );
        assert_eq!(refused(range("start=20")), "only one of start and end provided: must provide both or neither");
        assert!(refused(range("start=x&end=1")).starts_with("invalid start: \"x\""));
        assert!(refused(range("start=1&end=99999999999999")).starts_with("invalid end: 99999999999999 is outside"));
        for since in ["soon", "5", "-1h"] {
            let message = format!("invalid since: {since:?} is not a duration such as 30m, 12h or 7d");
            let query = format!("since={since}");
            assert_eq!(refused(Params::of(Some(&query)).time_range(0)), message);
        }
    }

    #[test]
    fn limits_have_tempos_words() {
        let settings = QuerySettings::default();
        let limit = |query| Params::of(Some(query)).limit(&settings);
        assert_eq!(limit("").unwrap(), 20);
        assert_eq!(limit("limit=7").unwrap(), 7);
        assert_eq!(limit("limit=7&limit=8").unwrap(), 7);
        assert_eq!(refused(limit("limit=0")), "invalid limit: must be a positive number");
        assert_eq!(refused(limit("limit=-1")), "invalid limit: must be a positive number");
        assert_eq!(refused(limit("limit=262145")), "limit 262145 exceeds max limit 262144");
        let spss = |query| Params::of(Some(query)).spans_per_spanset(&settings);
        assert_eq!(spss("spss=0").unwrap(), 3);
        assert_eq!(refused(spss("spss=1000")), "spans per span set exceeds 100. received 1000");
    }

    #[test]
    fn expressions_have_a_limit() {
        let settings = QuerySettings::default();
        assert!(check_expression(&"x".repeat(128 << 10), &settings).is_ok());
        assert_eq!(
            refused(check_expression(&"x".repeat(200_000), &settings)),
            "TraceQL expression exceeds the configured maximum size of 131072 bytes (query.expression_bytes_max): it has 200000"
        );
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000_000),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90 * SECOND_NANO),
            ("7µs", 7_000),
        ] {
            assert_eq!(go_duration_nano(text), Some(nanos), "{text}");
        }
        for text in ["", "5", "s", "1 s", "-1s", "1x", "1.2.3s"] {
            assert_eq!(go_duration_nano(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_known_type_in_accept_wins() {
        let format = |accept: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::ACCEPT, accept.parse().unwrap());
            Format::of(&headers)
        };
        assert_eq!(format("application/json, application/protobuf"), Format::Protobuf);
        assert_eq!(format("*/*"), Format::Json);
        assert_eq!(format("application/vnd.grafana.llm"), Format::Llm);
        assert_eq!(Format::of(&http::HeaderMap::new()), Format::Json);
    }
}
