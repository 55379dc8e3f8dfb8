-- N+1 queries and retry storms: one span with many children that all do the same.
SELECT
    parent.service_name,
    parent.name AS parent_name,
    child.name AS repeated,
    count(*) AS calls,
    count(*) FILTER (WHERE child.status_code = 'error') AS errors,
    sum(child.duration_nano) / 1e6 AS total_ms,
    parent.trace_id
FROM spans AS parent
JOIN spans AS child ON child.trace_id = parent.trace_id AND child.parent_span_id = parent.span_id
WHERE parent.start_time >= now() - INTERVAL '1 hour' AND child.start_time >= now() - INTERVAL '1 hour'
GROUP BY parent.trace_id, parent.span_id, parent.service_name, parent.name, child.name
HAVING count(*) >= 5
ORDER BY calls DESC
LIMIT 20
