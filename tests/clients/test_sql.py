"""SQL over Flight SQL, through ADBC into pyarrow: what an analyst's notebook sees."""

import base64
import datetime
import json

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow as pa
import pytest
from canonical import assert_same

COLUMNS = [
    "trace_id",
    "span_id",
    "parent_span_id",
    "trace_state",
    "flags",
    "service_name",
    "service_namespace",
    "name",
    "kind",
    "status_code",
    "status_message",
    "start_time",
    "end_time",
    "duration_nano",
    "scope_name",
    "scope_version",
    "scope_schema_url",
    "resource_schema_url",
    "resource_attributes",
    "scope_attributes",
    "span_attributes",
    "events",
    "links",
    "dropped_attributes_count",
    "dropped_events_count",
    "dropped_links_count",
    "resource_dropped_attributes_count",
    "scope_dropped_attributes_count",
    "date",
]


def rows(table):
    """Rows by span id, with times as nanoseconds: Python's own type cannot hold them."""
    assert table.schema.field("start_time").type == pa.timestamp("ns", "UTC")
    table = table.cast(pa.schema([field.with_type(integer_times(field.type)) for field in table.schema]))
    return {row["span_id"]: row for row in table.to_pylist()}


def integer_times(kind):
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(integer_times(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(integer_times(field.type)) for field in kind])
    return kind


def assert_text(text, value):
    """The text that SQL shows for an attribute."""
    match value:
        case ("empty",):
            assert text is None
        case ("str", item):
            assert text == item
        case ("bool", item):
            assert text == str(item).lower()
        case ("int", item):
            assert text == str(item)
        case ("float", item):
            assert repr(float(text)) == item
        case (_, item):
            assert plain(json.loads(text)) == plain_of(value)


def plain(value):
    """JSON as Python reads it, with the wrapper of a map whose keys look like one of ours taken off."""
    match value:
        case {"$map": items}:
            return {key: plain(item) for key, item in items.items()}
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case _:
            return value


def plain_of(value):
    match value:
        case ("bytes", item):
            return {"$bytes": base64.b64encode(item).decode()}
        case ("array", items):
            return [plain_of(item) for item in items]
        case ("map", items):
            return {key: plain_of(item) for key, item in items.items()}
        case ("float", "nan"):
            return {"$double": "NaN"}
        case ("float", item):
            return float(item)
        case ("empty",):
            return None
        case (_, item):
            return item


def assert_attributes(pairs, attributes):
    texts = dict(pairs)
    assert len(texts) == len(pairs)
    assert texts.keys() == attributes.keys()
    for key, value in attributes.items():
        assert_text(texts[key], value)


def test_every_column_of_every_span_comes_back(sql, sent, service, trace_id):
    table = sql(f"SELECT {', '.join(COLUMNS)} FROM spans WHERE trace_id = '{trace_id}'")
    found = rows(table)
    assert found.keys() == sent.keys()
    for id, span in sent.items():
        row = found[id]
        for name in ["trace_id", "parent_span_id", "name", "kind", "status_code", "flags"]:
            assert row[name] == span[name], name
        for name in ["trace_state", "status_message"]:
            assert (row[name] or "") == span[name], name
        assert (row["service_name"], row["service_namespace"]) == (service, "clients")
        assert (row["start_time"], row["end_time"]) == (span["start"], span["end"])
        assert row["duration_nano"] == span["end"] - span["start"]
        for name in ["attributes", "events", "links"]:
            assert row[f"dropped_{name}_count"] == span[f"dropped_{name}"], name
        for name in ["resource", "scope"]:
            assert row[f"{name}_dropped_attributes_count"] == span[name]["dropped_attributes"], name
        assert row["date"] == datetime.datetime.fromtimestamp(span["start"] // 10**9, datetime.timezone.utc).date()
        assert (row["resource_schema_url"] or "") == span["resource"]["schema_url"]
        for name in ["name", "version", "schema_url"]:
            assert (row[f"scope_{name}"] or "") == span["scope"][name], name
        assert_attributes(row["span_attributes"], span["attributes"])
        assert_attributes(row["resource_attributes"], span["resource"]["attributes"])
        assert_attributes(row["scope_attributes"], span["scope"]["attributes"])
        assert_events(row["events"], span["events"])
        assert_links(row["links"], span["links"])


def assert_events(found, events):
    assert [(event["time"], event["name"]) for event in found] == [(event["time"], event["name"]) for event in events]
    for row, event in zip(found, events):
        assert row["dropped_attributes_count"] == event["dropped_attributes"]
        assert_attributes(row["attributes"], event["attributes"])


def assert_links(found, links):
    assert [(link["trace_id"], link["span_id"]) for link in found] == [
        (link["trace_id"], link["span_id"]) for link in links
    ]
    for row, link in zip(found, links):
        assert (row["trace_state"] or "", row["flags"]) == (link["trace_state"], link["flags"])
        assert_attributes(row["attributes"], link["attributes"])


@pytest.mark.parametrize(
    ("function", "kind", "convert"),
    [("attr_int", "int", int), ("attr_float", "float", float), ("attr_str", "str", str), ("attr_bool", "bool", bool)],
)
def test_typed_functions_give_values_of_their_type_only(sql, sent, trace_id, function, kind, convert):
    keys = ["test.int", "test.float", "test.text", "test.true", "http.response.status_code", "http.route"]
    values = ", ".join(f"{function}(span_attributes, '{key}') AS \"{key}\"" for key in keys)
    table = sql(f"SELECT span_id, {values} FROM spans WHERE trace_id = '{trace_id}'")
    found = {row.pop("span_id"): row for row in table.to_pylist()}
    expected = {}
    for id, span in sent.items():
        given = {key: span["attributes"].get(key, ("empty",)) for key in keys}
        expected[id] = {key: convert(value[1]) if value[0] == kind else None for key, value in given.items()}
    assert_same(found, expected)


def test_attributes_filter_and_group(sql, sent, trace_id):
    statement = (
        "SELECT span_attributes['http.response.status_code'] AS status, count(*) AS spans FROM spans "
        f"WHERE trace_id = '{trace_id}' AND span_attributes['clients.sender'] IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    expected = {}
    for span in sent.values():
        if "clients.sender" in span["attributes"]:
            status = span["attributes"].get("http.response.status_code", ("empty", None))[1]
            status = None if status is None else str(status)
            expected[status] = expected.get(status, 0) + 1
    assert {row["status"]: row["spans"] for row in sql(statement).to_pylist()} == expected


def test_parameters_are_bound(sql, sent, service):
    table = sql("SELECT count(*) AS spans FROM spans WHERE service_name = ?", (service,))
    assert table.to_pylist() == [{"spans": len(sent)}]


def test_the_catalogue_lists_the_table(warehouse):
    with flightsql.connect(warehouse.server.addresses.flight, autocommit=True) as connection:
        schema = connection.adbc_get_table_schema("spans")
        assert [name for name in COLUMNS if name not in schema.names] == []
        assert connection.adbc_get_table_types()
        objects = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
        tables = [
            table["table_name"]
            for catalog in objects
            for schema in catalog["catalog_db_schemas"] or []
            for table in schema["db_schema_tables"] or []
        ]
        assert "spans" in tables


def test_statements_that_write_are_refused(sql):
    writing = ["DROP TABLE spans", "CREATE TABLE t AS SELECT 1", "COPY spans TO 'x.parquet'", "SELECT 1; SELECT 2"]
    for statement in writing:
        with pytest.raises(Exception, match="(?i)not|only|one statement"):
            sql(statement)
