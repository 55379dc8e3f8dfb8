"""The notebooks of `examples/`, run from top to bottom on a server with the demo's data."""

import json
import os
import pathlib
import subprocess

import adbc_driver_flightsql.dbapi as flightsql
import nbclient
import nbformat
import pytest
from tracehouse import Server

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SPANS = 5_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A server whose spans are all in the table, and can also be asked for."""
    data = tmp_path_factory.mktemp("notebooks") / "data"
    server = Server(data)
    try:
        command = [os.environ["TRACEHOUSE_BINARY"], "demo", "--endpoint", server.addresses.otlp_grpc, "--quiet"]
        subprocess.run([*command, "--backfill", "1h", "--spans", str(SPANS)], check=True, timeout=120)
        server.stop()
        server = Server(data)
        yield server
        server.stop()
    finally:
        server.kill()


def run(name, demo, facts, monkeypatch):
    """Runs a notebook; `facts` are expressions on what it left behind. Gives their values and all outputs."""
    monkeypatch.setenv("TRACEHOUSE_URI", demo.addresses.flight)
    monkeypatch.setenv("TRACEHOUSE_TABLE", str(demo.table))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    told = ", ".join(f"{json.dumps(fact)}: {fact}" for fact in facts)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{told}}}, default=int))"))
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return json.loads(outputs[-1]["text"]), outputs[:-1]


def ask(demo, statement):
    with flightsql.connect(demo.addresses.flight, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return [tuple(row.values()) for row in cursor.fetch_arrow_table().to_pylist()]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_kept_without_outputs(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_exploring_plots_what_the_server_has(demo, monkeypatch):
    facts = ["int(services.spans.sum())", "int(grid.to_numpy().sum())", "graph.number_of_edges()", "len(spans)"]
    found, outputs = run("explore", demo, facts, monkeypatch)
    [(requests,)] = ask(demo, "SELECT count(*) FROM spans WHERE kind = 'server' AND duration_nano >= 1000")
    [(edges,)] = ask(
        demo,
        "SELECT count(*) FROM (SELECT DISTINCT client_service, server_service FROM service_edges "
        "WHERE client_service IS NOT NULL AND server_service IS NOT NULL)",
    )
    [(longest,)] = ask(demo, "SELECT span_count FROM traces ORDER BY duration_nano DESC LIMIT 1")
    assert list(found.values()) == [SPANS, requests, edges, longest]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert all(len(picture["data"]["image/png"]) > 5_000 for picture in pictures)


def test_the_readers_of_the_table_agree_with_each_other_and_with_the_server(demo, monkeypatch):
    facts = [
        "by_pyarrow.to_pandas().values.tolist()",
        "by_polars.select('service_name', 'spans', 'slowest').to_pandas().values.tolist()",
        "by_duckdb[['service_name', 'spans', 'slowest']].values.tolist()",
        "routes.values.tolist()",
    ]
    found, _ = run("read_the_table", demo, facts, monkeypatch)
    *readers, routes = found.values()
    expected = ask(
        demo,
        "SELECT service_name, count(*), max(duration_nano) FROM spans WHERE duration_nano > 1000000 GROUP BY 1 ORDER BY 1",
    )
    for reader in readers:
        assert [tuple(row) for row in reader] == expected
    expected = ask(
        demo,
        "SELECT span_attributes['http.route'], count(*) FROM spans WHERE span_attributes['http.route'] IS NOT NULL "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10",
    )
    assert [tuple(row) for row in routes] == expected
