//! Filters out of queries that are still being written.
//!
//! `{ resource.service.name = "shop" && span.http.route = }` is what an editor sends when it asks for routes. Matchers that
//! are not finished, or that cannot be answered, become `true`; brackets that are open are closed. Only the first filter of
//! a longer query counts. What cannot be repaired filters nothing.

use crate::{
    query::traceql::spans::SpanSource,
    traceql::{
        ast::{Body, FieldKind, SpansetExpr, Stage, StageKind},
        compile,
        literal::Literal,
    },
};

/// Longest text that is looked at, in bytes; a longer one filters nothing.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Most repaired matchers, each of which is parsed.
const MATCHERS_MAX: usize = 100;

/// The spans that the text asks for; nothing if it demands nothing that can be told.
pub(crate) fn spans(text: Option<&str>) -> Option<SpanSource> {
    let text = text.map(str::trim).filter(|text| !text.is_empty() && text.len() <= TEXT_BYTES_MAX)?;
    match first_filter(text) {
        Some(filter) => search(&filter).or_else(|| search(&repaired(&filter)?)),
        None => search(&repaired(text)?),
    }
}

/// Whether whole traces decide which spans the text asks for.
pub(super) fn reads_trace(text: Option<&str>) -> bool {
    spans(text).is_some_and(|spans| spans.reads_trace())
}

/// The first filter of a query that parses, as a query.
fn first_filter(text: &str) -> Option<String> {
    let query = compile(text).ok()?;
    let pipeline = match query.body {
        Body::Spansets(pipeline) => pipeline,
        Body::Metrics(_) => return None,
    };
    match &pipeline.stages.first()?.kind {
        StageKind::Spansets(SpansetExpr::Filter(filter)) => Some(match &filter.kind {
            FieldKind::Literal(Literal::Bool(true)) => "{ true }".to_owned(),
            _ => format!("{{ {filter} }}"),
        }),
        _ => None,
    }
}

/// Whether a query of one matcher has more than the name of a field, after which an operator is yet to come.
fn is_finished(text: &str) -> bool {
    let Ok(query) = compile(text) else { return false };
    let Body::Spansets(pipeline) = &query.body else { return false };
    match pipeline.stages.as_slice() {
        [Stage { kind: StageKind::Spansets(SpansetExpr::Filter(filter)), .. }] => {
            !matches!(filter.kind, FieldKind::Field(_))
        }
        _ => false,
    }
}

fn search(text: &str) -> Option<SpanSource> {
    if text == "{ true }" {
        return None;
    }
    single(text)
}

/// The spans of a query that is one filter.
fn single(text: &str) -> Option<SpanSource> {
    let Body::Spansets(pipeline) = compile(text).ok()?.body else { return None };
    matches!(pipeline.stages.as_slice(), [Stage { kind: StageKind::Spansets(SpansetExpr::Filter(_)), .. }])
        .then(|| SpanSource::compile(&pipeline).ok())?
}

/// A part of what is between the braces.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part<'a> {
    Open,
    Close,
    Operator(&'a str),
    Matcher(&'a str),
}

fn repaired(text: &str) -> Option<String> {
    let inside = inside_braces(text)?;
    let mut query = String::from("{ ");
    let (mut depth, mut matchers) = (0_usize, 0);
    // A matcher has to follow an operator and the beginning, an operator a matcher.
    let mut expects_matcher = true;
    for part in parts(inside) {
        match part {
            Part::Open if expects_matcher => {
                query.push('(');
                depth += 1;
            }
            Part::Close if depth > 0 => {
                if expects_matcher {
                    query.push_str("true");
                }
                query.push(')');
                depth -= 1;
                expects_matcher = false;
            }
            Part::Operator(operator) => {
                if expects_matcher {
                    query.push_str("true");
                }
                query.push_str(&format!(" {operator} "));
                expects_matcher = true;
            }
            Part::Matcher(matcher) if expects_matcher => {
                matchers += 1;
                if matchers > MATCHERS_MAX {
                    return None;
                }
                let alone = format!("{{ {matcher} }}");
                let is_whole = is_finished(&alone) && single(&alone).is_some();
                query.push_str(if is_whole { matcher } else { "true" });
                expects_matcher = false;
            }
            // Brackets inside of matchers, and what else makes no tree.
            Part::Open | Part::Close | Part::Matcher(_) => return None,
        }
    }
    if expects_matcher {
        query.push_str("true");
    }
    query.push_str(&")".repeat(depth));
    query.push_str(" }");
    Some(query)
}

/// What is between the first brace and the one that closes it, or the end.
fn inside_braces(text: &str) -> Option<&str> {
    let inside = &text[text.find('{')? + 1..];
    let end = outside_quotes(inside).find(|(_, c)| *c == '}').map_or(inside.len(), |(at, _)| at);
    Some(&inside[..end])
}

/// The characters that are not in quotes, with their places. A quote that is not closed goes to the end.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(open) => {
            if escaped {
                escaped = false;
            } else if *c == '\\' && open == '"' {
                escaped = true;
            } else if *c == open {
                quote = None;
            }
            false
        }
        None if *c == '"' || *c == '`' => {
            quote = Some(*c);
            false
        }
        None => true,
    })
}

fn parts(inside: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut outside = outside_quotes(inside).peekable();
    while let Some((at, character)) = outside.next() {
        let is_doubled = outside.peek() == Some(&(at + 1, character));
        let (part, width) = match character {
            '(' => (Part::Open, 1),
            ')' => (Part::Close, 1),
            '&' if is_doubled => (Part::Operator("&&"), 2),
            '|' if is_doubled => (Part::Operator("||"), 2),
            _ => continue,
        };
        if width == 2 {
            outside.next();
        }
        parts.extend(matcher(&inside[from..at]));
        parts.push(part);
        from = at + width;
    }
    parts.extend(matcher(&inside[from..]));
    parts
}

/// A text with something in it.
fn matcher(text: &str) -> Option<Part<'_>> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(Part::Matcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_matchers_become_true_and_open_brackets_are_closed() {
        for (text, expected) in [
            ("{ .a = }", "{ true }"),
            ("{ .a", "{ true }"),
            ("{ ", "{ true }"),
            ("{ .a = 1 && .b = }", "{ .a = 1 && true }"),
            ("{ .a = 1 && (.b = 2 || .c", "{ .a = 1 && (.b = 2 || true) }"),
            ("{ .a = \"x && y\" && .b =~ \"open", "{ .a = \"x && y\" && true }"),
            ("{ && .a = 1 }", "{ true && .a = 1 }"),
            ("{ .a = 1 &&", "{ .a = 1 && true }"),
        ] {
            assert_eq!(repaired(text).as_deref(), Some(expected), "{text}");
        }
        for hopeless in ["", "a = 1", "{ .a (", "{ .a = 1 ) }", "{ (.a + 1) > }"] {
            assert_eq!(repaired(hopeless), None, "{hopeless}");
        }
    }

    #[test]
    fn what_demands_nothing_is_no_condition() {
        for text in ["", "{}", "{ true }", "{ .a = }", "nonsense", "{} | rate()", "{ .a = } | count() > 2"] {
            assert!(spans(Some(text)).is_none(), "{text}");
        }
        assert!(spans(None).is_none());
        for text in ["{ .a = 1 }", "{ .a = 1 && .b = }", "{ .a = 1 } | count() > 2"] {
            assert!(spans(Some(text)).is_some() && !reads_trace(Some(text)), "{text}");
        }
        for text in ["{ rootName = \"a\" }", "{ .a = 1 && rootServiceName = \"a\" && .b = }", "{ parent.a = 1"] {
            assert!(reads_trace(Some(text)), "{text}");
        }
    }
}
