//! Constants: numbers, durations, strings and the words for status and kind; how they are read, written and folded.

use std::fmt;

use super::ast::ArithmeticOp;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `nil`: no value.
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// `200`, `minInt`
    Int(i64),
    /// `0.5`; always finite.
    Float(f64),
    /// `1h30m`, in nanoseconds.
    Duration(i64),
    /// `"text"`
    String(String),
    /// `ok`, `error`, `unset`
    Status(Status),
    /// `server`, `client` and so on.
    Kind(Kind),
}

/// The status of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the status of that name")]
pub enum Status {
    Unset,
    Ok,
    Error,
}

impl Status {
    /// All of them, in the order of OTLP's numbers.
    pub const ALL: [Status; 3] = [Status::Unset, Status::Ok, Status::Error];

    /// The word in queries and answers.
    pub fn name(self) -> &'static str {
        match self {
            Status::Unset => "unset",
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }

    /// The status of a word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// The kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the kind of that name")]
pub enum Kind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

impl Kind {
    /// All of them, in the order of OTLP's numbers.
    pub const ALL: [Kind; 6] =
        [Kind::Unspecified, Kind::Internal, Kind::Server, Kind::Client, Kind::Producer, Kind::Consumer];

    /// The word in queries and answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unspecified => "unspecified",
            Kind::Internal => "internal",
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Producer => "producer",
            Kind::Consumer => "consumer",
        }
    }

    /// The kind of a word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Literal {
    /// The value as a number for comparisons, durations in nanoseconds.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Literal::Int(value) | Literal::Duration(value) => Some(*value as f64),
            Literal::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The constant with its sign turned, if it is a number whose negative exists.
    pub(super) fn negated(&self) -> Option<Literal> {
        match self {
            Literal::Int(value) => value.checked_neg().map(Literal::Int),
            Literal::Duration(value) => value.checked_neg().map(Literal::Duration),
            Literal::Float(value) => Some(Literal::Float(-value)),
            _ => None,
        }
    }

    /// Whether the printed form starts with a minus.
    pub(super) fn is_negative(&self) -> bool {
        match self {
            Literal::Int(value) => *value < 0 && *value != i64::MIN,
            Literal::Duration(value) => *value < 0,
            Literal::Float(value) => value.is_sign_negative(),
            _ => false,
        }
    }
}

// ---- numbers --------------------------------------------------------------------------------------------------------

/// Units of durations and their nanoseconds; days, weeks and years as in Prometheus.
const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 7 * 86_400_000_000_000),
    ("y", 365 * 86_400_000_000_000),
];

/// Whether durations have a unit of that name.
pub(super) fn is_unit(name: &str) -> bool {
    UNITS.iter().any(|(unit, _)| *unit == name)
}

/// Reads a token that starts like a number.
pub(super) fn parse_number(token: &str) -> Result<Literal, String> {
    if let Some((digits, radix)) = go_integer(token) {
        let out_of_range = |_| format!("integer {token} is out of range");
        return i64::from_str_radix(&digits, radix).map(Literal::Int).map_err(out_of_range);
    }
    if token.bytes().all(|b| b.is_ascii_digit()) {
        return token.parse().map(Literal::Int).map_err(|_| format!("integer {token} is out of range"));
    }
    if token.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && let Ok(value) = token.parse::<f64>()
    {
        let out_of_range = || format!("number {token} is out of range");
        return Some(value).filter(|value| value.is_finite()).map(Literal::Float).ok_or_else(out_of_range);
    }
    parse_duration(token).map(Literal::Duration)
}

/// The digits and base of an integer in the forms of Go that others do not read: `0x1f`, `0o17`, `0b11`, `1_000`.
fn go_integer(token: &str) -> Option<(String, u32)> {
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let prefixed = prefixes.iter().find_map(|(prefix, radix)| Some((token.strip_prefix(prefix)?, *radix)));
    let (text, radix) = prefixed.unwrap_or((token, 10));
    let digits = text.replace('_', "");
    let is_separated = !text.contains("__") && !text.ends_with('_') && (radix != 10 || !text.starts_with('_'));
    let is_integer = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) && is_separated;
    (is_integer && (radix != 10 || text.contains('_'))).then_some((digits, radix))
}

/// Reads `1h30m`, `1.5s`, `1d12h` as nanoseconds. The error says what is wrong with it.
pub fn parse_duration(token: &str) -> Result<i64, String> {
    let malformed = || format!("{token} is neither a number nor a duration");
    let too_long = || format!("duration {token} is out of range");
    let mut rest = token;
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (value, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, unit_nanos) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
            let units: Vec<&str> = UNITS.iter().map(|(name, _)| *name).filter(|name| name.is_ascii()).collect();
            format!("{token} is neither a number nor a duration: {unit} is not one of the units {}", units.join(" "))
        })?;
        nanos += decimal_times(value, *unit_nanos).ok_or_else(malformed)?;
        if nanos > i128::from(i64::MAX) {
            return Err(too_long());
        }
        rest = tail;
    }
    i64::try_from(nanos).map_err(|_| too_long())
}

/// `value * scale` without rounding errors, truncated; none if `value` is not `1`, `1.5`, `1.` or `.5`.
fn decimal_times(value: &str, scale: i64) -> Option<i128> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let scale = i128::from(scale);
    // Twenty digits are beyond any duration; more of them only overflow later.
    let whole: i128 = if whole.is_empty() { 0 } else { whole.get(..20).unwrap_or(whole).parse().ok()? };
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole * scale + parts * scale / 10_i128.pow(fraction.len() as u32))
}

/// The form of a duration that Go prints and Tempo's clients read: `1h30m0s`, `1.5s`, `100ms`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let body = match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{magnitude}ns"),
        1_000..1_000_000 => with_fraction(magnitude, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => with_fraction(magnitude, 1_000_000, "ms"),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let seconds = with_fraction(magnitude % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{body}")
}

fn with_fraction(nanos: u64, unit_nanos: u64, unit: &str) -> String {
    let (whole, rest) = (nanos / unit_nanos, nanos % unit_nanos);
    if rest == 0 {
        return format!("{whole}{unit}");
    }
    let digits = unit_nanos.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}{unit}", fraction.trim_end_matches('0'))
}

// ---- strings --------------------------------------------------------------------------------------------------------

/// A fault in a quoted string: byte offset in the token, and what is wrong.
pub(super) type StringFault = (usize, String);

/// The value of a string token, with Go's rules: escapes in double quotes, none in back quotes.
pub(super) fn unquote(token: &str) -> Result<String, StringFault> {
    if let Some(raw) = token.strip_prefix('`') {
        return Ok(raw.trim_end_matches('`').replace('\r', ""));
    }
    let body = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(backslash) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..backslash]);
        let escape = &rest[backslash + 1..];
        let at = 1 + body.len() - escape.len() - 1;
        let used = unescape(escape, &mut bytes).map_err(|problem| (at, problem))?;
        rest = &escape[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| (0, "string is not valid UTF-8".to_owned()))
}

/// Appends what the escape after a backslash stands for; returns how many bytes of `text` it has.
fn unescape(text: &str, bytes: &mut Vec<u8>) -> Result<usize, String> {
    let letter = text.chars().next().unwrap_or('\\');
    let simple = match letter {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => return numeric_escape(text, 1, 2, 16, bytes),
        'u' => return numeric_escape(text, 1, 4, 16, bytes),
        'U' => return numeric_escape(text, 1, 8, 16, bytes),
        '0'..='7' => return numeric_escape(text, 0, 3, 8, bytes),
        _ => return Err(format!("unknown escape \\{letter}; write \\\\{letter}, or put the string in back quotes")),
    };
    bytes.push(simple);
    Ok(1)
}

fn numeric_escape(text: &str, skip: usize, digits: usize, radix: u32, bytes: &mut Vec<u8>) -> Result<usize, String> {
    let malformed = || format!("escape \\{} is malformed", text.chars().take(skip + digits).collect::<String>());
    let digits_text = text.get(skip..skip + digits).ok_or_else(malformed)?;
    if !digits_text.chars().all(|c| c.is_digit(radix)) {
        return Err(malformed());
    }
    let value = u32::from_str_radix(digits_text, radix).map_err(|_| malformed())?;
    if digits > 3 {
        let c = char::from_u32(value).ok_or_else(malformed)?;
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        bytes.push(u8::try_from(value).map_err(|_| malformed())?);
    }
    Ok(skip + digits)
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.contains(['`', '\r']) {
        return write!(f, "`{text}`");
    }
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Nil => f.write_str("nil"),
            Literal::Bool(value) => write!(f, "{value}"),
            Literal::Int(i64::MIN) => f.write_str("minInt"),
            Literal::Int(value) => write!(f, "{value}"),
            // The debug form keeps the point, so that it reads as a float again.
            Literal::Float(value) => write!(f, "{value:?}"),
            Literal::Duration(nanos) => f.write_str(&format_duration(*nanos)),
            Literal::String(text) => write_quoted(f, text),
            Literal::Status(status) => f.write_str(status.name()),
            Literal::Kind(kind) => f.write_str(kind.name()),
        }
    }
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

/// The value of `lhs op rhs`, or none if a side is not a number.
///
/// Integers stay integers where the result is one and fits; a division of integers truncates. A duration counts as its
/// nanoseconds, and stays a duration where that makes sense.
pub(super) fn arithmetic(op: ArithmeticOp, lhs: &Literal, rhs: &Literal) -> Result<Option<Literal>, &'static str> {
    use Literal::{Duration, Int};
    let (Some(left), Some(right)) = (lhs.as_f64(), rhs.as_f64()) else {
        return Ok(None);
    };
    let exact = match (lhs, rhs) {
        (Int(a) | Duration(a), Int(b) | Duration(b)) if !ratio(op, lhs, rhs) => integer_arithmetic(op, *a, *b)?,
        _ => None,
    };
    if let Some(value) = exact {
        match is_duration(op, lhs, rhs) {
            // The least duration has no text of its own.
            true if value != i64::MIN => return Ok(Some(Duration(value))),
            true => {}
            false => return Ok(Some(Int(value))),
        }
    }
    let value = match op {
        ArithmeticOp::Add => left + right,
        ArithmeticOp::Sub => left - right,
        ArithmeticOp::Mul => left * right,
        ArithmeticOp::Div => left / right,
        ArithmeticOp::Mod => left % right,
        ArithmeticOp::Pow => left.powf(right),
    };
    if !value.is_finite() {
        return Err("the result is not a finite number");
    }
    let fits = value.abs() < i64::MAX as f64;
    Ok(Some(if is_duration(op, lhs, rhs) && fits { Duration(value.round() as i64) } else { Literal::Float(value) }))
}

/// A duration divided by a duration, or any power with one, is a plain number.
fn ratio(op: ArithmeticOp, lhs: &Literal, rhs: &Literal) -> bool {
    let durations = matches!(lhs, Literal::Duration(_)) && matches!(rhs, Literal::Duration(_));
    durations && op == ArithmeticOp::Div
}

fn is_duration(op: ArithmeticOp, lhs: &Literal, rhs: &Literal) -> bool {
    let any = matches!(lhs, Literal::Duration(_)) || matches!(rhs, Literal::Duration(_));
    any && op != ArithmeticOp::Pow && !ratio(op, lhs, rhs)
}

/// None where the result is no integer or does not fit.
pub(super) fn integer_arithmetic(op: ArithmeticOp, a: i64, b: i64) -> Result<Option<i64>, &'static str> {
    Ok(match op {
        ArithmeticOp::Add => a.checked_add(b),
        ArithmeticOp::Sub => a.checked_sub(b),
        ArithmeticOp::Mul => a.checked_mul(b),
        ArithmeticOp::Div | ArithmeticOp::Mod if b == 0 => return Err("division by zero"),
        ArithmeticOp::Div => a.checked_div(b),
        ArithmeticOp::Mod => a.checked_rem(b),
        ArithmeticOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn numbers_and_durations_read_as_prometheus_and_go_read_them() {
        for (token, expected) in [
            ("0", Literal::Int(0)),
            ("007", Literal::Int(7)),
            ("0x1F", Literal::Int(31)),
            ("0b101", Literal::Int(5)),
            ("0o17", Literal::Int(15)),
            ("1_000", Literal::Int(1000)),
            (".5", Literal::Float(0.5)),
            ("1.", Literal::Float(1.0)),
            ("1e3", Literal::Float(1000.0)),
            ("2.5E-3", Literal::Float(0.0025)),
            ("1h30m", Literal::Duration(5400 * SECOND)),
            ("1.5s", Literal::Duration(1_500_000_000)),
            ("100ms", Literal::Duration(100_000_000)),
            ("3us", Literal::Duration(3_000)),
            ("3\u{b5}s", Literal::Duration(3_000)),
            ("1d", Literal::Duration(86_400 * SECOND)),
            ("1w", Literal::Duration(7 * 86_400 * SECOND)),
            ("1y", Literal::Duration(365 * 86_400 * SECOND)),
            ("1h0m0.000000001s", Literal::Duration(3600 * SECOND + 1)),
        ] {
            assert_eq!(parse_number(token), Ok(expected), "{token}");
        }
        for token in
            ["9223372036854775808", "1e999", "10min", "1s5", "1.2.3s", "300y", "1__0", "1_", "0x", "0b2", "0x1g", "."]
        {
            assert!(parse_number(token).is_err(), "{token}");
        }
    }

    #[test]
    fn durations_print_as_go_prints_them_and_read_back() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (100_000_000, "100ms"),
            (1_017_798_298, "1.017798298s"),
            (90 * SECOND, "1m30s"),
            (3600 * SECOND, "1h0m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
        ] {
            assert_eq!(format_duration(nanos), text);
            assert_eq!(parse_number(text).ok().filter(|_| nanos > 0).unwrap_or(Literal::Duration(nanos)), {
                Literal::Duration(nanos)
            });
        }
        assert_eq!(format_duration(-SECOND), "-1s");
    }

    #[test]
    fn escapes_are_those_of_go() {
        assert_eq!(unquote(r#""a\"b\\c\n\x41\u00e9\101""#).unwrap(), "a\"b\\c\nA\u{e9}A");
        assert_eq!(unquote(r"`a\d`").unwrap(), r"a\d");
        assert_eq!(unquote(r#""a\d""#).unwrap_err().0, 2);
        for bad in [r#""\x4""#, r#""\u12""#, r#""\400""#, r#""\xff""#, r#""\ud800""#, r#""\'""#] {
            assert!(unquote(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn constants_fold_without_overflow() {
        use ArithmeticOp::*;
        use Literal::{Duration, Float, Int};
        let fold = |op, a, b| arithmetic(op, &a, &b);
        assert_eq!(fold(Div, Int(7), Int(2)), Ok(Some(Int(3))));
        assert_eq!(fold(Pow, Int(2), Int(3)), Ok(Some(Int(8))));
        assert_eq!(fold(Pow, Int(2), Int(-1)), Ok(Some(Float(0.5))));
        assert_eq!(fold(Add, Int(i64::MAX), Int(1)), Ok(Some(Float(i64::MAX as f64 + 1.0))));
        assert_eq!(fold(Mul, Duration(SECOND), Int(2)), Ok(Some(Duration(2 * SECOND))));
        assert_eq!(fold(Mul, Float(1.5), Duration(SECOND)), Ok(Some(Duration(1_500_000_000))));
        assert_eq!(fold(Div, Duration(SECOND), Duration(4 * SECOND)), Ok(Some(Float(0.25))));
        assert_eq!(fold(Div, Int(1), Int(0)), Err("division by zero"));
        assert_eq!(fold(Div, Float(1.0), Int(0)), Err("the result is not a finite number"));
        assert_eq!(fold(Add, Int(1), Literal::Bool(true)), Ok(None));
    }
}
