"""Figures of serving beyond verdicts: how requests are spread, and what others published beside them."""

import pytest

from symmlib.analysis import published
from symmlib.report import contents, figures, make_report
from symmlib.runs import write_csv, write_json
from tests.report.reader import Reader

SAME_SHAPES = {"model": "dummy-70b", "workload": "x", "vllm": "1", **published.SAME_REQUESTS}


def test_a_distribution_is_drawn_for_each_cell_metric_and_arm_and_says_that_verdicts_come_from_blocks(requests):
    figure = figures.distributions(requests, baseline="gloo")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "TTFT, QPS 4",
        "TPOT, QPS 4",
        "TTFT, QPS 8",
        "TPOT, QPS 8",
    ]
    for axes in figure.axes:
        assert len(axes.lines) == 3
        for line in axes.lines:
            heights = list(line.get_ydata())
            assert heights[0] == 0 and heights[-1] == 100 and heights == sorted(heights)
    assert figure.finding == (
        "At QPS 8, nine of ten requests have a TPOT of at most: router 3.68 ms, vllm/shm 3.81 ms, gloo 21.0 ms"
    )
    assert "The 3 blocks are pooled for showing only: the verdicts come from blocks." in figure.reading


def test_quantiles_beyond_which_too_few_requests_lie_are_not_told(requests):
    table = figures.distributions(requests).numbers
    assert list(table.requests) == [300] * 12
    assert "95 % at most, ms" in table and "99 % at most, ms" not in table
    few = figures.distributions(requests[requests.request < 5])
    assert few.finding == "So few requests were measured at QPS 8 that nothing is said of nine in ten"
    assert "90 % at most, ms" not in few.numbers


def test_requests_of_invalid_measurements_are_not_drawn(requests, comparison):
    broken = (comparison.treatment == "vllm/shm") & (comparison.qps == 8)
    figure = figures.distributions(requests, comparison.assign(verdict=comparison.verdict.mask(broken, "invalid")))
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 2, 2]
    nothing = figures.distributions(requests, comparison.assign(verdict="invalid"))
    assert nothing.finding == "There is no request whose times count" and nothing.numbers is None


def test_a_failed_request_has_no_place_in_the_distribution(requests):
    failed = requests.assign(
        ttft_ms=requests.ttft_ms.where(requests.request > 0), tpot_ms=requests.tpot_ms.where(requests.request > 0)
    )
    assert set(figures.distributions(failed).numbers.requests) == {297}


def test_published_times_stand_beside_arms_only_where_shapes_rates_and_requests_are_the_same(serving_summary):
    reference = published.reference(SAME_SHAPES)
    alike = serving_summary.assign(tp=4, qps=serving_summary.qps.map({4: 5, 8: 10}))
    figure = figures.ttft_tpot(alike, "gloo", reference)
    assert "Hollow marks are vLLM pull request 20759's" in figure.reading
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "published, B200: baseline",
        "published, B200: symm_mem",
    ]
    theirs = figure.numbers[figure.numbers.arm == "published, B200: baseline"]
    assert list(theirs["mean of blocks, ms"]) == [46.048, 51.188, 14.084, 17.71]
    assert "published" not in figures.ttft_tpot(serving_summary, "gloo", reference).reading, "TP=2 was not published"
    assert "Hollow" not in figures.ttft_tpot(alike, "gloo", None).reading


@pytest.mark.parametrize("other", [{"model": "tiny"}, {"input_len": 128}, {"prefix_len": 0}, {"output_len": None}])
def test_incomparable_milliseconds_are_never_mixed(other):
    assert published.reference({**SAME_SHAPES, **other}) is None
    assert published.reference({}) is None
    assert len(published.reference({**SAME_SHAPES, "model": "/models/Llama-3.1-70B-Instruct/"})) == 48


def test_the_page_lays_published_times_beside_a_run_of_the_same_shapes(whole_run, serving_summary):
    write_json(whole_run / "raw" / "serving" / "experiment.json", SAME_SHAPES)
    alike = serving_summary.assign(tp=4, qps=serving_summary.qps.map({4: 5, 8: 10}))
    write_csv(whole_run / "results" / "serving_summary.csv", alike)
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    assert "published, B200: symm_mem" in text and "The model's shapes and the requests are the same" in text


def test_a_run_without_its_requests_is_told_so_and_keeps_its_other_plots(whole_run):
    (whole_run / "results" / "serving.csv").unlink()
    assert contents.read(whole_run).missing == [("results/serving.csv", "step 04_serving was not reached")]
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    assert "TPOT of a request" not in text and "median TPOT, ms" in text
