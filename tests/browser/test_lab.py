"""JupyterLab as somebody meets it: the page to start from, a notebook, Run All, progress, and results in the page."""

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import WAIT_MS

QUICK = {"backends": ["gloo", "host/one_shot", "vllm/shm"], "sizes": "4KiB,4MiB", "launches": 1}


@pytest.fixture
def lab(browser, lab_server):
    """JupyterLab, just opened, for one test. Whatever that did, it fails if the page asked anybody but our server."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{lab_server['url']}?token={lab_server['token']}")
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith((lab_server["url"], "data:", "blob:"))]
    assert asked and elsewhere == []


@pytest.fixture
def copies(lab_server) -> Path:
    return Path(lab_server["root_dir"]) / "lab"


def set_parameters(notebook: Path, settings: dict) -> None:
    """Write `settings` into the cell of parameters, as somebody who types does; the others stay as they are."""
    content = nbformat.read(notebook, as_version=4)
    cell = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in settings.items():
        cell.source, found = re.subn(rf"^({name}: [^=]+) = .*$", rf"\1 = {value!r}", cell.source, flags=re.M)
        assert found == 1, f"no parameter {name} in {notebook.name}"
    nbformat.write(content, notebook)


def run_all(page: Page) -> None:
    """Through the menu, once the kernel is there."""
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator("li.lm-Menu-item[data-command='runmenu:run-all']").click()


def test_from_the_landing_page_a_notebook_is_run_and_its_results_are_seen(lab, copies):
    set_parameters(copies / "02_allreduce.ipynb", QUICK)
    landing = lab.locator(".jp-MarkdownViewer")
    expect(landing.get_by_role("heading", name="Start here")).to_be_visible()
    landing.get_by_role("link", name="02_allreduce").click()
    notebook = lab.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    run_all(lab)
    expect(lab.locator("#jp-main-statusbar")).to_contain_text("| Busy")

    lab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator").hover()
    lab.get_by_role("button", name="Jump to cell").click()
    status = notebook.get_by_text(re.compile(r"launch 1 of 1 on 2 ranks: (ranks start|4 [KM]iB, size . of 2)"))
    expect(status).to_be_in_viewport()
    expect(lab.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    expect(status).to_have_count(1)  # replaced in its place
    expect(status).to_contain_text("4 MiB, size 2 of 2")

    outputs = notebook.locator(".jp-OutputArea-output")
    expect(outputs.locator("img[alt*='host/one_shot']").first).to_be_attached()
    expect(outputs.locator("table").first).to_be_attached()
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    (run,) = (copies.parent / "runs").iterdir()
    assert (run / "results" / "allreduce_summary.csv").is_file()


def test_nobody_is_asked_about_news(lab):
    expect(lab.locator(".jp-MarkdownViewer")).to_be_visible()
    lab.wait_for_load_state("networkidle")
    expect(lab.get_by_text("Jupyter news")).to_have_count(0)
