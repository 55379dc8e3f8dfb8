//! The words of the language: intrinsics with both spellings, literal words, scopes, functions; and the nearest of
//! them to a word that is none.

use super::{
    ast::{
        Intrinsic::{self, *},
        Reducer, Scope,
    },
    literal::{self, Literal},
};

/// An intrinsic with its spellings. The first one that exists is the printed one.
const INTRINSICS: &[(Intrinsic, Option<&str>, Option<&str>)] = &[
    (Duration, Some("duration"), Some("span:duration")),
    (Name, Some("name"), Some("span:name")),
    (Status, Some("status"), Some("span:status")),
    (StatusMessage, Some("statusMessage"), Some("span:statusMessage")),
    (Kind, Some("kind"), Some("span:kind")),
    (SpanId, None, Some("span:id")),
    (SpanParentId, None, Some("span:parentID")),
    (SpanChildCount, None, Some("span:childCount")),
    (RootName, Some("rootName"), Some("trace:rootName")),
    (RootServiceName, Some("rootServiceName"), Some("trace:rootService")),
    (TraceDuration, Some("traceDuration"), Some("trace:duration")),
    (TraceId, None, Some("trace:id")),
    (NestedSetLeft, Some("nestedSetLeft"), None),
    (NestedSetRight, Some("nestedSetRight"), None),
    (NestedSetParent, Some("nestedSetParent"), None),
    (EventName, None, Some("event:name")),
    (EventTimeSinceStart, None, Some("event:timeSinceStart")),
    (LinkTraceId, None, Some("link:traceID")),
    (LinkSpanId, None, Some("link:spanID")),
    (InstrumentationName, None, Some("instrumentation:name")),
    (InstrumentationVersion, None, Some("instrumentation:version")),
    (Parent, Some("parent"), None),
];

const SCOPES: &[(Scope, &str)] = &[
    (Scope::Span, "span"),
    (Scope::Resource, "resource"),
    (Scope::Event, "event"),
    (Scope::Link, "link"),
    (Scope::Instrumentation, "instrumentation"),
];

/// Functions of a pipeline stage, all of which are written with parentheses.
pub(super) const FUNCTIONS: &[&str] = &[
    "by",
    "coalesce",
    "select",
    "count",
    "min",
    "max",
    "avg",
    "sum",
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "sum_over_time",
    "histogram_over_time",
    "quantile_over_time",
    "compare",
    "topk",
    "bottomk",
    "with",
];

const LITERAL_WORDS: &[&str] = &[
    "true",
    "false",
    "nil",
    "minInt",
    "maxInt",
    "ok",
    "error",
    "unset",
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
];

impl Intrinsic {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Intrinsic> {
        INTRINSICS.iter().map(|(intrinsic, _, _)| *intrinsic)
    }

    /// The intrinsic of a name in either spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        INTRINSICS
            .iter()
            .find(|(_, plain, scoped)| *plain == Some(name) || *scoped == Some(name))
            .map(|(intrinsic, _, _)| *intrinsic)
    }

    /// The name in queries, labels and answers: without a scope where both spellings exist.
    pub fn name(self) -> &'static str {
        INTRINSICS
            .iter()
            .find(|(intrinsic, _, _)| *intrinsic == self)
            .and_then(|(_, plain, scoped)| plain.or(*scoped))
            .unwrap_or_default()
    }
}

impl Scope {
    /// The scope of a word in front of a dot.
    pub fn from_name(name: &str) -> Option<Self> {
        SCOPES.iter().find(|(_, word)| *word == name).map(|(scope, _)| *scope)
    }

    /// What stands in front of the dot; nothing for any scope.
    pub fn name(self) -> &'static str {
        SCOPES.iter().find(|(scope, _)| *scope == self).map_or("", |(_, word)| word)
    }
}

impl Reducer {
    /// `min`, `max`, `avg` or `sum`.
    pub fn name(self) -> &'static str {
        match self {
            Reducer::Min => "min",
            Reducer::Max => "max",
            Reducer::Avg => "avg",
            Reducer::Sum => "sum",
        }
    }

    /// The reducer of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Reducer::Min, Reducer::Max, Reducer::Avg, Reducer::Sum].into_iter().find(|reducer| reducer.name() == name)
    }
}

/// The constant that a bare word stands for.
pub(super) fn literal_word(word: &str) -> Option<Literal> {
    Some(match word {
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        "nil" => Literal::Nil,
        "minInt" => Literal::Int(i64::MIN),
        "maxInt" => Literal::Int(i64::MAX),
        _ => match (literal::Status::from_name(word), literal::Kind::from_name(word)) {
            (Some(status), _) => Literal::Status(status),
            (None, Some(kind)) => Literal::Kind(kind),
            (None, None) => return None,
        },
    })
}

/// The word that was probably meant for a bare or scoped name that means nothing.
pub(super) fn nearest_name(name: &str) -> Option<&'static str> {
    let spellings = INTRINSICS.iter().flat_map(|(_, plain, scoped)| plain.iter().chain(scoped).copied());
    nearest(name, spellings.chain(LITERAL_WORDS.iter().copied())).or_else(|| in_another_scope(name))
}

/// `span:status` for `trace:status`.
fn in_another_scope(name: &str) -> Option<&'static str> {
    let (_, word) = name.split_once(':')?;
    let mut spellings = INTRINSICS.iter().filter_map(|(_, _, scoped)| *scoped);
    spellings.find(|spelling| spelling.split_once(':').is_some_and(|(_, other)| other == word))
}

/// The scope that was probably meant.
pub(super) fn nearest_scope(name: &str) -> Option<&'static str> {
    nearest(name, SCOPES.iter().map(|(_, word)| *word))
}

/// The function that was probably meant.
pub(super) fn nearest_function(name: &str) -> Option<&'static str> {
    nearest(name, FUNCTIONS.iter().copied())
}

/// The candidate with the fewest edits, if they are few for the length of the word.
fn nearest(word: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Longer words cannot be near, and the distance costs the product of both lengths.
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len().min(word.len()) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_intrinsic_is_found_by_its_own_name() {
        for intrinsic in Intrinsic::all() {
            assert_eq!(Intrinsic::from_name(intrinsic.name()), Some(intrinsic));
        }
        assert_eq!(Intrinsic::from_name("trace:rootService"), Some(RootServiceName));
        assert_eq!(Intrinsic::from_name("trace:rootServiceName"), None);
        assert_eq!(Intrinsic::from_name("trace:status"), None);
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(nearest_name("statuss"), Some("status"));
        assert_eq!(nearest_name("Duration"), Some("duration"));
        assert_eq!(nearest_name("trace:rootServiceName"), Some("trace:rootService"));
        assert_eq!(nearest_name("trace:status"), Some("span:status"));
        assert_eq!(nearest_name("frontend"), None);
        assert_eq!(nearest_name("foo:bar"), None);
        assert_eq!(nearest_function("rat"), Some("rate"));
        assert_eq!(nearest_scope("resources"), Some("resource"));
    }
}
