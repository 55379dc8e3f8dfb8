-- What is the p99 of the hour, and in which five minutes was it worst? Sketches of minutes can be stored, and merge exactly.
WITH minutes AS (
    SELECT service_name, time_bucket('1m', start_time) AS minute, sketch(duration_nano) AS latency
    FROM spans
    WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 hour'
    GROUP BY service_name, minute
),
fives AS (
    SELECT service_name, time_bucket('5m', minute) AS five_minutes, sketch_merge(latency) AS latency
    FROM minutes
    GROUP BY service_name, five_minutes
)
SELECT
    service_name,
    sketch_count(sketch_merge(latency)) AS requests,
    sketch_quantile(sketch_merge(latency), 0.5) / 1e6 AS p50_ms,
    sketch_quantile(sketch_merge(latency), 0.99) / 1e6 AS p99_ms,
    max(sketch_quantile(latency, 0.99)) / 1e6 AS worst_p99_ms
FROM fives
GROUP BY service_name
ORDER BY p99_ms DESC
