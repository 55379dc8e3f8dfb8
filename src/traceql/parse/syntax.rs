//! What to say where the grammar's parser stopped.

use pest::{
    Parser as _,
    error::{Error, ErrorVariant, InputLocation},
};

use super::grammar::{Rule, TraceQlParser};
use crate::traceql::{ast::TextRange, error::TraceQlError, literal, names};

/// How many things an error says it expected.
const EXPECTED_MAX: usize = 6;

/// How much of a token an error repeats, in characters.
const TOKEN_CHARS_MAX: usize = 40;

/// The byte at which a parse stopped.
pub(super) fn place(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    }
}

/// The error for a parse that stopped.
pub(super) fn error(text: &str, error: &Error<Rule>) -> TraceQlError {
    if let Some(statement) = sql(text) {
        return statement;
    }
    let start = place(error);
    let token = token_at(text, start);
    let range = TextRange { start, end: start + token.len() };
    if let Some(help) = missing_operator(token) {
        return TraceQlError::parse(format!("syntax error: unexpected {token}, expected an operator"), range)
            .with_help(help);
    }
    if let Some(problem) = unknown_function(text, start, token) {
        return TraceQlError::parse(problem, range);
    }
    let shown = shorten(token);
    let unexpected = if token.is_empty() { "end of the query" } else { shown.as_str() };
    let expected = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => expected(positives),
        ErrorVariant::CustomError { .. } => Vec::new(),
    };
    let problem = match expected.split_last() {
        None => format!("syntax error: unexpected {unexpected}"),
        Some((last, [])) => format!("syntax error: unexpected {unexpected}, expected {last}"),
        Some((last, rest)) => {
            format!("syntax error: unexpected {unexpected}, expected {} or {last}", rest.join(", "))
        }
    };
    let fault = TraceQlError::parse(problem, range);
    match help(text, start, token).or_else(|| misplaced(text, start, token, &expected)) {
        Some(help) => fault.with_help(help),
        None => fault,
    }
}

fn token_at(text: &str, start: usize) -> &str {
    let rest = text.get(start..).unwrap_or_default();
    let token = TraceQlParser::parse(Rule::token, rest).ok().and_then(|mut pairs| pairs.next());
    token.map_or("", |pair| pair.as_str())
}

fn shorten(token: &str) -> String {
    match token.char_indices().nth(TOKEN_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &token[..cut]),
        None => token.to_owned(),
    }
}

/// The error for a statement of SQL.
fn sql(text: &str) -> Option<TraceQlError> {
    let start = text.len() - text.trim_start().len();
    let word = text[start..].split(char::is_whitespace).next()?;
    // In TraceQL, an open parenthesis follows this word.
    if !word.eq_ignore_ascii_case("select") || text[start + word.len()..].trim_start().starts_with('(') {
        return None;
    }
    let problem = format!("syntax error: unexpected {word}, expected a filter {{ ... }}");
    let range = TextRange { start, end: start + word.len() };
    Some(TraceQlError::parse(problem, range).with_help("SQL goes to /api/sql, to Flight SQL or to tracehouse sql"))
}

/// Operators of other languages.
fn missing_operator(token: &str) -> Option<&'static str> {
    Some(match token.to_ascii_lowercase().as_str() {
        "in" => "one of several values is .a =~ `x|y`, or .a = 1 || .a = 2",
        "like" | "ilike" | "contains" | "matches" => "a part of a text is found with .a =~ `.*part.*`",
        _ => return None,
    })
}

fn unknown_function(text: &str, start: usize, token: &str) -> Option<String> {
    let is_word = token.chars().all(|c| c.is_alphanumeric() || c == '_') && !token.is_empty();
    let called = text[start + token.len()..].trim_start().starts_with('(');
    if !is_word || !called || names::FUNCTIONS.contains(&token) {
        return None;
    }
    let problem = format!("unknown function: {}", shorten(token));
    Some(match names::nearest_function(token) {
        Some(near) => format!("{problem}; did you mean {near}?"),
        None => problem,
    })
}

/// What a reader of the query would call the rules that might have matched.
fn expected(rules: &[Rule]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for rule in rules {
        let name = match rule {
            Rule::EOI => "the end",
            Rule::pipe_sign => "|",
            Rule::open_sign | Rule::group | Rule::parenthesised | Rule::bare_parenthesised => "(",
            Rule::close_sign => ")",
            Rule::close_brace_sign => "}",
            Rule::comma_sign => ",",
            Rule::equals_sign => "=",
            Rule::query | Rule::pipeline | Rule::expression | Rule::filter => "a filter { ... }",
            Rule::string | Rule::reference | Rule::alias | Rule::field => "an attribute or a value",
            Rule::number | Rule::signed_number | Rule::numeric => "a number",
            Rule::word | Rule::hint => "a name",
            Rule::hints => "with(...)",
            Rule::logical
            | Rule::logical_word
            | Rule::relation
            | Rule::comparison
            | Rule::additive
            | Rule::multiplicative
            | Rule::power
            | Rule::threshold => "an operator",
            Rule::aggregate
            | Rule::count
            | Rule::reduction
            | Rule::group_by
            | Rule::labels
            | Rule::select
            | Rule::coalesce
            | Rule::metrics
            | Rule::rank
            | Rule::rank_name
            | Rule::reducer => "a function",
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.contains(&"an attribute or a value") {
        names.retain(|name| *name != "a number");
    }
    names.truncate(EXPECTED_MAX);
    names
}

/// Mistakes that people make often.
fn help(text: &str, start: usize, token: &str) -> Option<&'static str> {
    let before = text[..start].trim_end();
    match token {
        "=" | "=~" if before.ends_with('=') => Some("equality is written with one ="),
        "'" => Some("strings stand in double quotes or back quotes"),
        "\"" => Some("the string does not end; it may not hold a line break"),
        "`" => Some("the string does not end"),
        "/" if text[start..].starts_with("/*") => Some("the comment does not end"),
        "." if text[start + 1..].starts_with('"') => Some("the quoted name does not end"),
        "." => Some("an attribute has a name after the dot: .a, span.a"),
        "and" | "AND" => Some("and is written &&"),
        "or" | "OR" => Some("or is written ||"),
        _ if is_last_word(before, "not") => Some("not is written !( ... )"),
        _ if before.is_empty() && token.starts_with(|c: char| c.is_alphabetic() || c == '.') => {
            Some("a filter stands in braces: { status = error }")
        }
        _ => None,
    }
}

/// Mistakes that show by what was expected in place of the token.
fn misplaced(text: &str, start: usize, token: &str, expected: &[&str]) -> Option<&'static str> {
    if !expected.contains(&"an operator") {
        return None;
    }
    let before = text[..start].trim_end();
    let stage = before.rsplit('|').next().unwrap_or_default().trim_start();
    let opener = before.rfind('(').map_or("", |at| &before[..at]);
    match token {
        "&" => Some("and is written &&"),
        "|" if expected.contains(&"}") => Some("or is written ||"),
        "," if is_last_word(opener, "by") => Some("by() takes one expression; several are stages: by(.a) | by(.b)"),
        "+" | "-" | "*" | "/" if stage.starts_with("rate") || stage.contains("_over_time") => {
            Some("arithmetic takes time series in parentheses: ({} | rate()) * 60")
        }
        "{" if before.ends_with('}') => Some("filters are joined by && or ||, by > or >>, or by | as stages"),
        _ if literal::is_unit(token) && before.ends_with(|c: char| c.is_ascii_digit()) => {
            Some("a duration has no space before its unit: 1s")
        }
        _ if before.is_empty() || before.ends_with('}') => None,
        _ => token.starts_with(|c: char| c.is_alphabetic() || c == '.').then_some("conditions are joined by && or ||"),
    }
}

fn is_last_word(text: &str, word: &str) -> bool {
    let last = text.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
    last.is_some_and(|last| last.eq_ignore_ascii_case(word))
}
