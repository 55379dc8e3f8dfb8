-- attributes: which attributes there are, from the lists that files carry: no span is read. One row per day, key, type of
-- value, and place where it is stored. A condition on date skips files.
-- Columns are appended, never renamed or re-typed.
--   scope: resource, instrumentation, span, event or link
--   key: as senders write it
--   type: string, int, double, bool, or json for arrays, maps and bytes
--   stored: column where files have one for it, map where they do not
--   column_name: name of that column in the files
--   files: files that have the attribute
--   spans: spans of these files and of memory: at most so many have it
--   column_values: spans that have it in its column, in files; NULL where nobody counted
--   date: UTC day of the spans
SELECT
    scope,
    key,
    type,
    CASE WHEN column_name IS NULL THEN 'map' ELSE 'column' END AS stored,
    column_name,
    count(*) FILTER (WHERE in_file) AS files,
    sum(spans) AS spans,
    sum(column_values) AS column_values,
    date
FROM physical_keys
GROUP BY scope, key, type, column_name, date
