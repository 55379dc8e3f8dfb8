"""The Flight SQL JDBC driver, as database tools and BI programs load it."""

import json
import os
import pathlib
import subprocess

import pytest

FOLDER = pathlib.Path(os.environ["TRACEHOUSE_JDBC"])


@pytest.fixture(scope="module")
def answers(mixed):
    """What each step of `jdbc/Jdbc.java` printed."""
    host = mixed.server.addresses.flight.removeprefix("grpc://")
    command = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-Duser.timezone=UTC", "-cp", f"{FOLDER}/*:{FOLDER}"]
    url = f"jdbc:arrow-flight-sql://{host}?useEncryption=false"
    arguments = [url, mixed.service, str(min(span["start"] for span in mixed.of_service.values()))]
    done = subprocess.run([*command, "Jdbc", *arguments], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line["value"] for line in map(json.loads, done.stdout.splitlines())}


def column(rows, name):
    return [row[name] for row in rows]


def test_the_driver_learns_what_the_server_can(answers):
    assert answers["product"] == "tracehouse"
    assert answers["read only"] is True
    assert answers["quote"] == '"'
    assert (answers["transactions"], answers["isolation"]) == (False, 0)
    assert answers["outer joins"] and answers["unions"] and answers["correlated"]
    assert answers["forward only"] and not answers["batch updates"]
    assert answers["statement length"] > 1_000
    assert "LIMIT" in answers["keywords"]
    assert [names.split(",")[0] for names in answers["functions"]] == ["abs", "ascii", "arrow_cast", "current_date"]


def test_tools_browse_catalogs_schemas_tables_and_columns(answers):
    assert column(answers["catalogs"], "TABLE_CAT") == ["tracehouse"]
    assert "public" in column(answers["schemas"], "TABLE_SCHEM")
    assert column(answers["schemas like"], "TABLE_SCHEM") == ["public"]
    assert column(answers["table types"], "TABLE_TYPE") == ["TABLE"]
    assert column(answers["tables"], "TABLE_NAME") == ["span_events", "span_links", "spans"]
    assert column(answers["views"], "TABLE_NAME") == ["spans"]
    columns = {row["COLUMN_NAME"]: row for row in answers["columns"]}
    assert list(columns)[:3] == ["trace_id", "span_id", "parent_span_id"]
    assert columns["duration_nano"]["TYPE_NAME"] == "BIGINT"
    assert columns["start_time"]["TYPE_NAME"].startswith("TIMESTAMP")
    assert columns["name"]["IS_NULLABLE"] == "YES"
    assert column(answers["column"], "COLUMN_NAME") == ["duration_nano"]
    for keys in ["primary keys", "imported keys", "exported keys", "cross reference"]:
        assert answers[keys] == []
    assert answers["catalog"] in (None, "tracehouse")


def test_rows_have_the_values_that_were_sent(mixed, answers):
    rows = {row["span_id"]: row for row in answers["spans"]}
    assert rows.keys() == mixed.of_service.keys()
    for id, row in rows.items():
        span = mixed.sent[id]
        assert (row["trace_id"], row["parent_span_id"]) == (span["trace_id"], span["parent_span_id"])
        assert (row["name"], row["kind"], row["status_code"]) == (span["name"], span["kind"], span["status_code"])
        assert (row["start_time"], row["end_time"]) == (span["start"], span["end"])
        assert row["duration_nano"] == span["end"] - span["start"]
        assert len(row["events"]) == len(span["events"])
        # Maps come as maps.
        assert set(row["span_attributes"]) == set(span["attributes"])
    assert answers["two"] == 2


def test_flat_rows_have_json_for_what_is_nested(mixed, answers):
    rows = {row["span_id"]: row for row in answers["flat"]}
    assert rows.keys() == mixed.sent.keys()
    for id, row in rows.items():
        assert row["start_time"] == mixed.sent[id]["start"]
        attributes = json.loads(row["span_attributes"])
        assert set(attributes) == set(mixed.sent[id]["attributes"])
        for key, value in mixed.sent[id]["attributes"].items():
            if value[0] in ("int", "str", "bool"):
                assert attributes[key] == value[1]


def test_parameters_are_bound_by_position(mixed, answers):
    assert answers["parameters"] == 3
    assert column(answers["bound"], "span_id") == sorted(mixed.of_service)
    assert answers["bound again"] == []


def test_refusals_say_why(answers):
    assert "there is no column nam; did you mean name?" in answers["SELECT nam FROM spans"]
    assert "DROP is not allowed" in answers["DROP TABLE spans"]
    assert answers["DELETE FROM spans"]


def test_every_way_to_connect_works(answers):
    ways = [name for name in answers if name.startswith("valid with ")]
    assert len(ways) == 3 and all(answers[way] for way in ways)
