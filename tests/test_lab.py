"""What `symmlib lab` opens: working copies that follow the shipped notebooks and lose nothing, on a closed server."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from symmlib import lab, notebooks
from symmlib.errors import UsageError

NAME = "02_allreduce.ipynb"
SYMMLIB = Path(sys.executable).with_name("symmlib")


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A directory of shipped notebooks that a test may change."""
    directory = shutil.copytree(notebooks.DIRECTORY, tmp_path / "notebooks")
    monkeypatch.setattr(notebooks, "DIRECTORY", directory)
    return directory


@pytest.fixture
def copies(shipped, tmp_path) -> Path:
    return lab.refresh(tmp_path / "reports" / "lab")


def change(notebook: Path, text: str) -> None:
    """Write `text` into the first cell, as a person or a newer version would."""
    content = nbformat.read(notebook, as_version=4)
    content.cells[0].source = text
    nbformat.write(content, notebook)


def run_by_hand(notebook: Path) -> None:
    """Leave what JupyterLab leaves behind Run All: outputs, counts, and the language in the metadata."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata.language_info = {"name": "python", "version": "3.11.2"}
    for number, cell in enumerate(cell for cell in content.cells if cell.cell_type == "code"):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", text="[ 0:01] launch 1 of 3\n")]
    nbformat.write(content, notebook)


def first_cell(notebook: Path) -> str:
    return nbformat.read(notebook, as_version=4).cells[0].source


def test_every_notebook_and_the_landing_page_are_copied_as_shipped(shipped, copies):
    assert {path.name for path in copies.glob("[!.]*")} == {
        "README.md", *(f"{name}.ipynb" for name in notebooks.names())
    }  # fmt: skip
    assert (copies / NAME).read_bytes() == (shipped / NAME).read_bytes()


def test_what_was_run_and_changed_is_there_at_the_next_start(shipped, copies):
    run_by_hand(copies / NAME)
    change(copies / "04_serving.ipynb", "mine")
    kept = [(copies / name).read_bytes() for name in (NAME, "04_serving.ipynb")]
    lab.refresh(copies)
    assert [(copies / name).read_bytes() for name in (NAME, "04_serving.ipynb")] == kept


def test_a_copy_that_was_only_run_follows_the_shipped_notebook(shipped, copies):
    run_by_hand(copies / NAME)
    change(shipped / NAME, "newer")
    lab.refresh(copies)
    assert (copies / NAME).read_bytes() == (shipped / NAME).read_bytes()
    assert not list(copies.glob("*.old*"))


def test_a_copy_that_was_changed_is_kept_beside_the_newer_notebook(shipped, copies, capsys):
    for mine, newer, kept in [
        ("mine", "newer", "02_allreduce.old.ipynb"),
        ("and", "again", "02_allreduce.old-2.ipynb"),
    ]:
        change(copies / NAME, mine)
        change(shipped / NAME, newer)
        lab.refresh(copies)
        assert first_cell(copies / NAME) == newer and first_cell(copies / kept) == mine
        assert kept in capsys.readouterr().out
        lab.refresh(copies)
        assert first_cell(copies / kept) == mine and capsys.readouterr().out == ""


def test_a_copy_that_became_the_newer_notebook_by_itself_stays(shipped, copies):
    for notebook in (copies / NAME, shipped / NAME):
        change(notebook, "the same")
    run_by_hand(copies / NAME)
    lab.refresh(copies)
    assert nbformat.read(copies / NAME, as_version=4).cells[2].outputs
    assert not list(copies.glob("*.old*"))


@pytest.mark.parametrize("damage", ["", "{", '{"cells": [7]}'])
def test_a_copy_that_is_no_notebook_any_more_is_kept_aside_once_there_is_a_newer_one(shipped, copies, damage):
    (copies / NAME).write_text(damage)
    change(shipped / NAME, "newer")
    lab.refresh(copies)
    assert first_cell(copies / NAME) == "newer" and (copies / "02_allreduce.old.ipynb").read_text() == damage


def test_a_deleted_copy_comes_back_and_a_lost_record_costs_nothing(shipped, copies):
    change(copies / "04_serving.ipynb", "mine")
    (copies / NAME).unlink()
    (copies / ".shipped.json").write_text("[")
    lab.refresh(copies)
    assert (copies / NAME).read_bytes() == (shipped / NAME).read_bytes()
    assert first_cell(copies / "04_serving.old.ipynb") == "mine"


def test_without_a_checkout_there_is_nothing_to_open(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "DIRECTORY", tmp_path / "site-packages" / "notebooks")
    with pytest.raises(UsageError, match="checkout"):
        lab.refresh(tmp_path / "lab")


def test_git_ignores_the_copies():
    command = ["git", "-C", str(notebooks.PROJECT), "check-ignore", "-q", "reports/lab/02_allreduce.ipynb"]
    assert subprocess.run(command).returncode == 0


def test_the_landing_page_links_to_every_notebook():
    page = (notebooks.DIRECTORY / "README.md").read_text()
    assert {f"{name}.ipynb" for name in notebooks.names()} <= {*re.findall(r"\]\(([^)]+)\)", page)}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> dict:
    """A real JupyterLab, started as a user does; as it describes itself (`url`, `token`, `root_dir`, ...).

    The user has a configuration of their own that opens doors.
    """
    home = tmp_path_factory.mktemp("home")
    runtime = home / "runtime"
    (home / "config").mkdir()
    careless = {"ServerApp": {"ip": "0.0.0.0", "allow_origin": "*"}, "LabApp": {"news_url": "https://news.invalid/"}}
    (home / "config" / "jupyter_server_config.json").write_text(json.dumps(careless))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
        command = [SYMMLIB, "lab", "--reports-dir", home / "reports", "--", "--no-browser", "--ServerApp.port=0"]
        with open(home / "log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (found := list(runtime.glob("jpserver-*.json"))):
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        yield {**json.loads(found[0].read_text()), "log": home / "log"}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 0


def ask(server: dict, path: str, token: str = "", **headers):
    request = urllib.request.Request(f"{server['url']}{path}", headers=headers)
    if token:
        request.add_header("Authorization", f"token {token}")
    return urllib.request.urlopen(request, timeout=20)


def test_the_server_answers_this_machine_only_and_who_has_its_token(server):
    assert server["url"].startswith("http://127.0.0.1:") and len(server["token"]) >= 40
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(server, "api/contents/lab")
    files = json.load(ask(server, "api/contents/lab", server["token"]))
    assert NAME in {file["name"] for file in files["content"]}


def test_no_other_site_may_read_what_the_server_answers(server):
    with pytest.raises(urllib.error.HTTPError, match="404|403"):
        ask(server, "api/contents/lab", Origin="https://elsewhere.invalid")
    answer = ask(server, "api/contents/lab", server["token"], Origin="https://elsewhere.invalid")
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_server_looks_for_no_news_updates_or_extensions(server):
    page = ask(server, "lab", server["token"]).read().decode()
    config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>\s*(.*?)\s*</script>', page, re.DOTALL)[1])
    assert config["news"] == {"disabled": True}
    assert not config["extensionManager"]["can_install"]
    assert json.load(ask(server, "lab/api/update", server["token"]))["notification"] is None
