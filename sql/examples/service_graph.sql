-- Who calls whom, how often, how badly and how slowly.
SELECT
    client_service,
    server_service,
    count(*) AS calls,
    avg(CASE WHEN status_code = 'error' THEN 1.0 ELSE 0.0 END) AS error_ratio,
    avg(duration_nano) / 1e6 AS average_ms,
    approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_nano) / 1e6 AS p95_ms
FROM service_edges
WHERE start_time >= now() - INTERVAL '1 hour'
GROUP BY client_service, server_service
ORDER BY calls DESC
