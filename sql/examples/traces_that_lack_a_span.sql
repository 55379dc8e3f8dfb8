-- Orders without a payment: traces that have one span and not another.
SELECT trace_id, root_service_name, root_name, start_time, services
FROM traces
WHERE start_time >= now() - INTERVAL '1 hour'
    AND array_has(services, 'order-service') AND NOT array_has(services, 'payment-service')
ORDER BY start_time DESC
LIMIT 20
