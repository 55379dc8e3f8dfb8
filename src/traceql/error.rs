//! Errors that point at the place in the query.
//!
//! The first line carries the phrases of Tempo that its clients match on; below it stand the line of the query, a
//! caret under the fault, and a help where there is one:
//!
//! ```text
//! parse error at line 1, col 3: unknown identifier: statuss; did you mean status?
//!   { statuss = ok }
//!     ^^^^^^^
//!
//! binary operations must operate on the same type: name = 1
//!   { name = 1 }
//!     ^^^^^^^^ line 1, col 3
//! help: name is of type string, 1 of type int
//! ```

use std::fmt;

use super::ast::TextRange;
use crate::error::{Error, ErrorKind, shortened};

/// How much of a long line an error shows, in characters.
const EXCERPT_CHARS_MAX: usize = 100;

/// How much of a long name, literal or expression an error repeats, with all that it says about it, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Why a text is not a query that can be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TraceQlError {
    /// The text is not TraceQL.
    #[error("parse error at line {}, col {}: {problem}{place}", place.line, place.column)]
    Parse {
        /// What is wrong, with what was expected.
        problem: String,
        /// Where.
        place: Place,
    },
    /// It is TraceQL, and its types or values make no sense.
    #[error("{problem}{place:#}")]
    Invalid {
        /// What is wrong.
        problem: String,
        /// Where.
        place: Place,
    },
    /// It is TraceQL that is not built.
    #[error("not supported yet: {what}{place:#}")]
    Unsupported {
        /// The construct.
        what: String,
        /// Where.
        place: Place,
    },
    /// The text is too long to look at.
    #[error("TraceQL expression exceeds the configured maximum size of {bytes_max} bytes, it has {bytes}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Where a fault is, and the lines that show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The bytes of the text.
    pub range: TextRange,
    /// Line, from 1; 0 while the text is not known.
    pub line: usize,
    /// Column in characters, from 1; 0 while the text is not known.
    pub column: usize,
    /// What to write instead.
    pub help: Option<String>,
    excerpt: String,
}

impl Place {
    fn new(range: TextRange) -> Self {
        Self { range, ..Self::default() }
    }

    fn locate(&mut self, text: &str) {
        let start = text.floor_char_boundary(self.range.start);
        let end = text.floor_char_boundary(self.range.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        self.line = text[..start].matches('\n').count() + 1;
        self.column = text[line_start..start].chars().count() + 1;
        let marked = text[start..end.min(line_end)].chars().count().max(1);
        self.excerpt = excerpt(&text[line_start..line_end], self.column - 1, marked);
    }
}

/// The alternate form has line and column after the carets.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.excerpt)?;
        if f.alternate() && self.line > 0 {
            write!(f, " line {}, col {}", self.line, self.column)?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl TraceQlError {
    /// A syntax error.
    pub(super) fn parse(problem: impl Into<String>, range: TextRange) -> Self {
        Self::Parse { problem: readable(problem.into()), place: Place::new(range) }
    }

    /// An error of types or values.
    pub(super) fn invalid(problem: impl Into<String>, range: TextRange) -> Self {
        Self::Invalid { problem: readable(problem.into()), place: Place::new(range) }
    }

    /// Something that is not built; `what` names the construct.
    pub fn unsupported(what: impl Into<String>, range: TextRange) -> Self {
        Self::Unsupported { what: readable(what.into()), place: Place::new(range) }
    }

    /// Adds a line that says what to write instead.
    pub(super) fn with_help(mut self, text: impl Into<String>) -> Self {
        if let Some(place) = self.place_mut() {
            place.help = Some(readable(text.into()));
        }
        self
    }

    /// Fills in line, column and excerpt from the query's text.
    pub fn in_text(mut self, text: &str) -> Self {
        if let Some(place) = self.place_mut() {
            place.locate(text);
        }
        self
    }

    fn place_mut(&mut self) -> Option<&mut Place> {
        match self {
            Self::Parse { place, .. } | Self::Invalid { place, .. } | Self::Unsupported { place, .. } => Some(place),
            Self::TooLarge { .. } => None,
        }
    }
}

impl From<TraceQlError> for Error {
    /// All are 400 for Tempo's clients, as in Tempo.
    fn from(error: TraceQlError) -> Self {
        match &error {
            TraceQlError::Parse { .. } | TraceQlError::Invalid { .. } => {
                Error::invalid(format!("invalid TraceQL query: {error}"))
            }
            TraceQlError::Unsupported { .. } => Error::new(ErrorKind::Unsupported, error.to_string()),
            TraceQlError::TooLarge { .. } => Error::invalid(error.to_string()),
        }
    }
}

fn readable(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX { text } else { shortened(&text, TEXT_BYTES_MAX).into_owned() }
}

/// The line, or the part of it around the mark, and carets under the mark; both on lines of their own.
fn excerpt(line: &str, mark: usize, marked: usize) -> String {
    let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let before = EXCERPT_CHARS_MAX / 2;
    let from = if chars.len() <= EXCERPT_CHARS_MAX { 0 } else { mark.saturating_sub(before) };
    let to = chars.len().min(from + EXCERPT_CHARS_MAX);
    let head = if from > 0 { "... " } else { "" };
    let tail = if to < chars.len() { " ..." } else { "" };
    let shown: String = chars[from..to].iter().collect();
    let indent = " ".repeat(head.len() + mark - from);
    let carets = "^".repeat(marked.min(to.saturating_sub(mark)).max(1));
    format!("\n  {head}{shown}{tail}\n  {indent}{carets}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_fault_of_a_long_line_and_a_later_line() {
        let text = format!("{{ .a = 1 }}\n{}x{}", "-".repeat(300), "+".repeat(300));
        let at = text.find('x').unwrap();
        let error = TraceQlError::parse("no", TextRange { start: at, end: at + 1 }).in_text(&text);
        let message = error.to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "parse error at line 2, col 301: no");
        assert_eq!(lines[1].find('x'), lines[2].find('^'));
        assert!(lines[1].len() < 120);
    }

    #[test]
    fn a_place_beyond_the_end_and_inside_a_character_is_shown_without_panic() {
        for (start, end) in [(99, 200), (1, 2), (3, 1)] {
            let error = TraceQlError::invalid("no", TextRange { start, end }).in_text("\u{e9}\u{e9}");
            assert!(error.to_string().contains('^'));
        }
    }
}
