//! The search of before TraceQL: `tags=service.name="shop" http.status_code=500`, in logfmt.
//!
//! Tags become TraceQL, so that there is one way to search. As in Tempo, a trace has to have all of the tags, and need not
//! have them on one span: `service.name=shop http.status_code=500` finds a trace through `shop` with an error anywhere. Names
//! of services and operations are matched by a part of them, everything else as a whole; a tag has no type, so `500` also
//! finds the number. Tempo demands of ordinary attributes that they are on spans of one resource, by the places where its
//! files put them; that is not asked here, so what Tempo finds is found.

use std::collections::BTreeMap;

use regex::escape;

use crate::{
    error::{Error, Result},
    traceql::{
        ast::{Attribute, FieldName, Scope},
        literal::Literal,
    },
};

/// Keys whose value is matched by a part of it, and how TraceQL names them.
const PARTS: [(&str, &str); 4] = [
    ("service.name", "resource.service.name"),
    ("name", "name"),
    ("root.name", "rootName"),
    ("root.service.name", "rootServiceName"),
];

/// The TraceQL query of some tags.
pub(crate) fn query(tags: &BTreeMap<String, String>) -> Result<String> {
    let conditions = tags.iter().map(|(key, value)| condition(key, value)).collect::<Result<Vec<_>>>()?;
    let filters: Vec<String> = conditions.iter().map(|condition| format!("{{ {condition} }}")).collect();
    Ok(filters.join(" && "))
}

fn condition(key: &str, value: &str) -> Result<String> {
    if let Some((_, field)) = PARTS.iter().find(|(tag, _)| *tag == key) {
        let pattern = Literal::String(format!("(?s).*{}.*", escape(value)));
        return Ok(format!("{field} =~ {pattern}"));
    }
    if key == "status.code" {
        return match value {
            "unset" | "ok" | "error" => Ok(format!("status = {value}")),
            _ => Err(Error::invalid(format!("invalid tags: status.code={value:?} is none of unset, ok, error"))),
        };
    }
    let field = FieldName::Attribute(Attribute { of_parent: false, scope: Scope::Any, key: key.to_owned() });
    let mut alternatives = vec![format!("{field} = {}", Literal::String(value.to_owned()))];
    let as_other = [
        value.parse().ok().map(Literal::Bool),
        value.parse().ok().map(Literal::Int),
        value.parse().ok().filter(|number: &f64| number.is_finite()).map(Literal::Float),
    ];
    // An integer is compared with floats, too.
    if let Some(literal) = as_other.into_iter().flatten().next() {
        alternatives.push(format!("{field} = {literal}"));
    }
    if (key, value) == ("error", "true") {
        alternatives.push("status = error".to_owned());
    }
    Ok(format!("({})", alternatives.join(" || ")))
}

/// Reads logfmt: `key=value key2="value 2"`.
pub(crate) fn tags(text: &str) -> Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let key_end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        let Some(after) = after.strip_prefix('=').filter(|_| !key.is_empty() && !key.contains('"')) else {
            return Err(malformed(text, "expected key=value"));
        };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted).ok_or_else(|| malformed(text, "a quote is not closed"))?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                if value.contains(['"', '=']) {
                    return Err(malformed(text, "a value with '\"' or '=' must be quoted"));
                }
                (value.to_owned(), after)
            }
        };
        if tags.insert(key.to_owned(), value).is_some() {
            return Err(malformed(text, &format!("the key {key} is there twice")));
        }
        rest = after.trim_start();
    }
    Ok(tags)
}

/// The text up to the closing quote, and what follows it.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

fn malformed(text: &str, why: &str) -> Error {
    Error::invalid(format!("invalid tags: {why} in {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traceql;

    #[test]
    fn logfmt_is_read_and_what_is_not_logfmt_is_refused() {
        let read = |text| tags(text).map(|tags| tags.into_iter().collect::<Vec<_>>());
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read(r#" b=1  a="x \"y\" z" "#).unwrap(), [pair("a", "x \"y\" z"), pair("b", "1")]);
        assert_eq!(read("a=").unwrap(), [pair("a", "")]);
        for wrong in ["a", "=b", "a=b=c", "a=1 a=2", r#"a="b"#, r#""a"=b"#] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.starts_with("invalid tags: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn tags_become_traceql_that_parses() {
        let query = |text| query(&tags(text).unwrap());
        assert_eq!(query("service.name=a.b").unwrap(), r"{ resource.service.name =~ `(?s).*a\.b.*` }");
        assert_eq!(query(r#"x="a b" y=5"#).unwrap(), "{ (.x = `a b`) } && { (.y = `5` || .y = 5) }");
        assert_eq!(query("error=true").unwrap(), "{ (.error = `true` || .error = true || status = error) }");
        assert_eq!(query("status.code=error").unwrap(), "{ status = error }");
        assert!(query("status.code=bad").is_err());
        for text in [r#"we"ird=1"#, "a{b}=c", "name=x y=1.5 z=-3", r#"k="\n\\ \" `""#] {
            if let Ok(tags) = tags(text) {
                let query = super::query(&tags).unwrap();
                traceql::compile(&query).unwrap_or_else(|error| panic!("{query}: {error}"));
            }
        }
    }
}
