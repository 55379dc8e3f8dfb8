"""`flightsql-dbapi`: its client, its DB-API, and SQLAlchemy's engine and inspector on it."""

import flightsql
import flightsql.sqlalchemy  # noqa: F401 - registers the dialect
import pandas
import pytest
import sqlalchemy
from flightsql.client import TableRef
from sqlalchemy import column, func, select, table


@pytest.fixture
def place(mixed):
    host, port = mixed.server.addresses.flight.removeprefix("grpc://").split(":")
    return host, int(port)


@pytest.fixture
def engine(place):
    host, port = place
    engine = sqlalchemy.create_engine(f"datafusion+flightsql://{host}:{port}?insecure=True")
    yield engine
    engine.dispose()


def test_the_inspector_finds_tables_and_columns(engine):
    inspector = sqlalchemy.inspect(engine)
    assert "public" in inspector.get_schema_names()
    assert {"spans", "traces", "service_edges"} <= set(inspector.get_table_names())
    columns = {column["name"]: column for column in inspector.get_columns("traces")}
    assert columns["duration_nano"]["type"].python_type is int
    assert columns["root_name"]["nullable"]


def test_expressions_are_run(mixed, engine):
    spans = table("spans", column("span_id"), column("name"), column("service_name"), column("duration_nano"))
    statement = select(spans.c.span_id, spans.c.name).where(spans.c.duration_nano >= 0).order_by(spans.c.span_id)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(statement)]
    assert rows == [(id, mixed.sent[id]["name"]) for id in sorted(mixed.sent)]
    # Quoting is what the server's SQL info says.
    odd = select(func.count().label("Number of spans")).select_from(spans)
    with engine.connect() as connection:
        assert connection.execute(odd).scalar_one() == len(mixed.sent)


def test_pandas_reads_through_an_engine(mixed, engine):
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT span_id, start_time FROM spans")).fetchall()
    frame = pandas.DataFrame(rows, columns=["span_id", "start_time"])
    assert sorted(frame["span_id"]) == sorted(mixed.sent)


def test_the_client_browses_and_reads(mixed, place):
    host, port = place
    client = flightsql.FlightSQLClient(host=host, port=port, insecure=True, token="abc", metadata={"database": "x"})

    def read(info):
        [endpoint] = info.endpoints
        return client.do_get(endpoint.ticket).read_all()

    assert read(client.get_catalogs())["catalog_name"].to_pylist() == ["tracehouse"]
    assert "public" in read(client.get_db_schemas())["db_schema_name"].to_pylist()
    assert read(client.get_table_types())["table_type"].to_pylist() == ["TABLE"]
    named = read(client.get_tables(table_name_filter_pattern="span_e%", include_schema=True))
    assert named["table_name"].to_pylist() == ["span_events"]
    spans = TableRef(catalog=None, db_schema=None, table="spans")
    for keys in [client.get_primary_keys(spans), client.get_exported_keys(spans), client.get_imported_keys(spans)]:
        assert read(keys).num_rows == 0
    bigint = -5
    assert read(client.get_xdbc_type_info(bigint))["type_name"].to_pylist() == ["BIGINT"]
    assert read(client.get_sql_info([504]))["info_name"].to_pylist() == [504]
    found = read(client.execute("SELECT span_id FROM spans"))["span_id"].to_pylist()
    assert sorted(found) == sorted(mixed.sent)


def test_the_db_api_reads_rows(mixed, place):
    host, port = place
    client = flightsql.FlightSQLClient(host=host, port=port, insecure=True, user="ana", password="secret")
    with flightsql.connect(client) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT span_id, duration_nano FROM spans ORDER BY span_id")
        assert [name for name, *_ in cursor.description] == ["span_id", "duration_nano"]
        rows = [tuple(row) for row in cursor.fetchall()]
    assert rows == [(id, span["end"] - span["start"]) for id, span in sorted(mixed.sent.items())]
