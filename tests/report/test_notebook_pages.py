"""Executed notebooks as pages: they load nothing, hide nothing that failed, and run nothing that a cell has shown."""

import json
import re
from html import escape

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from symmlib.progress import line
from symmlib.report import contents, figures, make_report, svg
from symmlib.report.notebook_pages import make_notebook_pages
from symmlib.runs import write_text

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)><b>bold</b>'


@pytest.fixture
def page(whole_run):
    """Makes the page of a notebook of the given cells, and returns its HTML."""

    def make(*cells) -> str:
        notebook = new_notebook(cells=list(cells))
        write_text(whole_run / "notebooks" / "02_allreduce.ipynb", nbformat.writes(notebook))
        assert make_notebook_pages(contents.read(whole_run)) == []
        return (whole_run / "notebooks" / "02_allreduce.html").read_text(encoding="utf-8")

    return make


@pytest.fixture(scope="session")
def figure_output(allreduce_summary):
    """What a kernel writes into a notebook for one of our figures."""
    data, metadata = figures.latency(allreduce_summary)._repr_mimebundle_()
    return new_output("execute_result", data, metadata=metadata, execution_count=1)


def test_a_page_reads_as_its_notebook_with_code_and_progress_folded(page):
    said = "".join(line(f"launch {n} of 3\n") + "\n" for n in (1, 2, 3)) + "the result\n"
    html = page(
        new_markdown_cell("# Which is the *fastest*?\n\nA question."),
        new_code_cell("x = 1", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("measure(plan)", outputs=[_stream(said[:20]), _stream(said[20:])]),
    )
    assert "<h1>Which is the fastest?</h1>" in html and html.count("<h1") == 1
    assert "<p>A question.</p>" in html
    assert "<summary>Parameters of this run</summary>" in html
    assert re.search(r'<details class="code"><summary>Code</summary>.*measure', html, flags=re.DOTALL)
    assert "<summary>Progress, 3 lines</summary>" in html
    assert "<code>the result</code>" in html


def test_a_page_has_the_look_of_the_report_and_loads_nothing(page, figure_output):
    html = page(
        new_markdown_cell("![far](https://example.org/x.png) [web](https://example.org) $x^2$"),
        new_code_cell("f", outputs=[figure_output]),
    )
    assert 'content="light dark"' in html and "prefers-color-scheme: dark" in html
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<iframe|<link(?! rel=\"icon\" href=\"data:,\")|@import|mathjax|require", html)
    assert not re.search(r"\ssrc=\"(?!data:)|url\((?!#)", html)
    assert re.findall(r"https?://[^\"<\s]*", html) == ["https://example.org"]  # a link that a reader may follow


def test_a_figure_is_inline_in_the_readers_colours_and_named_for_those_who_do_not_see_it(page, figure_output):
    html = page(new_code_cell("f", outputs=[figure_output]), new_code_cell("f", outputs=[figure_output]))
    alt = escape(figure_output.metadata["image/png"]["alt"])
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(pictures) == 2 and "data:image/png" not in html
    for picture in pictures:
        assert 'role="img"' in picture and alt in picture and "var(--ink)" in picture
        assert not re.findall(r"#[0-9a-f]{6}\b", picture)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', "".join(pictures))) <= set(ids)


def test_a_figure_that_a_kernel_wrote_as_svg_is_inline_too(page, allreduce_summary):
    drawn = svg.titled(figures.latency(allreduce_summary), "svg").decode()
    output = new_output("display_data", {"image/svg+xml": drawn}, metadata={"image/svg+xml": {"alt": "what it shows"}})
    html = page(new_code_cell("f", outputs=[output]))
    assert "what it shows</desc>" in html and "<svg" in html and "data:image" not in html


def test_a_bitmap_keeps_its_words_and_falls_back_to_what_was_printed(page):
    told = new_output("display_data", {"image/png": "iVBO\n"}, metadata={"image/png": {"alt": 'two "lines"'}})
    untold = new_output("display_data", {"image/png": "iVBO", "text/plain": "<Figure 1>"})
    html = page(new_code_cell("f", outputs=[told, untold]))
    assert """<img alt='two "lines"' src="data:image/png;base64,iVBO"/>""" in html
    assert '<img alt="&lt;Figure 1&gt;"' in html


def test_nothing_that_a_cell_has_shown_runs_or_loads(page):
    svg = '<svg viewBox="0 0 9 9"><script>alert(1)</script></svg>'
    html = page(
        new_markdown_cell(f"# T <script>alert(0)</script>\n\n{HOSTILE} <a href='javascript:alert(1)'>go</a>"),
        new_code_cell("x", outputs=[new_output("display_data", {"text/html": f"<style>b{{}}</style>{HOSTILE}"})]),
        new_code_cell("x", outputs=[new_output("display_data", {"image/svg+xml": svg})]),
        new_code_cell("x", outputs=[new_output("display_data", {"text/plain": HOSTILE})]),
        new_code_cell(f"print('{HOSTILE}')", outputs=[_stream(HOSTILE)]),
        new_code_cell("x", outputs=[new_output("display_data", {"application/javascript": "alert(2)"})]),
    )
    assert "<script" not in html and "<b>bold</b>" in html
    assert not re.search(r"<[^>]*\s(onerror|href=.javascript)", html)
    assert "b{}" not in html and "alert(2)" not in html
    assert "data:image/svg+xml;base64," in html  # as an image, in which nothing runs
    assert "an output of the type application/javascript, which a page cannot show" in html


def test_columns_of_numbers_are_aligned_as_such_and_words_are_not(page):
    table = pd.DataFrame({"backend": ["gloo", "router"], "time": [1.5, None]}).to_html()
    styled = pd.DataFrame({"why": ["a word"], "n": [3]}).style.to_html()
    html = page(
        new_code_cell("x", outputs=[new_output("display_data", {"text/html": part}) for part in (table, styled)])
    )
    assert re.search(r'<td>gloo</td>\s*<td class="number">1.5</td>', html) and '<th class="number">time</th>' in html
    assert re.search(r'class="data row0 col0"[^>]*>a word', html) and re.search(r'col1 number"[^>]*>3<', html)


def test_an_error_is_told_at_the_top_and_readable_where_it_happened(page):
    error = new_output(
        "error", ename="UsageError", evalue="size <4kilo>", traceback=["\x1b[31mTraceback\x1b[0m", "line"]
    )
    html = page(new_markdown_cell("# T"), new_code_cell("x", outputs=[error]))
    assert html.index("A cell failed, and what follows it was not executed") < html.index("<main>")
    assert '<a href="#error">' in html and 'id="error"' in html
    assert html.count("UsageError: size &lt;4kilo&gt;") == 2
    assert "Traceback\nline" in html and "\x1b" not in html


def test_long_output_is_folded_and_warnings_are_marked(page):
    html = page(
        new_code_cell("x", outputs=[_stream("line\n" * 100), _stream("careful\n", name="stderr")]),
    )
    assert "<summary>Output, 100 lines</summary>" in html
    assert '<pre class="warning" tabindex="0"><code>careful</code></pre>' in html


def test_relative_links_are_kept_only_where_they_lead_to_a_file_of_the_run(page, whole_run):
    html = page(new_markdown_cell("[table](../results/regret.csv) [code](../../symmlib/cli.py) [away](../../../x)"))
    assert 'href="../results/regret.csv"' in html and "cli.py" not in html and "/x" not in html


def test_the_same_notebook_gives_the_same_bytes(page, figure_output, whole_run):
    cells = new_markdown_cell("# T"), new_code_cell("f", outputs=[figure_output])
    first = page(*cells)
    make_notebook_pages(contents.read(whole_run))
    assert (whole_run / "notebooks" / "02_allreduce.html").read_text(encoding="utf-8") == first


def test_old_notebooks_without_ids_of_cells_give_the_same_bytes_too(whole_run):
    cell = {"cell_type": "markdown", "metadata": {}, "source": ["# Old\n"]}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}
    write_text(whole_run / "notebooks" / "02_allreduce.ipynb", json.dumps(notebook))
    pages = []
    for _ in range(2):
        assert make_notebook_pages(contents.read(whole_run)) == []
        pages.append((whole_run / "notebooks" / "02_allreduce.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1] and "<h1>Old</h1>" in pages[0]


@pytest.mark.parametrize("damaged", ["{}", "", "no JSON", "[]", '{"nbformat": 4, "cells": 7}', '{"cells": [{}]}'])
def test_a_notebook_that_cannot_be_read_costs_only_itself(whole_run, damaged):
    write_text(whole_run / "notebooks" / "02_allreduce.ipynb", damaged)
    write_text(whole_run / "notebooks" / "02_allreduce.html", "of a notebook that was whole")
    write_text(whole_run / "notebooks" / "03_routing.ipynb", nbformat.writes(new_notebook(cells=[])))
    ((what, why),) = make_notebook_pages(contents.read(whole_run))
    assert what == "the page of notebooks/02_allreduce.ipynb" and "no page could be made of it: " in why
    assert sorted(path.name for path in (whole_run / "notebooks").glob("*.html")) == ["03_routing.html"]


def test_the_report_makes_the_pages_links_them_and_lists_those_that_it_could_not_make(whole_run):
    write_text(whole_run / "notebooks" / "03_routing.ipynb", nbformat.writes(new_notebook(cells=[])))
    html = make_report(whole_run).read_text(encoding="utf-8")
    assert 'href="notebooks/03_routing.html"' in html
    assert "the page of notebooks/02_allreduce.ipynb" in html and "no page could be made of it" in html


def _stream(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)
