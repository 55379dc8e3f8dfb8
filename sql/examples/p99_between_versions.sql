-- Which endpoints got slower from one version of a service to the next? Endpoints with few calls say little.
WITH endpoints AS (
    SELECT
        service_name,
        name,
        resource_attributes['service.version'] AS version,
        count(*) AS calls,
        approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_nano) AS p99
    FROM spans
    WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 day'
    GROUP BY service_name, name, version
    HAVING count(*) >= 10
)
SELECT
    after.service_name,
    after.name,
    before.version AS before_version,
    after.version AS after_version,
    before.p99 / 1e6 AS before_p99_ms,
    after.p99 / 1e6 AS after_p99_ms,
    after.p99 / CAST(before.p99 AS DOUBLE) AS ratio
FROM endpoints AS before
JOIN endpoints AS after
    ON before.service_name = after.service_name AND before.name = after.name AND before.version < after.version
WHERE after.p99 > before.p99
ORDER BY ratio DESC
LIMIT 20
