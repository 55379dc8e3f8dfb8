//! A reader of JSON that pulls, borrows, keeps numbers as written and bounds nesting.
//!
//! A general library would do but for three things that OTLP needs: doubles exact to the last bit, integers beyond 2^53
//! both as numbers and as strings, and objects whose order and duplicate keys survive.

use std::borrow::Cow;

/// Why a text is not the JSON it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: Cow<'static, str>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// What the next value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "a truth value",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "an array",
            Kind::Object => "an object",
        }
    }
}

/// Deepest nesting of arrays and objects: a value of OTLP/JSON takes three levels per level of its own.
const DEPTH_MAX: usize = 256;

/// Reads one JSON text from front to back.
#[derive(Clone, Debug)]
pub(super) struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> JsonReader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// An error at the current place.
    pub(super) fn error(&self, problem: impl Into<Cow<'static, str>>) -> JsonError {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        JsonError {
            problem: problem.into(),
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
            column: 1 + before[line_start..].chars().count(),
        }
    }

    /// The kind of the next value.
    pub(super) fn kind(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'"') => Ok(Kind::String),
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            Some(_) => Err(self.error("expected a JSON value")),
            None => Err(self.error("the JSON text ends too early")),
        }
    }

    /// Takes a `null`, if it is the next value.
    pub(super) fn null(&mut self) -> Result<bool, JsonError> {
        if self.kind()? != Kind::Null {
            return Ok(false);
        }
        self.word("null")?;
        Ok(true)
    }

    /// A `true` or `false`.
    pub(super) fn bool(&mut self) -> Result<bool, JsonError> {
        let truth = self.peek() == Some(b't');
        self.word(if truth { "true" } else { "false" })?;
        Ok(truth)
    }

    /// A number, as written.
    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        self.peek();
        let start = self.at;
        self.take(|byte| byte == b'-', 1);
        let whole = self.take(|byte| byte.is_ascii_digit(), usize::MAX);
        let leading_zero = whole > 1 && self.text.as_bytes()[self.at - whole] == b'0';
        let mut valid = whole > 0 && !leading_zero;
        if self.take(|byte| byte == b'.', 1) == 1 {
            valid &= self.take(|byte| byte.is_ascii_digit(), usize::MAX) > 0;
        }
        if self.take(|byte| byte == b'e' || byte == b'E', 1) == 1 {
            self.take(|byte| byte == b'+' || byte == b'-', 1);
            valid &= self.take(|byte| byte.is_ascii_digit(), usize::MAX) > 0;
        }
        if valid { Ok(&self.text[start..self.at]) } else { Err(self.error("expected a number")) }
    }

    /// A string with its escapes undone; borrowed if there are none.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.punctuation(b'"', "expected a string")?;
        let start = self.at;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(plain));
                }
                Some(b'\\') => break,
                Some(0..0x20) => return Err(self.error("a control character in a string is not escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.error("the JSON text ends inside a string")),
            }
        }
        let mut out = String::from(&self.text[start..self.at]);
        let mut plain_from = self.at;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    out.push_str(&self.text[plain_from..self.at]);
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => {
                    out.push_str(&self.text[plain_from..self.at]);
                    self.at += 1;
                    out.push(self.escape()?);
                    plain_from = self.at;
                }
                Some(0..0x20) => return Err(self.error("a control character in a string is not escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.error("the JSON text ends inside a string")),
            }
        }
    }

    /// Calls `field` for each key of an object; it must take the value.
    pub(super) fn object<E: From<JsonError>>(
        &mut self,
        mut field: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(b'{', "expected an object")?;
        let mut first = true;
        while !self.leave(b'}')? {
            if !std::mem::take(&mut first) {
                self.punctuation(b',', "expected , or }")?;
            }
            let key = self.string()?;
            self.punctuation(b':', "expected :")?;
            field(self, key)?;
        }
        Ok(())
    }

    /// Calls `element` for each element of an array; it must take the value.
    pub(super) fn array<E: From<JsonError>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(b'[', "expected an array")?;
        let mut first = true;
        while !self.leave(b']')? {
            if !std::mem::take(&mut first) {
                self.punctuation(b',', "expected , or ]")?;
            }
            element(self)?;
        }
        Ok(())
    }

    /// Takes any value and forgets it.
    pub(super) fn skip(&mut self) -> Result<(), JsonError> {
        match self.kind()? {
            Kind::Null => self.word("null"),
            Kind::Bool => self.bool().map(|_| ()),
            Kind::Number => self.number().map(|_| ()),
            Kind::String => self.string().map(|_| ()),
            Kind::Array => self.array(Self::skip),
            Kind::Object => self.object(|reader, _| reader.skip()),
        }
    }

    /// Whether nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("text after the end of the JSON value")),
        }
    }

    /// Skips white space; the next byte.
    fn peek(&mut self) -> Option<u8> {
        self.take(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'), usize::MAX);
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips up to `max` bytes of a kind; how many.
    fn take(&mut self, of_kind: impl Fn(u8) -> bool, max: usize) -> usize {
        let count = self.text.as_bytes()[self.at..].iter().take(max).take_while(|byte| of_kind(**byte)).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        self.peek();
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error(format!("expected {word}")));
        }
        self.at += word.len();
        Ok(())
    }

    fn punctuation(&mut self, byte: u8, otherwise: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.error(otherwise));
        }
        self.at += 1;
        Ok(())
    }

    fn enter(&mut self, open: u8, otherwise: &'static str) -> Result<(), JsonError> {
        self.punctuation(open, otherwise)?;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(format!("nested deeper than the limit of {DEPTH_MAX}")));
        }
        Ok(())
    }

    fn leave(&mut self, close: u8) -> Result<bool, JsonError> {
        if self.peek() != Some(close) {
            return Ok(false);
        }
        self.at += 1;
        self.depth -= 1;
        Ok(true)
    }

    /// The character that an escape stands for, from behind the backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.text.as_bytes().get(self.at).copied();
        let character = match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.error("unknown escape in a string")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.error("a surrogate in a string has no partner"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.error("a surrogate in a string has no partner"))
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("\\u needs four hex digits"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), JsonError> {
        let mut reader = JsonReader::new(text);
        reader.skip()?;
        reader.end()
    }

    #[test]
    fn what_serde_json_reads_is_read_and_nothing_else() {
        let texts = [
            "null",
            "true",
            "false",
            "tru",
            "nul",
            "",
            " ",
            "1",
            "-1",
            "01",
            "-",
            "1.",
            ".5",
            "1e5",
            "1E+5",
            "1e",
            "0",
            "-0.0",
            "\"a\"",
            "\"",
            "\"\\u12\"",
            "\"\\ud83e\\udd80\"",
            "\"\\ud83e\"",
            "\"\\q\"",
            "\"\n\"",
            "[]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1",
            "{}",
            "{\"a\":1}",
            "{\"a\" 1}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":1",
            "1 2",
            "[1]]",
            " [ { \"a\" : [ null , true ] } ] ",
            "\"\\/\\b\\f\"",
        ];
        for text in texts {
            let theirs = serde_json::from_str::<serde_json::Value>(text);
            assert_eq!(check(text).is_ok(), theirs.is_ok(), "{text}");
        }
    }

    #[test]
    fn strings_are_unescaped() {
        for text in ["\"\\u00e9 \\ud83e\\udd80 \\\" \\\\ \\/ \\n\"", "\"plain é\"", "\"\\b\\f\\r\\t\""] {
            let ours = JsonReader::new(text).string().unwrap().into_owned();
            assert_eq!(ours, serde_json::from_str::<String>(text).unwrap());
        }
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(check(&("[".repeat(256) + &"]".repeat(256))).is_ok());
        let error = check(&"[".repeat(1_000_000)).unwrap_err();
        assert_eq!(error.to_string(), "nested deeper than the limit of 256 at line 1, column 258");
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        assert_eq!(check("{\n  \"é\": x}").unwrap_err().to_string(), "expected a JSON value at line 2, column 8");
    }
}
