import pandas as pd
import pytest

from symmlib.analysis import published

VERDICTS = {  # claim -> (by means, by medians), recomputed from the published table
    "up to 8 % TTFT for TP=4": ("holds", "does not hold"),
    "7 to 10 % TTFT for TP=8": ("holds in part", "does not hold"),
    "up to 5-7 % TPOT for TP=8": ("holds", "holds"),
}
MEAN_REDUCTIONS = {
    (4, "ttft"): [7.9, 3.4, 1.6],
    (4, "tpot"): [1.5, 2.6, 2.8],
    (8, "ttft"): [13.6, 9.1, 6.6],
    (8, "tpot"): [0.3, 1.7, 6.5],
}


def test_the_published_table_is_complete():
    table = published.load()
    assert len(table) == 12
    assert set(table.arm) == {"baseline", "symm_mem"}
    assert not table.isna().any().any()


@pytest.mark.parametrize(("cell", "expected"), MEAN_REDUCTIONS.items())
def test_reductions_are_recomputed_from_the_table(cell, expected):
    saved = published.reductions(published.load())
    chosen = saved[(saved.tp == cell[0]) & (saved.metric == cell[1]) & (saved.statistic == "mean")]
    assert [round(value, 1) for value in chosen.sort_values("qps").reduction_pct] == expected


@pytest.mark.parametrize(("claim", "expected"), VERDICTS.items())
def test_each_claim_is_judged_by_means_and_by_medians(claim, expected):
    rows = published.claims(published.load()).query("claim == @claim").set_index("statistic")
    assert (rows.verdict["mean"], rows.verdict["median"]) == expected


def test_a_claim_that_holds_in_part_says_where_it_does_not():
    rows = published.claims(published.load())
    (why,) = rows[(rows.verdict == "holds in part")].why
    assert why == "QPS 1 gives 13.6 %, outside 7 to 10 %"


def test_a_run_s_own_valid_numbers_stand_beside_the_published_ones():
    keys = {"tp": 2, "qps": 4, "metric": "ttft", "statistic": "mean"}
    summary = pd.DataFrame(
        [{**keys, "block": block, "arm": arm, "value_ms": value + block} for block in (0, 2)
         for arm, value in (("gloo", 30), ("router", 10))]
    )  # fmt: skip
    row = {**keys, "baseline": "gloo", "treatment": "router", "ratio": 0.4, "verdict": "faster"}
    comparison = pd.DataFrame([row, {**row, "qps": 8, "verdict": "invalid"}])
    own = published.own_reductions(summary, comparison)
    beside = published.side_by_side(published.load(), own)
    assert len(beside) == 7
    last = beside.iloc[-1]
    assert (last.source, last.ttft_baseline_ms, last.ttft_treatment_ms) == ("this run", 31, 11)
    assert last.ttft_reduction_pct == pytest.approx(60)


def test_without_serving_results_the_published_numbers_stand_alone():
    assert len(published.side_by_side(published.load(), published.own_reductions(None, None))) == 6
