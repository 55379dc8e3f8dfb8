#!/usr/bin/env python3
"""Asks tracehouse, DuckDB and ClickHouse the same questions of the same files, in turns, and prints ratios of time and of CPU."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["adbc-driver-flightsql", "chdb", "duckdb", "pyarrow"]


def arguments():
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=f"{target}/release/tracehouse", help="the release build")
    parser.add_argument("--data", help="a data folder; an empty one, and one that is made without this, is filled with --spans")
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--period", default="6h", help="time that the spans are spread over")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="a part of the name of the queries to run")
    parser.add_argument("--venv", default=str(ROOT / ".venv-analytics"))
    return parser.parse_args()


def enter_venv(folder):
    """Runs this file again in a virtual environment that has the other engines."""
    python = Path(folder) / "bin" / "python"
    if Path(sys.executable) == python:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    os.execv(str(python), [str(python), *sys.argv])


class Server:
    """`tracehouse serve` on ports that the system chooses."""

    def __init__(self, binary, data):
        listeners = [f"server.{name}_listen=127.0.0.1:0" for name in ("otlp_grpc", "otlp_http", "tempo", "tempo_grpc", "flight")]
        limits = ["query.timeout=10m", "query.memory_bytes_max=4GiB", "compaction.enabled=false"]
        settings = [part for setting in listeners + limits for part in ("--set", setting)]
        command = [binary, "serve", "--data", data, *settings]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addresses = {}
        for line in self.process.stdout:
            found = re.search(r"(OTLP/gRPC|Flight SQL|Tempo API)\s+.*?(\d+\.\d+\.\d+\.\d+:\d+)", line)
            if found:
                self.addresses[found.group(1)] = found.group(2)
            if len(self.addresses) == 3:
                return
        raise SystemExit("the server did not start")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def fill(binary, data, spans, period):
    server = Server(binary, data)
    endpoint = f"http://{server.addresses['OTLP/gRPC']}"
    demo = [binary, "demo", "--endpoint", endpoint, "--backfill", period, "--spans", str(spans), "--quiet"]
    started = time.monotonic()
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    print(f"sent {spans} spans in {time.monotonic() - started:.0f} s", file=sys.stderr)
    server.stop()
    subprocess.run([binary, "compact", "--data", data], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Tracehouse:
    name = "tracehouse"

    def __init__(self, server):
        import adbc_driver_flightsql.dbapi as flight

        self.connection = flight.connect(f"grpc://{server.addresses['Flight SQL']}", autocommit=True)
        self.process = server.process.pid

    def cpu_seconds(self):
        """CPU time of all threads of the server."""
        after_the_name = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        user, system = after_the_name[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, text):
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetch_arrow_table()


class InProcess:
    """An engine whose threads are of this process."""

    def cpu_seconds(self):
        return time.process_time()


class DuckDb(InProcess):
    name = "duckdb"

    def __init__(self, files, threads):
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute(f"SET threads = {threads}; SET enable_progress_bar = false")
        self.files = f"read_parquet({files}, hive_partitioning = true, union_by_name = true)"

    def ask(self, text):
        return self.connection.sql(text).to_arrow_table()


class ClickHouse(InProcess):
    name = "chdb"

    def __init__(self, files, threads):
        from chdb import session

        self.session = session.Session()
        self.session.query(f"SET max_threads = {threads}")
        # A glob of alternatives below one folder, which is how ClickHouse takes a list.
        names = ",".join(os.path.relpath(file, "/") for file in files)
        self.files = f"file('/{{{names}}}', 'Parquet')"

    def ask(self, text):
        import pyarrow

        answer = self.session.query(text, "ArrowStream")
        with pyarrow.ipc.open_stream(answer.bytes()) as reader:
            return reader.read_all()


def rows(table):
    """The rows as text, numbers of all types alike. The bucket of a time is a time here and a number there."""

    def cell(value):
        if isinstance(value, bytes):
            return value.decode()
        return None if value is None else str(value)

    names = [name for name in table.column_names if name != "t"]
    columns = [table.column(name).to_pylist() for name in names]
    return [tuple(cell(value) for value in row) for row in zip(*columns)]


def main():
    args = arguments()
    enter_venv(args.venv)
    sys.path.insert(0, str(HERE))
    from queries import QUERIES

    threads = os.cpu_count()
    with tempfile.TemporaryDirectory(prefix="tracehouse-analytics-") as folder:
        data = args.data or folder
        if not Path(data, "tenants").exists():
            fill(args.binary, data, args.spans, args.period)
        server = Server(args.binary, data)
        try:
            compare(args, server, Path(data, "tenants/single-tenant/spans"), threads, QUERIES)
        finally:
            server.stop()


def compare(args, server, folder, threads, queries):
    ours = Tracehouse(server)
    # The folder also holds files that compaction replaced, for queries that may still read them.
    files = [str(folder / path) for path in ours.ask("SELECT path FROM system.files").column("path").to_pylist()]
    engines = [ours, DuckDb(files, threads), ClickHouse(files, threads)]
    facts = ours.ask("SELECT count(*) AS n, min(trace_id) AS trace FROM spans").to_pylist()[0]
    bounds = ours.ask("SELECT CAST(min(start_time) AS BIGINT) AS first, CAST(max(start_time) AS BIGINT) AS last FROM spans")
    bounds = bounds.to_pylist()[0]
    # The second third of the time.
    third = (bounds["last"] - bounds["first"]) // 3
    values = {"{start}": str(bounds["first"] + third), "{end}": str(bounds["first"] + 2 * third), "{trace}": facts["trace"]}
    print(f"{facts['n']} spans, {threads} cores, {args.rounds} rounds: best time, and CPU of all; above 1 tracehouse takes less\n")
    print(f"| {'query':28} | tracehouse | its CPU | DuckDB: time |   CPU | ClickHouse: time |   CPU | answers |")
    print(f"|{'-' * 30}|-----------:|--------:|-------------:|------:|-----------------:|------:|---------|")
    for query in queries:
        if args.only and args.only not in query["name"]:
            continue
        one_query(args, engines, query, values)


def one_query(args, engines, query, values):
    times, answers = {engine.name: [] for engine in engines}, {}
    cpu = dict.fromkeys(times, 0.0)
    # The first round fills caches.
    for round_number in range(args.rounds + 1):
        for engine in engines:
            text = query[engine.name]
            if text is None:
                continue
            for name, value in {**values, "{files}": getattr(engine, "files", "")}.items():
                text = text.replace(name, value)
            cpu_before, started = engine.cpu_seconds(), time.perf_counter()
            try:
                answers[engine.name] = engine.ask(text)
            except Exception as error:  # an engine that cannot answer does not stop the others
                answers[engine.name] = error
                print(f"{query['name']}: {engine.name}: {str(error)[:300]}", file=sys.stderr)
            if round_number > 0:
                times[engine.name].append(time.perf_counter() - started)
                cpu[engine.name] += engine.cpu_seconds() - cpu_before
    # What else the machine does only makes a round longer.
    best = {name: min(taken) for name, taken in times.items() if taken}

    def ratio(name, of):
        return "-" if isinstance(answers.get(name), Exception | None) or not of["tracehouse"] else f"{of[name] / of['tracehouse']:.2f}"

    def verdict():
        if isinstance(answers["tracehouse"], Exception):
            return "failed"
        if not query["exact"]:
            return "approximate"
        others = [rows(answer) for answer in list(answers.values())[1:] if not isinstance(answer, Exception)]
        return "equal" if all(other == rows(answers["tracehouse"]) for other in others) else "DIFFERENT"

    ours = f"{best['tracehouse'] * 1e3:7.0f} ms | {cpu['tracehouse'] / len(times['tracehouse']) * 1e3:4.0f} ms"
    duckdb = f"{ratio('duckdb', best):>12} | {ratio('duckdb', cpu):>5}"
    clickhouse = f"{ratio('chdb', best):>16} | {ratio('chdb', cpu):>5}"
    print(f"| {query['name']:28} | {ours} | {duckdb} | {clickhouse} | {verdict()} |", flush=True)


if __name__ == "__main__":
    main()
