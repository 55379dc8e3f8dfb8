-- span_links: one row per link, with the span that it belongs to. start_time and date are the span's, as in every table:
-- conditions on them skip files.
-- Columns are appended, never renamed or re-typed.
--   trace_id: the span's
--   span_id: the span's
--   service_name: the span's
--   span_name: name of the span
--   linked_trace_id: trace of the span that the link leads to
--   linked_span_id: span that the link leads to
--   trace_state: W3C trace state of the link; NULL if empty
--   flags: W3C trace flags of the link
--   attributes: what is said of the link
--   dropped_attributes_count: attributes that the sender left out of the link
--   start_time: when the span began
--   date: UTC day of start_time
SELECT
    id_hex(trace_id) AS trace_id,
    id_hex(span_id) AS span_id,
    service_name,
    span_name,
    link['trace_id'] AS linked_trace_id,
    link['span_id'] AS linked_span_id,
    link['trace_state'] AS trace_state,
    link['flags'] AS flags,
    link['attributes'] AS attributes,
    link['dropped_attributes_count'] AS dropped_attributes_count,
    arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS start_time,
    arrow_cast(arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))'), 'Date32') AS date
FROM (
    SELECT
        trace_id,
        span_id,
        attr_str(resource_attributes, 'service.name') AS service_name,
        name AS span_name,
        unnest(link_list(links)) AS link,
        start_time_unix_nano
    FROM physical_spans
)
