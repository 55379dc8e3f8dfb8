"""The senders: each sends one trace with a real SDK and says, in canonical form, what it sent."""

import json
import pathlib
import subprocess
import time

import canonical
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from grpc import Compression as GrpcCompression

HERE = pathlib.Path(__file__).parent

# Bits of a span's or link's flags in OTLP.
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200


def python_grpc(addresses, service, compression=GrpcCompression.NoCompression):
    exporter = GrpcExporter(endpoint=addresses.otlp_grpc, insecure=True, compression=compression, timeout=20)
    return send_python(exporter, service)


def python_grpc_gzip(addresses, service):
    return python_grpc(addresses, service, GrpcCompression.Gzip)


def python_http(addresses, service, compression=Compression.NoCompression):
    exporter = HttpExporter(endpoint=f"{addresses.otlp_http}/v1/traces", compression=compression, timeout=20)
    return send_python(exporter, service)


def python_http_gzip(addresses, service):
    return python_http(addresses, service, Compression.Gzip)


def python_http_deflate(addresses, service):
    return python_http(addresses, service, Compression.Deflate)


def node_http_json(addresses, service, compression="none"):
    command = ["node", str(HERE / "send.mjs"), f"{addresses.otlp_http}/v1/traces", compression, service]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {span["span_id"]: span for span in map(of_node, done.stdout.splitlines())}


def node_http_json_gzip(addresses, service):
    return node_http_json(addresses, service, "gzip")


SENDERS = {
    "python-grpc": python_grpc,
    "python-grpc-gzip": python_grpc_gzip,
    "python-http": python_http,
    "python-http-gzip": python_http_gzip,
    "python-http-deflate": python_http_deflate,
    "node-http-json": node_http_json,
    "node-http-json-gzip": node_http_json_gzip,
}

# Values of every type, with keys that need care in SQL, JSON, Delta and Parquet.
VALUES = {
    "test.text": 'grüß 🦀 "quoted" \\ \n \t end',
    "test.empty_text": "",
    "test.int": 42,
    "test.largest": 2**63 - 1,
    "test.smallest": -(2**63),
    "test.float": 0.25,
    "test.whole_float": 2.0,
    "test.huge": 1.7976931348623157e308,
    "test.tiny": 5e-324,
    "test.minus_zero": -0.0,
    "test.nan": float("nan"),
    "test.infinity": float("-inf"),
    "test.true": True,
    "test.false": False,
    "test.bytes": bytes(range(256)),
    "test.no_bytes": b"",
    "test.empty": None,
    "test.texts": ["a", "", "b"],
    "test.mixed": ["a", 1, 2.0, True, None, b"\x00\xff", ["nested", []], {"deep": [1, {"deeper": None}]}],
    "test.none": [],
    "test.map": {"text": "x", "int": 7, "float": 1.0, "nan": float("nan"), "bytes": b"\x01", "list": [1, "1"], "map": {}},
    "test.odd_map": {"$bytes": "not bytes", "$map": 1},
    "test.empty_map": {},
    "Test.Int": "differs from test.int in case only",
    "test.odd key ,;{}()=\n\t\"'": "x",
    "ключ": "значение",
}


def send_python(exporter, service):
    finished = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource(
            {"service.name": service, "service.namespace": "clients", "process.pid": 4711, "test.list": ["a", 1]},
            schema_url="https://opentelemetry.io/schemas/1.40.0",
        ),
        span_limits=SpanLimits(
            max_span_attributes=40, max_events=3, max_links=2, max_event_attributes=4, max_link_attributes=4
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(SimpleSpanProcessor(finished))
    make_trace(provider, service)
    spans = finished.get_finished_spans()
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    return {span["span_id"]: span for span in map(of_sdk, spans)}


def make_trace(provider, service):
    tracer = provider.get_tracer(
        "clients.python", "1.2.3", schema_url="https://example.com/scope/1", attributes={"scope.int": 1, "scope.flag": True}
    )
    other = provider.get_tracer("clients.other")
    start = time.time_ns() - 60 * 10**9
    sender = {"clients.sender": service}

    state = TraceState([("vendor", "t61rcWkgMzE"), ("other", "a:b")])
    remote = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(1), state)
    elsewhere = SpanContext(0x1BF7651916CD43DD8448EB211C80319D, 0xC7AD6B7169203332, False, TraceFlags(1))

    root = tracer.start_span(
        "GET /users/{id}", kind=SpanKind.SERVER, start_time=start, attributes=sender | http_attributes() | VALUES
    )
    inside = trace.set_span_in_context(root)
    child = tracer.start_span(
        "SELECT users",
        context=inside,
        kind=SpanKind.CLIENT,
        start_time=start + 1_000,
        # Types other than those that the conventions give these keys.
        attributes=sender | {"db.system.name": "postgresql", "http.response.status_code": "503", "http.route": 7},
    )
    for attempt in range(5):
        child.add_event(f"attempt {attempt}", {"attempt": attempt, "delay": attempt / 2}, start + 2_000 + attempt)
    child.set_status(Status(StatusCode.ERROR, "deadlock detected"))
    child.end(start + 250_000_000)

    produced = other.start_span("send orders", context=inside, kind=SpanKind.PRODUCER, start_time=start + 3_000)
    produced.set_attributes(sender | {f"filler.{number:02}": number for number in range(45)})
    produced.end(start + 4_000)
    consumed = other.start_span(
        "process orders",
        context=trace.set_span_in_context(produced),
        kind=SpanKind.CONSUMER,
        start_time=start + 1_500_000_000,
        attributes=sender,
        links=[
            Link(elsewhere, {"dropped": "by the limit"}),
            Link(remote, {"link.reason": "retry", "link.map": {"a": [1]}}),
            Link(elsewhere),
        ],
    )
    try:
        raise ValueError("no such order")
    except ValueError as error:
        consumed.record_exception(error, timestamp=start + 1_600_000_000)
    consumed.end(start + 3_500_000_001)
    internal = other.start_span("work", context=inside, start_time=start + 5_000, attributes=sender)
    internal.end(start + 5_000)
    root.set_status(Status(StatusCode.OK))
    root.end(start + 999_999_999)


def http_attributes():
    return {
        "http.request.method": "GET",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "url.path": "/users/4711",
    }


def of_sdk(span):
    """The canonical form of a finished span of the Python SDK."""
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "trace_state": span.context.trace_state.to_header(),
        "flags": flags(span.parent),
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start": span.start_time,
        "end": span.end_time,
        "status_code": span.status.status_code.name.lower(),
        "status_message": span.status.description or "",
        "attributes": attributes(span.attributes),
        "events": [
            {
                "time": event.timestamp,
                "name": event.name,
                "attributes": attributes(event.attributes),
                "dropped_attributes": event.dropped_attributes,
            }
            for event in span.events
        ],
        "links": [
            {
                "trace_id": f"{link.context.trace_id:032x}",
                "span_id": f"{link.context.span_id:016x}",
                # The exporter does not send a link's trace state.
                "trace_state": "",
                "flags": flags(link.context),
                "attributes": attributes(link.attributes),
                "dropped_attributes": link.dropped_attributes,
            }
            for link in span.links
        ],
        "dropped_attributes": span.dropped_attributes,
        "dropped_events": span.dropped_events,
        "dropped_links": span.dropped_links,
        "resource": {
            "attributes": attributes(span.resource.attributes),
            "dropped_attributes": 0,
            "schema_url": span.resource.schema_url,
        },
        "scope": {
            "name": span.instrumentation_scope.name,
            "version": span.instrumentation_scope.version or "",
            "attributes": attributes(span.instrumentation_scope.attributes),
            "dropped_attributes": 0,
            "schema_url": span.instrumentation_scope.schema_url or "",
        },
    }


def flags(context):
    return HAS_IS_REMOTE | (IS_REMOTE if context and context.is_remote else 0)


def attributes(given):
    return {key: canonical.of_python(value) for key, value in (given or {}).items()}


def of_node(line):
    """The canonical form of a span that `send.mjs` printed."""
    span = json.loads(line)
    return {
        "trace_id": span["traceId"],
        "span_id": span["spanId"],
        "parent_span_id": span["parentSpanId"],
        "trace_state": "",
        "flags": span["traceFlags"] | HAS_IS_REMOTE,
        "name": span["name"],
        "kind": span["kind"],
        "start": int(span["start"]),
        "end": int(span["end"]),
        "status_code": span["statusCode"],
        "status_message": span["statusMessage"],
        "attributes": node_attributes(span["attributes"]),
        "events": [
            {
                "time": int(event["time"]),
                "name": event["name"],
                "attributes": node_attributes(event["attributes"]),
                "dropped_attributes": 0,
            }
            for event in span["events"]
        ],
        "links": [
            {
                "trace_id": link["traceId"],
                "span_id": link["spanId"],
                "trace_state": "",
                "flags": link["traceFlags"] | HAS_IS_REMOTE | (IS_REMOTE if link["isRemote"] else 0),
                "attributes": node_attributes(link["attributes"]),
                "dropped_attributes": 0,
            }
            for link in span["links"]
        ],
        "dropped_attributes": 0,
        "dropped_events": 0,
        "dropped_links": 0,
        "resource": {"attributes": node_attributes(span["resource"]), "dropped_attributes": 0, "schema_url": ""},
        "scope": {
            "name": span["scope"]["name"],
            "version": span["scope"]["version"],
            "attributes": {},
            "dropped_attributes": 0,
            "schema_url": "",
        },
    }


def node_attributes(given):
    return {key: node_value(value) for key, value in given.items()}


def node_value(value):
    match value:
        case ["int", text]:
            return ("int", int(text))
        case ["float", text]:
            return ("float", repr(float(text)))
        case ["array", items]:
            return ("array", [node_value(item) for item in items])
        case _:
            return tuple(value)
