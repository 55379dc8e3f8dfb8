//! The tokens of JSON that more than one writer here needs.

use std::fmt::Write as _;

/// Appends a quoted string with what JSON demands escaped, and nothing else.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => push_display(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

/// Appends what `value` displays.
pub(super) fn push_display(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    _ = write!(out, "{value}");
}

/// The name of a double that JSON has no number for.
pub(super) fn non_finite_name(number: f64) -> Option<&'static str> {
    if number.is_finite() {
        None
    } else if number.is_nan() {
        Some("NaN")
    } else if number > 0.0 {
        Some("Infinity")
    } else {
        Some("-Infinity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back_as_they_were() {
        for text in ["", "plain", "\"\\\n\r\t\0\u{1f}\u{7f}", "é \u{2028} 🦀", "ends with \""] {
            let mut json = String::new();
            push_string(&mut json, text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text, "{json}");
        }
    }
}
