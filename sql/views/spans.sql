-- spans: one row per span. Ids are lower-case hex, times are UTC with nanoseconds, attributes are maps:
-- span_attributes['http.route'] is text, attr_int(span_attributes, 'http.response.status_code') is typed.
-- Columns are appended, never renamed or re-typed.
--   trace_id: 32 digits of lower-case hex
--   span_id: 16 digits of lower-case hex
--   parent_span_id: span_id of the span above; NULL for a root
--   trace_state: W3C trace state; NULL if empty
--   flags: W3C trace flags in the low 8 bits
--   service_name: service.name of the resource; NULL if absent
--   service_namespace: service.namespace of the resource; NULL if absent
--   name: what the span does, such as GET /cart
--   kind: unspecified, internal, server, client, producer or consumer
--   status_code: unset, ok or error
--   status_message: what an error says; NULL if empty
--   start_time: when it began
--   end_time: when it ended
--   duration_nano: end minus start in nanoseconds
--   scope_name: name of the instrumentation library; NULL if empty
--   scope_version: version of the instrumentation library; NULL if empty
--   scope_schema_url: schema of the scope's attributes; NULL if empty
--   resource_schema_url: schema of the resource's attributes; NULL if empty
--   resource_attributes: what is said of the sender, such as resource_attributes['k8s.pod.name']
--   scope_attributes: what is said of the instrumentation library
--   span_attributes: what is said of the span, such as attr_int(span_attributes, 'http.response.status_code')
--   events: what happened in the span: time, name, attributes, dropped_attributes_count
--   links: spans of other places: trace_id, span_id, trace_state, flags, attributes, dropped_attributes_count
--   dropped_attributes_count, dropped_events_count, dropped_links_count: how many the sender left out of the span
--   resource_dropped_attributes_count: attributes that the sender left out of the resource
--   scope_dropped_attributes_count: attributes that the sender left out of the scope
--   date: UTC day of start_time
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
