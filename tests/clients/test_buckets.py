"""The tables in buckets of real object stores: through kills and outages, beside a second writer, and with what is kept."""

import contextlib
import os
import statistics
import subprocess
import time

import adbc_driver_flightsql.dbapi as flightsql
import buckets
import pytest
import requests
from senders import python_grpc
from tracehouse import Server

WAIT_SECONDS_MAX = 60
DELAY_SECONDS = 0.03
CRASH_SECONDS_MAX = 20
# What is queried cold and warm; a million take a minute.
SPANS = os.environ.get("TRACEHOUSE_BUCKET_SPANS", "20000")


@pytest.fixture(params=list(buckets.STORES))
def bucket(request, tmp_path):
    with buckets.STORES[request.param](tmp_path) as bucket:
        yield bucket


@contextlib.contextmanager
def serving(bucket, local, **settings):
    server = start(bucket, local, **settings)
    try:
        yield server
    finally:
        server.kill()


def start(bucket, local, **settings):
    settings = {"flush__age_max": "1h", "store__retry_timeout": "1s", **settings}
    return Server(local, data=bucket.url, local_dir=local, **bucket.settings, **settings)


def count(server):
    with flightsql.connect(server.addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) AS spans, count(DISTINCT span_id) AS ids FROM spans")
        [row] = cursor.fetch_arrow_table().to_pylist()
        assert row["spans"] == row["ids"], "a span is seen twice"
        return row["spans"]


def metric(server, name):
    text = requests.get(f"{server.addresses.tempo}/metrics", timeout=30).text
    values = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and line[0] != "#"]
    return sum(values)


def wait_for(condition):
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_spans_survive_kills_and_stops(bucket, tmp_path):
    local = tmp_path / "local"
    with serving(bucket, local) as server:
        sent = len(python_grpc(server.addresses, "one"))
        assert count(server) == sent
        server.kill()
    with serving(bucket, local) as server:
        assert count(server) == sent
        server.stop()
    assert any(".parquet" in request.path for request in bucket.front.requests if request.method == "PUT")
    with serving(bucket, local, flush__age_max="1s") as server:
        assert count(server) == sent
        new = len(python_grpc(server.addresses, "two"))
        wait_for(lambda: metric(server, "tracehouse_flush_spans_total") == new)
        sent += new
        server.kill()
    # What is in the bucket needs nothing of the machine that put it there.
    with serving(bucket, tmp_path / "elsewhere") as server:
        assert count(server) == sent


# Where the server ends itself, and after how many times of coming by.
CRASH_POINTS = [
    "wal.append.synced:20",
    "flush.after_stage:2",
    "flush.after_parquet:2",
    "catalog.commit.before_put:3",
    "catalog.commit.after_put:3",
    "flush.after_commit:2",
    "flush.before_cut:2",
    "wal.cut.deleted:1",
    "compact.after_put:1",
    "compact.after_commit:1",
    "replay.after_record:1",
]
CRASH_ROUNDS = int(os.environ.get("TRACEHOUSE_CRASH_ROUNDS", "1"))


def test_crashes_at_every_step_lose_and_double_nothing(bucket, tmp_path):
    local, ledger = tmp_path / "local", Ledger()
    settings = {
        "flush__age_max": "100ms",
        "compaction__interval": "100ms",
        "compaction__fan_in": "2",
        "wal__segment_bytes_max": "128KiB",
        "ingest__request_bytes_max": "64KiB",
        "ingest__attribute_bytes_max": "8KiB",
        "ingest__group_commit_bytes_max": "64KiB",
    }
    reached = []
    for point in CRASH_POINTS * CRASH_ROUNDS:
        try:
            server = start(bucket, local, crashpoint=point, **settings)
        except AssertionError:
            # It came by while it replayed.
            reached.append(point)
            continue
        deadline = time.monotonic() + CRASH_SECONDS_MAX
        while server.process.poll() is None and time.monotonic() < deadline:
            ledger.send(server)
        if server.process.poll() is not None:
            reached.append(point)
        server.kill()
        with serving(bucket, local, **settings) as server:
            ledger.check(server)
            # Something for the next one to replay.
            ledger.send(server)
    assert set(CRASH_POINTS) - set(reached) <= {"replay.after_record:1"}, reached
    with serving(bucket, local, **settings) as server:
        ledger.check(server)
        server.stop()
    command = [server.binary, "verify", "--data", bucket.url, "--set", f"local_dir={local}"]
    for key, value in bucket.settings.items():
        command += ["--set", f"{key.replace('__', '.')}={value}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACEHOUSE_")}
    verified = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert verified.returncode == 0, verified.stdout + verified.stderr


class Ledger:
    """Spans by number: those that were sent, and those of them that were acknowledged."""

    def __init__(self):
        self.sent = 0
        self.acknowledged = set()

    def send(self, server):
        numbers = range(self.sent + 1, self.sent + 21)
        self.sent += len(numbers)
        start = time.time_ns()
        spans = [
            {
                "traceId": f"{number:032x}",
                "spanId": f"{number:016x}",
                "name": "op",
                "kind": 2,
                "startTimeUnixNano": str(start),
                "endTimeUnixNano": str(start + 1_000),
            }
            for number in numbers
        ]
        body = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
        try:
            answer = requests.post(f"{server.addresses.otlp_http}/v1/traces", json=body, timeout=30)
        except requests.RequestException:
            return
        if answer.ok:
            self.acknowledged.update(numbers)

    def check(self, server):
        with flightsql.connect(server.addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT span_id FROM spans")
            found = [int(text, 16) for text in cursor.fetch_arrow_table()["span_id"].to_pylist()]
        assert len(found) == len(set(found)), "a span is seen twice"
        assert self.acknowledged <= set(found), "an acknowledged span is lost"
        assert set(found) <= set(range(1, self.sent + 1)), "a span was never sent"


def test_senders_hardly_notice_that_the_bucket_is_away(bucket, tmp_path):
    with serving(bucket, tmp_path / "local", flush__age_max="1s") as server:
        sent = len(python_grpc(server.addresses, "before"))
        wait_for(lambda: metric(server, "tracehouse_flush_spans_total") == sent)
        assert count(server) == sent
        bucket.front.is_down = True
        sent += len(python_grpc(server.addresses, "during"))
        wait_for(lambda: metric(server, "tracehouse_staged_files") > 0)
        wait_for(lambda: metric(server, "tracehouse_buffer_spans") == 0)
        # What came before is read from the cache, what came since from this machine.
        assert count(server) == sent
        wait_for(lambda: metric(server, "tracehouse_upload_failures_total") > 0)
        bucket.front.is_down = False
        wait_for(lambda: metric(server, "tracehouse_staged_files") == 0)
        assert count(server) == sent
        server.stop()


def test_a_server_that_starts_while_the_bucket_is_away_takes_spans(bucket, tmp_path):
    local = tmp_path / "local"
    with serving(bucket, local) as server:
        sent = len(python_grpc(server.addresses, "before"))
        server.kill()
    bucket.front.is_down = True
    with serving(bucket, local) as server:
        sent += len(python_grpc(server.addresses, "during"))
        with pytest.raises(Exception, match="nothing can be shown yet"):
            count(server)
        bucket.front.is_down = False
        wait_for(lambda: can_count(server))
        assert count(server) == sent
        server.stop()
    with serving(bucket, tmp_path / "elsewhere") as server:
        assert count(server) == sent


def can_count(server):
    try:
        return count(server) >= 0
    except flightsql.Error:
        return False


def test_a_server_sees_what_another_commits(bucket, tmp_path):
    with serving(bucket, tmp_path / "a", store__table_age_max="1s") as reader:
        assert count(reader) == 0
        with serving(bucket, tmp_path / "b", flush__age_max="1s") as writer:
            sent = len(python_grpc(writer.addresses, "one"))
            wait_for(lambda: count(reader) == sent)
        bucket.front.is_down = True
        time.sleep(2)
        assert count(reader) == sent, "what is known stays visible, from the cache"


def test_two_writers_share_a_table(bucket, tmp_path):
    with serving(bucket, tmp_path / "a") as one, serving(bucket, tmp_path / "b") as other:
        sent = 0
        for number in range(3):
            sent += len(python_grpc(one.addresses, f"one-{number}"))
            sent += len(python_grpc(other.addresses, f"other-{number}"))
        # Both flush now, at the same time.
        for server in [one, other]:
            server.process.terminate()
        for server in [one, other]:
            assert server.process.wait(WAIT_SECONDS_MAX) == 0, server.log.read_text()
    with serving(bucket, tmp_path / "c") as server:
        assert count(server) == sent


def test_a_store_that_overwrites_is_refused(tmp_path):
    with buckets.overwriting(tmp_path) as bucket:
        with pytest.raises(AssertionError, match="does not honour conditional writes"):
            start(bucket, tmp_path / "local")


def test_an_unknown_bucket_is_refused(bucket, tmp_path):
    bucket.url = bucket.url.replace(buckets.BUCKET, "nobodys")
    with pytest.raises(AssertionError, match=f"{bucket.url} takes no writes"):
        start(bucket, tmp_path / "local")


def test_warm_queries_send_no_requests(tmp_path, capsys):
    """Cold and warm, on S3 with a delay of 30 ms for each request, and beside that on a local folder."""
    with buckets.s3(tmp_path) as bucket:
        bucket.front.delay_seconds = DELAY_SECONDS
        with serving(bucket, tmp_path / "local") as server:
            fill(server)
            # Each run of the demo has traces of its own.
            [in_bucket, *_] = trace_ids(server)
            server.stop()
        local = Server(tmp_path / "folder", flush__age_max="1h")
        try:
            fill(local)
            local.stop()
            local = Server(tmp_path / "folder", flush__age_max="1h")
            traces = trace_ids(local)
            beside = {name: median_seconds(local, ask, traces) for name, ask in QUERIES.items()}
        finally:
            local.kill()
        for name, ask in QUERIES.items():
            # Blocks that an earlier query left must not help.
            with serving(bucket, tmp_path / f"cold-{name}") as server:
                bucket.front.take_requests()
                cold = seconds(server, ask, in_bucket)
                cold_reads = [request for request in bucket.front.take_requests() if request.reads_data_file()]
                assert cold_reads
                seconds(server, ask, in_bucket)
                assert [request for request in bucket.front.take_requests() if request.reads_data_file()] == []
                warm = median_seconds(server, ask, [in_bucket] * 5)
                with capsys.disabled():
                    print(
                        f"\n{name}: {len(cold_reads)} requests cold, 0 warm; time against a local folder:"
                        f" cold {cold / beside[name]:.1f}, warm {warm / beside[name]:.2f}"
                    )


def by_id(server, trace):
    return requests.get(f"{server.addresses.tempo}/api/traces/{trace}", timeout=30)


def search(server, _):
    query = '{ resource.service.name = "order-service" && status = error }'
    return requests.get(f"{server.addresses.tempo}/api/search", params={"q": query}, timeout=30)


QUERIES = {"trace by id": by_id, "search": search}


def seconds(server, ask, trace):
    started = time.monotonic()
    answer = ask(server, trace)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - started


def median_seconds(server, ask, traces):
    return statistics.median(seconds(server, ask, trace) for trace in traces)


def fill(server):
    command = [server.binary, "demo", "--endpoint", server.addresses.otlp_grpc, "--backfill", "1h"]
    done = subprocess.run([*command, "--spans", SPANS, "--seed", "7"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def trace_ids(server):
    with flightsql.connect(server.addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT trace_id FROM spans ORDER BY trace_id LIMIT 5")
        return cursor.fetch_arrow_table()["trace_id"].to_pylist()
