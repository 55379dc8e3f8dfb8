"""ADBC from Python: what the driver asks of its own, and the libraries that are built on it."""

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import duckdb
import pandas
import polars
import pyarrow as pa
import pytest

HEADER = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value


@pytest.fixture
def connection(mixed):
    with flightsql.connect(mixed.server.addresses.flight, autocommit=True) as connection:
        yield connection


def connect(mixed, **options):
    return flightsql.connect(mixed.server.addresses.flight, db_kwargs=options, autocommit=True)


def names(mixed):
    return sorted((id, span["name"], span["end"] - span["start"]) for id, span in mixed.sent.items())


STATEMENT = "SELECT span_id, name, duration_nano FROM spans ORDER BY span_id"


def test_a_connection_is_made_as_pep_249_has_it(mixed):
    # Without autocommit the driver would begin a transaction, if the server said that it had any.
    with flightsql.connect(mixed.server.addresses.flight) as connection, connection.cursor() as cursor:
        cursor.execute(STATEMENT)
        assert [column[0] for column in cursor.description] == ["span_id", "name", "duration_nano"]
        assert cursor.fetchone() == names(mixed)[0]
        assert cursor.fetchall() == names(mixed)[1:]


@pytest.mark.parametrize(
    "options",
    [
        {"username": "ana", "password": "secret"},
        {adbc_driver_flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer abc"},
        {HEADER + "x-scope-orgid": "single"},
    ],
)
def test_credentials_are_taken(mixed, options):
    with connect(mixed, **options) as connection, connection.cursor() as cursor:
        cursor.execute(STATEMENT)
        assert cursor.fetchall() == names(mixed)


def test_the_server_tells_of_itself(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "tracehouse"
    assert info["driver_name"].startswith("ADBC Flight SQL")
    assert connection.adbc_current_catalog == "tracehouse"
    assert connection.adbc_current_db_schema == "public"
    connection.adbc_current_db_schema = "public"
    with pytest.raises(Exception, match="(?i)schema"):
        connection.adbc_current_db_schema = "elsewhere"


def test_all_objects_are_listed_with_their_columns(connection):
    [catalog] = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    assert catalog["catalog_name"] == "tracehouse"
    [schema] = [schema for schema in catalog["catalog_db_schemas"] if schema["db_schema_name"] == "public"]
    tables = {table["table_name"]: table for table in schema["db_schema_tables"]}
    assert {"spans", "traces", "span_events", "span_links", "service_edges", "otel_traces"} <= tables.keys()
    columns = [column["column_name"] for column in tables["spans"]["table_columns"]]
    assert columns == connection.adbc_get_table_schema("spans").names
    assert connection.adbc_get_table_types() == ["TABLE"]
    filtered = connection.adbc_get_objects(depth="tables", table_name_filter="span_l%").read_all().to_pylist()
    [only] = [table for schema in filtered[0]["catalog_db_schemas"] for table in schema["db_schema_tables"]]
    assert only["table_name"] == "span_links"


def test_a_statement_is_prepared_with_the_types_of_its_parameters(connection):
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT name FROM spans WHERE duration_nano > ? AND service_name = ?")
        assert schema.types == [pa.int64(), pa.string()]
        assert cursor.adbc_execute_schema("SELECT name, duration_nano FROM spans").types == [pa.string(), pa.int64()]


def test_parameters_are_bound_by_position(mixed, connection):
    first, second = names(mixed)[:2]
    statement = "SELECT span_id, name, ? AS tag FROM spans WHERE span_id = ? AND duration_nano = ?"
    with connection.cursor() as cursor:
        cursor.execute(statement, ("it", first[0], first[2]))
        assert cursor.fetchall() == [(first[0], first[1], "it")]
        # Each row is a run of its own, in order.
        rows = pa.record_batch(
            {"x": ["b", "none", "a"], "y": [second[0], "?", first[0]], "z": [second[2], 0, first[2]]},
        )
        cursor.execute(statement, rows)
        assert cursor.fetchall() == [(second[0], second[1], "b"), (first[0], first[1], "a")]
        with pytest.raises(Exception, match="read only"):
            cursor.executemany(statement, [("a", "b", 1)])


def test_partitions_are_read_by_another_connection(mixed, connection):
    with connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions(STATEMENT)
        assert schema.names == ["span_id", "name", "duration_nano"]
    with connect(mixed) as other, other.cursor() as cursor:
        rows = []
        for partition in partitions:
            cursor.adbc_read_partition(partition)
            rows += cursor.fetchall()
        assert rows == names(mixed)


def test_a_query_can_be_polled_for(connection):
    options = {adbc_driver_manager.StatementOptions.INCREMENTAL.value: "true"}
    with connection.cursor(adbc_stmt_kwargs=options) as cursor:
        partitions, _ = cursor.adbc_execute_partitions(STATEMENT)
        assert len(partitions) == 1
        # The plan was complete at the first poll.
        assert cursor.adbc_execute_partitions(STATEMENT)[0] == []


def test_errors_say_what_is_wrong(connection):
    with connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="there is no column nam; did you mean name?"):
            cursor.execute("SELECT nam FROM spans")
        with pytest.raises(Exception, match="DROP is not allowed"):
            cursor.execute("DROP TABLE spans")
        with pytest.raises(Exception, match="read only"):
            cursor.adbc_ingest("mine", pa.table({"a": [1]}), mode="create")


def test_an_answer_that_is_not_wanted_any_more_is_cancelled(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT a.value FROM generate_series(1, 3000000) a")
        reader = cursor.fetch_record_batch()
        assert reader.read_next_batch().num_rows > 0
        cursor.adbc_cancel()
        with pytest.raises(Exception, match="(?i)cancel"):
            while True:
                reader.read_next_batch()


def test_types_are_those_of_the_header(mixed):
    statement = "SELECT trace_id, span_attributes, events, start_time FROM spans ORDER BY span_id"
    for types, expected in {
        "plain": [pa.string(), pa.map_(pa.string(), pa.string()), None, pa.timestamp("ns", "UTC")],
        "flat": [pa.string(), pa.string(), pa.string(), pa.timestamp("ns")],
        "typed": [None, None, None, pa.timestamp("ns", "UTC")],
    }.items():
        with connect(mixed, **{HEADER + "x-tracehouse-types": types}) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            table = cursor.fetch_arrow_table()
            for found, wanted in zip(table.schema.types, expected):
                assert wanted is None or found == wanted
            assert table.num_rows == len(mixed.sent)
            if types == "typed":
                value = table.schema.field("span_attributes").type.item_type
                assert [field.name for field in value] == ["str", "int", "float", "bool", "json"]


def test_pandas_reads_statements_and_tables(mixed, connection):
    # It first asks whether the statement is the name of a table: its % and _ are patterns then.
    frame = pandas.read_sql("SELECT span_id, name, duration_nano FROM spans WHERE name LIKE '%_%' OR true", connection)
    assert sorted(frame.itertuples(index=False, name=None)) == names(mixed)
    assert frame["duration_nano"].dtype == "int64"
    table = pandas.read_sql_table("spans", connection)
    assert sorted(table["span_id"]) == sorted(mixed.sent)
    assert str(table["start_time"].dtype) == "datetime64[ns, UTC]"


def test_polars_reads_statements(mixed, connection):
    frame = polars.read_database(STATEMENT, connection)
    assert frame.rows() == names(mixed)
    options = {"parameters": (names(mixed)[0][0],)}
    bound = polars.read_database("SELECT name FROM spans WHERE span_id = ?", connection, execute_options=options)
    assert bound.rows() == [(names(mixed)[0][1],)]
    nested = polars.read_database("SELECT span_id, start_time, events, span_attributes FROM spans", connection)
    events = {row["span_id"]: len(row["events"]) for row in nested.iter_rows(named=True)}
    assert events == {id: len(span["events"]) for id, span in mixed.sent.items()}
    starts = nested.select("span_id", polars.col("start_time").dt.epoch("ns")).rows()
    assert dict(starts) == {id: span["start"] for id, span in mixed.sent.items()}


def test_duckdb_queries_an_answer_as_it_comes(mixed, connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT span_id, name, duration_nano, span_attributes, events FROM spans")
        answer = cursor.fetch_record_batch()
        rows = duckdb.sql("SELECT span_id, name, duration_nano FROM answer ORDER BY span_id").fetchall()
    assert rows == names(mixed)
    with connection.cursor() as cursor:
        cursor.execute("SELECT span_id, span_attributes FROM spans")
        answer = cursor.fetch_arrow_table()
        rows = duckdb.sql("SELECT span_id, span_attributes['http.route'] FROM answer").fetchall()
    routes = {id: span["attributes"].get("http.route") for id, span in mixed.sent.items()}
    expected = {id: route and str(route[1]) for id, route in routes.items()}
    assert dict(rows) == expected
