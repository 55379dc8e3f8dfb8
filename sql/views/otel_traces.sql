-- otel_traces: spans under the column names of the OpenTelemetry Collector's ClickHouse exporter, for queries that exist
-- already. These names need no quotes in a query that reads this table.
-- Columns are appended, never renamed or re-typed.
--   Timestamp: start of the span
--   TraceId: 32 digits of lower-case hex
--   SpanId: 16 digits of lower-case hex
--   ParentSpanId: SpanId of the span above; empty for a root
--   TraceState: W3C trace state
--   SpanName: what the span does
--   SpanKind: Unspecified, Internal, Server, Client, Producer or Consumer
--   ServiceName: service.name of the resource; empty if absent
--   ResourceAttributes: what is said of the sender
--   ScopeName: name of the instrumentation library
--   ScopeVersion: version of the instrumentation library
--   SpanAttributes: what is said of the span
--   Duration: nanoseconds
--   StatusCode: Unset, Ok or Error
--   StatusMessage: what an error says
--   Events.Timestamp: times of the events
--   Events.Name: names of the events
--   Events.Attributes: what is said of the events
--   Links.TraceId: traces of the linked spans
--   Links.SpanId: the linked spans
--   Links.TraceState: W3C trace states of the links
--   Links.Attributes: what is said of the links
SELECT
    arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS "Timestamp",
    id_hex(trace_id) AS "TraceId",
    id_hex(span_id) AS "SpanId",
    coalesce(id_hex(parent_span_id), '') AS "ParentSpanId",
    coalesce(trace_state, '') AS "TraceState",
    name AS "SpanName",
    CASE kind
        WHEN 'internal' THEN 'Internal'
        WHEN 'server' THEN 'Server'
        WHEN 'client' THEN 'Client'
        WHEN 'producer' THEN 'Producer'
        WHEN 'consumer' THEN 'Consumer'
        ELSE 'Unspecified'
    END AS "SpanKind",
    coalesce(attr_str(resource_attributes, 'service.name'), '') AS "ServiceName",
    resource_attributes AS "ResourceAttributes",
    coalesce(scope_name, '') AS "ScopeName",
    coalesce(scope_version, '') AS "ScopeVersion",
    span_attributes AS "SpanAttributes",
    duration_nano AS "Duration",
    CASE status_code WHEN 'ok' THEN 'Ok' WHEN 'error' THEN 'Error' ELSE 'Unset' END AS "StatusCode",
    coalesce(status_message, '') AS "StatusMessage",
    list_field(event_list(events), 'time') AS "Events.Timestamp",
    list_field(event_list(events), 'name') AS "Events.Name",
    list_field(event_list(events), 'attributes') AS "Events.Attributes",
    list_field(link_list(links), 'trace_id') AS "Links.TraceId",
    list_field(link_list(links), 'span_id') AS "Links.SpanId",
    list_field(link_list(links), 'trace_state') AS "Links.TraceState",
    list_field(link_list(links), 'attributes') AS "Links.Attributes"
FROM physical_spans
