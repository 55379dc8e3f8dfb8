//! What a span must fulfil to be kept, and what the sender is told about those that do not.

use std::fmt;

use chrono::{DateTime, SecondsFormat};

use crate::{model::time::TimeRange, otlp::json_value::DEPTH_MAX};

/// Limits on the parts of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans in a request; above it the request is refused.
    pub spans_max: usize,
    /// Attributes of a span, event, link, scope or resource, duplicates included; above it the span is rejected.
    pub attributes_max: usize,
    /// Events of a span; above it the span is rejected.
    pub events_max: usize,
    /// Links of a span; above it the span is rejected.
    pub links_max: usize,
    /// Bytes of an attribute, key and value together, nested values as JSON text; above it the span is rejected.
    pub attribute_bytes_max: usize,
    /// Nesting of arrays and key-value lists in an attribute; above it the span is rejected. At most
    /// [`DEPTH_MAX`] counts.
    pub nesting_depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            spans_max: 1_000_000,
            attributes_max: 4096,
            events_max: 10_000,
            links_max: 10_000,
            attribute_bytes_max: 4 << 20,
            nesting_depth_max: 32,
        }
    }
}

impl Limits {
    pub(super) fn depth_max(&self) -> usize {
        self.nesting_depth_max.min(DEPTH_MAX)
    }
}

/// What a span must fulfil to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Limits on the parts of a request.
    pub limits: Limits,
    /// Spans start inside of it. A clock that is far off would open partitions without end.
    pub time_window: TimeRange,
}

/// Why spans are rejected: the label in metrics and the words in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Not 16 bytes, or zeros only.
    InvalidTraceId,
    /// Not 8 bytes, or zeros only.
    InvalidSpanId,
    /// There, and not 8 bytes.
    InvalidParentSpanId,
    /// Missing, past what 63 bits of nanoseconds hold, or, in JSON, not a whole number.
    InvalidStartTime,
    /// Outside of the time window.
    OutsideTimeWindow,
    /// Missing, past what 63 bits of nanoseconds hold, or, in JSON, not a whole number.
    InvalidEndTime,
    /// In JSON, not a whole number of 64 bits; the time of an event may be missing, and far off.
    InvalidEventTime,
    /// Of the span, its resource, scope, an event or a link.
    TooManyAttributes,
    /// Above the limit.
    TooManyEvents,
    /// Above the limit.
    TooManyLinks,
    /// Key and value together above the limit.
    AttributeTooLarge,
    /// A value that nests too deep.
    ValueTooDeep,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 12] = [
        Reason::InvalidTraceId,
        Reason::InvalidSpanId,
        Reason::InvalidParentSpanId,
        Reason::InvalidStartTime,
        Reason::OutsideTimeWindow,
        Reason::InvalidEndTime,
        Reason::InvalidEventTime,
        Reason::TooManyAttributes,
        Reason::TooManyEvents,
        Reason::TooManyLinks,
        Reason::AttributeTooLarge,
        Reason::ValueTooDeep,
    ];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Reason::InvalidTraceId => "invalid_trace_id",
            Reason::InvalidSpanId => "invalid_span_id",
            Reason::InvalidParentSpanId => "invalid_parent_span_id",
            Reason::InvalidStartTime => "invalid_start_time",
            Reason::OutsideTimeWindow => "outside_time_window",
            Reason::InvalidEndTime => "invalid_end_time",
            Reason::InvalidEventTime => "invalid_event_time",
            Reason::TooManyAttributes => "too_many_attributes",
            Reason::TooManyEvents => "too_many_events",
            Reason::TooManyLinks => "too_many_links",
            Reason::AttributeTooLarge => "attribute_too_large",
            Reason::ValueTooDeep => "value_too_deep",
        }
    }
}

/// What is wrong with one span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `what` is `trace id`, `span id` or `parent span id`.
    IdLength {
        reason: Reason,
        what: &'static str,
        bytes: usize,
        must: usize,
    },
    IdZero {
        reason: Reason,
        what: &'static str,
    },
    IdNotHex {
        reason: Reason,
        what: &'static str,
        text: String,
    },
    TimeMissing {
        reason: Reason,
        what: &'static str,
    },
    TimeTooLarge {
        reason: Reason,
        what: &'static str,
        unix_nano: u64,
    },
    NotATime {
        reason: Reason,
        what: &'static str,
        text: String,
    },
    OutsideWindow {
        start_unix_nano: i64,
        window: TimeRange,
    },
    TooMany {
        reason: Reason,
        what: &'static str,
        limit: usize,
    },
    AttributeTooLarge {
        key: String,
        bytes: usize,
        limit: usize,
    },
    ValueTooDeep {
        key: String,
        limit: usize,
    },
}

impl Fault {
    /// An attribute of `bytes` bytes at `key`.
    pub(super) fn too_large(key: &str, bytes: usize, limit: usize) -> Self {
        Fault::AttributeTooLarge { key: excerpt(key), bytes, limit }
    }

    /// A value at `key` that nests too deep.
    pub(super) fn too_deep(key: &str, limits: &Limits) -> Self {
        Fault::ValueTooDeep { key: excerpt(key), limit: limits.depth_max() }
    }

    pub(super) fn not_hex(reason: Reason, what: &'static str, text: &str) -> Self {
        Fault::IdNotHex { reason, what, text: excerpt(text) }
    }

    pub(super) fn not_a_time(reason: Reason, what: &'static str, text: &str) -> Self {
        Fault::NotATime { reason, what, text: excerpt(text) }
    }

    fn reason(&self) -> Reason {
        match self {
            Fault::IdLength { reason, .. }
            | Fault::IdZero { reason, .. }
            | Fault::IdNotHex { reason, .. }
            | Fault::TimeMissing { reason, .. }
            | Fault::TimeTooLarge { reason, .. }
            | Fault::NotATime { reason, .. }
            | Fault::TooMany { reason, .. } => *reason,
            Fault::OutsideWindow { .. } => Reason::OutsideTimeWindow,
            Fault::AttributeTooLarge { .. } => Reason::AttributeTooLarge,
            Fault::ValueTooDeep { .. } => Reason::ValueTooDeep,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::IdLength { what, bytes, must, .. } => write!(f, "{what} of {bytes} bytes, must have {must}"),
            Fault::IdZero { what, .. } => write!(f, "{what} of zeros only"),
            Fault::IdNotHex { what, text, .. } => write!(f, "{what} {text:?} is not hex"),
            Fault::TimeMissing { what, .. } => write!(f, "{what} is missing"),
            Fault::TimeTooLarge { what, unix_nano, .. } => {
                write!(f, "{what} {unix_nano} is above the limit of {} unix nanoseconds", i64::MAX)
            }
            Fault::NotATime { what, text, .. } => {
                write!(f, "{what} {text:?} is not a whole number of unix nanoseconds in the range of 64 bits")
            }
            Fault::OutsideWindow { start_unix_nano, window } => write!(
                f,
                "start time {} is outside of {} to {}",
                utc(*start_unix_nano),
                utc(window.start_unix_nano),
                utc(window.end_unix_nano)
            ),
            Fault::TooMany { what, limit, .. } => write!(f, "more {what} than the limit of {limit}"),
            Fault::AttributeTooLarge { key, bytes, limit } => {
                write!(f, "attribute {key:?} of {bytes} bytes, above the limit of {limit}")
            }
            Fault::ValueTooDeep { key, limit } => write!(f, "attribute {key:?} nests deeper than the limit of {limit}"),
        }
    }
}

/// The first characters of a text from the wire, for a message.
fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 64;
    match text.char_indices().nth(CHARACTERS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

fn utc(unix_nano: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nano).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The spans of a request that were not kept: exact counts, and an example of each reason.
#[derive(Clone, Debug, Default)]
pub struct Rejections {
    /// In the order of first occurrence.
    by_reason: Vec<(Reason, u64, String)>,
}

impl Rejections {
    pub(super) fn add(&mut self, fault: &Fault) {
        let reason = fault.reason();
        match self.by_reason.iter_mut().find(|(known, ..)| *known == reason) {
            Some((_, count, _)) => *count += 1,
            None => self.by_reason.push((reason, 1, fault.to_string())),
        }
    }

    /// Whether every span was kept.
    pub fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }

    /// Spans that were not kept.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// How many spans each reason rejected; a span counts once, for the first fault found.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.by_reason.iter().map(|(reason, count, _)| (*reason, *count))
    }
}

impl fmt::Display for Rejections {
    /// For the sender: `rejected 3 spans: 2 invalid trace id (trace id of 2 bytes, must have 16), 1 ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let noun = if total == 1 { "span" } else { "spans" };
        write!(f, "rejected {total} {noun}")?;
        for (index, (reason, count, example)) in self.by_reason.iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            write!(f, "{separator}{count} {} ({example})", reason.label().replace('_', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_reads_counts_reasons_and_examples() {
        let mut rejections = Rejections::default();
        let id = |bytes| Fault::IdLength { reason: Reason::InvalidTraceId, what: "trace id", bytes, must: 16 };
        rejections.add(&id(2));
        rejections.add(&id(3));
        rejections.add(&Fault::OutsideWindow {
            start_unix_nano: 1_000_000_000,
            window: TimeRange::new(946_684_800_000_000_000, 1_795_239_054_500_000_000),
        });
        assert_eq!(
            rejections.to_string(),
            "rejected 3 spans: 2 invalid trace id (trace id of 2 bytes, must have 16), 1 outside time window (start \
             time 1970-01-01T00:00:01Z is outside of 2000-01-01T00:00:00Z to 2026-11-21T05:30:54.500Z)"
        );
        assert_eq!(rejections.total(), 3);
        let counts: Vec<_> = rejections.iter().collect();
        assert_eq!(counts, [(Reason::InvalidTraceId, 2), (Reason::OutsideTimeWindow, 1)]);
    }

    #[test]
    fn long_keys_are_cut_in_messages() {
        let text = Fault::too_deep(&"é".repeat(1000), &Limits::default()).to_string();
        assert!(text.len() < 250, "{text}");
    }
}
