-- The slowest traces of the last hour, and what took part in them.
SELECT trace_id, root_service_name, root_name, duration_nano / 1e6 AS duration_ms, span_count, error_count, services
FROM traces
WHERE start_time >= now() - INTERVAL '1 hour'
ORDER BY duration_nano DESC
LIMIT 20
