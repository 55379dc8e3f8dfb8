"""Sends with every client to servers in each state that data can be in, once a session."""

import dataclasses
import logging

import adbc_driver_flightsql.dbapi as flightsql
import pytest
import requests
from senders import SENDERS
from tracehouse import Server

# The spans that go beyond the limits on attributes do so on purpose.
logging.getLogger("opentelemetry.attributes").setLevel(logging.ERROR)


@dataclasses.dataclass(frozen=True)
class Warehouse:
    """A running server, and what each sender sent to it."""

    server: Server
    sent: dict

    def get(self, path, **options):
        return requests.get(f"{self.server.addresses.tempo}{path}", timeout=30, **options)


@pytest.fixture(scope="session", params=["buffered", "recovered", "restarted"])
def warehouse(request, tmp_path_factory):
    """The same spans: in memory only; replayed from the log after a kill; in files after a stop and a start."""
    data = tmp_path_factory.mktemp(request.param) / "data"
    server = Server(data, flush__age_max="1h")
    try:
        sent = {name: send(server.addresses, f"clients-{name}") for name, send in SENDERS.items()}
        if request.param == "recovered":
            server.kill()
            server = Server(data, flush__age_max="1h")
        elif request.param == "restarted":
            server.stop()
            server = Server(data, flush__age_max="1h")
        yield Warehouse(server, sent)
        server.stop()
    finally:
        server.kill()


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A running server with one trace in files and one in memory, and all spans of both by id."""

    server: Server
    sent: dict
    service: str
    of_service: dict


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """For clients whose tests are about the client, or which are slow to start."""
    data = tmp_path_factory.mktemp("mixed") / "data"
    server = Server(data, flush__age_max="1h")
    try:
        service = "clients-in-files"
        in_files = SENDERS["python-grpc"](server.addresses, service)
        server.stop()
        server = Server(data, flush__age_max="1h")
        in_memory = SENDERS["python-http"](server.addresses, "clients-in-memory")
        yield Mixed(server, in_files | in_memory, service, in_files)
        server.stop()
    finally:
        server.kill()


@pytest.fixture(params=list(SENDERS))
def sender(request):
    return request.param


@pytest.fixture
def service(sender):
    return f"clients-{sender}"


@pytest.fixture
def sent(warehouse, sender):
    """The spans of one sender's trace, by id, in canonical form."""
    return warehouse.sent[sender]


@pytest.fixture
def trace_id(sent):
    [trace_id] = {span["trace_id"] for span in sent.values()}
    return trace_id


@pytest.fixture
def sql(warehouse):
    """Runs a statement over Flight SQL; the answer is a pyarrow table."""
    with flightsql.connect(warehouse.server.addresses.flight, autocommit=True) as connection:

        def run(statement, parameters=None):
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetch_arrow_table()

        yield run
