-- How long from the order to its payment, trace by trace?
SELECT
    placed.trace_id,
    placed.start_time AS placed_at,
    arrow_cast(arrow_cast(paid.start_time, 'Int64') - arrow_cast(placed.start_time, 'Int64'), 'Float64') / 1e6 AS waited_ms
FROM spans AS placed
JOIN spans AS paid ON placed.trace_id = paid.trace_id
WHERE placed.service_name = 'order-service' AND placed.kind = 'server'
    AND paid.service_name = 'payment-service' AND paid.kind = 'server'
    AND placed.start_time >= now() - INTERVAL '1 hour' AND paid.start_time >= placed.start_time
ORDER BY waited_ms DESC
LIMIT 20
