"""Grafana's editor and the server understand the same queries: its grammar, as published, reads the corpus of TraceQL."""

import json
import pathlib
import re
import subprocess

import pytest
import requests

HERE = pathlib.Path(__file__).parent
CORPUS = HERE.parent / "traceql"

METRICS = re.compile(r"\|\s*(rate|count_over_time|(avg|sum|max|min|quantile|histogram)_over_time|compare)\s*\(")


def corpus(kind, name):
    """The queries of a file: each stands above a line of dashes, and cases are apart by an empty line."""
    text = (CORPUS / kind / f"{name}.traceql").read_text()
    cases = [case.split("\n----\n")[0] for case in re.split(r"\n\n+", text) if "\n----\n" in f"{case}\n"]
    return [query for query in cases if query.strip()]


def editor(queries):
    """What the editor's grammar says of each."""
    command = ["node", str(HERE / "editor.mjs")]
    done = subprocess.run(command, input=json.dumps(queries), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answer(mixed, query):
    base = mixed.server.addresses.tempo
    path = "/api/metrics/query_range" if METRICS.search(query) else "/api/search"
    return requests.get(f"{base}{path}", params={"q": query}, timeout=30)


def test_every_query_of_the_editors_own_tests_is_read_by_both(mixed):
    queries = corpus("valid", "editor_grammar")
    assert len(queries) > 90
    faults = [(query, fault) for query, fault in zip(queries, editor(queries)) if fault is not None]
    assert not faults
    refused = [(query, found.text) for query in queries if (found := answer(mixed, query)).status_code != 200]
    assert not refused


@pytest.mark.parametrize("name", ["clients", "drilldown"])
def test_the_server_takes_what_other_clients_send_whatever_the_editor_thinks_of_it(mixed, name):
    queries = corpus("valid", name)
    taken = [query for query, fault in zip(queries, editor(queries)) if fault is None]
    # It does not know the hints and the nested sets of Drilldown, which sends them all the same, and no more than that.
    left = [query for query in queries if query not in taken and "with" not in query and "nestedSet" not in query]
    assert not left
    assert taken
    refused = [(query, found.text) for query in queries if (found := answer(mixed, query)).status_code != 200]
    assert not refused
