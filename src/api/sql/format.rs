//! The forms of an answer, and which of them a client wants.

use http::{HeaderMap, header};

use crate::error::{Error, Result};

/// A form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object with columns, rows and statistics.
    Json,
    /// A JSON object per line.
    NdJson,
    /// Comma-separated values.
    Csv,
    /// The stream format of Arrow IPC.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// The names of the forms, and the media types that mean them. The first type is the one that is sent.
const FORMATS: &[(Format, &str, &[&str])] = &[
    (Format::Json, "json", &["application/json"]),
    (Format::NdJson, "ndjson", &["application/x-ndjson", "application/ndjson", "application/jsonl"]),
    (Format::Csv, "csv", &["text/csv"]),
    (Format::Arrow, "arrow", &["application/vnd.apache.arrow.stream"]),
    (Format::Parquet, "parquet", &["application/vnd.apache.parquet", "application/x-parquet"]),
];

impl Format {
    /// The form of this name.
    pub(super) fn of_name(name: &str) -> Result<Self> {
        let found = FORMATS.iter().find(|(_, known, _)| *known == name).map(|(format, ..)| *format);
        found.ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|(_, name, _)| *name).collect();
            Error::invalid(format!("there is no format {name:?}; formats are: {}", names.join(", ")))
        })
    }

    /// The first form that the client accepts, in its own order; JSON where it takes anything.
    pub(super) fn accepted(headers: &HeaderMap) -> Result<Self> {
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types: Vec<&str> = accept.flat_map(|value| value.split(',')).map(media_type).collect();
        let known = types.iter().find_map(|accepted| {
            FORMATS.iter().find(|(_, _, types)| types.contains(accepted)).map(|(format, ..)| *format)
        });
        let takes_json = |accepted: &&str| matches!(*accepted, "*/*" | "application/*" | "");
        match known {
            Some(format) => Ok(format),
            None if types.is_empty() || types.iter().any(takes_json) => Ok(Format::Json),
            None => {
                let ours: Vec<&str> = FORMATS.iter().filter_map(|(_, _, types)| types.first().copied()).collect();
                let (asked, ours) = (types.join(", "), ours.join(", "));
                Err(Error::invalid(format!("an answer cannot be sent as {asked}; Accept may name: {ours}")))
            }
        }
    }

    /// The media type that is sent.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::NdJson => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// What makes a browser save a form that it cannot show.
    pub(super) fn file_name(self) -> Option<&'static str> {
        match self {
            Format::Json | Format::NdJson | Format::Csv => None,
            Format::Arrow => Some("attachment; filename=\"answer.arrows\""),
            Format::Parquet => Some("attachment; filename=\"answer.parquet\""),
        }
    }
}

/// A media type without its parameters.
pub(super) fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_type_wins_and_anything_means_json() {
        let accepted = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, http::HeaderValue::from_static(value))]);
            Format::accepted(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(Format::accepted(&HeaderMap::new()).unwrap(), Format::Json);
        assert_eq!(accepted("text/html, */*;q=0.8"), Ok(Format::Json));
        assert_eq!(accepted("text/csv;q=0.5, application/json"), Ok(Format::Csv));
        assert_eq!(accepted("application/vnd.apache.parquet"), Ok(Format::Parquet));
        let refusal = accepted("text/html").unwrap_err();
        assert!(refusal.contains("text/html") && refusal.contains("text/csv"), "{refusal}");
        assert!(Format::of_name("xml").unwrap_err().message().contains("json, ndjson, csv, arrow, parquet"));
    }
}
