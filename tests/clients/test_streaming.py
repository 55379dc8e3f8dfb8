"""Tempo's streaming API, called by grpcio with messages made from proto/, on the port of HTTP as Grafana does it.

The same messages decode the JSON of the HTTP routes, and a field that they do not know is a failure, as it is in Grafana.
"""

import importlib
import pathlib
import sys
import urllib.parse

import grpc
import pytest
import requests
from google.protobuf import json_format
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parents[2] / "proto"


@pytest.fixture(scope="session")
def tempopb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proto")
    # The attribute values in it come from the installed package of OpenTelemetry.
    assert protoc.main(["protoc", f"-I{PROTO}", f"--python_out={folder}", "tempopb/tempo.proto"]) == 0
    sys.path.insert(0, str(folder))
    yield importlib.import_module("tempopb.tempo_pb2")
    sys.path.remove(str(folder))


@pytest.fixture
def call(warehouse, tempopb):
    """Calls a method and gives the list of messages."""
    target = urllib.parse.urlsplit(warehouse.server.addresses.tempo).netloc
    service = tempopb.DESCRIPTOR.services_by_name["StreamingQuerier"]
    with grpc.insecure_channel(target) as channel:

        def run(method, **fields):
            described = service.methods_by_name[method]
            request = getattr(tempopb, described.input_type.name)(**fields)
            response = getattr(tempopb, described.output_type.name)
            streamed = channel.unary_stream(
                f"/tempopb.StreamingQuerier/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            messages = list(streamed(request, timeout=30))
            assert all(message.ByteSize() < 2**20 for message in messages)
            return messages

        yield run


def traces_of(messages):
    return [trace for message in messages for trace in message.traces]


def test_a_streamed_search_finds_what_the_search_over_http_finds(warehouse, call, tempopb, service):
    query = f'{{ resource.service.name = "{service}" && kind = server }}'
    messages = call("Search", Query=query, SpansPerSpanSet=100)
    answer = warehouse.get("/api/search", params={"q": query, "spss": 100})
    assert answer.status_code == 200, answer.text
    over_http = json_format.Parse(answer.text, tempopb.SearchResponse(), ignore_unknown_fields=False)
    assert traces_of(messages) == list(over_http.traces)
    assert len(over_http.traces) == 1
    last = messages[-1].metrics
    assert last.completedJobs == last.totalJobs > 0


def test_a_long_answer_comes_early_in_order_and_in_small_messages(warehouse, call):
    count, start = 150, 1_790_000_000
    spans = [
        {
            "traceId": f"{2**64 + index:032x}",
            "spanId": f"{index:016x}",
            "name": "long",
            "kind": 1,
            "startTimeUnixNano": str((start + index) * 10**9),
            "endTimeUnixNano": str((start + index) * 10**9 + 5_000_000),
            "attributes": [{"key": "text", "value": {"stringValue": "x" * 20_000}}],
        }
        for index in range(1, count + 1)
    ]
    body = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": spans}]}]}
    sent = requests.post(f"{warehouse.server.addresses.otlp_http}/v1/traces", json=body, timeout=30)
    assert sent.status_code == 200, sent.text

    messages = call("Search", Query="{ span.text != nil }", Limit=120, start=start, end=start + 200)
    jobs = [(message.metrics.completedJobs, message.metrics.totalJobs) for message in messages]
    assert jobs[0] == (0, 2) and not messages[0].traces
    assert jobs[1] == (1, 2) and len(messages[1].traces) == 20
    assert jobs == sorted(jobs) and jobs[-1] == (2, 2)
    assert len(messages) > 3
    # Latest first, and each trace once: what was said of it is final.
    traces = traces_of(messages)
    assert [int(trace.traceID, 16) - 2**64 for trace in traces] == list(range(150, 30, -1))
    assert {trace.durationMs for trace in traces} == {5}


def test_the_health_checks_of_grafana_and_kiali_are_answered(call):
    assert call("Search", Query="{}", start=1, end=2, Limit=1)[0].metrics.totalJobs == 1
    assert traces_of(call("Search"))


def test_names_and_values_are_those_that_were_sent(warehouse, call, tempopb, sent, service):
    keys = {key for span in sent.values() for key in span["attributes"]}
    query = f'{{ resource.service.name = "{service}" }}'
    [names] = call("SearchTagsV2", scope="span", query=query)
    assert {tag for scope in names.scopes for tag in scope.tags} == keys
    answer = warehouse.get("/api/v2/search/tags", params={"scope": "span", "q": query})
    over_http = json_format.Parse(answer.text, tempopb.SearchTagsV2Response(), ignore_unknown_fields=False)
    assert list(over_http.scopes) == list(names.scopes)
    [all_names] = call("SearchTags")
    assert keys <= set(all_names.tagNames)

    [values] = call("SearchTagValuesV2", tagName="resource.service.name")
    assert service in [value.value for value in values.tagValues]
    [values] = call("SearchTagValues", tagName="name", query=query)
    assert set(values.tagValues) == {span["name"] for span in sent.values()}
    answer = warehouse.get("/api/v2/search/tag/span.http.response.status_code/values", params={"q": query})
    over_http = json_format.Parse(answer.text, tempopb.SearchTagValuesV2Response(), ignore_unknown_fields=False)
    kinds = {"str": "string", "int": "int"}
    stored = {span["attributes"].get("http.response.status_code") for span in sent.values()} - {None}
    assert {(value.type, value.value) for value in over_http.tagValues} == {
        (kinds[kind], str(value)) for kind, value in stored
    }


def test_streamed_series_count_every_span(call, sent, service):
    start = min(span["start"] for span in sent.values()) // 10**9 - 60
    query = f'{{ resource.service.name = "{service}" }} | count_over_time()'
    asked = {"query": query, "start": start * 10**9, "end": (start + 600) * 10**9}
    messages = call("MetricsQueryRange", step=60 * 10**9, **asked)
    # A later sample of one moment takes the place of an earlier.
    samples = {sample.timestamp_ms: sample.value for message in messages for series in message.series for sample in series.samples}
    assert sum(samples.values()) == len(sent)
    last = messages[-1].metrics
    assert last.completedJobs == last.totalJobs > 0
    # Of an instant, the last message is the answer.
    messages = call("MetricsQueryInstant", **asked)
    assert [series.value for series in messages[-1].series] == [len(sent)]


def test_an_error_has_a_code_and_tempos_words(call):
    with pytest.raises(grpc.RpcError) as refused:
        call("Search", Query="{ status = }")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "parse error at line 1, col 12" in refused.value.details()
