-- Rate, errors and duration of every route, in windows of five minutes.
SELECT
    date_bin(INTERVAL '5 minutes', start_time) AS window,
    service_name,
    coalesce(span_attributes['http.route'], name) AS route,
    count(*) / 300.0 AS requests_per_second,
    avg(CASE WHEN status_code = 'error' THEN 1.0 ELSE 0.0 END) AS error_ratio,
    approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_nano) / 1e6 AS p50_ms,
    approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_nano) / 1e6 AS p99_ms
FROM spans
WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 hour'
GROUP BY window, service_name, route
ORDER BY window, service_name, route
