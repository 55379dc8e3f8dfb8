"""Searches find the spans that were sent, with the facts of the whole trace."""

import pytest


def search(warehouse, query, **parameters):
    answer = warehouse.get("/api/search", params={"q": query, "spss": 100} | parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["traces"]


def any_value(value):
    """The OTLP/JSON form that search gives a scalar."""
    kind, item = value
    return {
        "str": lambda: {"stringValue": item},
        "int": lambda: {"intValue": str(item)},
        "float": lambda: {"doubleValue": float(item)},
        "bool": lambda: {"boolValue": item},
    }[kind]()


def attribute(span, key):
    return span["attributes"].get(key, (None, None))


# A condition, and the same in Python on a span in canonical form.
CONDITIONS = {
    "true": lambda span: True,
    "span.test.int = 42": lambda span: attribute(span, "test.int") == ("int", 42),
    "span.test.int >= 42 && span.test.int < 43": lambda span: attribute(span, "test.int") == ("int", 42),
    "span.test.float = 0.25": lambda span: attribute(span, "test.float") == ("float", "0.25"),
    "span.test.true = true": lambda span: attribute(span, "test.true") == ("bool", True),
    "span.test.false = true": lambda span: False,
    'span.test.empty_text = ""': lambda span: attribute(span, "test.empty_text") == ("str", ""),
    "span.http.response.status_code = 200": lambda span: attribute(span, "http.response.status_code") == ("int", 200),
    'span.http.response.status_code = "200"': lambda span: attribute(span, "http.response.status_code") == ("str", "200"),
    'span.http.response.status_code =~ "5.."': lambda span: attribute(span, "http.response.status_code") == ("str", "503"),
    '.db.system.name = "postgresql"': lambda span: attribute(span, "db.system.name") == ("str", "postgresql"),
    'resource.service.namespace = "clients"': lambda span: True,
    "resource.process.pid = 4711": lambda span: True,
    "resource.process.pid > 4711": lambda span: False,
    'name =~ "(GET|SELECT).*"': lambda span: span["name"].startswith(("GET", "SELECT")),
    "kind = server": lambda span: span["kind"] == "server",
    "kind != server": lambda span: span["kind"] != "server",
    "status = error": lambda span: span["status_code"] == "error",
    "status = ok || kind = consumer": lambda span: span["status_code"] == "ok" or span["kind"] == "consumer",
    'statusMessage = "deadlock detected"': lambda span: span["status_message"] == "deadlock detected",
    "duration > 900ms": lambda span: span["end"] - span["start"] > 900_000_000,
    "duration = 0s": lambda span: span["end"] == span["start"],
    'span.nowhere != nil': lambda span: False,
}


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_a_condition_selects_the_spans_that_meet_it(warehouse, sent, service, trace_id, condition):
    expected = {id for id, span in sent.items() if CONDITIONS[condition](span)}
    found = search(warehouse, f'{{ resource.service.name = "{service}" && ({condition}) }}')
    if not expected:
        assert found == []
        return
    [trace] = found
    assert trace["traceID"].rjust(32, "0") == trace_id
    [span_set] = trace["spanSets"]
    assert span_set["matched"] == len(expected)
    assert {span["spanID"].rjust(16, "0") for span in span_set["spans"]} == expected
    for span in span_set["spans"]:
        known = sent[span["spanID"].rjust(16, "0")]
        assert int(span["startTimeUnixNano"]) == known["start"]
        assert int(span.get("durationNanos", 0)) == known["end"] - known["start"]


def test_facts_of_the_whole_trace_come_with_a_match_of_one_span(warehouse, sent, service, trace_id):
    [trace] = search(warehouse, f'{{ resource.service.name = "{service}" && status = error && kind = client }}')
    [root] = [span for span in sent.values() if span["parent_span_id"] is None]
    start, end = min(span["start"] for span in sent.values()), max(span["end"] for span in sent.values())
    errors = sum(span["status_code"] == "error" for span in sent.values())
    assert trace["rootServiceName"] == service
    assert trace["rootTraceName"] == root["name"]
    assert int(trace["startTimeUnixNano"]) == start
    assert trace["durationMs"] == (end - start) // 1_000_000
    assert trace["serviceStats"] == {service: {"spanCount": len(sent), "errorCount": errors}}


def test_selected_fields_keep_their_types(warehouse, sent, service):
    keys = ["test.int", "test.float", "test.true", "http.request.method", "http.response.status_code"]
    fields = ", ".join(f"span.{key}" for key in keys)
    query = f'{{ resource.service.name = "{service}" && kind = server }} | select({fields}, resource.process.pid)'
    [trace] = search(warehouse, query)
    [span] = trace["spanSets"][0]["spans"]
    known = sent[span["spanID"].rjust(16, "0")]
    answered = {pair["key"]: pair["value"] for pair in span["attributes"]}
    expected = {key: any_value(known["attributes"][key]) for key in keys} | {"process.pid": {"intValue": "4711"}}
    assert {key: answered.get(key) for key in expected} == expected


def test_a_limit_and_a_time_range_are_kept(warehouse):
    assert len(search(warehouse, '{ resource.service.namespace = "clients" }')) == len(warehouse.sent)
    assert len(search(warehouse, '{ resource.service.namespace = "clients" }', limit=2)) == 2
    spans = [span for spans in warehouse.sent.values() for span in spans.values()]
    before = min(span["start"] for span in spans) // 10**9
    assert search(warehouse, "{}", start=before - 7200, end=before - 3600) == []
    assert len(search(warehouse, "{}", start=before - 1, end=before + 600)) == len(warehouse.sent)


def test_a_wrong_query_is_refused_with_its_place(warehouse):
    answer = warehouse.get("/api/search", params={"q": "{ status = }"})
    assert answer.status_code == 400
    assert "parse error at line 1, col" in answer.text
