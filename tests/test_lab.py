"""What `symmlib lab` opens: working copies that follow the shipped notebooks and lose nothing, on a closed server."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from symmlib import lab, notebooks
from symmlib.errors import UsageError
from tests.waiting import PATIENCE_S

NAME = "02_allreduce.ipynb"


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


def test_the_landing_page_links_to_every_notebook_and_nothing_else():
    page = (notebooks.DIRECTORY / "README.md").read_text()
    assert re.findall(r"\]\(([^)]+)\)", page) == [f"{name}.ipynb" for name in notebooks.names()]


def ask(lab_server: dict, path: str, token: str = "", **headers):
    request = urllib.request.Request(f"{lab_server['url']}{path}", headers=headers)
    if token:
        request.add_header("Authorization", f"token {token}")
    return urllib.request.urlopen(request, timeout=PATIENCE_S)


def test_the_server_answers_this_machine_only_and_who_has_its_token(lab_server):
    assert lab_server["url"].startswith("http://127.0.0.1:") and len(lab_server["token"]) >= 40
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(lab_server, "api/contents/lab")
    files = json.load(ask(lab_server, "api/contents/lab", lab_server["token"]))
    assert NAME in {file["name"] for file in files["content"]}


def test_no_other_site_may_read_what_the_users_browser_may(lab_server):
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    browser.open(f"{lab_server['url']}lab?token={lab_server['token']}", timeout=PATIENCE_S)
    contents = f"{lab_server['url']}api/contents/lab"
    assert browser.open(contents, timeout=PATIENCE_S).status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        browser.open(
            urllib.request.Request(contents, headers={"Origin": "https://elsewhere.invalid"}), timeout=PATIENCE_S
        )
    assert refused.value.code in (403, 404) and "Access-Control-Allow-Origin" not in refused.value.headers


def test_the_server_looks_for_no_news_updates_or_extensions(lab_server):
    page = ask(lab_server, "lab", lab_server["token"]).read().decode()
    config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>\s*(.*?)\s*</script>', page, re.DOTALL)[1])
    assert config["news"] == {"disabled": True}
    assert not config["extensionManager"]["can_install"]
    assert json.load(ask(lab_server, "lab/api/update", lab_server["token"]))["notification"] is None
