"""What was sent comes back by trace id, in both versions of Tempo's route and in both encodings."""

import pytest
from canonical import assert_same, of_traces_data
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData


def read_json(answer):
    # Python reads -0 as an integer, which has no sign to lose.
    return answer.json(parse_int=lambda digits: -0.0 if digits == "-0" else int(digits))


def read_json_v1(answer):
    body = read_json(answer)
    # Tempo's first version renames the list.
    return json_format.ParseDict({"resourceSpans": body["batches"]}, TracesData())


def read_json_v2(answer):
    body = read_json(answer)
    assert "status" not in body or body["status"] == "COMPLETE"
    return json_format.ParseDict(body["trace"], TracesData())


def read_protobuf_v1(answer):
    return TracesData.FromString(answer.content)


def read_protobuf_v2(answer):
    # TraceByIDResponse has the trace in its first field, so that it reads as a message of one unknown message.
    trace, rest = first_field(answer.content)
    assert trace is not None, "there is no trace in the answer"
    assert b"PARTIAL" not in rest
    return TracesData.FromString(trace)


def first_field(message):
    """The bytes of field 1 of a protobuf message, which has to come first, and what follows it."""
    if not message or message[0] != 0x0A:
        return None, message
    length, shift, at = 0, 0, 1
    while True:
        byte = message[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return message[at : at + length], message[at + length :]


READERS = {
    ("/api/traces/", "application/json"): read_json_v1,
    ("/api/v2/traces/", "application/json"): read_json_v2,
    ("/api/traces/", "application/protobuf"): read_protobuf_v1,
    ("/api/v2/traces/", "application/protobuf"): read_protobuf_v2,
}


@pytest.mark.parametrize(("path", "media_type"), list(READERS))
def test_every_field_of_every_span_comes_back(warehouse, sent, trace_id, path, media_type):
    answer = warehouse.get(f"{path}{trace_id}", headers={"Accept": media_type})
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, media_type), answer.text
    assert_same(of_traces_data(READERS[path, media_type](answer)), sent)


def test_upper_case_ids_and_time_hints_are_taken(warehouse, sent, trace_id):
    start = min(span["start"] for span in sent.values()) // 10**9
    hints = {"start": start - 60, "end": start + 60}
    answer = warehouse.get(f"/api/v2/traces/{trace_id.upper()}", params=hints)
    assert_same(of_traces_data(read_json_v2(answer)), sent)


def test_a_trace_that_is_not_there_is_not_found(warehouse):
    unknown = "0123456789abcdef0123456789abcdef"
    assert warehouse.get(f"/api/traces/{unknown}").status_code == 404
    answer = warehouse.get(f"/api/v2/traces/{unknown}")
    assert (answer.status_code, answer.json().get("trace", {}).get("resourceSpans", [])) == (200, [])
    assert warehouse.get("/api/traces/no-hex").status_code == 400
