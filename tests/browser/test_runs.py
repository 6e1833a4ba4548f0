"""The list of all runs in a browser: with five hundred of them, for everyone, with and without its script."""

import re
import statistics
import time

import pytest
from playwright.sync_api import expect

from symmlib.report import make_index
from symmlib.runs import write_csv, write_json, write_text
from tests.browser.conftest import PHONE, WIDE, assert_accessible, tab_through

COUNT = 500
MODELS = ("tiny", "meta-llama/Llama-3.1-70B-Instruct", "/models/qwen3-8b")
GPUS = ([], [{"name": "NVIDIA B200"}] * 8, [{"name": "NVIDIA H100"}] * 4)
STATUSES = ("ok",) * 7 + ("failed", "invalid", "running")
VERDICTS = ("faster", "slower", "equivalent", "inconclusive")


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory, comparison, gates):
    """The index of five hundred runs."""
    reports = tmp_path_factory.mktemp("many") / "reports"
    write_runs(reports, COUNT, comparison, gates)
    began = time.process_time()
    index = make_index(reports)
    print(f"\nmake_index of {COUNT} runs: {time.process_time() - began:.1f} s, {index.stat().st_size / 1e3:.0f} kB")
    return index


@pytest.fixture(scope="module")
def some_runs(tmp_path_factory, comparison, gates):
    """The index of a dozen, in which everything occurs."""
    reports = tmp_path_factory.mktemp("some") / "reports"
    write_runs(reports, 12, comparison, gates)
    return make_index(reports)


def write_runs(reports, count, comparison, gates):
    """Runs of three models on three machines, with four verdicts; of ten one failed, one is invalid, one still runs."""
    tables = {verdict: comparison.assign(verdict=verdict, tp=8) for verdict in VERDICTS}
    tables["slower"].ratio = 1 / tables["slower"].ratio
    texts = {verdict: table.to_csv(index=False) for verdict, table in tables.items()}
    for n in range(count):
        day, hour = divmod(n, 20)
        day = f"2026-{1 + day // 20:02d}-{1 + day % 20:02d}"
        profile, status = ("cpu", "b200-tp8")[n % 2], STATUSES[n % 10]
        run = reports / "runs" / f"{day.replace('-', '')}T{hour:02d}0000Z-{profile}-{n:08x}"
        manifest = {
            "status": status, "profile": profile, "started": f"{day}T{hour:02d}:00:00+00:00",
            "reason": "04_serving failed: no server got ready" if status == "failed" else "",
            "git": {"revision": f"{n:04x}" * 10, "dirty": False},
            "hardware": {"cpu": {"model": "Invented CPU", "cores": 2}, "gpus": GPUS[n % 3]},
        }  # fmt: skip
        write_json(run / "manifest.json", manifest)
        asked = {"model": MODELS[n % 3], "tp": [8], "qps": [1, 40]}
        write_json(run / "raw" / "serving" / "experiment.json", asked)
        if status == "failed":
            continue
        write_text(run / "results" / "comparison.csv", texts[VERDICTS[n % 4]])
        write_text(run / "index.html", "<title>a run</title>")
        if status == "invalid":
            write_csv(run / "results" / "gates.csv", gates)


def shown(page) -> int:
    return page.evaluate("[...document.querySelectorAll('tbody tr')].filter((row) => row.checkVisibility()).length")


def announced(page) -> str:
    return page.locator("p.found").inner_text()


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_the_list_of_runs(open_page, some_runs, scheme, width):
    opened = open_page(some_runs, scheme, width)
    assert_accessible(opened.page)
    assert opened.requests == [some_runs.as_uri()]


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_a_keyboard_reaches_everything_in_the_list_in_its_order_and_shows_where_it_is(open_page, some_runs, width):
    page = open_page(some_runs, width=width).page
    visited, expected = tab_through(page)
    assert [place["what"] for place in visited] == expected
    assert [place["what"] for place in visited if not place["outlined"]] == []
    assert {"A", "BUTTON", "INPUT", "SELECT"} == {what.partition(" ")[0] for what in expected}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the edge"


def test_five_hundred_runs_are_filtered_and_sorted_before_one_notices(open_page, many_runs):
    assert many_runs.stat().st_size < 1_000_000
    page = open_page(many_runs).page
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    words = ["b", "b2", "b20", "b200", "b200 s", "b200 slower", "tp=8 qps=4", "qwen", "nothing like it", ""]
    filters_ms = [page.evaluate(FILTER, typed) for typed in words]
    sorts_ms = [page.evaluate(SORT, head) for head in range(7)]
    told = f"{statistics.median(filters_ms):.0f} ms a filter (at most {max(filters_ms):.0f})"
    layout_ms = statistics.median(page.evaluate(LAYOUT, 900 + n) for n in range(10))
    print(f"\n{COUNT} runs: {told}, {statistics.median(sorts_ms):.0f} ms a sort, {loaded:.0f} ms to load")
    print(f"{layout_ms:.0f} ms to lay it out once, which bounds what no filter can avoid")
    assert statistics.median(filters_ms) < 3 * layout_ms  # so whatever the machine, most of it is the browser's


FILTER = """(typed) => {
    const began = performance.now(), field = document.querySelector("#words");
    field.value = typed;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    document.body.getBoundingClientRect();  // lays the page out anew
    return performance.now() - began;
}"""
LAYOUT = """(width) => {
    const began = performance.now();
    document.body.style.width = width + "px";
    document.body.getBoundingClientRect();
    return performance.now() - began;
}"""
SORT = """(head) => {
    const began = performance.now();
    document.querySelectorAll("th button")[head].click();
    document.body.getBoundingClientRect();
    return performance.now() - began;
}"""


def test_runs_are_found_by_words_of_model_machine_load_verdict_date_revision_and_status(open_page, many_runs):
    page = open_page(many_runs).page
    assert announced(page) == f"All {COUNT} shown" and shown(page) == COUNT
    finds = {
        "LLAMA-3.1": 167,
        "llama b200": 167,
        "llama h100": 0,
        "qwen3-8b": 166,
        "tp=8": COUNT,
        "qps=4": 450,
        "qps=40": 50,  # of failed runs, which compared nothing: what was asked for
        "tp=80": 0,
        "slower": 100,
        "2026-02-03": 20,
        "no server got ready": 50,
        "gate trace": 50,
        "00ff00ff": 1,
        "b200-tp8": 250,
    }
    for words, count in finds.items():
        page.locator("#words").fill(words)
        assert (words, shown(page)) == (words, count)
        assert announced(page) == (f"All {COUNT} shown" if count == COUNT else f"{count} of {COUNT} shown")


def test_a_filter_is_kept_in_the_address_and_comes_back_with_it(open_page, some_runs):
    page = open_page(some_runs).page
    page.keyboard.press("Tab")
    page.keyboard.type("llama b200")
    page.get_by_label("status").focus()
    page.keyboard.press("ArrowDown")  # the first of the statuses
    status = page.get_by_label("status").input_value()
    expect(page).to_have_url(re.compile("status="))
    address, count = page.url, shown(page)
    assert address.endswith(f"#words=llama+b200&status={status}") and 0 < count < 12
    again = open_page(some_runs, fragment="#" + address.partition("#")[2]).page
    assert shown(again) == count and again.locator("#words").input_value() == "llama b200"
    assert again.get_by_label("status").input_value() == status
    again.evaluate("location.hash = '#status=failed&machine=gone'")  # somebody follows another link
    expect(again.locator("#words")).to_have_value("")
    assert shown(again) == 1 and announced(again) == "1 of 12 shown"
    again.get_by_role("button", name="Show all").press("Enter")
    expect(again).to_have_url(some_runs.as_uri())
    assert shown(again) == 12 and announced(again) == "All 12 shown"


def test_a_choice_is_offered_where_runs_differ_and_says_how_many_it_leaves(open_page, some_runs):
    page = open_page(some_runs).page
    assert page.locator("select").evaluate_all("(all) => all.map(({ name }) => name)") == [
        "status", "verdict", "model", "profile", "machine",
    ]  # fmt: skip
    for select in page.locator("select").all():
        for option in select.locator("option").all_inner_texts()[1:]:
            select.select_option(label=option)
            assert shown(page) == int(re.search(r"\((\d+)\)$", option)[1])
        select.select_option("")


def test_failed_and_invalid_runs_show_their_status_and_why(open_page, some_runs):
    page = open_page(some_runs, fragment="#status=failed").page
    assert "no server got ready" in page.locator("tbody tr:visible").inner_text()
    page = open_page(some_runs, fragment="#status=invalid").page
    assert (
        "gate “trace” failed in 1 measurement (gloo served 12 calls)" in page.locator("tbody tr:visible").inner_text()
    )


def test_loads_and_dates_are_sorted_and_filters_hold_meanwhile(open_page, some_runs):
    page = open_page(some_runs, width=PHONE, fragment="#words=h100").page
    page.get_by_role("button", name="date").press("Enter")
    dates = [date for date in page.locator("tbody tr:visible .when").all_inner_texts()]
    assert dates == sorted(dates) and len(dates) == 4
    page.get_by_role("button", name="served").press("Enter")
    last = page.locator("tbody tr:visible").last.inner_text()
    assert page.locator("th", has_text="served").get_attribute("aria-sort") == "ascending" and "QPS 4 and 8" in last


def test_without_javascript_the_list_is_complete_and_offers_nothing_that_needs_it(open_page, some_runs):
    page = open_page(some_runs, javascript=False).page
    assert page.locator("tbody tr:visible").count() == 12
    assert page.locator("form:visible, button:visible").count() == 0
    assert page.locator("h1").inner_text() == "12 runs, newest first"


def test_the_list_prints_whole_and_on_white(open_page, some_runs):
    page = open_page(some_runs, scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("form").is_visible()
    assert page.locator("tbody tr:visible").count() == 12
    page.set_viewport_size({"width": 680, "height": 1009})  # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert max(page.locator("tbody tr").evaluate_all("(rows) => rows.map((row) => row.offsetHeight)")) < 120
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')").strip() == "#ffffff"
    assert page.pdf(format="A4").startswith(b"%PDF")
