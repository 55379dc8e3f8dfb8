"""Starts and stops the server under test."""

import dataclasses
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time

ADDRESSES = {
    "otlp_grpc": re.compile(r"OTLP/gRPC\s+(http://\S+)"),
    "otlp_http": re.compile(r"OTLP/HTTP\s+(http://[^/\s]+)"),
    "tempo": re.compile(r"Tempo API\s+(http://\S+)"),
    "flight": re.compile(r"Flight SQL\s+(grpc://\S+)"),
}

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60


@dataclasses.dataclass(frozen=True)
class Addresses:
    otlp_grpc: str
    otlp_http: str
    tempo: str
    flight: str


class Server:
    """A running server on a folder, with every listener on a port of its own choice."""

    def __init__(self, folder: pathlib.Path, data=None, crashpoint=None, **settings):
        self.binary = os.environ["TRACEHOUSE_BINARY"]
        command = [self.binary, "serve", "--data", str(data or folder)]
        for listener in ["otlp-grpc", "otlp-http", "tempo", "tempo-grpc", "flight"]:
            command += [f"--{listener}-listen", "127.0.0.1:0"]
        for key, value in settings.items():
            command += ["--set", f"{key.replace('__', '.')}={value}"]
        # A variable of the caller must not change what is tested.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACEHOUSE_")}
        if crashpoint:
            environment["TRACEHOUSE_CRASHPOINT"] = crashpoint
        self.data = folder
        self.log = folder.with_suffix(".log")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, env=environment
            )
        self.addresses = self._read_addresses()

    def _read_addresses(self):
        lines = queue.Queue()

        def read():
            for line in self.process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        found, deadline = {}, time.monotonic() + START_SECONDS_MAX
        while len(found) < len(ADDRESSES):
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.kill()
                raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
            for name, pattern in ADDRESSES.items():
                if match := pattern.search(line):
                    found[name] = match.group(1)
        return Addresses(**found)

    def stop(self):
        """Stops it as an operator would, and checks that it ends well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert code == 0, self.log.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def table(self):
        """Folder of the one tenant's table."""
        [folder] = self.data.glob("tenants/*/spans")
        return folder
