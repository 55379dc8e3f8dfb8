-- What callers wait for beyond the work of the callee: network, queues, connection pools.
SELECT
    client_service,
    server_service,
    count(*) AS calls,
    approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY client_duration_nano - duration_nano) / 1e6 AS p50_ms,
    approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY client_duration_nano - duration_nano) / 1e6 AS p99_ms
FROM service_edges
WHERE start_time >= now() - INTERVAL '1 hour' AND client_duration_nano >= duration_nano
GROUP BY client_service, server_service
ORDER BY p99_ms DESC
