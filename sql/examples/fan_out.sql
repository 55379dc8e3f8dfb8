-- How many calls to other services does one request of a service cause?
WITH calls AS (
    SELECT trace_id, client_service, count(*) AS calls, count(DISTINCT server_service) AS services
    FROM service_edges
    WHERE start_time >= now() - INTERVAL '1 hour'
    GROUP BY trace_id, client_service
)
SELECT
    client_service,
    count(*) AS traces,
    avg(calls) AS average_calls,
    max(calls) AS most_calls,
    max(services) AS most_services
FROM calls
GROUP BY client_service
ORDER BY average_calls DESC
