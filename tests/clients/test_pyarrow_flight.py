"""`pyarrow.flight`, which knows Flight and nothing of Flight SQL."""

import pyarrow.flight as flight
import pytest


@pytest.fixture
def client(mixed):
    with flight.connect(mixed.server.addresses.flight) as client:
        yield client


def read(client, info, options=None):
    [endpoint] = info.endpoints
    assert endpoint.locations == []
    table = client.do_get(endpoint.ticket, options).read_all()
    assert table.schema == info.schema
    return table


def test_tables_are_listed_and_read_by_their_path(mixed, client):
    flights = {b"/".join(info.descriptor.path).decode(): info for info in client.list_flights()}
    assert {"public/spans", "public/traces", "system/files"} <= flights.keys()
    assert sorted(read(client, flights["public/spans"])["span_id"].to_pylist()) == sorted(mixed.sent)
    info = client.get_flight_info(flight.FlightDescriptor.for_path("tracehouse", "public", "traces"))
    traces = read(client, info).to_pylist()
    assert {row["trace_id"] for row in traces} == {span["trace_id"] for span in mixed.sent.values()}
    with pytest.raises(Exception, match="nope"):
        client.get_flight_info(flight.FlightDescriptor.for_path("nope"))


def test_a_command_and_a_ticket_can_be_a_statement(mixed, client):
    statement = "SELECT span_id, name FROM spans ORDER BY span_id"
    expected = [(id, mixed.sent[id]["name"]) for id in sorted(mixed.sent)]
    descriptor = flight.FlightDescriptor.for_command(statement)
    assert client.get_schema(descriptor).schema.names == ["span_id", "name"]
    info = client.get_flight_info(descriptor)
    for table in [read(client, info), client.do_get(flight.Ticket(statement)).read_all()]:
        assert list(zip(*table.to_pydict().values())) == expected


def test_headers_say_language_and_types(mixed, client):
    options = flight.FlightCallOptions(headers=[(b"x-tracehouse-language", b"traceql")])
    info = client.get_flight_info(flight.FlightDescriptor.for_command("{ }"), options)
    found = {row["trace_id"] for row in read(client, info).to_pylist()}
    assert found == {span["trace_id"] for span in mixed.sent.values()}
    options = flight.FlightCallOptions(headers=[(b"x-tracehouse-types", b"flat")])
    info = client.get_flight_info(flight.FlightDescriptor.for_path("spans"), options)
    assert str(info.schema.field("span_attributes").type) == "string"
    assert read(client, info).num_rows == len(mixed.sent)


def test_credentials_become_a_token(mixed, client):
    header = client.authenticate_basic_token("ana", "secret")
    assert header[0] == b"authorization" and header[1].startswith(b"Bearer ")
    options = flight.FlightCallOptions(headers=[header])
    info = client.get_flight_info(flight.FlightDescriptor.for_command("SELECT count(*) AS n FROM spans"), options)
    assert read(client, info, options)["n"].to_pylist() == [len(mixed.sent)]


def test_actions_are_listed_and_answered(client):
    listed = {action.type for action in client.list_actions()}
    assert {"CancelFlightInfo", "CloseSession", "GetSessionOptions", "RenewFlightEndpoint"} <= listed
    [closed] = client.do_action(flight.Action("CloseSession", b""))
    assert closed.body.to_pybytes() == b"\x08\x01"
