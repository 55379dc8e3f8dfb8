"""How fast answers come to `pyarrow` over Flight, and what limits it.

Usage: transfer.py BINARY [SPANS], with Python packages `pyarrow` and `psutil`. Starts the server on a folder of its own,
fills it by `tracehouse demo`, restarts it so that all spans are in files, and reads each answer a few times. Printed are
rows and megabytes of Arrow data per second (the median run), CPU seconds of the server and of the client for each second
of the transfer, and the most memory that the server had. The last part reads an answer slowly: the server's memory has to
stay flat.

The three limits to look for: the query itself (the row `count` does the same scan and sends nothing), the conversion to
types of clients (`typed` against `plain`), and the connection (`series`, which costs no scan).
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import pyarrow.flight as flight

RUNS = 3
ANSWERS = {
    "series": ("SELECT value, value AS other FROM generate_series(1, 10000000)", "plain"),
    "numbers": ("SELECT start_time, duration_nano FROM spans", "plain"),
    "ids": ("SELECT trace_id, span_id, service_name, name, duration_nano FROM spans", "plain"),
    "ids, typed": ("SELECT trace_id, span_id, service_name, name, duration_nano FROM spans", "typed"),
    "attribute": ("SELECT name, span_attributes['http.route'] AS route, duration_nano FROM spans", "plain"),
    "attributes": ("SELECT span_id, span_attributes FROM spans", "plain"),
    "attributes, flat": ("SELECT span_id, span_attributes FROM spans", "flat"),
    "attributes, typed": ("SELECT span_id, span_attributes FROM spans", "typed"),
    "everything": ("SELECT * FROM spans", "plain"),
    "count": ("SELECT count(trace_id), count(span_id), count(service_name), count(name), max(duration_nano) FROM spans", "plain"),
}


class Server:
    def __init__(self, binary, folder):
        command = [binary, "serve", "--data", folder, "--set", "query.result_bytes_max=64GiB"]
        for listener in ["otlp-grpc", "otlp-http", "tempo", "tempo-grpc", "flight"]:
            command += [f"--{listener}-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addresses = {}
        while len(self.addresses) < 2:
            line = self.process.stdout.readline()
            for name, pattern in [("otlp", r"OTLP/gRPC\s+(\S+)"), ("flight", r"Flight SQL\s+(\S+)")]:
                if found := re.search(pattern, line):
                    self.addresses[name] = found.group(1)
        self.usage = psutil.Process(self.process.pid)

    def cpu_seconds(self):
        times = self.usage.cpu_times()
        return times.user + times.system

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def read(client, statement, types, pause=0.0, watch=lambda: None):
    options = flight.FlightCallOptions(headers=[(b"x-tracehouse-types", types.encode())])
    rows = size = 0
    reader = client.do_get(flight.Ticket(statement), options)
    for chunk in reader:
        rows += chunk.data.num_rows
        size += chunk.data.nbytes
        watch()
        if pause:
            time.sleep(pause)
    return rows, size


def measure(server, client, name):
    statement, types = ANSWERS[name]
    runs = []
    for _ in range(RUNS):
        cpu, own, start = server.cpu_seconds(), time.process_time(), time.perf_counter()
        rows, size = read(client, statement, types)
        seconds = time.perf_counter() - start
        runs.append((seconds, rows, size, server.cpu_seconds() - cpu, time.process_time() - own))
    seconds, rows, size, cpu, own = sorted(runs)[len(runs) // 2]
    memory = server.usage.memory_info().rss >> 20
    rate = f"{rows / seconds / 1e6:8.2f} {size / seconds / 1e6:8.0f}"
    print(f"{name:18} {rows:10} {seconds:8.2f} {rate} {cpu / seconds:8.2f} {own / seconds:8.2f} {memory:8}", flush=True)


def main():
    binary, spans = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
    with tempfile.TemporaryDirectory() as folder:
        data = str(pathlib.Path(folder) / "data")
        server = Server(binary, data)
        demo = [binary, "demo", "--endpoint", server.addresses["otlp"], "--quiet", "--backfill", "6h", "--spans", str(spans)]
        subprocess.run(demo, check=True)
        server.stop()
        server = Server(binary, data)
        try:
            client = flight.connect(server.addresses["flight"])
            print(f"{spans} spans, {os.cpu_count()} cores")
            print(f"{'answer':18} {'rows':>10} {'s':>8} {'Mrow/s':>8} {'MB/s':>8} {'srv cpu':>8} {'own cpu':>8} {'srv MiB':>8}")
            for name in ANSWERS:
                measure(server, client, name)
            before, most = server.usage.memory_info().rss, []
            rows, _ = read(
                client, ANSWERS["series"][0], "plain", 0.002, lambda: most.append(server.usage.memory_info().rss)
            )
            middle, high = statistics.median(most), max(most)
            print(f"slow client: {rows} rows, MiB before {before >> 20}, median {int(middle) >> 20}, most {high >> 20}")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
