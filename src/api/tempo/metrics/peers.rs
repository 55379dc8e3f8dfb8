//! Who is called, or calls, without sending spans, as the spans of others tell it.

/// What a span says of the database that it asks; the first that is there is its name.
pub(super) const DATABASE: &str = "coalesce(span_attributes['peer.service'], span_attributes['db.namespace'], \
    span_attributes['db.name'], span_attributes['db.system.name'], span_attributes['db.system'])";

/// Which spans ask a database.
pub(super) const ASKS_DATABASE: &str = "kind = 'client' AND \
    (span_attributes['db.system.name'] IS NOT NULL OR span_attributes['db.system'] IS NOT NULL)";

/// Who sends the requests that have no parent, as Tempo calls them.
pub(super) const USER: &str = "'user'";

/// A statement: calls that no span answers, and messages that no span takes, with the name of whom they go to. They are
/// those within `bounds`, conditions on `start_time`; what answers them is looked for within `answered_bounds`.
pub(super) fn unanswered(bounds: &str, answered_bounds: &str) -> String {
    format!(
        "SELECT asked.service_name, asked.start_time, asked.status_code, asked.duration_nano, asked.peer, \
         CASE WHEN asked.kind = 'producer' THEN 'messaging' ELSE 'virtual' END AS peer_of \
         FROM (SELECT trace_id, span_id, service_name, kind, start_time, status_code, duration_nano, \
           CASE WHEN kind = 'producer' \
             THEN coalesce(span_attributes['messaging.destination.name'], span_attributes['messaging.system']) \
             ELSE span_attributes['peer.service'] END AS peer \
           FROM spans WHERE {bounds} AND (kind = 'producer' OR (kind = 'client' \
             AND span_attributes['db.system.name'] IS NULL AND span_attributes['db.system'] IS NULL))) AS asked \
         LEFT ANTI JOIN (SELECT trace_id, parent_span_id FROM spans \
           WHERE {answered_bounds} AND parent_span_id IS NOT NULL) AS answered \
         ON answered.trace_id = asked.trace_id AND answered.parent_span_id = asked.span_id \
         WHERE asked.peer IS NOT NULL"
    )
}
