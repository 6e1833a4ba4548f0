"""What a run's page and the figure say of how exact sums are."""

import re

import pytest

from symmlib.report import contents, figures, make_report
from symmlib.report.numerics import KEPT, numerics, special_table
from symmlib.runs import write_csv


@pytest.fixture
def run_with_numerics(bare_run, numerics_tables):
    for name, table in numerics_tables.items():
        write_csv(bare_run / "results" / f"{name}.csv", table)
    return bare_run


def test_the_page_shows_what_was_found_the_figure_and_both_tables(run_with_numerics):
    page = make_report(run_with_numerics).read_text()
    section = re.search(r'<section id="numerics".*?</section>', page, re.DOTALL)[0]
    assert "On 4 ranks every bf16 and fp16 sum of host/one_shot is the float64 sum rounded once; of gloo" in section
    assert "All 4 special values are as promised." in section
    assert section.count("<svg") == 2 and "Special values: NaN" in section
    assert "vLLM is not installed in this environment" in section and "could not be made" not in page


def test_a_run_without_numerics_has_no_such_section_and_misses_nothing(bare_run):
    page = make_report(bare_run).read_text()
    assert 'id="numerics"' not in page and "numerics.csv" not in page


def test_a_run_without_special_values_or_histogram_shows_the_rest(run_with_numerics):
    for name in ("ulp_histogram", "special_values"):
        (run_with_numerics / "results" / f"{name}.csv").unlink()
    section = numerics(contents.read(run_with_numerics))
    assert section["plots"] == [] and section["special"] is None and len(section["table"].rows) == 5


def test_special_values_are_a_row_a_case_and_say_only_what_differs(numerics_tables):
    table = special_table(numerics_tables["special_values"])
    assert table.columns == ["case", "promised", "gloo", "host/one_shot"]
    assert table.rows == [
        ["inf + 1", "inf", KEPT, KEPT],
        ["smallest subnormal + 0", "1 smallest", "0.0 (fp16)", KEPT],
    ]


def test_the_table_tells_in_words_how_a_backend_adds(run_with_numerics):
    rows = {tuple(row[1:3]): row for row in numerics(contents.read(run_with_numerics))["table"].rows}
    assert rows["gloo", "bf16"][10] == "bf16, in a ring"
    assert rows["host/one_shot", "bf16"][10] == "fp32, rank order; fp32, in a ring"
    assert rows["vllm/shm", "bf16"][4:] == ["–", "–", "–", "–", "–", "–", "", rows["vllm/shm", "bf16"][11]]


def test_the_figure_names_who_is_as_near_as_can_be_and_what_adding_in_the_dtype_would_miss(numerics_tables):
    histogram = numerics_tables["ulp_histogram"]
    figure = figures.numerics(histogram)
    assert figure.finding.startswith(
        "On 4 ranks every bf16 sum of host/one_shot is as near to float64 as bf16 can be; "
    )
    assert re.search(r"of gloo \d\d % are$", figure.finding)
    alone = figures.numerics(histogram[histogram.backend != "gloo"])
    assert re.search(r"every backend .* adding in bf16 would miss it in \d\d % of them on 4 ranks$", alone.finding)
    assert figures.numerics(histogram[histogram.backend == "gloo"]).finding.startswith("On 4 ranks no backend's bf16")
    assert figures.numerics(histogram, dtype="float16").finding.startswith("On 4 ranks every fp16 sum of host/one_shot")


def test_bars_hold_all_elements_and_tell_the_share_of_the_nearest(numerics_tables):
    figure = figures.numerics(numerics_tables["ulp_histogram"])
    (axes,) = figure.axes
    widths = {}
    for bar in axes.patches:
        widths[bar.get_y()] = widths.get(bar.get_y(), 0) + bar.get_width()
    assert list(widths.values()) == pytest.approx([100] * 7)
    texts = [text.get_text() for text in axes.texts]
    assert "100 %" in texts and "measured, 4 ranks" in texts and "simulated, 4 ranks" in texts


def test_a_figure_of_nothing_measured_says_so(numerics_tables):
    histogram = numerics_tables["ulp_histogram"]
    assert figures.numerics(histogram[histogram.device == "simulated"]).finding == "No backend's sums were measured"
