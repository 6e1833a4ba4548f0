"""What browsers, screen readers and printers need of a run's page; `test_page` holds what it says."""

import os
import re
import subprocess
import sys

import pytest

from symmlib.report import make_report
from tests.report.reader import Reader

MOST_BYTES = 1_500_000  # of a run on the CPU, so that it can be mailed


@pytest.fixture(scope="module")
def page(reported_run) -> str:
    return (reported_run / "index.html").read_text(encoding="utf-8")


def test_a_page_can_be_mailed(page, one_gpu_run):
    assert len(page.encode()) < MOST_BYTES
    assert (one_gpu_run / "index.html").stat().st_size < MOST_BYTES


def test_the_same_files_give_the_same_bytes_in_another_process_with_another_hash_seed(page, reported_run):
    program = (
        f"from pathlib import Path; from symmlib.report import make_report; make_report(Path({str(reported_run)!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (reported_run / "index.html").read_text(encoding="utf-8") == page


def test_the_numbers_behind_each_plot_stand_behind_a_disclosure(page):
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) == 9
    for figure in figures:
        hidden = figure.partition("<details><summary>The numbers behind this plot</summary>")[2]
        reader = Reader(hidden)
        assert reader.all("table") and len(reader.all("td")) >= 4, figure[:200]
        for file in reader.all("a"):
            assert file["href"].startswith("results/") or file["href"] == "routing.toml", file


def test_headings_are_in_order_and_each_section_is_named_by_its_own(page, bare_run):
    for html in (page, make_report(bare_run).read_text(encoding="utf-8")):
        reader = Reader(html)
        levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
        names = []
        for section in reader.all("section"):
            label = section.get("aria-label") or re.search(rf'id="{section["aria-labelledby"]}">([^<]+)<', html)[1]
            names.append(label)
        assert len(set(names)) == len(names) and len(reader.all("main")) == len(reader.all("header")) == 1
        assert [nav["aria-label"] for nav in reader.all("nav")] == ["Contents"]


def test_every_table_has_a_caption_column_heads_and_can_be_sorted(page):
    tables = re.findall(r"<table[^>]*>.*?</table>", page, flags=re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        assert table.startswith('<table class="sortable">')
        reader = Reader(table)
        assert len(reader.all("caption")) == 1 and re.search(r"<caption><span>[^<]{3,}", table)
        heads = reader.all("th")
        assert heads and all(head.get("scope") == "col" for head in heads)
        assert all(row.count("<td") == len(heads) for row in table.split("<tr>")[2:])


def test_what_scrolls_can_be_reached_and_named_by_keyboard(page):
    reader = Reader(page)
    scrolling = [div for div in reader.all("div") if "scroll" in div.get("class", "").split()]
    assert scrolling
    for place in [*scrolling, *reader.all("pre")]:
        assert place["tabindex"] == "0" and place["role"] in ("group", "region") and len(place["aria-label"]) > 3
    assert ":focus-visible" in page


def test_on_paper_figures_are_wide_whole_and_light(page):
    style = page.partition("<style>")[2].partition("</style>")[0]
    printed = style.partition("@media print")[2]
    assert "figure, table" in printed and "break-inside: avoid" in printed and "color-scheme: light" in printed
    assert "details:not([open])" in printed
    phone = re.search(r"@media ([^{]*)max-width", style)[1]
    assert phone.startswith("screen and"), "narrow paper would get the figures for phones"


def test_the_words_of_the_verdict_are_explained_before_the_first_plot(page):
    words = page.partition('<dl class="words">')[2].partition("</dl>")[0]
    assert page.index('<dl class="words">') < page.index("<figure>")
    for word in ("TTFT", "TPOT", "all-reduce", "ratio", "block, cell", "95 % interval", "band", "QPS", "baseline"):
        assert word in words
    text = Reader(page).text
    for word, place in (
        ("busbw", "bus bandwidth, GB/s"),
        ("Regret", "held-out sizes"),
        ("gate", "gloo served 12 calls"),
    ):
        assert text.index(word) < text.index(place)
