"""docker-compose.yml and deploy/, read by the code of the programs that they are for, and run as far as that needs no containers."""

import json
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.parse

import pytest
import requests
import yaml
from tracehouse import Server

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = pathlib.Path(os.environ["TRACEHOUSE_DEPLOY"])
PROMETHEUS = pathlib.Path(os.environ["TRACEHOUSE_PROMETHEUS"])

SCRAPE_SECONDS_MAX = 60


@pytest.fixture(scope="module")
def understood():
    """The compose project and the blocks of the log shipper's configuration."""
    command = [PROGRAMS / "deploy", ROOT / "docker-compose.yml", DEPLOY / "alloy/config.alloy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def services(understood):
    return understood["compose"]["services"]


def test_the_compose_file_is_what_its_specification_says(services):
    assert services.keys() == {"tracehouse", "demo", "grafana", "prometheus", "loki", "alloy"}
    for name, service in services.items():
        assert ("build" in service) != ("image" in service), name
        assert not service.get("image", ":1").endswith(":latest") and ":" in service.get("image", ":"), name
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and volume["source"] != "/var/run/docker.sock":
                assert volume["read_only"] and pathlib.Path(volume["source"]).exists(), volume
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", f"{name} listens beyond this machine"


def test_the_image_runs_as_nobody_and_serves_what_the_others_ask_for(services):
    dockerfile = (ROOT / "Dockerfile").read_text()
    last = dockerfile[dockerfile.rindex("FROM ") :]
    assert last.startswith("FROM gcr.io/distroless/") and ":nonroot" in last.splitlines()[0]
    listeners = dict(re.findall(r"TRACEHOUSE_SERVER_(\w+)_LISTEN=0\.0\.0\.0:(\d+)", last))
    assert set(re.search(r"EXPOSE (.*)", last).group(1).split()) == set(listeners.values())
    published = {str(port["target"]) for port in services["tracehouse"]["ports"]}
    assert published <= set(listeners.values())
    asked = [services["demo"]["command"][services["demo"]["command"].index("--endpoint") + 1]]
    asked += [f"http://{target}" for target in scrape_targets()]
    for url in [urllib.parse.urlsplit(url) for url in asked]:
        assert (url.hostname, str(url.port) in listeners.values()) == ("tracehouse", True), url


def scrape_targets():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    return [target for job in config["scrape_configs"] for part in job["static_configs"] for target in part["targets"]]


def test_data_sources_are_services_and_refer_to_each_other(services):
    files = sorted((DEPLOY / "grafana/provisioning/datasources").glob("*.yaml"))
    sources = [source for file in files for source in yaml.safe_load(file.read_text())["datasources"]]
    uids = {source["uid"]: source["type"] for source in sources}
    assert uids == {"tracehouse": "tempo", "prometheus": "prometheus", "loki": "loki"}
    assert {urllib.parse.urlsplit(source["url"]).hostname for source in sources} <= services.keys()
    [tempo] = [source for source in sources if source["type"] == "tempo"]
    settings = tempo["jsonData"]
    assert settings["streamingEnabled"] == {"search": True, "metrics": True} and settings["nodeGraph"]["enabled"]
    assert uids[settings["tracesToLogsV2"]["datasourceUid"]] == "loki"
    assert uids[settings["tracesToMetrics"]["datasourceUid"]] == "prometheus"
    assert uids[settings["serviceMap"]["datasourceUid"]] == "prometheus"
    [loki] = [source for source in sources if source["type"] == "loki"]
    for field in loki["jsonData"]["derivedFields"]:
        assert uids[field["datasourceUid"]] == "tempo"
        # An id is found in the lines that the server and OpenTelemetry's loggers write.
        for line in ('{"trace_id":"5b8efff798038103d269b633813fc60c"}', "msg=x traceID=5b8efff798038103d269b633813fc60c"):
            assert re.search(field["matcherRegex"], line).group(1) == "5b8efff798038103d269b633813fc60c"
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tracehouse.yaml").read_text())["providers"]
    targets = [volume["target"] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets


def test_the_log_shipper_has_a_way_from_containers_to_loki(understood):
    blocks = ["discovery.docker", "discovery.relabel", "loki.source.docker", "loki.process", "loki.write"]
    assert understood["shipper"] == blocks


def test_the_services_of_the_shop_log_what_spans_lead_to(services, tmp_path):
    """Lines of the example have the label by which a span finds them, and the id by which they find the trace."""
    [tempo, _, loki] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/tracehouse.yaml").read_text())["datasources"]
    [tag] = tempo["jsonData"]["tracesToLogsV2"]["tags"]
    assert tag == {"key": "service.name", "value": "service_name"}
    shipper = (DEPLOY / "alloy/config.alloy").read_text()
    labels = re.search(r"stage\.labels \{\s*values = \{(.*)\}", shipper).group(1)
    assert 'service_name = "service_name"' in labels
    [field] = loki["jsonData"]["derivedFields"]
    server = Server(tmp_path / "data")
    try:
        command = list(services["demo"]["command"])
        command[command.index("--endpoint") + 1] = server.addresses.otlp_grpc
        done = subprocess.run(
            [os.environ["TRACEHOUSE_BINARY"], *command, "--duration", "3s"], capture_output=True, text=True, timeout=60, check=True
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(lines) > 3
        for line in lines[:3]:
            entry = json.loads(line)
            trace_id = re.search(field["matcherRegex"], line).group(1)
            assert trace_id == entry["trace_id"]
            query = f'{{ resource.service.name = "{entry["service_name"]}" && trace:id = "{trace_id}" }}'
            found = requests.get(f"{server.addresses.tempo}/api/search", params={"q": query}, timeout=10).json()
            assert len(found["traces"]) == 1, line
        server.stop()
    finally:
        server.kill()


# ---- Prometheus -----------------------------------------------------------------------------------------------------


def test_the_configuration_of_prometheus_is_valid():
    command = [PROMETHEUS / "promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """Prometheus with the configuration of the compose file, but for where the server is and how often it is asked."""

    def __init__(self, folder, target):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        text = (DEPLOY / "prometheus/prometheus.yml").read_text()
        assert text.count("tracehouse:3200") == len(scrape_targets())
        config = folder / "prometheus.yml"
        config.write_text(re.sub(r"scrape_interval: \w+", "scrape_interval: 3s", text.replace("tracehouse:3200", target)))
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address}"]
        self.log = (folder / "prometheus.log").open("w")
        self.process = subprocess.Popen([PROMETHEUS / "prometheus", *arguments], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + SCRAPE_SECONDS_MAX
        while not self.is_ready():
            assert self.process.poll() is None and time.monotonic() < deadline, "Prometheus does not start"
            time.sleep(0.2)

    def is_ready(self):
        """Until then, questions are refused."""
        try:
            return requests.get(f"http://{self.address}/-/ready", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    def get(self, path, **parameters):
        answer = requests.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def wait_for(self, expression):
        """The answer to an expression as soon as there is one."""
        deadline = time.monotonic() + SCRAPE_SECONDS_MAX
        while time.monotonic() < deadline:
            if found := self.query(expression):
                return found
            time.sleep(0.2)
        raise AssertionError(f"{expression} has no value: {self.get('targets')}")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Prometheus beside a server that example traces arrive at."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = Server(folder / "server", query__service_metrics_delay="2s")
    arguments = ["demo", "--endpoint", server.addresses.otlp_grpc, "--rate", "200", "--quiet"]
    demo = subprocess.Popen([os.environ["TRACEHOUSE_BINARY"], *arguments], stdout=subprocess.DEVNULL)
    try:
        running = Prometheus(folder, urllib.parse.urlsplit(server.addresses.tempo).netloc)
        try:
            yield running
        finally:
            running.stop()
    finally:
        demo.terminate()
        demo.wait(30)
        server.kill()


def test_every_target_is_scraped(prometheus):
    assert prometheus.wait_for(f"sum(up) == {len(scrape_targets())}")
    targets = prometheus.get("targets")["activeTargets"]
    assert len(targets) == len(scrape_targets())
    assert {(target["health"], target["lastError"]) for target in targets} == {("up", "")}


# What Grafana asks for the service map and for the table below it, with the labels that tell services apart.
EDGES = "client, server"
SERVICE_MAP = {
    "seconds": f"sum by ({EDGES}) (rate(traces_service_graph_request_server_seconds_sum{{}}[30s]))",
    "calls": f"sum by ({EDGES}) (rate(traces_service_graph_request_total{{}}[30s]))",
    "failed": f"sum by ({EDGES}) (rate(traces_service_graph_request_failed_total{{}}[30s]))",
    "buckets": f"sum by (le, {EDGES}) (rate(traces_service_graph_request_server_seconds_bucket{{}}[30s]))",
    "instrumented": f"group by (client, connection_type, server) (traces_service_graph_request_total{{}})",
    "operations": 'topk(5, sum(rate(traces_spanmetrics_calls_total{span_kind="SPAN_KIND_SERVER"}[30s])) by (span_name))',
    "durations": "histogram_quantile(.9, sum(rate(traces_spanmetrics_latency_bucket{}[30s])) by (le))",
}


def test_the_service_map_has_services_stores_and_queues(prometheus):
    found = {what: prometheus.wait_for(f"({expression}) > 0") for what, expression in SERVICE_MAP.items() if what != "failed"}
    assert prometheus.wait_for(SERVICE_MAP["failed"])
    edges = {(sample["metric"]["client"], sample["metric"]["server"]) for sample in found["calls"]}
    assert ("api-gateway", "cart-service") in edges
    kinds = {sample["metric"].get("connection_type", "") for sample in found["instrumented"]}
    assert ("user", "api-gateway") in edges
    assert {"", "database", "virtual_node"} <= kinds
    # "Traces to metrics" asks for one service.
    source = (DEPLOY / "grafana/provisioning/datasources/tracehouse.yaml").read_text()
    [tempo] = [source for source in yaml.safe_load(source)["datasources"] if source["type"] == "tempo"]
    settings = tempo["jsonData"]["tracesToMetrics"]
    [tag] = settings["tags"]
    for query in settings["queries"]:
        expression = query["query"].replace("$$__tags", f'{tag["value"]}="cart-service"').replace("[1m]", "[30s]")
        assert prometheus.wait_for(expression), query


def expressions():
    for file in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                if target["datasource"]["type"] == "prometheus":
                    yield pytest.param(target["expr"], id=f"{file.stem}: {panel['title']} {target['refId']}")


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_panel_about_the_server_has_a_value(prometheus, expression):
    [*found] = prometheus.wait_for(expression.replace("$__rate_interval", "30s"))
    assert all(float(sample["value"][1]) >= 0 for sample in found), found
