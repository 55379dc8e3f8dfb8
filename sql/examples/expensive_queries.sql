-- Which queries cost the most lately? Those that run now included.
SELECT
    kind,
    state,
    duration_text(duration_nano) AS took,
    scanned_bytes / 1e6 AS scanned_mb,
    peak_memory_bytes / 1e6 AS memory_mb,
    rows,
    query
FROM system.queries
ORDER BY duration_nano DESC
LIMIT 20
