-- traces: one row per trace, from all its spans. A condition on start_time or date chooses traces by their first start;
-- spans are read as far around it as query.trace_extent_max. A condition on trace_id reads that trace only.
-- Columns are appended, never renamed or re-typed.
--   trace_id: 32 digits of lower-case hex
--   root_service_name: service of the first span without a parent; NULL where none is stored
--   root_name: name of that span
--   start_time: first start of a span
--   end_time: last end of a span
--   duration_nano: from the one to the other in nanoseconds
--   span_count: rows in spans
--   error_count: those of them with status_code error
--   services: names of the services in alphabetical order
--   date: UTC day of start_time
SELECT
    id_hex(trace_id) AS trace_id,
    first_value(attr_str(resource_attributes, 'service.name') ORDER BY start_time_unix_nano, span_id)
        FILTER (WHERE parent_span_id IS NULL) AS root_service_name,
    first_value(name ORDER BY start_time_unix_nano, span_id) FILTER (WHERE parent_span_id IS NULL) AS root_name,
    arrow_cast(min(start_time_unix_nano), 'Timestamp(Nanosecond, Some("UTC"))') AS start_time,
    arrow_cast(
        max(start_time_unix_nano + greatest(duration_nano, 0)), 'Timestamp(Nanosecond, Some("UTC"))'
    ) AS end_time,
    max(start_time_unix_nano + greatest(duration_nano, 0)) - min(start_time_unix_nano) AS duration_nano,
    count(*) AS span_count,
    count(*) FILTER (WHERE status_code = 'error') AS error_count,
    text_set(attr_str(resource_attributes, 'service.name')) AS services,
    arrow_cast(arrow_cast(min(start_time_unix_nano), 'Timestamp(Nanosecond, Some("UTC"))'), 'Date32') AS date
FROM physical_spans
GROUP BY trace_id
