"""Object stores to test against: real servers, each on a port and a folder of its own, with an empty bucket."""

import base64
import contextlib
import datetime
import hashlib
import hmac
import os
import pathlib
import socket
import subprocess
import time

import requests
from front import Front, as_it_is, google_json

BUCKET = "traces"
START_SECONDS_MAX = 60

# The account that every Azurite has.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Bucket:
    """An empty bucket behind a `Front`, as the server under test is told about it."""

    def __init__(self, url, front, settings):
        self.url = url
        self.front = front
        self.settings = settings


@contextlib.contextmanager
def s3(folder):
    """MinIO."""
    data = folder / "s3"
    (data / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [installed("bin/minio"), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
    command += ["--console-address", f"127.0.0.1:{free_port()}", str(data)]
    with running(command, folder / "s3.log", MINIO_ROOT_USER="tester", MINIO_ROOT_PASSWORD="test-secret"):
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/minio/health/live", timeout=5).ok)
        with closing(Front(f"127.0.0.1:{port}")) as front:
            yield Bucket(
                f"s3://{BUCKET}/some/prefix",
                front,
                {
                    "store__endpoint": front.url,
                    "store__access_key_id": "tester",
                    "store__secret_access_key": "test-secret",
                    "store__region": "us-east-1",
                },
            )


@contextlib.contextmanager
def azure(folder):
    """Azurite."""
    port = free_port()
    main = installed("node/node_modules/azurite/dist/src/blob/main.js")
    command = ["node", main, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "azure")]
    with running([*command, "--skipApiVersionCheck", "--silent"], folder / "azure.log"):
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=5) is not None)
        create_azure_container(port)
        with closing(Front(f"127.0.0.1:{port}")) as front:
            yield Bucket(
                f"az://{BUCKET}/some/prefix",
                front,
                {
                    "store__endpoint": f"{front.url}/{AZURE_ACCOUNT}",
                    "store__account": AZURE_ACCOUNT,
                    "store__account_key": AZURE_KEY,
                },
            )


@contextlib.contextmanager
def gcs(folder):
    """fake-gcs-server, which knows conditions only on uploads in JSON: the front translates them."""
    port = free_port()
    command = [installed("bin/fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "filesystem", "-filesystem-root", str(folder / "gcs")]
    # Names of hosts that it serves; the front leaves the caller's in place.
    with closing(Front(f"127.0.0.1:{port}", google_json)) as front:
        command += ["-public-host", front.url.removeprefix("http://")]
        with running(command, folder / "gcs.log"):
            create = {"url": f"http://127.0.0.1:{port}/storage/v1/b?project=test", "json": {"name": BUCKET}}
            wait_until(lambda: requests.post(**create, timeout=5).ok)
            settings = {"store__endpoint": front.url, "store__anonymous": "true"}
            yield Bucket(f"gs://{BUCKET}/some/prefix", front, settings)


@contextlib.contextmanager
def overwriting(folder):
    """gcp-storage-emulator, which ignores the condition of a conditional write."""
    port = free_port()
    command = [installed("python/bin/gcp-storage-emulator"), "start", f"--host=127.0.0.1", f"--port={port}"]
    with running([*command, "--in-memory", f"--default-bucket={BUCKET}"], folder / "overwriting.log"):
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok)
        with closing(Front(f"127.0.0.1:{port}", as_it_is)) as front:
            yield Bucket(f"gs://{BUCKET}", front, {"store__endpoint": front.url, "store__anonymous": "true"})


STORES = {"s3": s3, "azure": azure, "gcs": gcs}


def installed(name):
    """A program that `tests/clients/run` installed."""
    path = pathlib.Path(os.environ["TRACEHOUSE_STORES"]) / name
    assert path.exists(), path
    return str(path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, log, **environment):
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def closing(front):
    try:
        yield front
    finally:
        front.close()


def wait_until(is_ready):
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            if is_ready():
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < deadline, "the object store did not start"
        time.sleep(0.1)


def create_azure_container(port):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    signed = "PUT" + "\n" * 12 + "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    signed += f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}/{BUCKET}?restype=container"
    answer = requests.put(url, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
