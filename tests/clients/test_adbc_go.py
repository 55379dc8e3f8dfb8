"""The ADBC driver in a Go program, with the version of the driver that Go programs link."""

import datetime
import json
import os
import pathlib
import subprocess

import pytest

PROGRAM = pathlib.Path(os.environ["TRACEHOUSE_ADBC_GO"]) / "adbc"


@pytest.fixture(scope="module")
def answers(mixed):
    """What each step of `adbc-go/main.go` printed."""
    command = [PROGRAM, mixed.server.addresses.flight, mixed.service]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line["value"] for line in map(json.loads, done.stdout.splitlines())}


def test_the_catalogue_is_complete(answers):
    assert {row["info_name"]: row["info_value"][1] for row in answers["info"]} == {0: "tracehouse", 3: True}
    assert answers["table types"] == [{"table_type": "TABLE"}]
    [catalog] = answers["objects"]
    tables = {
        table["table_name"]: [column["column_name"] for column in table["table_columns"]]
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    assert set(tables["spans"]) == set(answers["schema"])
    assert answers["schema"]["start_time"] == "timestamp[ns, tz=UTC]"
    assert answers["schema"]["span_attributes"].startswith("map<utf8, utf8")


def test_rows_have_the_values_that_were_sent(mixed, answers):
    rows = {row["span_id"]: row for row in answers["spans"]}
    assert rows.keys() == mixed.of_service.keys()
    for id, row in rows.items():
        span = mixed.sent[id]
        assert (row["name"], row["kind"], row["duration_nano"]) == (span["name"], span["kind"], span["end"] - span["start"])
        second, _, fraction = row["start_time"].removesuffix("Z").partition(".")
        seconds = datetime.datetime.fromisoformat(second).replace(tzinfo=datetime.timezone.utc).timestamp()
        assert int(seconds) * 10**9 + int(fraction.ljust(9, "0") or 0) == span["start"]
        assert {entry["key"] for entry in row["span_attributes"]} == set(span["attributes"])


def test_each_row_of_parameters_is_answered_in_order(mixed, answers):
    expected = [("all", len(mixed.of_service)), ("none", 0), ("nobody", 0)]
    assert [(row["name"], row["spans"]) for row in answers["bound"]] == expected


def test_an_answer_is_found_by_its_partition(mixed, answers):
    assert answers["partitions"] == 1
    assert answers["partition"] == [{"spans": len(mixed.sent)}]


def test_refusals_say_why(answers):
    assert "there is no column nam; did you mean name?" in answers["SELECT nam FROM spans"]
    assert "DROP is not allowed" in answers["DROP TABLE spans"]


def test_flat_answers_have_only_types_that_grafana_shows(mixed, answers):
    rows = {row["span_id"]: row for row in answers["flat"]}
    assert rows.keys() == mixed.sent.keys()
    for id, row in rows.items():
        assert set(json.loads(row["span_attributes"])) == set(mixed.sent[id]["attributes"])
