-- Who sends how much: spans, traces and events by service and pod.
SELECT
    service_name,
    resource_attributes['k8s.pod.name'] AS pod,
    count(*) AS spans,
    count(DISTINCT trace_id) AS traces,
    avg(cardinality(events)) AS events_per_span
FROM spans
WHERE start_time >= now() - INTERVAL '1 hour'
GROUP BY service_name, pod
ORDER BY spans DESC
LIMIT 20
