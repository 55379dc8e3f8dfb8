//! Durations as people write them, and time in buckets.
//!
//! | function | answer |
//! |---|---|
//! | `duration_text(nanoseconds)` | `1h2m`, `3.25s`, `250ms`, `12us`: the three leading digits that matter |
//! | `duration_nanos('1m30s')` | nanoseconds; also of fractions such as `1.5ms` |
//! | `time_bucket('5m', time)` | the start of the bucket that the moment is in; buckets begin at 1970-01-01 UTC |

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, StringBuilder, TimestampNanosecondArray},
    datatypes::{DataType, Int64Type, TimeUnit, TimestampNanosecondType},
};
use datafusion::{
    common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        sort_properties::{ExprProperties, SortProperties},
    },
};

use crate::functions::{documentation::documentation_of, scalar_if};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Text,
    Nanos,
    Bucket,
}

/// One of the functions on durations and time.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TimeFunction {
    kind: Kind,
    signature: Signature,
}

impl TimeFunction {
    pub(super) fn all() -> [Self; 3] {
        [Kind::Text, Kind::Nanos, Kind::Bucket]
            .map(|kind| Self { kind, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for TimeFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Text => "duration_text",
            Kind::Nanos => "duration_nanos",
            Kind::Bucket => "time_bucket",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |given: &DataType| given.is_string() || given.is_null();
        match (self.kind, arg_types) {
            (Kind::Text, [nanos]) if nanos.is_numeric() || nanos.is_null() => Ok(vec![DataType::Int64]),
            (Kind::Nanos, [text]) if is_text(text) => Ok(vec![DataType::Utf8]),
            (Kind::Bucket, [width, DataType::Timestamp(_, zone)]) if is_text(width) => {
                Ok(vec![DataType::Utf8, DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())])
            }
            (Kind::Bucket, [width, nanos]) if is_text(width) && (nanos.is_integer() || nanos.is_null()) => {
                Ok(vec![DataType::Utf8, DataType::Int64])
            }
            (Kind::Text, _) => plan_err!("duration_text() takes nanoseconds"),
            (Kind::Nanos, _) => plan_err!("duration_nanos() takes a duration as text, such as '1m30s'"),
            (Kind::Bucket, _) => {
                plan_err!("time_bucket() takes a width such as '5m', and a timestamp or Unix nanoseconds")
            }
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match (self.kind, arg_types) {
            (Kind::Text, _) => DataType::Utf8,
            (Kind::Bucket, [_, DataType::Timestamp(unit, zone)]) => DataType::Timestamp(*unit, zone.clone()),
            _ => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let answer: ArrayRef = match (self.kind, args.args.as_slice()) {
            (Kind::Text, [nanos]) => text_of(nanos.to_array(rows)?.as_primitive::<Int64Type>()),
            (Kind::Nanos, [text]) => {
                let texts = text.to_array(rows)?;
                let nanos = texts.as_string::<i32>().iter().map(|text| text.map(nanos_of).transpose());
                Arc::new(nanos.collect::<Result<Int64Array>>()?)
            }
            (Kind::Bucket, [ColumnarValue::Scalar(width), time]) => {
                let Some(width) = width.try_as_str().flatten() else {
                    return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(args.return_type())?));
                };
                buckets(width, &time.to_array(rows)?)?
            }
            (Kind::Bucket, _) => return exec_err!("the width given to time_bucket() has to be a constant"),
            _ => return exec_err!("{}() got a wrong number of arguments", self.name()),
        };
        scalar_if(all_scalar, answer)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        Ok(match (self.kind, input) {
            // Later moments are in the same or in a later bucket.
            (Kind::Bucket, [_, time]) => time.sort_properties,
            _ => SortProperties::Unordered,
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads numbers with units, one after the other: `1h30m`, `1.5s`, `-20ms`.
fn nanos_of(text: &str) -> Result<i64> {
    let wrong = || exec_datafusion_err!("{text:?} is not a duration; expected one such as 250ms, 1.5s or 1h30m");
    let (sign, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim()),
    };
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').unwrap_or(rest.len());
        let unit = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(wrong)?.1;
        total += number * unit as f64;
        rest = rest[letters..].trim_start();
    }
    let nanos = (sign * total).round();
    if nanos.abs() > i64::MAX as f64 {
        return Err(exec_datafusion_err!("{text:?} is longer than 292 years, the longest duration there is"));
    }
    Ok(nanos as i64)
}

fn text_of(nanos: &Int64Array) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(nanos.len(), 6 * nanos.len());
    for nanos in nanos.iter() {
        texts.append_option(nanos.map(shown));
    }
    Arc::new(texts.finish())
}

fn shown(nanos: i64) -> String {
    let size = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let two = |large: (u64, &str), small: (u64, &str)| {
        let (first, second) = (size / large.0, size % large.0 / small.0);
        match second {
            0 => format!("{sign}{first}{}", large.1),
            _ => format!("{sign}{first}{}{second}{}", large.1, small.1),
        }
    };
    const MINUTE: u64 = 60_000_000_000;
    match size {
        0..1_000 => format!("{sign}{size}ns"),
        1_000..1_000_000 => format!("{sign}{}us", three_digits(size, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", three_digits(size, 1_000_000)),
        1_000_000_000..MINUTE => format!("{sign}{}s", three_digits(size, 1_000_000_000)),
        _ if size < 60 * MINUTE => two((MINUTE, "m"), (1_000_000_000, "s")),
        _ if size < 24 * 60 * MINUTE => two((60 * MINUTE, "h"), (MINUTE, "m")),
        _ => two((24 * 60 * MINUTE, "d"), (60 * MINUTE, "h")),
    }
}

/// `size / unit` with three digits, cut and not rounded, so that 999,999 us do not become 1000 ms.
fn three_digits(size: u64, unit: u64) -> String {
    let (whole, rest) = (size / unit, size % unit);
    let digits: usize = match whole {
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let fraction = rest / (unit / 10u64.pow(2)).max(1);
    let text = format!("{whole}.{fraction:02}");
    let cut = &text[..text.len() - (2 - digits)];
    cut.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn buckets(width: &str, times: &ArrayRef) -> Result<ArrayRef> {
    let width = nanos_of(width)?;
    if width <= 0 {
        return exec_err!("the width given to time_bucket() has to be longer than 0");
    }
    // Buckets before the first that can be written begin with it.
    let start = |nano: i64| nano.div_euclid(width).checked_mul(width).unwrap_or(i64::MIN);
    Ok(match times.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let times = times.as_primitive::<TimestampNanosecondType>();
            let buckets: TimestampNanosecondArray = times.unary(start);
            Arc::new(buckets.with_timezone_opt(zone.clone()))
        }
        _ => {
            let buckets: Int64Array = times.as_primitive::<Int64Type>().unary(start);
            Arc::new(buckets)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1us"),
            (12_340, "12.3us"),
            (999_999, "999us"),
            (250_000_000, "250ms"),
            (3_250_000_000, "3.25s"),
            (59_999_999_999, "59.9s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h"),
            (93_600_000_000_000, "1d2h"),
            (-1_500_000, "-1.5ms"),
        ] {
            assert_eq!(shown(nanos), text);
        }
        assert_eq!(shown(i64::MIN), "-106751d23h");
        for (text, nanos) in
            [("1m30s", 90_000_000_000), ("1.5ms", 1_500_000), ("1h 2m", 3_720_000_000_000), ("-20us", -20_000)]
        {
            assert_eq!(nanos_of(text).unwrap(), nanos, "{text}");
        }
        for wrong in ["", "5", "s", "5 parsecs", "1..5s", "--1s", "300000d", "1s!", "\u{e9}"] {
            assert!(nanos_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buckets_begin_at_the_epoch_also_before_it() {
        let times: ArrayRef = Arc::new(Int64Array::from(vec![Some(-1), Some(0), Some(299_999_999_999), None]));
        let found = buckets("5m", &times).unwrap();
        let expected = Int64Array::from(vec![Some(-300_000_000_000), Some(0), Some(0), None]);
        assert_eq!(found.as_primitive::<Int64Type>(), &expected);
        assert!(buckets("0s", &times).is_err());
    }
}
