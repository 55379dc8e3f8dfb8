-- How much of a budget of 0.1 % errors has each service used up in a day? Above 1 it is spent.
SELECT
    service_name,
    count(*) AS requests,
    count(*) FILTER (WHERE status_code = 'error') AS errors,
    count(*) FILTER (WHERE status_code = 'error') / (0.001 * count(*)) AS budget_used
FROM spans
WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 day'
GROUP BY service_name
ORDER BY budget_used DESC
