-- service_edges: one row per call from one service to another: a span whose parent belongs to another service, with that
-- parent. start_time, date, duration_nano and status_code are the callee's. Parents are looked for as far around a
-- condition on start_time or date as query.trace_extent_max.
-- Columns are appended, never renamed or re-typed.
--   trace_id: 32 digits of lower-case hex
--   client_service: who calls; NULL without a service.name
--   server_service: who is called; NULL without a service.name
--   client_span_id: span of the caller
--   server_span_id: span of the callee
--   client_name: name of the caller's span
--   server_name: name of the callee's span
--   server_kind: kind of the callee's span
--   status_code: of the callee's span
--   duration_nano: of the callee's span
--   client_duration_nano: of the caller's span
--   start_time: when the callee's span began
--   date: UTC day of start_time
SELECT
    id_hex(callee.trace_id) AS trace_id,
    caller.service_name AS client_service,
    callee.service_name AS server_service,
    id_hex(caller.span_id) AS client_span_id,
    id_hex(callee.span_id) AS server_span_id,
    caller.name AS client_name,
    callee.name AS server_name,
    callee.kind AS server_kind,
    callee.status_code AS status_code,
    callee.duration_nano AS duration_nano,
    caller.duration_nano AS client_duration_nano,
    arrow_cast(callee.start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS start_time,
    arrow_cast(arrow_cast(callee.start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))'), 'Date32') AS date
FROM (
    SELECT trace_id, span_id, parent_span_id, name, kind, status_code, start_time_unix_nano, duration_nano,
        attr_str(resource_attributes, 'service.name') AS service_name
    FROM physical_spans
) AS callee
JOIN (
    SELECT trace_id, span_id, name, duration_nano, attr_str(resource_attributes, 'service.name') AS service_name
    FROM physical_spans
) AS caller
ON callee.trace_id = caller.trace_id AND callee.parent_span_id = caller.span_id
WHERE callee.service_name IS DISTINCT FROM caller.service_name
