-- span_events: one row per event, with the span that it belongs to. time is the event's, start_time and date are the
-- span's, as in every table: conditions on them skip files.
-- Columns are appended, never renamed or re-typed.
--   trace_id: the span's
--   span_id: the span's
--   service_name: the span's
--   span_name: name of the span
--   time: when it happened
--   name: name of the event, such as exception
--   attributes: what is said of the event
--   dropped_attributes_count: attributes that the sender left out of the event
--   start_time: when the span began
--   date: UTC day of start_time
SELECT
    id_hex(trace_id) AS trace_id,
    id_hex(span_id) AS span_id,
    service_name,
    span_name,
    event['time'] AS time,
    event['name'] AS name,
    event['attributes'] AS attributes,
    event['dropped_attributes_count'] AS dropped_attributes_count,
    arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))') AS start_time,
    arrow_cast(arrow_cast(start_time_unix_nano, 'Timestamp(Nanosecond, Some("UTC"))'), 'Date32') AS date
FROM (
    SELECT
        trace_id,
        span_id,
        attr_str(resource_attributes, 'service.name') AS service_name,
        name AS span_name,
        unnest(event_list(events)) AS event,
        start_time_unix_nano
    FROM physical_spans
)
