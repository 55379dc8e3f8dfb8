"""Grafana's own message types and decoders, Tempo's command line and its bridge for Jaeger, on what the SDKs sent."""

import contextlib
import datetime
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import urllib.parse

import pytest
import requests
from canonical import KINDS, STATUS_CODES
from tracehouse import Server

PROGRAMS = pathlib.Path(os.environ["TRACEHOUSE_GRAFANA"])
TESTS = pathlib.Path(__file__).parents[1]

# How the data source tells metrics from searches.
METRICS = re.compile(
    r"\|\s*(rate|count_over_time|avg_over_time|sum_over_time|max_over_time|min_over_time|quantile_over_time"
    r"|histogram_over_time|compare)\s*\("
)


def ask(base, requests):
    """Answers of the data source's types to a list of requests."""
    lines = "\n".join(json.dumps(request) for request in requests)
    command = [PROGRAMS / "grafana", base]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ask_one(base, **request):
    [answer] = ask(base, [request])
    assert "error" not in answer, answer
    return answer["body"]


def url(path, **parameters):
    return f"{path}?{urllib.parse.urlencode(parameters)}"


# ---- traces by id ---------------------------------------------------------------------------------------------------


def test_the_panel_of_a_trace_has_every_span(warehouse, sent, trace_id):
    rows = {row["spanID"]: row for row in ask_one(warehouse.server.addresses.tempo, trace=trace_id)}
    assert rows.keys() == sent.keys()
    for span_id, span in sent.items():
        row = rows[span_id]
        assert row["traceID"] == span["trace_id"]
        assert row["parentSpanID"] == (span["parent_span_id"] or "")
        assert (row["name"], row["start"], row["end"]) == (span["name"], span["start"], span["end"])
        assert row["kind"] == f"SPAN_KIND_{KINDS[KINDS.index(span['kind'])].upper()}"
        assert row["status"] == f"STATUS_CODE_{STATUS_CODES[STATUS_CODES.index(span['status_code'])].upper()}"
        assert (row["message"], row["traceState"]) == (span["status_message"], span["trace_state"])
        assert row["service"] == span["resource"]["attributes"]["service.name"][1]
        assert (row["scope"], row["version"]) == (span["scope"]["name"], span["scope"]["version"])
        scalars = {key: value[1] for key, value in span["attributes"].items() if value[0] in ("str", "int", "bool")}
        assert {key: row["attributes"].get(key) for key in scalars} == scalars
        assert (row["events"], row["links"]) == (len(span["events"]), len(span["links"]))


def test_both_versions_and_both_encodings_decode_to_the_same_trace(warehouse, trace_id):
    answers = ask(
        warehouse.server.addresses.tempo,
        [
            {"get": f"{path}{trace_id}", "accept": accept}
            for path in ("/api/traces/", "/api/v2/traces/")
            for accept in ("application/json", "application/protobuf")
        ],
    )
    assert [answer.get("error") for answer in answers] == [None] * 4
    v1_json, v1_protobuf, v2_json, v2_protobuf = [answer["body"] for answer in answers]
    assert v1_json == v1_protobuf == v2_json["trace"]
    assert v2_json == v2_protobuf


def test_a_trace_that_is_not_there_is_no_panic(warehouse):
    assert ask_one(warehouse.server.addresses.tempo, trace="0123456789abcdef0123456789abcdef") == []


# ---- searches, names and values, streamed or not --------------------------------------------------------------------


def test_searches_and_streamed_searches_are_the_same_to_the_types(warehouse, service):
    # Of an attribute with several types, the answer over HTTP has one, which the data source needs.
    query = f'{{ resource.service.name = "{service}" }} | select(span.http.request.method, span:kind, status)'
    base = warehouse.server.addresses.tempo
    over_http = ask_one(base, get=url("/api/search", q=query, limit=20, spss=3))
    in_protobuf = ask_one(base, get=url("/api/search", q=query, limit=20, spss=3), accept="application/protobuf")
    streamed = ask_one(base, stream="Search", request={"Query": query, "Limit": 20, "SpansPerSpanSet": 3})
    assert len(over_http["traces"]) == 1
    assert over_http["traces"] == in_protobuf["traces"] == streamed["traces"]


def test_names_and_values_are_the_same_over_http_and_streamed(warehouse, service):
    base, query = warehouse.server.addresses.tempo, f'{{ resource.service.name = "{service}" && kind = server && name = }}'
    names = ask_one(base, get=url("/api/v2/search/tags", q=query, limit=5000))
    assert names["scopes"] == ask_one(base, stream="SearchTagsV2", request={"query": query})["scopes"]
    tag = "span.http.response.status_code"
    values = ask_one(base, get=url(f"/api/v2/search/tag/{tag}/values", q=query, limit=5000, tag=tag))
    assert values["tagValues"]
    request = {"tagName": tag, "query": query}
    assert values["tagValues"] == ask_one(base, stream="SearchTagValuesV2", request=request)["tagValues"]
    flat = ask_one(base, get="/api/search/tags")
    assert flat["tagNames"] == ask_one(base, stream="SearchTags")["tagNames"]
    flat = ask_one(base, get="/api/search/tag/service.name/values")
    assert flat["tagValues"] == ask_one(base, stream="SearchTagValues", request={"tagName": "service.name"})["tagValues"]


@pytest.mark.parametrize("query", ["rate() by(kind)", "quantile_over_time(duration, 0.5, 0.9)", "count_over_time()"])
def test_series_are_the_same_over_http_and_streamed(warehouse, sent, service, query):
    base, query = warehouse.server.addresses.tempo, f'{{ resource.service.name = "{service}" }} | {query}'
    start = min(span["start"] for span in sent.values()) // 10**9 - 60
    end = start + 600
    nanos = {"query": query, "start": str(start * 10**9), "end": str(end * 10**9)}

    def in_order(answer):
        return sorted(answer["series"], key=lambda series: json.dumps(series["labels"]))

    over_http = ask_one(base, get=url("/api/metrics/query_range", q=query, start=start, end=end, step="30s", exemplars=0))
    streamed = ask_one(base, stream="MetricsQueryRange", request=nanos | {"step": str(30 * 10**9)})
    assert over_http["series"]
    for series in streamed["series"]:
        series.pop("exemplars", None)
    assert in_order(over_http) == in_order(streamed)
    over_http = ask_one(base, get=url("/api/metrics/query", q=query, start=start, end=end))
    streamed = ask_one(base, stream="MetricsQueryInstant", request=nanos)
    assert over_http["series"]
    assert in_order(over_http) == in_order(streamed)


# ---- all queries of the clients -------------------------------------------------------------------------------------


def queries(file):
    """The queries of a file of blocks: a query, a line of dashes, its canonical form."""
    blocks = (TESTS / "traceql/valid" / file).read_text().split("\n\n")
    return [block.strip("\n").split("\n----")[0] for block in blocks if "\n----" in block]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A server with the spans of the conformance tests."""
    server = Server(tmp_path_factory.mktemp("grafana") / "data")
    try:
        body, headers = (TESTS / "http/spans.json").read_bytes(), {"content-type": "application/json"}
        requests.post(f"{server.addresses.otlp_http}/v1/traces", data=body, headers=headers, timeout=30).raise_for_status()
        yield server.addresses.tempo
        server.stop()
    finally:
        server.kill()


@pytest.mark.parametrize("file", ["drilldown.traceql", "editor_grammar.traceql"])
def test_every_answer_to_a_client_is_decoded(example, file):
    wanted, start, end = queries(file), 1_795_239_000, 1_795_239_100
    assert len(wanted) > 100
    asked = [
        url("/api/metrics/query_range", q=query, start=start, end=end, step="10s", exemplars=100)
        if METRICS.search(query)
        else url("/api/search", q=query, start=start, end=end, limit=200, spss=20)
        for query in wanted
    ]
    answers = ask(example, [{"get": path} for path in asked])
    faults = [(query, answer) for query, answer in zip(wanted, answers, strict=True) if "error" in answer]
    assert not faults, faults


def test_every_answer_of_the_conformance_tests_is_decoded_in_both_encodings(example):
    cases = [case for file in ("tempo.json", "clients.json") for case in json.loads((TESTS / "http" / file).read_text())]
    paths = ("/api/search", "/api/v2/search", "/api/metrics/query", "/api/traces/", "/api/v2/traces/")
    asked = []
    for case in cases:
        accept = case.get("accept", "application/json")
        if case["status"] == 200 and case["get"].startswith(paths) and accept == "application/json":
            path = url(case["get"], **case["query"]) if case.get("query") else case["get"]
            asked.append((case["name"], path))
    assert len(asked) > 70
    in_json = ask(example, [{"get": path} for _, path in asked])
    faults = [(name, answer) for (name, _), answer in zip(asked, in_json, strict=True) if "error" in answer]
    assert not faults, faults
    # Series are always JSON.
    both = [(name, path, answer) for (name, path), answer in zip(asked, in_json) if not path.startswith("/api/metrics")]
    in_protobuf = ask(example, [{"get": path, "accept": "application/protobuf"} for _, path, _ in both])
    for (name, _, as_json), as_protobuf in zip(both, in_protobuf, strict=True):
        assert "error" not in as_protobuf, (name, as_protobuf)
        # What a search costs is measured anew each time.
        bodies = [{key: value for key, value in answer["body"].items() if key != "metrics"} for answer in (as_json, as_protobuf)]
        assert bodies[0] == bodies[1], name


# ---- Tempo's command line -------------------------------------------------------------------------------------------


def tempo_cli(*arguments):
    done = subprocess.run([PROGRAMS / "tempo-cli", "query", "api", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    decoder, text, values = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    return values


@pytest.fixture
def around(sent):
    """Moments before and after a sender's spans, as the command line takes them."""
    moment = min(span["start"] for span in sent.values()) / 10**9
    moments = [datetime.datetime.fromtimestamp(moment + shift, datetime.UTC) for shift in (-60, 600)]
    return [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments]


@pytest.fixture
def target(warehouse):
    return urllib.parse.urlsplit(warehouse.server.addresses.tempo).netloc


# One sender in each language is enough for what starts a program for each question.
few = pytest.mark.parametrize("sender", ["python-grpc", "node-http-json"])


@few
@pytest.mark.parametrize("transport", [[], ["--use-grpc"]], ids=["http", "grpc"])
def test_the_command_line_searches(target, service, trace_id, around, transport):
    query = f'{{ resource.service.name = "{service}" && status = error }}'
    answers = tempo_cli("search", *transport, target, query, *around)
    ids = {trace["traceID"].rjust(32, "0") for answer in answers for trace in answer.get("traces", [])}
    assert ids == {trace_id}
    names = tempo_cli("search-tags", *transport, target, *around)
    assert any("service.name" in scope["tags"] for answer in names for scope in answer["scopes"])
    values = tempo_cli("search-tag-values", *transport, target, "resource.service.name", *around)
    assert any(service == value["value"] for answer in values for value in answer["tagValues"])


@few
@pytest.mark.parametrize("transport", [[], ["--use-grpc"]], ids=["http", "grpc"])
def test_the_command_line_makes_series(target, sent, service, around, transport):
    query = f'{{ resource.service.name = "{service}" }} | count_over_time()'
    answers = tempo_cli("metrics", *transport, target, query, *around)
    # Samples of one moment that come again take the place of the earlier.
    samples = {
        sample["timestampMs"]: sample.get("value", 0)
        for answer in answers
        for series in answer.get("series", [])
        for sample in series["samples"]
    }
    assert sum(samples.values()) == len(sent)
    answers = tempo_cli("metrics", "--instant", *transport, target, query, *around)
    assert [series["value"] for series in answers[-1]["series"]] == [len(sent)]


@few
@pytest.mark.parametrize("version", [[], ["--v1"]], ids=["v2", "v1"])
def test_the_command_line_reads_a_trace(warehouse, sent, trace_id, version):
    [answer] = tempo_cli("trace-id", *version, warehouse.server.addresses.tempo, trace_id)
    trace = answer.get("trace", answer)
    spans = [
        span
        for resource in trace.get("resourceSpans", trace.get("batches"))
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert sorted(span["name"] for span in spans) == sorted(span["name"] for span in sent.values())


# ---- Jaeger, over Tempo's bridge ------------------------------------------------------------------------------------


@pytest.fixture
def bridge(target, tmp_path):
    """Address of a bridge to the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"ADDRESS": address, "BACKEND": target}
    with (tmp_path / "bridge.log").open("w") as log:
        process = subprocess.Popen([PROGRAMS / "tempo-query"], env=settings, stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


@few
def test_jaeger_finds_the_trace_by_service_operation_and_tags(warehouse, bridge, sent, service, trace_id, around):
    [root] = [span for span in sent.values() if span["parent_span_id"] is None]
    wanted = {"backend": bridge, "service": service, "name": root["name"], "start": around[0], "end": around[1]}
    found = ask_one(warehouse.server.addresses.tempo, jaeger=wanted | {"tags": {"service.namespace": "clients"}})
    assert set(found["services"]) == {f"clients-{sender}" for sender in warehouse.sent}
    assert root["name"] in found["operations"]
    # In this oldest form of a search, a service's name is a part of it.
    similar = [spans for name, spans in warehouse.sent.items() if service in f"clients-{name}"]
    expected = {next(iter(spans.values()))["trace_id"]: sorted(span["name"] for span in spans.values()) for spans in similar}
    assert {id: sorted(names) for id, names in found["traces"].items()} == expected
    assert trace_id in expected
