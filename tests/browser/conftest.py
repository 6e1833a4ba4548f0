"""Reports in a real browser: the Chromium or Chrome that `scripts/browser.sh` finds, through Playwright, and axe-core.

Where there is none, tests that ask for `browser` are skipped with the reason; where CI or SYMMLIB_REQUIRE_BROWSER is
set, they fail.
"""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.report.conftest import (  # noqa: F401  (the synthetic run, whose fixtures live beside the report's tests)
    allreduce_summary,
    comparison,
    gates,
    prediction,
    reported_run,
    serving_summary,
    tables,
    whole_run,
)

ROOT = Path(__file__).parent.parent.parent
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = 1280, 390  # CSS pixels


@dataclass
class Opened:
    """A page that was opened, the addresses that it asked for, and what went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The browser's path; skips the test without one, or fails it where a browser is required."""
    found = subprocess.run([ROOT / "scripts" / "browser.sh", "--find"], capture_output=True, text=True)
    if found.returncode == 0:
        return found.stdout.strip()
    reason = "there is no Chromium or Chrome (Debian: apt install chromium; or set CHROMIUM to its path)"
    if os.environ.get("CI") or os.environ.get("SYMMLIB_REQUIRE_BROWSER"):
        pytest.fail(f"{reason}, and CI or SYMMLIB_REQUIRE_BROWSER asks for one", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")  # not for longer: while Playwright runs, nothing else in the process can use asyncio
def browser(browser_path):
    """A Playwright `Browser`, one for all tests of a module."""
    flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser_path, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """`open_page(file, scheme="light", width=WIDE, javascript=True, fragment="")` opens a file of this disk, offline.

    Returns an `Opened`. Whatever test opened it, it fails if the page asked for anything but files of this disk, or
    wrote an error to the console.
    """
    contexts: list[BrowserContext] = []
    all_opened: list[Opened] = []

    def open_file(file: Path, scheme="light", width=WIDE, javascript=True, fragment="") -> Opened:
        context = _context(browser, scheme, width, javascript)
        contexts.append(context)
        opened = Opened(context.new_page())
        all_opened.append(opened)
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on(
            "console", lambda said: opened.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        opened.page.goto(Path(file).resolve().as_uri() + fragment)
        return opened

    yield open_file
    for context in contexts:
        context.close()
    for opened in all_opened:
        assert not opened.errors
        assert [address for address in opened.requests if not address.startswith(("file:", "data:"))] == []


def _context(browser: Browser, scheme: str, width: int, javascript: bool) -> BrowserContext:
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        java_script_enabled=javascript,
        offline=True,
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    return context


def axe(page: Page) -> dict:
    """What axe-core finds in `page`: `violations`, each as readable lines, `incomplete`, likewise, and the ids of the
    rules that it `passes`."""
    page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations', 'incomplete', 'passes']})")
    return {
        "violations": [_told(rule) for rule in found["violations"]],
        "incomplete": [_told(rule) for rule in found["incomplete"]],
        "passes": {rule["id"] for rule in found["passes"]},
    }


def _told(rule: dict) -> str:
    places = [f"{' '.join(map(str, node['target']))}: {node['html'][:160]}" for node in rule["nodes"][:4]]
    return f"{rule['id']}: {rule['help']} ({len(rule['nodes'])} places: {'; '.join(places)})"
