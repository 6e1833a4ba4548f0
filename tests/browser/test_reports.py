"""What a report is in a browser: for everyone, by keyboard alone, offline, on paper."""

import re

import pytest

from symmlib.report.page import environment
from symmlib.runs import PROJECT, write_text
from tests.browser.conftest import PHONE, WIDE, assert_accessible, luminance, tab_through

PUBLISHED = sorted((PROJECT / "reports" / "published").glob("*/index.html"))
A4_PX = (794 - 2 * 57, 1123 - 2 * 57)  # A4 at 96 dpi, less margins of 1.5 cm


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_a_report(open_page, reported_run, scheme, width):
    assert_accessible(open_page(reported_run / "index.html", scheme, width).page)


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDE), ("dark", PHONE)])
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path.parent.name)
def test_axe_finds_nothing_wrong_with_a_published_report(open_page, published, scheme, width):
    assert_accessible(open_page(published, scheme, width).page)


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_a_keyboard_reaches_everything_in_a_report_in_its_order_and_shows_where_it_is(open_page, reported_run, width):
    page = open_page(reported_run / "index.html", width=width).page
    visited, expected = tab_through(page)
    assert [place["what"] for place in visited] == expected
    assert [place["what"] for place in visited if not place["outlined"]] == []
    kinds = {what.partition(" ")[0] for what in expected}
    assert {"A", "SUMMARY", "BUTTON", "DIV", "PRE"} <= kinds
    assert page.locator("details:not([open])").count() == 0, "Enter opened each on the way"


def test_a_report_asks_for_nothing_but_itself(open_page, reported_run):
    file = reported_run / "index.html"
    opened = open_page(file)
    opened.page.wait_for_load_state("networkidle")
    assert opened.requests == [file.as_uri()]


def test_a_script_that_is_not_the_reports_own_does_not_run(open_page, reported_run):
    opened = open_page(reported_run / "index.html")
    opened.page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.theirs = 1";
                   document.body.append(script); }"""
    )
    assert opened.page.evaluate("window.theirs") is None
    assert "Content Security Policy" in opened.errors.pop()


def test_a_report_prints_without_a_figure_cut_and_on_white_whatever_the_scheme(open_page, reported_run):
    page = open_page(reported_run / "index.html", scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": A4_PX[0], "height": A4_PX[1]})
    figures = page.evaluate(
        """[...document.querySelectorAll("figure")].map((figure) => ({
             height: figure.getBoundingClientRect().height, inside: getComputedStyle(figure).breakInside,
             pictures: [...figure.querySelectorAll("svg")].filter((svg) => svg.checkVisibility()).length}))"""
    )
    assert figures
    assert all(figure["inside"] == "avoid" and figure["pictures"] == 1 for figure in figures)
    assert max(figure["height"] for figure in figures) < A4_PX[1]
    assert page.evaluate(DARK_GROUNDS) == []
    assert luminance(page.evaluate("getComputedStyle(document.body).color")) < 0.2
    margin = {side: "1.5cm" for side in ("top", "right", "bottom", "left")}
    pdf = page.pdf(format="A4", margin=margin, print_background=True)
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2


DARK_GROUNDS = """[...document.querySelectorAll("*")].filter((element) => {
    const [red, green, blue, alpha = 1] = getComputedStyle(element).backgroundColor.match(/[\\d.]+/g).map(Number);
    return element.checkVisibility() && alpha > 0 && (red + green + blue) / 3 < 128;
}).map((element) => element.outerHTML.slice(0, 80))"""


COLUMNS = {
    "name": ["vllm/shm", "gloo", "host/two_shot", "host/one_shot", "rank 10", "rank 9"],
    "time": ["2 ms", "900 µs", "–", "1.5 s", "13.8 ms", "0.61 µs"],
    "size": ["1.41 MiB", "up to 64 KiB", "512 B", "above 2 MiB", "", "1 GiB"],
    "change": ["−5 %", "12.5 %", "±3 %", "5.1x", "1,204 %", "-30 %"],
    "interval": ["2 to 3 ms", "0.9 to 1.1 ms", "800 to 900 µs", "none", "1 to 2 s", "0.1 to 0.2 ms"],
    "date": ["2026-11-23 22:10 UTC", "2025-12-01 00:00 UTC", "2026-11-03 00:00 UTC", "–", "2026-02-01 00:00 UTC",
             "2024-01-01 00:00 UTC"],
}  # fmt: skip
ORDERED = {
    "name": ["gloo", "host/one_shot", "host/two_shot", "rank 9", "rank 10", "vllm/shm"],
    "time": ["0.61 µs", "900 µs", "2 ms", "13.8 ms", "1.5 s", "–"],
    "size": ["512 B", "up to 64 KiB", "1.41 MiB", "above 2 MiB", "1 GiB", ""],
    "change": ["-30 %", "−5 %", "±3 %", "5.1x", "12.5 %", "1,204 %"],
    "interval": ["0.1 to 0.2 ms", "800 to 900 µs", "0.9 to 1.1 ms", "2 to 3 ms", "1 to 2 s", "none"],
    "date": ["2024-01-01 00:00 UTC", "2025-12-01 00:00 UTC", "2026-02-01 00:00 UTC", "2026-11-03 00:00 UTC",
             "2026-11-23 22:10 UTC", "–"],
}  # fmt: skip


@pytest.fixture
def sorting(tmp_path):
    """A page with one table of `COLUMNS`."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in zip(*COLUMNS.values(), strict=True)
    )
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    text = '{% extends "base.html" %}{% block title %}t{% endblock %}{% block body %}<main>' + table
    return write_text(tmp_path / "sorting.html", environment().from_string(text + "</main>{% endblock %}").render())


def column(page, name: str) -> list[str]:
    return page.locator(f"tbody td:nth-child({1 + list(COLUMNS).index(name)})").all_inner_texts()


@pytest.mark.parametrize("press", ["click", "Enter", "Space"])
def test_a_table_is_sorted_by_what_its_numbers_mean_and_says_so(open_page, sorting, press):
    page = open_page(sorting).page
    for name, ascending in ORDERED.items():
        head, said = page.locator("th", has_text=name), page.get_by_role("status")
        button = head.get_by_role("button")
        for direction in ("ascending", "descending", None):
            button.click() if press == "click" else button.press(press)
            values, missing = [cell for cell in ascending if cell not in ("–", "", "none")], ("–", "", "none")
            last = [cell for cell in ascending if cell in missing]
            wanted = {"ascending": values + last, "descending": values[::-1] + last, None: COLUMNS[name]}[direction]
            assert column(page, name) == wanted
            assert head.get_attribute("aria-sort") == direction
            assert page.locator("th[aria-sort]").count() == (direction is not None)
            assert said.inner_text() == (f"Sorted by {name}, {direction}" if direction else "In the first order again")
            assert page.evaluate("document.activeElement.textContent") == name, "who sorts stays where he was"


def test_without_javascript_a_report_is_whole_and_has_no_buttons_that_do_nothing(open_page, reported_run, sorting):
    page = open_page(sorting, javascript=False).page
    assert column(page, "time") == COLUMNS["time"] and page.locator("button").count() == 0
    assert [head for head in page.locator("th").all_inner_texts()] == list(COLUMNS)
    page = open_page(reported_run / "index.html", javascript=False).page
    assert page.locator("button").count() == 0
    assert "Use the router: 5.7x faster per token than gloo" in page.locator("h1").inner_text()


def test_every_table_of_a_report_can_be_sorted(open_page, reported_run):
    page = open_page(reported_run / "index.html").page
    for table in page.locator("table").all():
        if table.locator("tbody tr").count() > 1:
            assert table.locator("button.sort").count() == table.locator("th").count()
