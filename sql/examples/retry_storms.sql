-- Retry storms: calls that one span repeats one after the other because they fail.
SELECT
    service_name,
    name,
    count(*) AS storms,
    max(tries) AS most_tries,
    sum(errors) AS failed_calls,
    duration_text(CAST(max(lost_nano) AS BIGINT)) AS longest_wait,
    min(trace_id) AS one_trace
FROM (
    SELECT
        service_name,
        name,
        trace_id,
        count(*) AS tries,
        count(*) FILTER (WHERE status_code = 'error') AS errors,
        sum(duration_nano) FILTER (WHERE status_code = 'error') AS lost_nano
    FROM spans
    WHERE kind = 'client' AND parent_span_id IS NOT NULL AND start_time >= now() - INTERVAL '1 hour'
    GROUP BY service_name, name, trace_id, parent_span_id
)
WHERE tries >= 2 AND errors >= 1
GROUP BY service_name, name
ORDER BY failed_calls DESC, service_name, name
LIMIT 20
