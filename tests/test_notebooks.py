"""Notebooks under plain papermill, without `symmlib run`: they work, and they refuse what they don't know."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from symmlib import notebooks
from symmlib.errors import UsageError
from symmlib.runs import REPORTS
from tests.waiting import PATIENCE_S


def papermill(name: str, executed, parameters: dict) -> subprocess.CompletedProcess:
    given = executed.with_suffix(".yaml")
    given.write_text(json.dumps(parameters))  # JSON is YAML
    command = [sys.executable, "-m", "papermill", str(notebooks.path_of(name)), str(executed), "-f", str(given)]
    return subprocess.run(
        [*command, "--cwd", str(notebooks.DIRECTORY), "--no-progress-bar"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize(
    ("given", "says"), [({"qpps": [4]}, "'qpps'"), ({"blocks": "three"}, "blocks must be of type int")]
)
def test_plain_papermill_fails_on_a_parameter_that_is_none_and_lists_the_valid_ones(tmp_path, given, says):
    done = papermill("04_serving", tmp_path / "executed.ipynb", given)
    assert done.returncode != 0
    assert says in done.stderr
    assert "duration_s" in done.stderr  # the list


def test_a_notebook_works_under_plain_papermill_on_a_run_that_is_there(smoke_run, tmp_path):
    run = shutil.copytree(smoke_run, tmp_path / smoke_run.name)
    done = papermill("03_routing", tmp_path / "executed.ipynb", {"run_dir": str(run), "held_out_launches": 1})
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    nbformat.validate(executed)
    assert any("data:image/svg+xml" in str(cell.get("outputs")) for cell in executed.cells)


def test_a_run_made_by_hand_ends_with_the_last_cell_or_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv(REPORTS, str(tmp_path))
    notebook = nbformat.read(notebooks.path_of("06_pr20759"), as_version=4)
    *before, last = [(number, cell) for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]

    def executed(client, *cells) -> str:
        for number, cell in cells:
            client.execute_cell(cell, number)
        runs.append(max((tmp_path / "runs").iterdir()))
        return json.loads((runs[-1] / "manifest.json").read_text())["status"]

    runs = []
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        client.km.shutdown_wait_time = PATIENCE_S  # 5 s, of which a busy machine's kernel needs more to end by itself
        assert executed(client, *before) == "running"
        assert executed(client, last) == "ok"
        assert executed(client, *before) == "running"  # Run All once more is another run
    assert json.loads((runs[-1] / "manifest.json").read_text())["status"] == "ok"
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", notebooks.names())
def test_every_parameter_is_annotated_and_commented(name):
    cell = next(
        cell for cell in json.loads(notebooks.path_of(name).read_text())["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    )  # fmt: skip
    for line in "".join(cell["source"]).splitlines():
        if line and not line.startswith("#"):
            declared, _, comment = line.partition("  # ")
            assert ": " in declared and comment, line


@pytest.mark.parametrize("name", notebooks.names())
def test_a_notebook_is_a_narrative_without_functions_loops_or_shell(name):
    for cell in json.loads(notebooks.path_of(name).read_text())["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")
        if cell["cell_type"] == "code":
            for line in "".join(cell["source"]).splitlines():
                assert not line.lstrip().startswith(("def ", "class ", "while ", "!", "%")), line


@pytest.mark.parametrize("given", [{"qpps": [4]}, {"blocks": "three"}])
def test_unknown_and_mistyped_parameters_are_refused_with_the_valid_ones(given):
    with pytest.raises(UsageError, match=next(iter(given))) as caught:
        notebooks.check("04_serving", given)
    assert "duration_s" in str(caught.value)
