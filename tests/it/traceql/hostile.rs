//! Texts meant to exhaust the stack, the memory or the patience of the parser.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use tracehouse::{
    model::tenant::TenantId,
    query::{MetricsQuery, QueryKind, QueryRequest, TraceQlQuery},
    traceql::{
        self, TraceQlError,
        parse::{BRACKET_DEPTH_MAX, EXPRESSION_DEPTH_MAX, QUERY_BYTES_MAX, REGEXES_MAX},
        size::{FIELDS_MAX, FUNCTIONS_MAX, STAGES_MAX},
    },
};

use crate::query::data::small_engine;

fn message(text: &str) -> String {
    match traceql::compile(text) {
        Ok(query) => format!("valid, {} bytes printed", query.to_string().len()),
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn a_query_longer_than_the_limit_is_refused_before_it_is_read() {
    let text = format!("{{ .a = \"{}\" }}", "x".repeat(QUERY_BYTES_MAX));
    let expected = format!(
        "TraceQL expression exceeds the configured maximum size of {QUERY_BYTES_MAX} bytes, it has {}",
        text.len()
    );
    assert_eq!(message(&text), expected);
}

#[test]
fn brackets_nest_to_the_limit_and_not_beyond() {
    let nested = |depth: usize| format!("{{ {}.a{} }}", "(".repeat(depth - 1), ")".repeat(depth - 1));
    assert_eq!(message(&nested(BRACKET_DEPTH_MAX)), "valid, 6 bytes printed");
    let refused = format!("brackets are nested more than {BRACKET_DEPTH_MAX} deep");
    assert!(message(&nested(BRACKET_DEPTH_MAX + 1)).ends_with(&refused));
    assert!(message(&"(".repeat(QUERY_BYTES_MAX)).ends_with(&refused));
    assert!(message(&"{".repeat(QUERY_BYTES_MAX)).ends_with(&refused));
}

#[test]
fn chains_of_operators_reach_the_limit_and_not_beyond() {
    let refused = format!("expression is more than {EXPRESSION_DEPTH_MAX} operators deep");
    for (head, link, tail) in [
        ("{ ", ".a = 1 || ", ".b }"),
        ("{ ", "!", ".a }"),
        ("{ ", "-", ".a = 1 }"),
        ("{ .a = ", "1 ^ ", "1 }"),
        ("{ .a = ", "1 + ", "1 }"),
        ("", "{} >> ", "{}"),
        ("", ".a and ", ".b"),
        ("", ".a OR ", ".b"),
        ("", "{} && ", "{}"),
        ("{} | count() > ", "1 + ", "1"),
        ("{} | rate() > ", "-", "1"),
    ] {
        let fits = message(&format!("{head}{}{tail}", link.repeat(EXPRESSION_DEPTH_MAX - 5)));
        assert!(fits.starts_with("valid"), "{link}: {fits}");
        let too_deep = message(&format!("{head}{}{tail}", link.repeat((QUERY_BYTES_MAX - 100) / link.len())));
        assert!(too_deep.ends_with(&refused), "{link}: {too_deep}");
    }
}

#[test]
fn depth_adds_up_over_brackets() {
    let step = format!("({}", "-".repeat(EXPRESSION_DEPTH_MAX / 8));
    let text = format!("{{ .a = {}1{} }}", step.repeat(32), ")".repeat(32));
    assert!(message(&text).contains("operators deep"), "{}", message(&text));
}

#[test]
fn the_deepest_trees_fit_a_small_stack() {
    let chain = "-!".repeat(EXPRESSION_DEPTH_MAX / BRACKET_DEPTH_MAX / 2 - 2);
    let step = format!("({chain}");
    let brackets = BRACKET_DEPTH_MAX - 1;
    let text = format!("{{ .a = {}1{} }}", step.repeat(brackets), ")".repeat(brackets));
    let check = move || {
        let query = traceql::parse(&text).unwrap();
        assert_eq!(traceql::parse(&query.to_string()).unwrap(), query.clone());
        let _ = traceql::check(&query);
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(check).unwrap().join().unwrap();
}

#[test]
fn parentheses_cost_linear_time() {
    // Each alternative of a stage starts with what the others start with; trying them in turn would double per level.
    let text = format!("{}{{ .a }}{}", "(".repeat(BRACKET_DEPTH_MAX - 1), ")".repeat(BRACKET_DEPTH_MAX - 1));
    assert_eq!(message(&text), "valid, 6 bytes printed");
    let text = format!("{}{{ .a }} | rate(){}", "(".repeat(BRACKET_DEPTH_MAX - 2), ")".repeat(BRACKET_DEPTH_MAX - 2));
    assert!(message(&text).starts_with("valid"));
}

#[test]
fn fields_stages_and_functions_are_counted() {
    let names = |count: usize| (0..count).map(|n| format!(".a{n}")).collect::<Vec<_>>().join(", ");
    assert!(message(&format!("{{}} | select({})", names(FIELDS_MAX))).starts_with("valid"));
    let refused = format!("query names more than {FIELDS_MAX} different fields");
    assert_eq!(message(&format!("{{}} | select({})", names(FIELDS_MAX + 1))), refused);
    assert_eq!(message(&format!("{{}} | rate() by({})", names(10_000))), refused);
    let stages = |count: usize| vec!["{ .a }"; count].join(" | ");
    assert!(message(&stages(STAGES_MAX)).starts_with("valid"));
    assert_eq!(message(&stages(STAGES_MAX + 1)), format!("query has more than {STAGES_MAX} stages"));
    let sum = |count: usize| vec!["({} | rate())"; count].join(" + ");
    assert!(message(&sum(FUNCTIONS_MAX)).starts_with("valid"));
    assert_eq!(message(&sum(FUNCTIONS_MAX + 1)), format!("query has more than {FUNCTIONS_MAX} metrics functions"));
}

/// Queries as large as they may be, each in its way.
fn largest() -> Vec<String> {
    let numbered =
        |count: usize, one: &dyn Fn(usize) -> String, link: &str| (0..count).map(one).collect::<Vec<_>>().join(link);
    let names = |count: usize| numbered(count, &|n| format!(".a{n}"), ", ");
    vec![
        numbered(STAGES_MAX, &|n| format!("{{ .a = {n} }}"), " | "),
        numbered(STAGES_MAX / 2, &|n| format!("{{ span.a = {n} }}"), " >> "),
        format!("{{ {} }}", numbered(EXPRESSION_DEPTH_MAX - 5, &|n| format!(".a{} = 1", n % FIELDS_MAX), " || ")),
        format!("{{}} | {}", numbered(STAGES_MAX - 1, &|n| format!("by(span.a{})", n % FIELDS_MAX), " | ")),
        format!("{{}} | {}", numbered(STAGES_MAX - 10, &|n| format!("max(.a{}) > 1", n % FIELDS_MAX), " | ")),
        format!("{{}} | select({})", names(FIELDS_MAX)),
        // A part of what is allowed: planning labels takes seconds in a debug build.
        format!("{{}} | rate() by({})", names(FIELDS_MAX / 4)),
        numbered(FUNCTIONS_MAX / 4, &|n| format!("({{ .a = {n} }} | rate() by(.b{n}))"), " + "),
        numbered(REGEXES_MAX, &|n| format!("{{ .a =~ `(x+x+)+y{n}` }}"), " | "),
        format!("{{}} /*{}*/", "(".repeat(QUERY_BYTES_MAX - 10)),
    ]
}

#[test]
fn the_largest_queries_are_answered_or_refused_in_bounded_time() {
    // A debug build is some forty times slower than what runs.
    const PATIENCE: Duration = Duration::from_secs(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = small_engine();
    for text in largest() {
        let kind = match traceql::is_metrics(&text) {
            true => QueryKind::Metrics(MetricsQuery::new(&text)),
            false => QueryKind::TraceQl(TraceQlQuery::new(&text)),
        };
        let request = QueryRequest::new(TenantId::single(), kind);
        let started = Instant::now();
        let answer = runtime.block_on(async { engine.execute(request).await?.collect().await });
        let head: String = text.chars().take(60).collect();
        assert!(started.elapsed() < PATIENCE, "{head} took {:?}", started.elapsed());
        answer.map_err(|error| format!("{head}: {error}")).unwrap();
    }
}

#[test]
fn many_small_things_are_no_trouble() {
    let selected = format!("{{}} | select(.a{})", ", .a".repeat(20_000));
    assert!(message(&selected).starts_with("valid"), "{}", message(&selected));
    let comment = format!("{{}} /*{}*/", "(".repeat(100_000));
    assert!(message(&comment).starts_with("valid"), "{}", message(&comment));
}

#[test]
fn regular_expressions_that_explode_elsewhere_are_linear_or_refused() {
    let text = "a".repeat(50_000) + "!";
    for pattern in ["(a+)+$", "(a|a)*", "(a|aa)+", "(.*a){12}", "a*a*a*a*a*a*b", "(?i)(x+x+)+y"] {
        let query = format!("{{ .a =~ `{pattern}` }}");
        assert!(message(&query).starts_with("valid"), "{pattern}");
        let regex = traceql::types::compile_regex(pattern).unwrap();
        assert!(!regex.is_match(&text), "{pattern}");
    }
    for pattern in
        ["(x{1000}){1000}", "((a{100}){100}){100}", r"(\pL{500}){50}", "(", "a{2,1}", r"(?P<a>x)(?P<a>y)", r"(a)\1"]
    {
        let refused = message(&format!("{{ .a =~ `{pattern}` }}"));
        assert!(refused.starts_with("invalid regex: "), "{pattern}: {refused}");
    }
}

#[test]
fn only_so_many_regular_expressions_are_compiled() {
    let stages = |count: usize| vec!["{ .a =~ `x+` }"; count].join(" | ");
    assert!(message(&stages(REGEXES_MAX)).starts_with("valid"));
    let refused = format!("query has more than {REGEXES_MAX} regular expressions");
    assert!(message(&stages(REGEXES_MAX + 1)).ends_with(&refused));
    assert!(message(&stages(7_000)).ends_with(&refused));
}

/// Tokens of the language and some that are not, for texts that get far into the grammar.
fn token_soup() -> impl Strategy<Value = String> {
    let tokens = prop::sample::select(vec![
        "{",
        "}",
        "(",
        ")",
        "|",
        "||",
        "&&",
        "&",
        "=",
        "!=",
        "=~",
        "!~",
        "<",
        "<=",
        ">",
        ">=",
        "<<",
        ">>",
        "&>>",
        "!<",
        "~",
        "&~",
        "+",
        "-",
        "*",
        "/",
        "%",
        "^",
        "!",
        ",",
        ".a",
        "span.b",
        "parent.c",
        "resource.\"d e\"",
        "\"x\"",
        "`y`",
        "\"",
        "`",
        "\\",
        "1",
        "2.5",
        "1h30m",
        "9999999999999999999",
        "1e400",
        "10x",
        "true",
        "nil",
        "ok",
        "server",
        "duration",
        "name",
        "trace:id",
        "span:x",
        "status",
        "minInt",
        "by",
        "by(",
        "coalesce()",
        "select(",
        "count()",
        "avg(",
        "rate()",
        "quantile_over_time(",
        "compare(",
        "topk(",
        "with(",
        "a=true",
        "//",
        "/*",
        "*/",
        "\n",
        "\u{e9}",
        "\u{1f600}",
        "foo",
        "foo.bar",
        "and",
        "or",
        "service",
        "operation",
        "parent.span.a",
    ]);
    prop::collection::vec(tokens, 0..40).prop_map(|tokens| tokens.join(" "))
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_valid_reads_back(text in prop_oneof![token_soup(), ".*", "[{}()|&=<>.a1\"` -]*"]) {
        match traceql::compile(&text) {
            Ok(query) => {
                let printed = query.to_string();
                prop_assert_eq!(traceql::compile(&printed).map_err(|e| e.to_string()), Ok(query), "{}", printed);
            }
            Err(TraceQlError::TooLarge { .. }) => {}
            Err(error) => prop_assert!(error.to_string().contains('^'), "{}", error),
        }
        let _ = traceql::parse_reference(&text);
    }
}
