-- Where is time spent, and not only waited for? Duration of spans less that of their children, by operation.
WITH children AS (
    SELECT trace_id, parent_span_id, sum(duration_nano) AS nano
    FROM spans
    WHERE parent_span_id IS NOT NULL AND start_time >= now() - INTERVAL '1 hour'
    GROUP BY trace_id, parent_span_id
)
SELECT
    spans.service_name,
    spans.name,
    count(*) AS spans,
    sum(greatest(spans.duration_nano - coalesce(children.nano, 0), 0)) / 1e6 AS self_ms,
    sum(spans.duration_nano) / 1e6 AS total_ms
FROM spans
LEFT JOIN children ON spans.trace_id = children.trace_id AND spans.span_id = children.parent_span_id
WHERE spans.start_time >= now() - INTERVAL '1 hour'
GROUP BY spans.service_name, spans.name
ORDER BY self_ms DESC
LIMIT 20
