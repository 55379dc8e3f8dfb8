-- Why did the slowest request take so long? Its critical path: from the root down, always the call that ended last.
WITH RECURSIVE slowest AS (
    SELECT trace_id
    FROM traces
    WHERE start_time >= now() - INTERVAL '1 hour' AND root_name IS NOT NULL
    ORDER BY duration_nano DESC, trace_id
    LIMIT 1
),
tree AS (
    SELECT span_id, parent_span_id, service_name, name, duration_nano, end_time
    FROM spans
    WHERE trace_id IN (SELECT trace_id FROM slowest) AND start_time >= now() - INTERVAL '2 hours'
),
last_calls AS (
    SELECT parent_span_id, first_value(span_id ORDER BY end_time DESC, span_id) AS span_id
    FROM tree
    WHERE parent_span_id IS NOT NULL
    GROUP BY parent_span_id
),
path AS (
    SELECT span_id, 1 AS step FROM tree WHERE parent_span_id IS NULL
    UNION ALL
    SELECT last_calls.span_id, path.step + 1
    FROM path
    JOIN last_calls ON last_calls.parent_span_id = path.span_id
    WHERE path.step < 100
)
SELECT
    path.step,
    tree.service_name,
    tree.name,
    duration_text(tree.duration_nano) AS duration,
    duration_text(tree.duration_nano - coalesce(lead(tree.duration_nano) OVER (ORDER BY path.step), 0)) AS its_own
FROM path
JOIN tree ON tree.span_id = path.span_id
ORDER BY path.step
