"""The table read by other programs while the server writes and compacts it: the same counts and values as our SQL.

Each reader finds the files by the table's log and puts promoted attributes together with what is left of them in the maps,
by the `coalesce` that the documentation gives.
"""

import os
import subprocess

import adbc_driver_flightsql.dbapi as flightsql
import duckdb
import polars
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from tracehouse import Server

SPANS = 30_000
STORED = "SELECT coalesce(sum(spans), 0) AS spans FROM system.files"
ROUTE, STATUS = "http.route", "http.response.status_code"

OURS = f"""
    SELECT service_name AS service, attr_str(span_attributes, '{ROUTE}') AS route,
           count(*) AS spans, CAST(sum(duration_nano) AS DOUBLE) AS duration,
           sum(attr_int(span_attributes, '{STATUS}')) AS status, count(attr_str(span_attributes, 'user.id')) AS users
    FROM spans GROUP BY 1, 2
"""


def sql(server, text):
    with flightsql.connect(server.addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetch_arrow_table().to_pylist()


def ours(server):
    return groups(tuple(row.values()) for row in sql(server, OURS))


def groups(rows):
    rows = [tuple(row) for row in rows]
    return {row[:2]: (row[2], row[3], row[4] or None, row[5]) for row in rows}


def by_pyarrow(folder):
    """`deltalake` finds the files, `pyarrow` reads them; Python puts the attributes together."""
    found = {}
    table = DeltaTable(folder).to_pyarrow_dataset().to_table()
    assert len(pc.unique(table["span_id"])) == len(table), "a span is there twice"
    for row in table.to_pylist():
        left = dict(row["span_attributes"] or [])

        def attribute(key, kind):
            promoted = row.get(f"span.{key}")
            return promoted if promoted is not None else left.get(key, {}).get(kind)

        key = (row["service_name"], attribute(ROUTE, "str"))
        spans, duration, status, users = found.get(key, (0, 0.0, None, 0))
        code = attribute(STATUS, "int")
        status = status if code is None else (status or 0) + code
        users += attribute("user.id", "str") is not None
        found[key] = (spans + 1, duration + row["duration_nano"], status, users)
    return found


def by_polars(folder):
    """`scan_delta`, lazily; `coalesce` of column and map."""
    table = polars.scan_delta(str(folder))
    columns = table.collect_schema().names()

    def attribute(key, kind):
        left = polars.col("span_attributes").map.get(key).struct.field(kind)
        return polars.coalesce(polars.col(f"span.{key}"), left) if f"span.{key}" in columns else left

    grouped = (
        table.select(
            polars.col("service_name").alias("service"),
            attribute(ROUTE, "str").alias("route"),
            attribute(STATUS, "int").alias("status"),
            attribute("user.id", "str").alias("user"),
            polars.col("duration_nano").cast(polars.Float64),
            polars.col("span_id"),
        )
        .group_by("service", "route")
        .agg(
            polars.len(),
            polars.col("duration_nano").sum(),
            polars.col("status").sum(),
            polars.col("user").count(),
            polars.col("span_id").n_unique().alias("ids"),
        )
        .collect()
    )
    assert (grouped["len"] == grouped["ids"]).all(), "a span is there twice"
    return groups(grouped.drop("ids").rows())


def duckdb_over(files, folder):
    """DuckDB's Parquet reader on files of the table; columns are found by name."""
    columns = {field.name for field in DeltaTable(folder).schema().fields}

    def attribute(key, kind):
        left = f"span_attributes['{key}'].{kind}"
        return f'coalesce("span.{key}", {left})' if f"span.{key}" in columns else left

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    rows = connection.execute(
        f"""
        SELECT service_name, {attribute(ROUTE, "str")} AS route, count(*), sum(CAST(duration_nano AS DOUBLE)),
               CAST(sum({attribute(STATUS, "int")}) AS BIGINT), count({attribute("user.id", "str")}),
               count(DISTINCT span_id)
        FROM read_parquet(?, union_by_name = true, hive_partitioning = true) GROUP BY 1, 2
        """,
        [files],
    ).fetchall()
    assert all(row[2] == row[6] for row in rows), "a span is there twice"
    return groups(row[:6] for row in rows)


def by_duckdb(folder):
    return duckdb_over(DeltaTable(folder).file_uris(), folder)


READERS = {"pyarrow": by_pyarrow, "polars": by_polars, "duckdb": by_duckdb}


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A server under load whose table each reader reads again and again: what they found, and the server after it."""
    data = tmp_path_factory.mktemp("readers") / "data"
    eager = {"compaction__interval": "100ms", "compaction__fan_in": 2, "flush__age_max": "300ms"}
    server = Server(data, **eager)
    command = [os.environ["TRACEHOUSE_BINARY"], "demo", "--endpoint", server.addresses.otlp_grpc, "--quiet"]
    command += ["--backfill", "30m", "--spans", str(SPANS), "--rate", "2500"]
    try:
        sending = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        found = {name: [] for name in READERS}
        stored = 0
        while sending.poll() is None or stored < SPANS:
            stored = sql(server, STORED)[0]["spans"]
            if stored:
                for name, read in READERS.items():
                    before = sql(server, STORED)[0]["spans"]
                    spans = sum(spans for spans, *_ in read(server.table).values())
                    after = sql(server, "SELECT count(*) AS spans FROM spans")[0]["spans"]
                    found[name].append((before, spans, after))
        assert sending.returncode == 0
        yield server, found
        server.stop()
    finally:
        sending.kill()
        server.kill()


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_beside_a_writer_sees_a_state_of_the_table(history, reader):
    server, found = history
    assert len(found[reader]) >= 3
    for before, spans, after in found[reader]:
        assert before <= spans <= after, "a state between the one before the read and the one after it"
    operations = [commit["operation"] for commit in DeltaTable(server.table).history()]
    assert operations.count("OPTIMIZE") >= 3 and operations.count("WRITE") >= 3


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_finds_the_values_that_sql_finds(history, reader):
    server, _ = history
    expected = ours(server)
    assert sum(spans for spans, *_ in expected.values()) == SPANS
    assert len(expected) > 20
    found = READERS[reader](server.table)
    assert found.keys() == expected.keys()
    for key, (spans, duration, status, users) in expected.items():
        assert found[key][0] == spans and found[key][2:] == (status, users), key
        assert found[key][1] == pytest.approx(duration)


def test_the_folders_of_days_are_enough_once_replaced_files_are_gone(history, tmp_path):
    server, _ = history
    expected = ours(server)
    copy = tmp_path / "copy"
    backup = [os.environ["TRACEHOUSE_BINARY"], "backup", "--data", str(server.data), "--to", str(copy)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACEHOUSE_")}
    done = subprocess.run(backup, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    [folder] = copy.glob("tenants/*/spans")
    found = duckdb_over(f"{folder}/date=*/*.parquet", folder)
    assert {key: row[0] for key, row in found.items()} == {key: row[0] for key, row in expected.items()}
