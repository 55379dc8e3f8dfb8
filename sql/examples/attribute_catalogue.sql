-- Which attributes are sent, with which types, and where are they stored? Two types under one key are a trap for queries.
SELECT
    scope,
    key,
    array_sort(array_agg(DISTINCT type)) AS types,
    array_sort(array_agg(DISTINCT stored)) AS stored,
    max(spans) AS spans_at_most
FROM attributes
WHERE date >= CAST(now() - INTERVAL '1 day' AS DATE)
GROUP BY scope, key
ORDER BY count(DISTINCT type) DESC, scope, key
