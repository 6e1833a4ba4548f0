"""Reports in a real browser: the Chromium or Chrome that `scripts/browser.sh` finds, through Playwright, and axe-core.

Where there is none, tests that ask for `browser` are skipped with the reason; where CI or SYMMLIB_REQUIRE_BROWSER is
set, they fail.
"""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

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
from tests.waiting import PATIENCE_S

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
WAIT_MS = PATIENCE_S * 1000
expect.set_options(timeout=WAIT_MS)


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
        opened = playwright.chromium.launch(executable_path=browser_path, args=flags, timeout=WAIT_MS)
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
    context.set_default_timeout(WAIT_MS)
    return context


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing wrong with `page`, all of it unfolded, and could judge the contrast of every text.

    What is drawn is judged here: axe reads no `fill`, and takes twice the time where it meets the parts of pictures.
    """
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for drawn in page.evaluate(DRAWN):
        assert contrast(drawn, paper) >= 4.5
    page.evaluate("document.querySelectorAll('svg.plot > g').forEach((part) => part.remove())")
    page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = page.evaluate(AXE, {"rules": {"color-contrast": {"enabled": False}}})
    assert [_told(rule) for rule in found["violations"]] == []
    page.add_style_tag(content=UNROLLED)
    found = page.evaluate(AXE, {"runOnly": ["color-contrast"]})
    assert [_told(rule) for rule in found["violations"] + found["incomplete"]] == []
    assert found["passes"] == ["color-contrast"]


def contrast(colour: str, other: str) -> float:
    """The contrast of two colours 'rgb(...)', 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted((luminance(colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of 'rgb(...)', 0 to 1, as WCAG 2 defines it."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


AXE = """async (options) => {  // of rules that pass their names are enough: places take long to describe
    const told = { resultTypes: ["violations", "incomplete"], ...options };
    const { violations, incomplete, passes } = await axe.run(told);
    return { violations, incomplete, passes: passes.map(({ id }) => id) };
}"""
UNROLLED = """
  body { min-width: 80rem }
  .scroll, .scroll * { background: none; overflow: visible; position: static !important }
"""  # axe computes no contrast on a gradient, under what stays while other things scroll, and across the page's edge
DRAWN = "[...new Set([...document.querySelectorAll('svg text')].map((text) => getComputedStyle(text).fill))]"
FOCUSED = """() => {
    window.visited = [];
    window.told = (element) => `${element.tagName} ${element.textContent.trim().slice(0, 40) || element.id}`;
    document.addEventListener("focusin", ({ target }) => {
        const style = getComputedStyle(target);
        const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
        visited.push({ what: told(target), outlined });
    });
}"""
REACHABLE = """[...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter((element) => element.checkVisibility({ visibilityProperty: true })).map((element) => told(element))"""


def tab_through(page: Page, most: int = 2000) -> tuple[list[dict], list[str]]:
    """Press Tab from the start of `page` to its end, and Enter on what can be unfolded.

    Returns the elements that had the focus, each with `what` it is and whether it was `outlined`, and `what` all that
    somebody may want to reach is, in the order in which it stands in the page.
    """
    page.evaluate(FOCUSED)
    for _ in range(most):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.matches('summary') ? 'summary' : document.activeElement.tagName")
        if at == "BODY":
            break
        if at == "summary":
            page.keyboard.press("Enter")
    return page.evaluate("visited"), page.evaluate(REACHABLE)


def _told(rule: dict) -> str:
    places = [f"{' '.join(map(str, node['target']))}: {node['html'][:160]}" for node in rule["nodes"][:4]]
    return f"{rule['id']}: {rule['help']} ({len(rule['nodes'])} places: {'; '.join(places)})"
