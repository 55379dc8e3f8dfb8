"""`tracehouse demo` fills a server, and its questions have answers."""

import os
import subprocess

import adbc_driver_flightsql.dbapi as flightsql
import pytest
import requests
from tracehouse import Server

SPANS = 5_000


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("demo") / "data")
    try:
        yield server.addresses
        server.stop()
    finally:
        server.kill()


def demo(addresses, *arguments):
    command = [os.environ["TRACEHOUSE_BINARY"], "demo", "--endpoint", addresses.otlp_grpc, "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_backfill_is_there_as_soon_as_the_command_ends(addresses):
    done = demo(addresses, "--backfill", "1h", "--spans", str(SPANS), "--compression", "zstd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{SPANS} spans accepted in ") and "rejected" not in done.stdout
    statement = (
        "SELECT count(*) AS spans, count(DISTINCT service_name) AS services, "
        "count(DISTINCT CASE WHEN status_code = 'error' THEN trace_id END) AS failed FROM spans"
    )
    with flightsql.connect(addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        [row] = cursor.fetch_arrow_table().to_pylist()
    assert (row["spans"], row["services"]) == (SPANS, 15)
    parameters = {"q": "{ status = error }", "limit": 1_000}
    traces = requests.get(f"{addresses.tempo}/api/search", params=parameters, timeout=30).json()["traces"]
    assert len(traces) == row["failed"] > 0
    assert all(trace["rootServiceName"] and trace["serviceStats"] for trace in traces)


def test_an_endpoint_that_nobody_listens_on_is_named():
    command = [os.environ["TRACEHOUSE_BINARY"], "demo", "--endpoint", "http://127.0.0.1:1", "--duration", "1s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot reach http://127.0.0.1:1: ")
