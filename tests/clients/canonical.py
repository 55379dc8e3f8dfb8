"""One form for a span, whatever it was read from, so that what came back can be compared with what was sent.

A span is a dict of plain values. An attribute value is a tuple of its OTLP type and the value: ("int", 3),
("array", [("str", "a")]), ("empty",). Doubles are kept by their repr, which tells -0.0 from 0.0 and equals itself for
NaN. The order of attributes does not matter, that of events and links does.
"""

import base64
import json

KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"]
STATUS_CODES = ["unset", "ok", "error"]


def of_python(value):
    """The form of an attribute value as it is given to the Python SDK."""
    match value:
        case None:
            return ("empty",)
        case bool():
            return ("bool", value)
        case int():
            return ("int", value)
        case float():
            return ("float", repr(value))
        case str():
            return ("str", value)
        case bytes():
            return ("bytes", value)
        case dict():
            return ("map", {key: of_python(item) for key, item in value.items()})
        case _:
            return ("array", [of_python(item) for item in value])


def of_any_value(value):
    """The form of an OTLP AnyValue message."""
    match value.WhichOneof("value"):
        case None:
            return ("empty",)
        case "string_value":
            return ("str", value.string_value)
        case "bool_value":
            return ("bool", value.bool_value)
        case "int_value":
            return ("int", value.int_value)
        case "double_value":
            return ("float", repr(value.double_value))
        case "bytes_value":
            return ("bytes", value.bytes_value)
        case "array_value":
            return ("array", [of_any_value(item) for item in value.array_value.values])
        case "kvlist_value":
            return ("map", of_key_values(value.kvlist_value.values))


def of_key_values(pairs):
    attributes = {pair.key: of_any_value(pair.value) for pair in pairs}
    assert len(attributes) == len(pairs), "a key is there twice"
    return attributes


def of_json_text(text):
    """The form of a nested value that the table keeps as JSON text."""
    return of_json(json.loads(text))


def of_json(value):
    match value:
        case {"$bytes": text, **rest} if not rest:
            return ("bytes", base64.b64decode(text))
        case {"$double": text, **rest} if not rest:
            return ("float", repr(float(text)))
        case {"$map": items, **rest} if not rest:
            return ("map", {key: of_json(item) for key, item in items.items()})
        case list():
            return ("array", [of_json(item) for item in value])
        case dict():
            return ("map", {key: of_json(item) for key, item in value.items()})
        case _:
            return of_python(value)


def of_traces_data(data):
    """Spans by id of an OTLP TracesData message."""
    spans = {}
    for resource_spans in data.resource_spans:
        resource = {
            "attributes": of_key_values(resource_spans.resource.attributes),
            "dropped_attributes": resource_spans.resource.dropped_attributes_count,
            "schema_url": resource_spans.schema_url,
        }
        for scope_spans in resource_spans.scope_spans:
            scope = {
                "name": scope_spans.scope.name,
                "version": scope_spans.scope.version,
                "attributes": of_key_values(scope_spans.scope.attributes),
                "dropped_attributes": scope_spans.scope.dropped_attributes_count,
                "schema_url": scope_spans.schema_url,
            }
            for span in scope_spans.spans:
                add(spans, of_otlp_span(span, resource, scope))
    return spans


def of_otlp_span(span, resource, scope):
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex() or None,
        "trace_state": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": KINDS[span.kind],
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status_code": STATUS_CODES[span.status.code],
        "status_message": span.status.message,
        "attributes": of_key_values(span.attributes),
        "events": [
            {
                "time": event.time_unix_nano,
                "name": event.name,
                "attributes": of_key_values(event.attributes),
                "dropped_attributes": event.dropped_attributes_count,
            }
            for event in span.events
        ],
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "trace_state": link.trace_state,
                "flags": link.flags,
                "attributes": of_key_values(link.attributes),
                "dropped_attributes": link.dropped_attributes_count,
            }
            for link in span.links
        ],
        "dropped_attributes": span.dropped_attributes_count,
        "dropped_events": span.dropped_events_count,
        "dropped_links": span.dropped_links_count,
        "resource": resource,
        "scope": scope,
    }


def add(spans, span):
    assert span["span_id"] not in spans, "a span is there twice"
    spans[span["span_id"]] = span


def of_table_row(row):
    """The form of a row of the Delta table, as pyarrow gives it: ids are bytes, attributes are typed.

    An attribute is in a column of its own (such as `span.http.route`) or in the map of its scope, never in both.
    """
    return {
        "trace_id": row["trace_id"].hex(),
        "span_id": row["span_id"].hex(),
        "parent_span_id": row["parent_span_id"].hex() if row["parent_span_id"] is not None else None,
        "trace_state": row["trace_state"] or "",
        "flags": row["flags"],
        "name": row["name"],
        "kind": row["kind"],
        "start": row["start_time_unix_nano"],
        "end": row["start_time_unix_nano"] + row["duration_nano"],
        "status_code": row["status_code"],
        "status_message": row["status_message"] or "",
        "attributes": row_attributes(row, "span.", "span_attributes"),
        "events": [
            {
                "time": event["time_unix_nano"],
                "name": event["name"],
                "attributes": of_typed_map(event["attributes"]),
                "dropped_attributes": event["dropped_attributes_count"],
            }
            for event in row["events"]
        ],
        "links": [
            {
                "trace_id": link["trace_id"].hex(),
                "span_id": link["span_id"].hex(),
                "trace_state": link["trace_state"] or "",
                "flags": link["flags"],
                "attributes": of_typed_map(link["attributes"]),
                "dropped_attributes": link["dropped_attributes_count"],
            }
            for link in row["links"]
        ],
        "dropped_attributes": row["dropped_attributes_count"],
        "dropped_events": row["dropped_events_count"],
        "dropped_links": row["dropped_links_count"],
        "resource": {
            "attributes": row_attributes(row, "resource.", "resource_attributes"),
            "dropped_attributes": row["resource_dropped_attributes_count"],
            "schema_url": row["resource_schema_url"] or "",
        },
        "scope": {
            "name": row["scope_name"] or "",
            "version": row["scope_version"] or "",
            "attributes": row_attributes(row, "instrumentation.", "scope_attributes"),
            "dropped_attributes": row["scope_dropped_attributes_count"],
            "schema_url": row["scope_schema_url"] or "",
        },
    }


def row_attributes(row, prefix, map_column):
    promoted = {key[len(prefix):]: value for key, value in row.items() if key.startswith(prefix)}
    if prefix == "resource.":
        promoted |= {"service.name": row["service_name"], "service.namespace": row["service_namespace"]}
    attributes = {key: of_python(value) for key, value in promoted.items() if value is not None}
    for key, value in of_typed_map(row[map_column]).items():
        assert key not in attributes, f"{key} is in {map_column} and in a column of its own"
        attributes[key] = value
    return attributes


def of_typed_map(pairs):
    attributes = {key: of_typed_value(value) for key, value in pairs}
    assert len(attributes) == len(pairs), "a key is there twice"
    return attributes


def of_typed_value(value):
    given = {field: item for field, item in value.items() if item is not None}
    assert len(given) <= 1, f"a value has two types: {given}"
    match given:
        case {"json": text}:
            return of_json_text(text)
        case {"str": item} | {"int": item} | {"float": item} | {"bool": item}:
            return of_python(item)
    return ("empty",)


def assert_same(found, sent):
    """Fails with the places where two spans by id differ, rather than with both in full."""
    differences = list(differing(found, sent, ""))
    assert not differences, "\n".join(differences)


def differing(found, sent, place):
    match found, sent:
        case dict(), dict():
            for key in sent.keys() | found.keys():
                if key not in found or key not in sent:
                    yield f"{place}/{key} is only in what {'came back' if key in found else 'was sent'}"
                else:
                    yield from differing(found[key], sent[key], f"{place}/{key}")
        case list(), list() if len(found) == len(sent):
            for index, pair in enumerate(zip(found, sent)):
                yield from differing(*pair, f"{place}/{index}")
        case _ if found != sent:
            yield f"{place} is {found!r}, and was sent as {sent!r}"
