//! The questions, and what the reference takes for them.

/// How a question is put.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// All spans of a trace by its id.
    Trace,
    /// A search with all results.
    Search(&'static str),
    /// A search with this many results.
    First(usize, &'static str),
    /// Time series over the whole period.
    Series(&'static str),
    /// All values of a field.
    Values(&'static str),
    /// SQL over Flight, which the reference does not have.
    Sql(&'static str),
}

/// One row of the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) ask: Ask,
    /// CPU milliseconds of Tempo 3.1 for the same kind of question on a million stored spans.
    pub(crate) tempo_ms: Option<f64>,
}

const fn question(name: &'static str, ask: Ask, tempo_ms: f64) -> Question {
    Question { name, ask, tempo_ms: Some(tempo_ms) }
}

const fn ours(name: &'static str, ask: Ask) -> Question {
    Question { name, ask, tempo_ms: None }
}

/// Kinds of questions as they were put to Tempo. Its spans came from another generator of the same shape, so the numbers
/// of results are near to those there, not equal.
pub(crate) const QUESTIONS: &[Question] = &[
    question("trace by id", Ask::Trace, 97.0),
    question("every trace", Ask::Search("{}"), 4_490.0),
    question("one service", Ask::Search(r#"{ resource.service.name = "cart-service" }"#), 1_735.0),
    question("status = error", Ask::Search("{ status = error }"), 1_065.0),
    question("duration > 1s", Ask::Search("{ duration > 1s }"), 265.0),
    question("int attribute >= 500", Ask::Search("{ span.http.response.status_code >= 500 }"), 650.0),
    question("rare string, scoped", Ask::Search(r#"{ span.user.id = "user-00042" }"#), 330.0),
    question("rare string, unscoped", Ask::Search(r#"{ .user.id = "user-00042" }"#), 515.0),
    ours("rare text in a map", Ask::Search(r#"{ span.shop.coupon.code = "GOLDEN-TICKET" }"#)),
    ours("text in a map that nobody has", Ask::Search(r#"{ span.shop.coupon.code = "NONE" }"#)),
    ours("common boolean in a map", Ask::Search("{ span.cache.hit = true }")),
    ours("key that no span has", Ask::Search(r#"{ span.shop.nothing = "x" }"#)),
    question("regex over statements", Ask::Search(r#"{ span.db.query.text =~ ".*shipments.*" }"#), 280.0),
    question(
        "three conditions over scopes",
        Ask::Search(
            r#"{ resource.service.name = "payment-service" && span.rpc.grpc.status_code > 0 && duration > 500ms }"#,
        ),
        195.0,
    ),
    question("attribute exists", Ask::Search("{ span.gen_ai.request.model != nil }"), 1_520.0),
    question("event attribute", Ask::Search("{ event.exception.type != nil }"), 555.0),
    question("link attribute", Ask::Search("{ link.link.reason != nil }"), 580.0),
    question(
        "{ } >> { }",
        Ask::Search(r#"{ resource.service.name = "order-service" } >> { status = error && kind = client }"#),
        1_040.0,
    ),
    question("{ } > { }", Ask::Search(r#"{ resource.service.name = "cart-service" } > { status = error }"#), 680.0),
    question("{ } ~ { }", Ask::Search("{ status = error } ~ { status = error }"), 1_155.0),
    question("{ } !< { }", Ask::Search("{ kind = producer } !< { status = error }"), 1_705.0),
    question(
        "{ } && { }",
        Ask::Search(r#"{ resource.service.name = "payment-service" && status = error } && { kind = consumer }"#),
        445.0,
    ),
    question("count() > 30", Ask::Search(r#"{ resource.service.name = "catalog-service" } | count() > 30"#), 1_110.0),
    question("avg(duration) > 100ms", Ask::Search("{ status = error } | avg(duration) > 500ms"), 630.0),
    question("max(attribute) >", Ask::Search("{} | max(span.gen_ai.usage.input_tokens) > 3000"), 1_320.0),
    question(
        "by(service) | count()",
        Ask::Search("{ status = error } | by(resource.service.name) | count() > 3"),
        765.0,
    ),
    question("rate", Ask::Series("{} | rate()"), 80.0),
    question("rate by service", Ask::Series("{} | rate() by (resource.service.name)"), 170.0),
    question(
        "p99 by service",
        Ask::Series("{} | quantile_over_time(duration, 0.99) by (resource.service.name)"),
        235.0,
    ),
    question("histogram", Ask::Series("{} | histogram_over_time(duration)"), 235.0),
    question(
        "sum of an attribute by another",
        Ask::Series("{} | sum_over_time(span.gen_ai.usage.output_tokens) by (span.gen_ai.request.model)"),
        840.0,
    ),
    question(
        "rate over a structural query",
        Ask::Series(
            r#"{ resource.service.name = "order-service" } >> { status = error } | rate() by (resource.service.name)"#,
        ),
        545.0,
    ),
    question("compare", Ask::Series("{} | compare({ status = error })"), 1_730.0),
    question("values of a key with many", Ask::Values("span.user.id"), 645.0),
    question("every trace, limit 20", Ask::First(20, "{}"), 45.0),
    question("status = error, limit 20", Ask::First(20, "{ status = error }"), 45.0),
    // Tempo's figure is of searches that find 20, and this one finds fewer, so that a limit ends nothing.
    ours("rare string, limit 20", Ask::First(20, r#"{ span.user.id = "user-00042" }"#)),
    question(
        "{ } >> { }, limit 20",
        Ask::First(20, r#"{ resource.service.name = "order-service" } >> { status = error && kind = client }"#),
        235.0,
    ),
    ours("SQL: count", Ask::Sql("SELECT count(*) FROM spans")),
    ours(
        "SQL: count by promoted text",
        Ask::Sql("SELECT span_attributes['http.route'] AS k, count(*) FROM spans GROUP BY k"),
    ),
    ours(
        "SQL: count by text in a map, of few spans",
        Ask::Sql("SELECT span_attributes['shop.coupon.code'] AS k, count(*) FROM spans GROUP BY k"),
    ),
    ours(
        "SQL: count by boolean in a map, of many",
        Ask::Sql("SELECT span_attributes['cache.hit'] AS k, count(*) FROM spans GROUP BY k"),
    ),
    ours(
        "SQL: rare text, promoted",
        Ask::Sql("SELECT count(*) FROM spans WHERE span_attributes['user.id'] = 'user-00042'"),
    ),
    ours(
        "SQL: rare text in a map",
        Ask::Sql("SELECT count(*) FROM spans WHERE span_attributes['shop.coupon.code'] = 'GOLDEN-TICKET'"),
    ),
    ours(
        "SQL: common boolean in a map",
        Ask::Sql("SELECT count(*) FROM spans WHERE span_attributes['cache.hit'] = 'true'"),
    ),
    ours("rate by boolean in a map", Ask::Series("{ span.cache.hit != nil } | rate() by (span.cache.hit)")),
    ours(
        "SQL: count and p99 by service and route",
        Ask::Sql(
            "SELECT service_name, span_attributes['http.route'] AS route, count(*) AS n, \
             approx_percentile_cont(duration_nano, 0.99) AS p99 FROM spans GROUP BY 1, 2 ORDER BY n DESC",
        ),
    ),
    ours(
        "SQL: slowest 20",
        Ask::Sql("SELECT trace_id, name, duration_nano FROM spans ORDER BY duration_nano DESC LIMIT 20"),
    ),
];
