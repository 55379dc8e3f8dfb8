-- spans: one row per span. Ids are lower-case hex, times are UTC with nanoseconds, attributes are maps:
-- span_attributes['http.route'] is text, attr_int(span_attributes, 'http.response.status_code') is typed.
-- Columns are appended, never renamed or re-typed.
SELECT
    id_hex(trace_id) AS trace_id,
    id_hex(span_id) AS span_id,
    id_hex(parent_span_id) AS parent_span_id,
    trace_state,
    flags,
    attr_str(resource_attributes, 'service.name') AS service_name,
    attr_str(resource_attributes, 'service.namespace') AS service_namespace,
    name,
    kind,
    status_code,
    status_message,
    arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS start_time,
    arrow_cast(start_time_unix_nano + duration_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS end_time,
    duration_nano,
    scope_name,
    scope_version,
    scope_schema_url,
    resource_schema_url,
    resource_attributes,
    scope_attributes,
    span_attributes,
    event_list(events) AS events,
    link_list(links) AS links,
    dropped_attributes_count,
    dropped_events_count,
    dropped_links_count,
    resource_dropped_attributes_count,
    scope_dropped_attributes_count,
    arrow_cast(arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))'), 'Date32') AS date
FROM physical_spans
