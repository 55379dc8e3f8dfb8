-- What do slow requests have in common? Attribute values by how much more often they occur in the slowest 5 %.
WITH requests AS (
    SELECT span_attributes, duration_nano, resource_attributes
    FROM spans
    WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 hour'
),
bound AS (SELECT approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_nano) AS nano FROM requests),
marked AS (
    SELECT span_attributes, duration_nano > bound.nano AS is_slow, unnest(attr_keys(span_attributes)) AS key
    FROM requests CROSS JOIN bound
),
pairs AS (SELECT key, span_attributes[key] AS value, is_slow FROM marked)
SELECT
    key,
    value,
    count(*) FILTER (WHERE is_slow) AS slow,
    count(*) FILTER (WHERE NOT is_slow) AS fast,
    count(*) FILTER (WHERE is_slow) / CAST(count(*) AS DOUBLE) AS slow_ratio
FROM pairs
GROUP BY key, value
HAVING count(*) >= 10
ORDER BY slow_ratio DESC, slow DESC, key, value
LIMIT 30
