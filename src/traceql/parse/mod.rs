//! Text to tree: bounded first, then parsed by the grammar, then built.
//!
//! The grammar's parser and the tree builder recurse, so a pass without recursion ([`Rule::shape`]) measures the text
//! before they run: brackets nest at most [`BRACKET_DEPTH_MAX`] deep, and no path through the tree is longer than
//! [`EXPRESSION_DEPTH_MAX`]. What passes cannot exhaust a thread's stack, here or in whatever walks the tree later.
//!
//! A text that is no query may be a filter without its braces, `duration > 1s`; the tree is that of the filter.

mod fields;
mod grammar;
mod stages;
mod syntax;

use pest::{Parser as _, iterators::Pair};

use super::{
    ast::{FieldName, Query, RegexOp, TextRange},
    error::TraceQlError,
};
use grammar::{Rule, TraceQlParser};

/// Longest query, as in Tempo.
pub const QUERY_BYTES_MAX: usize = 128 * 1024;

/// How deep braces and parentheses nest.
pub const BRACKET_DEPTH_MAX: usize = 64;

/// Operators and brackets on any path from the root of the tree to a leaf, at most.
pub const EXPRESSION_DEPTH_MAX: usize = 500;

/// Regular expressions of a query, at most: to compile one takes milliseconds at worst.
pub const REGEXES_MAX: usize = 200;

/// Reads a query. Whether its types make sense is for [`super::check()`].
pub fn parse(text: &str) -> Result<Query, TraceQlError> {
    read(text).map_err(|error| error.in_text(text))
}

/// Reads the name of one attribute or intrinsic, as it stands in requests for tag values.
pub fn parse_reference(text: &str) -> Result<FieldName, TraceQlError> {
    let read = || {
        check_size(text)?;
        let pairs = TraceQlParser::parse(Rule::lone_reference, text).map_err(|error| syntax::error(text, &error))?;
        Ok(fields::field(&only_child(only(pairs)?)?)?.name)
    };
    read().map_err(|error: TraceQlError| error.in_text(text))
}

fn read(text: &str) -> Result<Query, TraceQlError> {
    check_size(text)?;
    check_depth(text)?;
    let fault = match TraceQlParser::parse(Rule::query, text) {
        Ok(pairs) => return stages::query(only(pairs)?),
        Err(fault) => fault,
    };
    match TraceQlParser::parse(Rule::bare_query, text) {
        Ok(pairs) => stages::query(only(pairs)?),
        // Whichever reading got farther is the one that was meant.
        Err(bare) if syntax::place(&bare) > syntax::place(&fault) => Err(syntax::error(text, &bare)),
        Err(_) => Err(syntax::error(text, &fault)),
    }
}

fn check_size(text: &str) -> Result<(), TraceQlError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(TraceQlError::TooLarge { bytes: text.len(), bytes_max: QUERY_BYTES_MAX });
    }
    Ok(())
}

/// A bracket that is open.
#[derive(Default)]
struct Open {
    /// `&&` and `||` directly in it.
    joints: usize,
    /// Other operators since the last of these.
    signs: usize,
    /// Depth of the deepest closed bracket since then.
    inner: usize,
    /// Depth of the deepest part between two of these.
    part: usize,
}

impl Open {
    fn end_part(&mut self) {
        self.part = self.part.max(self.signs + self.inner);
        self.signs = 0;
        self.inner = 0;
    }

    /// No tree of what was seen so far is deeper.
    fn depth(&self) -> usize {
        self.joints + self.part.max(self.signs + self.inner) + 1
    }
}

/// Refuses a text whose tree would be too deep, or too dear to check. Every operator counts as a level, but for those on two sides of an
/// `&&` or `||`, which bind loosest and so keep the sides apart.
fn check_depth(text: &str) -> Result<(), TraceQlError> {
    let pairs = TraceQlParser::parse(Rule::shape, text).map_err(|error| syntax::error(text, &error))?;
    let mut outer: Vec<Open> = Vec::new();
    let mut current = Open::default();
    // Levels of the open brackets around the current one.
    let mut above = 0;
    let mut regexes = 0;
    for pair in only(pairs)?.into_inner() {
        match pair.as_rule() {
            Rule::opening => {
                above += current.joints + current.signs + 1;
                outer.push(std::mem::take(&mut current));
            }
            Rule::closing => {
                let depth = current.depth();
                current = outer.pop().unwrap_or_default();
                above = above.saturating_sub(current.joints + current.signs + 1);
                current.inner = current.inner.max(depth);
            }
            Rule::joint => {
                current.end_part();
                current.joints += 1;
            }
            Rule::sign => {
                current.signs += 1;
                regexes += usize::from(RegexOp::from_sign(pair.as_str()).is_some());
            }
            _ => continue,
        }
        if regexes > REGEXES_MAX {
            let problem = format!("query has more than {REGEXES_MAX} regular expressions");
            return Err(TraceQlError::parse(problem, range_of(&pair)));
        }
        if outer.len() > BRACKET_DEPTH_MAX {
            let problem = format!("brackets are nested more than {BRACKET_DEPTH_MAX} deep");
            return Err(TraceQlError::parse(problem, range_of(&pair)));
        }
        if above + current.depth() > EXPRESSION_DEPTH_MAX {
            let problem = format!("expression is more than {EXPRESSION_DEPTH_MAX} operators deep");
            return Err(TraceQlError::parse(problem, range_of(&pair))
                .with_help("a regular expression such as .a =~ `x|y|z` stands for many comparisons"));
        }
    }
    Ok(())
}

fn range_of(pair: &Pair<'_, Rule>) -> TextRange {
    let span = pair.as_span();
    TextRange { start: span.start(), end: span.end() }
}

/// The next of the children that the grammar promises.
fn only<'i>(mut pairs: impl Iterator<Item = Pair<'i, Rule>>) -> Result<Pair<'i, Rule>, TraceQlError> {
    pairs.next().ok_or_else(|| TraceQlError::parse("syntax error: something is missing", TextRange::default()))
}

fn only_child(pair: Pair<'_, Rule>) -> Result<Pair<'_, Rule>, TraceQlError> {
    let at = range_of(&pair);
    pair.into_inner().next().ok_or_else(|| TraceQlError::parse("syntax error: something is missing", at))
}
