-- Which attributes have how many values? High ones cost memory in metrics and bytes in storage.
SELECT key, count(*) AS spans, approx_distinct(value) AS about_values, min(value) AS least, max(value) AS greatest
FROM (
    SELECT key, span_attributes[key] AS value
    FROM (
        SELECT span_attributes, unnest(attr_keys(span_attributes)) AS key
        FROM spans
        WHERE start_time >= now() - INTERVAL '1 hour'
    )
)
GROUP BY key
ORDER BY about_values DESC, key
