"""The files, read without the server: `deltalake` finds them, `pyarrow` reads them."""

import time

import canonical
import pytest
from deltalake import DeltaTable
from senders import SENDERS
from tracehouse import Server

FLUSH_SECONDS_MAX = 60


@pytest.fixture(scope="module", params=["while serving", "after a stop"])
def spans(request, tmp_path_factory):
    """What was sent, and what the table holds after a flush: one by age, beside a running server, and one by a stop."""
    data = tmp_path_factory.mktemp("table") / "data"
    serving = request.param == "while serving"
    server = Server(data, flush__age_max="1s" if serving else "1h")
    try:
        sent = {}
        for name, send in SENDERS.items():
            sent |= send(server.addresses, f"clients-{name}")
        if serving:
            found = wait_for(server, len(sent))
            server.stop()
        else:
            server.stop()
            found = read(server)
    finally:
        server.kill()
    return sent, found


def wait_for(server, count):
    deadline = time.monotonic() + FLUSH_SECONDS_MAX
    while True:
        found = read(server)
        assert len(found) <= count, "the table holds a span twice"
        if len(found) == count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} spans are in the table after a minute"
        time.sleep(0.2)


def read(server):
    folders = list(server.data.glob("tenants/*/spans/_delta_log"))
    if not folders:
        return []
    table = DeltaTable(folders[0].parent).to_pyarrow_dataset().to_table()
    return table.to_pylist()


def test_every_field_of_every_span_is_in_the_table(spans):
    sent, rows = spans
    found = {}
    for row in rows:
        canonical.add(found, canonical.of_table_row(row))
    canonical.assert_same(found, sent)


def test_the_partition_is_the_day_of_the_start(spans):
    _, rows = spans
    assert rows
    for row in rows:
        day = time.strftime("%Y-%m-%d", time.gmtime(row["start_time_unix_nano"] // 10**9))
        assert str(row["date"]) == day


def test_well_known_attributes_have_columns_of_their_own(spans):
    _, rows = spans
    assert {row["span.http.response.status_code"] for row in rows} == {None, 200}
    assert all(row["service_name"].startswith("clients-") for row in rows)
