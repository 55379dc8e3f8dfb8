"""The questions: one text per engine. {files} is the glob of the data files, {start} and {end} bound the time in nanoseconds.

`exact` says that the rows have to be equal; percentiles are approximations that differ between engines.
"""

FROM = "start_time_unix_nano >= {start} AND start_time_unix_nano < {end}"
OURS = "start_time >= to_timestamp_nanos({start}) AND start_time < to_timestamp_nanos({end})"


def query(name, exact, ours, duckdb, clickhouse=None):
    # ClickHouse takes most of DuckDB's text; what it calls differently is said per query. None: it cannot say it.
    return {"name": name, "exact": exact, "tracehouse": ours, "duckdb": duckdb, "chdb": clickhouse or duckdb}


# The traces that begin in the range, with all their spans.
CRITICAL_PATH = (
    "WITH RECURSIVE slowest AS (SELECT trace_id FROM {files} WHERE start_time_unix_nano >= {start} - 3600000000000 AND "
    "start_time_unix_nano < {end} + 3600000000000 GROUP BY trace_id HAVING min(start_time_unix_nano) >= {start} AND "
    "min(start_time_unix_nano) < {end} AND count(*) > count(parent_span_id) ORDER BY max(start_time_unix_nano + greatest(duration_nano, 0)) "
    "- min(start_time_unix_nano) DESC, trace_id LIMIT 1), tree AS (SELECT span_id, parent_span_id, service_name, name, duration_nano, "
    "start_time_unix_nano + duration_nano AS ended FROM {files} WHERE trace_id IN (SELECT trace_id FROM slowest)), last_calls AS (SELECT "
    "parent_span_id, {last} AS span_id FROM tree WHERE parent_span_id IS NOT NULL GROUP BY parent_span_id), path AS (SELECT span_id, "
    "1 AS step FROM tree WHERE parent_span_id IS NULL UNION ALL SELECT last_calls.span_id, path.step + 1 FROM path JOIN last_calls ON "
    "last_calls.parent_span_id = path.span_id WHERE path.step < 100) SELECT path.step AS step, tree.service_name AS service_name, "
    "tree.name AS name, tree.duration_nano AS duration_nano FROM path JOIN tree ON tree.span_id = path.span_id ORDER BY 1"
)

QUERIES = [
    query(
        "count by service and status",
        True,
        "SELECT service_name, status_code, count(*) AS n FROM spans GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT service_name, status_code, count(*) AS n FROM {files} GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "red by route",
        False,
        "SELECT service_name, span_attributes['http.route'] AS route, time_bin AS t, count(*) AS calls, "
        "count(*) FILTER (WHERE status_code = 'error') AS errors, "
        "approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_nano) AS p99 "
        "FROM (SELECT *, date_bin(INTERVAL '5 minutes', start_time) AS time_bin FROM spans WHERE kind = 'server' AND " + OURS + ") "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        'SELECT service_name, "span.http.route" AS route, start_time_unix_nano // 300000000000 AS t, count(*) AS calls, '
        "count(*) FILTER (WHERE status_code = 'error') AS errors, approx_quantile(duration_nano, 0.99) AS p99 "
        "FROM {files} WHERE kind = 'server' AND " + FROM + " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        'SELECT service_name, "span.http.route" AS route, intDiv(start_time_unix_nano, 300000000000) AS t, count(*) AS calls, '
        "countIf(status_code = 'error') AS errors, quantileTDigest(0.99)(duration_nano) AS p99 "
        "FROM {files} WHERE kind = 'server' AND " + FROM + " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    ),
    query(
        "slowest traces",
        True,
        "SELECT trace_id, duration_nano, span_count FROM traces ORDER BY duration_nano DESC, trace_id LIMIT 20",
        "SELECT lower(hex(trace_id)) AS trace_id, max(start_time_unix_nano + greatest(duration_nano, 0)) - min(start_time_unix_nano) "
        "AS duration_nano, count(*) AS span_count FROM {files} GROUP BY trace_id ORDER BY duration_nano DESC, 1 LIMIT 20",
    ),
    query(
        "p99 by version",
        False,
        "SELECT service_name, resource_attributes['service.version'] AS version, count(*) AS calls, "
        "approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_nano) AS p99 FROM spans WHERE kind = 'server' "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        'SELECT service_name, "resource.service.version" AS version, count(*) AS calls, approx_quantile(duration_nano, 0.99) AS p99 '
        "FROM {files} WHERE kind = 'server' GROUP BY 1, 2 ORDER BY 1, 2",
        'SELECT service_name, "resource.service.version" AS version, count(*) AS calls, quantileTDigest(0.99)(duration_nano) AS p99 '
        "FROM {files} WHERE kind = 'server' GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "service graph",
        True,
        "SELECT client_service, server_service, count(*) AS calls FROM service_edges WHERE " + OURS + " GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT a.service_name AS client_service, b.service_name AS server_service, count(*) AS calls FROM {files} AS b JOIN {files} AS a "
        "ON a.trace_id = b.trace_id AND a.span_id = b.parent_span_id WHERE a.service_name IS DISTINCT FROM b.service_name "
        "AND b.start_time_unix_nano >= {start} AND b.start_time_unix_nano < {end} "
        "AND a.start_time_unix_nano >= {start} - 3600000000000 AND a.start_time_unix_nano < {end} + 3600000000000 "
        "GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "self time",
        True,
        "WITH children AS (SELECT trace_id, parent_span_id, sum(duration_nano) AS nano FROM spans WHERE parent_span_id IS NOT NULL AND "
        + OURS
        + " GROUP BY 1, 2) SELECT service_name, name, count(*) AS n, sum(greatest(duration_nano - coalesce(nano, 0), 0)) AS self "
        "FROM spans LEFT JOIN children ON spans.trace_id = children.trace_id AND spans.span_id = children.parent_span_id WHERE "
        + OURS
        + " GROUP BY 1, 2 ORDER BY self DESC, 1, 2 LIMIT 20",
        "WITH children AS (SELECT trace_id, parent_span_id, sum(duration_nano) AS nano FROM {files} WHERE parent_span_id IS NOT NULL AND "
        + FROM
        + " GROUP BY 1, 2) SELECT s.service_name, s.name, count(*) AS n, sum(greatest(s.duration_nano - coalesce(c.nano, 0), 0)) AS self "
        "FROM {files} AS s LEFT JOIN children AS c ON s.trace_id = c.trace_id AND s.span_id = c.parent_span_id WHERE "
        "s.start_time_unix_nano >= {start} AND s.start_time_unix_nano < {end} GROUP BY 1, 2 ORDER BY self DESC, 1, 2 LIMIT 20",
    ),
    query(
        "rare attribute",
        True,
        "SELECT service_name, name, count(*) AS n FROM spans WHERE attr_int(span_attributes, 'http.response.status_code') = 504 "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        'SELECT service_name, name, count(*) AS n FROM {files} WHERE "span.http.response.status_code" = 504 GROUP BY 1, 2 ORDER BY 1, 2',
    ),
    query(
        "one trace",
        True,
        "SELECT count(*) AS n, sum(duration_nano) AS d FROM spans WHERE trace_id = '{trace}'",
        "SELECT count(*) AS n, sum(duration_nano) AS d FROM {files} WHERE trace_id = unhex('{trace}')",
    ),
    query(
        "top talkers",
        True,
        "SELECT service_name, resource_attributes['k8s.pod.name'] AS pod, count(*) AS n, count(DISTINCT trace_id) AS traces FROM spans "
        "GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 20",
        'SELECT service_name, "resource.k8s.pod.name" AS pod, count(*) AS n, count(DISTINCT trace_id) AS traces FROM {files} '
        "GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 20",
    ),
    query(
        "errors by minute",
        True,
        "SELECT date_bin(INTERVAL '1 minute', start_time) AS t, count(*) AS n FROM spans WHERE status_code = 'error' GROUP BY 1 ORDER BY 1",
        "SELECT start_time_unix_nano // 60000000000 AS t, count(*) AS n FROM {files} WHERE status_code = 'error' GROUP BY 1 ORDER BY 1",
        "SELECT intDiv(start_time_unix_nano, 60000000000) AS t, count(*) AS n FROM {files} WHERE status_code = 'error' GROUP BY 1 ORDER BY 1",
    ),
    query(
        "fan-out",
        True,
        "SELECT max(calls) AS most, count(*) AS n FROM (SELECT trace_id, parent_span_id, count(*) AS calls FROM spans "
        "WHERE kind = 'client' GROUP BY 1, 2)",
        "SELECT max(calls) AS most, count(*) AS n FROM (SELECT trace_id, parent_span_id, count(*) AS calls FROM {files} "
        "WHERE kind = 'client' GROUP BY 1, 2)",
    ),
    query(
        "llm tokens by model",
        True,
        "SELECT attr_str(span_attributes, 'gen_ai.request.model') AS model, sum(attr_int(span_attributes, 'gen_ai.usage.input_tokens')) AS n "
        "FROM spans WHERE attr_exists(span_attributes, 'gen_ai.request.model') GROUP BY 1 ORDER BY 1",
        'SELECT "span.gen_ai.request.model" AS model, sum("span.gen_ai.usage.input_tokens") AS n FROM {files} '
        'WHERE "span.gen_ai.request.model" IS NOT NULL GROUP BY 1 ORDER BY 1',
    ),
    query(
        "error budget",
        True,
        "SELECT service_name, count(*) AS n, count(*) FILTER (WHERE status_code = 'error') AS errors FROM spans WHERE kind = 'server' "
        "GROUP BY 1 ORDER BY 1",
        "SELECT service_name, count(*) AS n, count(*) FILTER (WHERE status_code = 'error') AS errors FROM {files} WHERE kind = 'server' "
        "GROUP BY 1 ORDER BY 1",
    ),
    query(
        "repeated calls",
        True,
        "SELECT count(*) AS n, max(calls) AS most FROM (SELECT p.trace_id, p.span_id, p.service_name, p.name, c.name, count(*) AS calls "
        "FROM spans AS p JOIN spans AS c ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id WHERE "
        + OURS.replace("start_time", "p.start_time")
        + " AND "
        + OURS.replace("start_time", "c.start_time")
        + " GROUP BY 1, 2, 3, 4, 5 HAVING count(*) >= 5)",
        "SELECT count(*) AS n, max(calls) AS most FROM (SELECT p.trace_id, p.span_id, p.service_name, p.name AS caller, c.name AS called, "
        "count(*) AS calls FROM {files} AS p JOIN {files} AS c ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id WHERE "
        + FROM.replace("start_time_unix_nano", "p.start_time_unix_nano")
        + " AND "
        + FROM.replace("start_time_unix_nano", "c.start_time_unix_nano")
        + " GROUP BY 1, 2, 3, 4, 5 HAVING count(*) >= 5)",
    ),
    query(
        "retry storms",
        True,
        "SELECT service_name, name, count(*) AS storms, max(tries) AS most, sum(errors) AS failed FROM (SELECT service_name, name, trace_id, "
        "parent_span_id, count(*) AS tries, count(*) FILTER (WHERE status_code = 'error') AS errors FROM spans WHERE kind = 'client' AND "
        "parent_span_id IS NOT NULL AND " + OURS + " GROUP BY 1, 2, 3, 4) WHERE tries >= 2 AND errors >= 1 GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT service_name, name, count(*) AS storms, max(tries) AS most, sum(errors) AS failed FROM (SELECT service_name, name, trace_id, "
        "parent_span_id, count(*) AS tries, count(*) FILTER (WHERE status_code = 'error') AS errors FROM {files} WHERE kind = 'client' AND "
        "parent_span_id IS NOT NULL AND " + FROM + " GROUP BY 1, 2, 3, 4) WHERE tries >= 2 AND errors >= 1 GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "time between two spans",
        True,
        "SELECT count(*) AS n, max(arrow_cast(paid.start_time, 'Int64') - arrow_cast(placed.start_time, 'Int64')) AS longest FROM spans AS "
        "placed JOIN spans AS paid ON placed.trace_id = paid.trace_id WHERE placed.service_name = 'order-service' AND "
        "paid.service_name = 'payment-service' AND placed.kind = 'server' AND paid.kind = 'server' AND paid.start_time >= placed.start_time",
        "SELECT count(*) AS n, max(paid.start_time_unix_nano - placed.start_time_unix_nano) AS longest FROM {files} AS placed JOIN {files} AS "
        "paid ON placed.trace_id = paid.trace_id WHERE placed.service_name = 'order-service' AND paid.service_name = 'payment-service' AND "
        "placed.kind = 'server' AND paid.kind = 'server' AND paid.start_time_unix_nano >= placed.start_time_unix_nano",
    ),
    query(
        "traces that lack a span",
        True,
        "SELECT count(*) AS n FROM traces WHERE array_has(services, 'order-service') AND NOT array_has(services, 'payment-service')",
        "SELECT count(*) AS n FROM (SELECT trace_id FROM {files} GROUP BY trace_id HAVING "
        "max(CASE WHEN service_name = 'order-service' THEN 1 ELSE 0 END) = 1 AND "
        "max(CASE WHEN service_name = 'payment-service' THEN 1 ELSE 0 END) = 0)",
    ),
    query(
        "latency heat map",
        True,
        "SELECT date_bin(INTERVAL '1 minute', start_time) AS t, CAST(ceil(log2(greatest(duration_nano, 1))) AS BIGINT) AS up_to, "
        "count(*) AS n FROM spans WHERE kind = 'server' AND " + OURS + " GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT start_time_unix_nano // 60000000000 AS t, CAST(ceil(log2(greatest(duration_nano, 1))) AS BIGINT) AS up_to, "
        "count(*) AS n FROM {files} WHERE kind = 'server' AND " + FROM + " GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT intDiv(start_time_unix_nano, 60000000000) AS t, toInt64(ceil(log2(greatest(duration_nano, 1)))) AS up_to, "
        "count(*) AS n FROM {files} WHERE kind = 'server' AND " + FROM + " GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "percentiles that merge",
        False,
        "WITH fives AS (SELECT service_name, date_bin(INTERVAL '5 minutes', start_time) AS bin, sketch(duration_nano) AS latency FROM spans "
        "WHERE kind = 'server' AND " + OURS + " GROUP BY 1, 2) SELECT service_name, sketch_quantile(sketch_merge(latency), 0.99) AS p99, "
        "max(sketch_quantile(latency, 0.99)) AS worst FROM fives GROUP BY 1 ORDER BY 1",
        None,
        "WITH fives AS (SELECT service_name, intDiv(start_time_unix_nano, 300000000000) AS bin, quantileTDigestState(0.99)(duration_nano) AS "
        "latency FROM {files} WHERE kind = 'server' AND " + FROM + " GROUP BY 1, 2) SELECT service_name, "
        "quantileTDigestMerge(0.99)(latency) AS p99, max(finalizeAggregation(latency)) AS worst FROM fives GROUP BY 1 ORDER BY 1",
    ),
    query(
        "time in the network",
        False,
        "SELECT client_service, server_service, count(*) AS calls, "
        "approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY client_duration_nano - duration_nano) AS p99 FROM service_edges WHERE "
        + OURS
        + " AND client_duration_nano >= duration_nano GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT a.service_name AS client_service, b.service_name AS server_service, count(*) AS calls, "
        "approx_quantile(a.duration_nano - b.duration_nano, 0.99) AS p99 FROM {files} AS b JOIN {files} AS a "
        "ON a.trace_id = b.trace_id AND a.span_id = b.parent_span_id WHERE a.service_name IS DISTINCT FROM b.service_name "
        "AND b.start_time_unix_nano >= {start} AND b.start_time_unix_nano < {end} AND a.duration_nano >= b.duration_nano "
        "AND a.start_time_unix_nano >= {start} - 3600000000000 AND a.start_time_unix_nano < {end} + 3600000000000 GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT a.service_name AS client_service, b.service_name AS server_service, count(*) AS calls, "
        "quantileTDigest(0.99)(a.duration_nano - b.duration_nano) AS p99 FROM {files} AS b JOIN {files} AS a "
        "ON a.trace_id = b.trace_id AND a.span_id = b.parent_span_id WHERE a.service_name IS DISTINCT FROM b.service_name "
        "AND b.start_time_unix_nano >= {start} AND b.start_time_unix_nano < {end} AND a.duration_nano >= b.duration_nano "
        "AND a.start_time_unix_nano >= {start} - 3600000000000 AND a.start_time_unix_nano < {end} + 3600000000000 GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    query(
        "exceptions",
        True,
        "SELECT service_name, attributes['exception.type'] AS type, count(*) AS n FROM span_events WHERE name = 'exception' AND "
        + OURS
        + " GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 20",
        "SELECT service_name, event.attributes['exception.type'].str AS type, count(*) AS n FROM (SELECT service_name, unnest(events) AS event "
        "FROM {files} WHERE " + FROM + ") WHERE event.name = 'exception' GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 20",
        "SELECT service_name, event.attributes['exception.type'].str AS type, count(*) AS n FROM (SELECT service_name, arrayJoin(events) AS event "
        "FROM {files} WHERE " + FROM + ") WHERE event.name = 'exception' GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 20",
    ),
    query(
        "critical path",
        True,
        "WITH RECURSIVE slowest AS (SELECT trace_id FROM traces WHERE "
        + OURS
        + " AND root_name IS NOT NULL ORDER BY duration_nano DESC, trace_id LIMIT 1), tree AS (SELECT span_id, parent_span_id, service_name, "
        "name, duration_nano, end_time FROM spans WHERE trace_id IN (SELECT trace_id FROM slowest)), last_calls AS (SELECT parent_span_id, "
        "first_value(span_id ORDER BY end_time DESC, span_id) AS span_id FROM tree WHERE parent_span_id IS NOT NULL GROUP BY parent_span_id), "
        "path AS (SELECT span_id, 1 AS step FROM tree WHERE parent_span_id IS NULL UNION ALL SELECT last_calls.span_id, path.step + 1 FROM path "
        "JOIN last_calls ON last_calls.parent_span_id = path.span_id WHERE path.step < 100) "
        "SELECT path.step, tree.service_name, tree.name, tree.duration_nano FROM path JOIN tree ON tree.span_id = path.span_id ORDER BY 1",
        CRITICAL_PATH.replace("{last}", "first(span_id ORDER BY ended DESC, span_id)"),
        CRITICAL_PATH.replace("{last}", "argMax(span_id, ended)"),
    ),
]
