//! The tables of SQL besides `spans`.

use crate::query::data::{engine, of_json, plain_span, shown, small_engine, tables};

#[tokio::test]
async fn traces_have_a_row_each_with_root_and_counts() {
    insta::assert_snapshot!(
        shown(
            &small_engine(),
            "SELECT right(trace_id, 2) AS id, root_service_name, root_name, start_time, duration_nano, span_count,
                    error_count, services, date
             FROM traces ORDER BY start_time"
        )
        .await,
        @r###"
    +----+-------------------+-----------+----------------------+---------------+------------+-------------+-----------------+------------+
    | id | root_service_name | root_name | start_time           | duration_nano | span_count | error_count | services        | date       |
    +----+-------------------+-----------+----------------------+---------------+------------+-------------+-----------------+------------+
    | 01 | gateway           | GET /cart | 2026-01-01T00:00:00Z | 1002000000    | 3          | 2           | [cart, gateway] | 2026-01-01 |
    | 02 | worker            | job       | 2026-01-01T00:00:05Z | 3000000       | 1          | 0           | [worker]        | 2026-01-01 |
    | 03 |                   |           | 2026-01-01T00:00:07Z | 1005000000    | 2          | 0           | [gateway]       | 2026-01-01 |
    +----+-------------------+-----------+----------------------+---------------+------------+-------------+-----------------+------------+
    "###
    );
}

#[tokio::test]
async fn events_and_links_have_a_row_each() {
    let engine = small_engine();
    insta::assert_snapshot!(
        shown(&engine, "SELECT service_name, span_name, time, name, attributes['n'] AS n, start_time FROM span_events").await,
        @r###"
    +--------------+-----------+----------------------+-------+---+----------------------+
    | service_name | span_name | time                 | name  | n | start_time           |
    +--------------+-----------+----------------------+-------+---+----------------------+
    | worker       | job       | 2026-01-01T00:00:05Z | retry | 3 | 2026-01-01T00:00:05Z |
    +--------------+-----------+----------------------+-------+---+----------------------+
    "###
    );
    insta::assert_snapshot!(
        shown(&engine, "SELECT span_name, linked_trace_id, linked_span_id, date FROM span_links").await,
        @r###"
    +-----------+----------------------------------+------------------+------------+
    | span_name | linked_trace_id                  | linked_span_id   | date       |
    +-----------+----------------------------------+------------------+------------+
    | job       | 00000000000000000000000000000001 | 0000000000000001 | 2026-01-01 |
    +-----------+----------------------------------+------------------+------------+
    "###
    );
    insta::assert_snapshot!(
        shown(&engine, "SELECT count(*) AS n FROM span_events WHERE attr_int(attributes, 'n') = 3 AND start_time > '2026-01-01'").await,
        @r###"
    +---+
    | n |
    +---+
    | 1 |
    +---+
    "###
    );
}

#[tokio::test]
async fn calls_between_services_have_a_row_each() {
    insta::assert_snapshot!(
        shown(
            &small_engine(),
            "SELECT client_service, server_service, client_name, server_name, status_code, duration_nano
             FROM service_edges"
        )
        .await,
        @r###"
    +----------------+----------------+-------------+-------------+-------------+---------------+
    | client_service | server_service | client_name | server_name | status_code | duration_nano |
    +----------------+----------------+-------------+-------------+-------------+---------------+
    | gateway        | cart           | GET /cart   | cart.get    | error       | 2000000       |
    | gateway        | cart           | GET /cart   | cart.get    | error       | 2000000       |
    +----------------+----------------+-------------+-------------+-------------+---------------+
    "###
    );
}

#[tokio::test]
async fn queries_written_for_the_clickhouse_exporter_run_as_they_are() {
    insta::assert_snapshot!(
        shown(
            &small_engine(),
            "SELECT t.TraceId, SpanName, SpanKind, StatusCode, Duration, SpanAttributes['status'] AS status, \"Events.Name\"
             FROM otel_traces AS t WHERE ServiceName = 'cart' OR ParentSpanId = '' ORDER BY Timestamp"
        )
        .await,
        @r###"
    +----------------------------------+-----------+----------+------------+----------+--------+-------------+
    | TraceId                          | SpanName  | SpanKind | StatusCode | Duration | status | Events.Name |
    +----------------------------------+-----------+----------+------------+----------+--------+-------------+
    | 00000000000000000000000000000001 | GET /cart | Server   | Unset      | 1000000  | 200    | []          |
    | 00000000000000000000000000000001 | cart.get  | Client   | Error      | 2000000  | 503    | []          |
    | 00000000000000000000000000000001 | cart.get  | Client   | Error      | 2000000  | 503    | []          |
    | 00000000000000000000000000000002 | job       | Internal | Ok         | 3000000  |        | [retry]     |
    +----------------------------------+-----------+----------+------------+----------+--------+-------------+
    "###
    );
}

#[tokio::test]
async fn a_time_range_on_whole_traces_reads_as_far_around_as_they_extend() {
    let hour = 3_600_000_000_000;
    let lines = [
        plain_span(1, 1, true, 0, "early", false),
        plain_span(1, 2, false, hour / 2, "late", false),
        plain_span(2, 3, true, hour / 2, "only", false),
        plain_span(3, 4, true, 20 * hour, "far", false),
    ];
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(tables(vec![of_json(&lines.join("\n"))]), Default::default(), folder.path());
    insta::assert_snapshot!(
        shown(
            &engine,
            "SELECT right(trace_id, 2) AS id, span_count, services FROM traces
             WHERE start_time >= '2026-01-01T00:20:00Z' AND start_time < '2026-01-01T01:00:00Z'"
        )
        .await,
        @r###"
    +----+------------+----------+
    | id | span_count | services |
    +----+------------+----------+
    | 02 | 1          | [only]   |
    +----+------------+----------+
    "###
    );
    let plan = shown(
        &engine,
        "EXPLAIN SELECT span_count FROM traces
         WHERE start_time >= '2026-01-01T02:00:00Z' AND trace_id = '00000000000000000000000000000001'",
    )
    .await;
    let widened = 1_767_225_600_000_000_000_i64 + hour;
    assert!(plan.contains(&format!("start_time_unix_nano@1 >= {widened}")), "{plan}");
    assert!(plan.contains("trace_id@0 = 0000"), "{plan}");
}

#[tokio::test]
async fn a_view_says_what_it_is() {
    let engine = small_engine();
    let names = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    insta::assert_snapshot!(shown(&engine, names).await, @r###"
    +---------------+------------+
    | table_name    | table_type |
    +---------------+------------+
    | attributes    | VIEW       |
    | otel_traces   | VIEW       |
    | service_edges | VIEW       |
    | span_events   | VIEW       |
    | span_links    | VIEW       |
    | spans         | VIEW       |
    | traces        | VIEW       |
    +---------------+------------+
    "###);
    let text = "SELECT definition FROM information_schema.views WHERE table_name = 'traces'";
    assert!(shown(&engine, text).await.contains("GROUP BY trace_id"));
}

/// The text of ids is longer than they are, and prunes no file: joins do without it.
#[tokio::test]
async fn spans_join_by_the_bytes_of_their_ids() {
    let engine = small_engine();
    let join =
        "SELECT count(*) AS n FROM spans c JOIN spans p ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id";
    let plan = shown(&engine, &format!("EXPLAIN {join}")).await;
    assert!(plan.contains("HashJoinExec") && !plan.contains("id_hex"), "{plan}");
    for (text, expected) in [
        (join.to_owned(), "| 3 |"),
        (format!("{join} WHERE p.trace_id = '00000000000000000000000000000001'"), "| 2 |"),
        ("SELECT count(c.trace_id) AS n FROM spans c LEFT JOIN spans p ON c.trace_id = p.trace_id AND c.span_id = p.parent_span_id".to_owned(), "| 7 |"),
        ("SELECT count(*) AS n FROM spans WHERE trace_id IN (SELECT trace_id FROM spans WHERE status_code = 'error')".to_owned(), "| 3 |"),
        ("SELECT count(*) AS n FROM spans WHERE trace_id NOT IN (SELECT trace_id FROM spans WHERE status_code = 'error')".to_owned(), "| 3 |"),
        ("SELECT count(DISTINCT a.trace_id) AS n FROM (SELECT * FROM spans LIMIT 100) a JOIN spans b USING (trace_id) JOIN traces t USING (trace_id)".to_owned(), "| 3 |"),
        ("SELECT min(length(a.trace_id || b.span_id)) AS n FROM spans a, spans b WHERE a.trace_id = b.trace_id".to_owned(), "| 48 |"),
    ] {
        let answer = shown(&engine, &text).await;
        assert!(answer.contains(expected), "{text}\n{answer}");
    }
}
