-- The most frequent exceptions, where they come from, and one trace to look at.
SELECT
    service_name,
    attributes['exception.type'] AS type,
    count(*) AS occurrences,
    max(time) AS last_seen,
    min(attributes['exception.message']) AS a_message,
    min(trace_id) AS a_trace
FROM span_events
WHERE name = 'exception' AND start_time >= now() - INTERVAL '1 hour'
GROUP BY service_name, type
ORDER BY occurrences DESC
LIMIT 20
