"""The statistics of a serving experiment, against answers that can be worked out by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmlib.analysis import serving

RESULT = {  # three requests as `vllm bench serve --save-detailed` writes them, in seconds; the last one failed
    "start_times": [100.0, 100.5, 101.0],
    "input_lens": [128, 128, 128],
    "output_lens": [3, 5, 0],
    "ttfts": [0.010, 0.030, 0.0],
    "itls": [[0.002, 0.004], [0.001, 0.001, 0.001, 0.005], []],
    "latencies": [0.016, 0.038, 0.0],
    "errors": ["", "", "connection refused"],
}


def summary(times: dict[str, list[float]], metric="tpot", tp=2, qps=4) -> pd.DataFrame:
    """A summary with one median a block for each arm."""
    rows = [
        {"block": block, "arm": arm, "tp": tp, "qps": qps, "metric": metric, "statistic": "median", "value_ms": value}
        for arm, values in times.items()
        for block, value in enumerate(values, 1)
    ]
    return pd.DataFrame(rows).assign(requests=32, note="")


def cells(router: dict[float, list[float]], gloo: list[float]) -> pd.DataFrame:
    """A summary in which `router` has its own times at each QPS, and gloo the same at all."""
    return pd.concat([summary({"gloo": gloo, "router": times}, qps=qps) for qps, times in router.items()])


def test_latencies_of_a_request_are_vllms():
    frame = serving.requests(RESULT)
    assert list(frame["start_s"]) == [0.0, 0.5, 1.0]
    assert frame["ttft_ms"].tolist()[:2] == pytest.approx([10, 30])
    assert frame["tpot_ms"].tolist()[:2] == pytest.approx([6 / 2, 8 / 4])
    assert frame["e2el_ms"].tolist()[:2] == pytest.approx([16, 38])


def test_a_failed_request_has_an_error_and_counts_in_no_statistic():
    frame = serving.requests(RESULT)
    assert frame["error"].tolist() == ["", "", "connection refused"]
    assert frame.loc[2, ["ttft_ms", "tpot_ms", "e2el_ms"]].isna().all()
    table = serving.summarize(RESULT).set_index(["metric", "statistic"])
    assert (table["requests"] == 2).all()
    assert table.loc[("ttft", "mean"), "value_ms"] == pytest.approx(20)
    assert table.loc[("itl", "median"), "value_ms"] == pytest.approx(1.5)


def test_a_request_without_answer_has_an_error_even_if_vllm_wrote_none():
    frame = serving.requests({**RESULT, "errors": ["", "", ""]})
    assert frame["error"].tolist() == ["", "", "no tokens came back"]


def test_results_of_an_older_vllm_without_latencies_read_alike():
    older = {key: value for key, value in RESULT.items() if key != "latencies"}
    assert serving.requests(older)["e2el_ms"].tolist()[:2] == pytest.approx([16, 38])


@pytest.mark.parametrize(("count", "first_missing"), [(99, "p90"), (100, "p95"), (200, "p99"), (1000, None)])
def test_a_percentile_needs_ten_requests_beyond_it(count, first_missing):
    many = {key: [value[0]] * count for key, value in RESULT.items()}
    table = serving.summarize(many)
    missing = table[table["value_ms"].isna()]
    assert set(missing["note"]) <= {"n too small"}
    names = list(serving.PERCENTILES)
    expected = names[names.index(first_missing) :] if first_missing else []
    assert list(missing[missing["metric"] == "itl"]["statistic"]) == expected


def test_a_ratio_is_the_geometric_mean_over_blocks_with_its_t_interval():
    table = serving.compare(summary({"gloo": [10, 20, 10], "router": [5, 5, 5]}), [("gloo", "router")])
    row = table.iloc[0]
    d = np.log([0.5, 0.25, 0.5])
    half = 4.302652729911275 * d.std(ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom, 97.5 %
    assert row["ratio"] == pytest.approx(math.exp(d.mean()))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((math.exp(d.mean() - half), math.exp(d.mean() + half)))
    assert (row["blocks"], row["tier"]) == (3, "quick")
    assert list(table.columns) == serving.COMPARISON_COLUMNS


def test_comparing_the_other_way_round_inverts_the_ratio_and_keeps_the_p():
    times = summary({"gloo": [10, 20, 11], "router": [9, 22, 10]})
    there, back = (serving.compare(times, [pair]).iloc[0] for pair in (("gloo", "router"), ("router", "gloo")))
    assert there["ratio"] * back["ratio"] == pytest.approx(1)
    assert there["p_value"] == back["p_value"]


@pytest.mark.parametrize(
    ("router", "verdict"),
    [
        ([5, 5.1, 4.9], "faster"),
        ([20, 21, 19], "slower"),
        ([10.01, 10.0, 9.99], "equivalent"),
        ([9.8, 9.81, 9.79], "equivalent"),  # sure to be faster, by less than matters
        ([9.5, 9.35, 9.65], "faster"),  # sure to be faster, not sure to be so by more than the band
        ([9.8, 9.73, 9.87], "inconclusive"),  # sure to be faster, by perhaps more than matters
        ([5, 20, 10], "inconclusive"),
    ],
)
def test_a_verdict_is_read_off_the_interval_and_the_ratio_against_the_band(router, verdict):
    table = serving.compare(summary({"gloo": [10, 10, 10], "router": router}), [("gloo", "router")])
    assert table["verdict"].item() == verdict


@pytest.mark.parametrize(
    ("ratio", "low", "high", "said"),
    [
        (0.95, 0.91, 0.99, "faster"),
        (0.95, 0.90, 1.003, "inconclusive"),  # relevant, not significant
        (0.98, 0.95, 0.999, "inconclusive"),  # significant, not shown to be relevant
        (0.98, 0.975, 0.985, "equivalent"),  # significant and irrelevant
        (0.99, 0.96, 1.02, "inconclusive"),
        (0.80, math.nan, math.nan, "none"),
    ],
)
def test_what_is_significant_is_kept_apart_from_what_is_relevant(ratio, low, high, said):
    assert serving.verdict(ratio, low, high, 0.03) == said
    swapped = {"faster": "slower"}.get(said, said)
    assert serving.verdict(1 / ratio, 1 / high, 1 / low, 0.03) == swapped


def test_the_ends_of_the_band_belong_to_it():
    least, most = serving.equivalence_band(0.03)
    assert serving.verdict(1, least, most, 0.03) == "equivalent"
    assert serving.verdict(least, 0.9, 0.999, 0.03) == serving.verdict(most, 1.001, 1.1, 0.03) == "inconclusive"
    assert (
        serving.verdict(1, least - 1e-9, most, 0.03) == serving.verdict(1, least, most + 1e-9, 0.03) == "inconclusive"
    )


def test_every_metric_and_statistic_is_judged_by_its_own_delta():
    times = pd.concat([summary({"gloo": [10] * 3, "router": [9.8, 9.81, 9.79]}, metric=m) for m in ("ttft", "tpot")])
    pair = [("gloo", "router")]
    assert serving.compare(times, pair)[["verdict", "delta"]].to_numpy().tolist() == [["equivalent", serving.DELTA]] * 2
    assert serving.compare(times, pair, delta=0.01)["verdict"].to_list() == ["faster", "faster"]
    floor = pd.DataFrame([["tpot", "median", 0.015, 6, 2]], columns=serving.FLOOR_COLUMNS)
    for deltas in (floor, {("tpot", "median"): 0.015}):
        table = serving.compare(times, pair, delta=deltas).set_index("metric")
        assert table["delta"].to_dict() == {"ttft": serving.DELTA, "tpot": 0.015}
        assert table["verdict"].to_dict() == {"ttft": "equivalent", "tpot": "faster"}
    assert set(serving.compare(times, pair, delta=floor.iloc[:0])["delta"]) == {serving.DELTA}


def test_a_noise_floor_is_the_largest_difference_that_equal_arms_showed():
    times = cells({4: [10.2] * 3, 8: [9.5] * 3, 16: [5] * 3}, gloo=[10] * 3)
    table = serving.compare(times, [("gloo", "router")], invalid={(2, 16, "gloo"): "rate: too slow"})
    (row,) = serving.noise_floor(table).itertuples(index=False)
    assert list(serving.noise_floor(table).columns) == serving.FLOOR_COLUMNS
    assert (row.metric, row.statistic, row.blocks, row.cells) == ("tpot", "median", 3, 2)
    assert row.delta == pytest.approx(10 / 9.5 - 1, abs=1e-6), "a factor: whichever arm was the faster"


def test_a_noise_floor_is_one_percent_at_least_and_counts_the_fewest_blocks():
    times = cells({4: [10.01] * 3, 8: [10.02] * 2}, gloo=[10] * 3)
    (row,) = serving.noise_floor(serving.compare(times, [("gloo", "router")])).itertuples(index=False)
    assert (row.delta, row.blocks, row.cells) == (serving.LEAST_DELTA, 2, 2)


def test_where_no_cell_counts_there_is_no_noise_floor():
    times = cells({4: [math.nan] * 3}, gloo=[10] * 3)
    nothing = serving.compare(pd.DataFrame(columns=serving.SUMMARY_COLUMNS), [("gloo", "router")])
    for table in (serving.compare(times, [("gloo", "router")]), nothing):
        floor = serving.noise_floor(table)
        assert floor.empty and list(floor.columns) == serving.FLOOR_COLUMNS


def test_a_noise_floor_judges_its_own_experiment_as_no_different():
    table = serving.compare(cells({4: [9.8, 9.81, 9.79], 8: [10.3, 10.31, 10.29]}, gloo=[10] * 3), [("gloo", "router")])
    floor = serving.noise_floor(table)
    for row in table.itertuples():
        said = serving.verdict(row.ratio, row.ci_low, row.ci_high, floor["delta"].item())
        assert said in ("equivalent", "inconclusive")


def test_one_block_gives_no_interval_and_no_verdict():
    row = serving.compare(summary({"gloo": [10], "router": [1]}), [("gloo", "router")]).iloc[0]
    assert (row["tier"], row["verdict"], row["p_value"]) == ("smoke", "none", 1)
    assert math.isnan(row["ci_low"]) and math.isnan(row["ci_high"])
    assert row["ratio"] == pytest.approx(0.1)


def test_two_blocks_have_a_t_interval_but_are_a_smoke_run_all_the_same():
    row = serving.compare(summary({"gloo": [10, 10], "router": [1, 1.1]}), [("gloo", "router")]).iloc[0]
    assert (row["blocks"], row["tier"], row["verdict"]) == (2, "smoke", "none")
    assert math.isnan(row["ci_low"])


def test_cells_of_one_block_each_give_no_verdict_either():
    table = serving.compare(cells({4: [1], 8: [1]}, gloo=[10]), [("gloo", "router")])
    assert (table["verdict"] == "none").all() and (table["p_value"] == 1).all() and table["ci_low"].isna().all()


def test_a_statistic_that_nobody_has_is_no_comparison_and_widens_no_interval():
    table = serving.compare(cells({4: [5, 5.1, 5.2], 8: [math.nan] * 3}, gloo=[10] * 3), [("gloo", "router")])
    alone = serving.compare(cells({4: [5, 5.1, 5.2]}, gloo=[10] * 3), [("gloo", "router")])
    assert table["ci_high"].iloc[0] == alone["ci_high"].iloc[0]
    missing = table.iloc[1]
    assert (missing["blocks"], missing["verdict"], missing["note"]) == (0, "none", "n too small")
    assert math.isnan(missing["ratio"]) and math.isnan(missing["p_value"])


def test_without_measurements_there_is_a_table_without_rows():
    table = serving.compare(pd.DataFrame(columns=serving.SUMMARY_COLUMNS), [("gloo", "router")])
    assert table.empty and list(table.columns) == serving.COMPARISON_COLUMNS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_intervals_of_all_cells_together_have_ninety_five_percent(count):
    qps = dict.fromkeys(range(1, count + 1), [5, 2.5, 5])
    table = serving.compare(cells(qps, gloo=[10, 10, 10]), [("gloo", "router")])
    d = np.log([0.5, 0.25, 0.5])
    tail = 0.05 / count / 2
    t = (1 - 2 * tail) * math.sqrt(
        2 / (4 * tail * (1 - tail))
    )  # the quantile of Student's t, in closed form for 2 d.f.
    half = t * d.std(ddof=1) / math.sqrt(3)
    assert len(table) == count
    assert table["ci_low"].to_numpy() == pytest.approx(math.exp(d.mean() - half))
    assert table["ci_high"].to_numpy() == pytest.approx(math.exp(d.mean() + half))


def test_what_one_cell_alone_would_decide_two_cells_leave_open():
    router = 10 * np.exp(-0.1 + np.array([-0.034, 0, 0.034]))  # a mean of -0.1, a standard deviation of 0.034
    # One cell: -0.1 + 4.303 * 0.034 / sqrt(3) = -0.016, below 0. Two: -0.1 + 6.205 * ... = 0.022.
    alone = serving.compare(cells({4: router}, gloo=[10] * 3), [("gloo", "router")])
    both = serving.compare(cells({4: router, 8: router}, gloo=[10] * 3), [("gloo", "router")])
    assert alone["verdict"].to_list() == ["faster"]
    assert both["verdict"].to_list() == ["inconclusive", "inconclusive"]


def test_other_metrics_and_other_arms_are_other_families():
    times = cells({4: [5, 5.1, 5.2]}, gloo=[10] * 3)
    shm = times[times["arm"] == "router"].assign(arm="vllm/shm")
    more = pd.concat([times, shm, times.assign(metric="ttft")])
    pairs = [("gloo", "router"), ("gloo", "vllm/shm")]
    columns = ["ci_low", "ci_high", "p_value"]
    (alone,) = serving.compare(times, pairs[:1])[columns].to_numpy()
    for row in serving.compare(more, pairs)[columns].to_numpy():
        assert row == pytest.approx(alone)


def test_an_invalid_cell_still_counts_so_that_a_gate_makes_no_other_cell_bolder():
    times = cells({4: [5, 5.1, 5.2], 8: [5, 5.1, 5.2]}, gloo=[10] * 3)
    sound = serving.compare(times, [("gloo", "router")])
    gated = serving.compare(times, [("gloo", "router")], invalid={(2, 8, "gloo"): "rate: too slow"})
    assert gated["verdict"].to_list() == ["faster", "invalid"]
    assert gated[["ci_low", "p_value"]].equals(sound[["ci_low", "p_value"]])


def test_the_p_of_every_cell_is_adjusted_by_holm():
    gloo, same, flipped = [10] * 6, [5] * 6, [5] * 5 + [20]
    # Of 64 flips: all signs alike has 2 as extreme, one sign apart 2 + 12. Times 3, 2 (but no less than before), 1.
    table = serving.compare(cells({1: flipped, 4: same, 8: same}, gloo=gloo), [("gloo", "router")]).set_index("qps")
    assert table["p_value"].to_dict() == pytest.approx({1: 14 / 64, 4: 3 * 2 / 64, 8: 3 * 2 / 64})


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    p = pd.Series([0.04, math.nan, 0.01, 0.03, 0.7])
    assert serving.holm(p).tolist() == pytest.approx([0.09, math.nan, 0.04, 0.09, 0.7], nan_ok=True)
    assert serving.holm(pd.Series([0.6, 0.6])).tolist() == [1, 1]


def test_blocks_earn_a_tier_but_never_more_than_was_asked_for():
    times = summary({"gloo": [10] * 6, "router": [9] * 6})
    assert serving.compare(times, [("gloo", "router")])["tier"].item() == "standard"
    assert serving.compare(times, [("gloo", "router")], tier="quick")["tier"].item() == "quick"
    assert serving.compare(times, [("gloo", "router")], tier="smoke")["verdict"].item() == "none"
    assert serving.tier_of(2) == "smoke"


def test_only_blocks_that_both_arms_completed_are_compared():
    times = summary({"gloo": [10, 10, 10], "router": [5, 5]})
    assert serving.compare(times, [("gloo", "router")])["blocks"].item() == 2
    assert serving.compare(times, [("gloo", "vllm/shm")]).empty


def test_an_invalid_arm_makes_its_comparisons_invalid_in_that_cell_only():
    times = pd.concat([summary({"gloo": [10] * 3, "router": [5] * 3}, qps=qps) for qps in (4, 8)])
    table = serving.compare(times, [("gloo", "router")], invalid={(2, 8, "router"): "rate: too slow"}).set_index("qps")
    assert table["verdict"].to_dict() == {4: "faster", 8: "invalid"}
    assert table.loc[8, "note"] == "rate: too slow"


def test_the_smallest_p_halves_with_every_block():
    assert [serving.sign_flip_p(np.full(n, -0.3)) for n in (1, 2, 3, 6, 10)] == [1, 1 / 2, 1 / 4, 1 / 32, 1 / 512]


@given(st.lists(st.floats(-2, 2).map(lambda value: round(value, 3)), min_size=1, max_size=8))
def test_the_p_is_the_share_of_sign_flips_with_as_large_a_mean(values):
    d = np.array(values)
    flips = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
    expected = np.mean([flip >= abs(d.sum()) - 1e-9 for flip in flips])
    assert serving.sign_flip_p(d) == pytest.approx(expected)


def test_a_p_that_nobody_could_enumerate_is_refused():
    with pytest.raises(ValueError, match="21 blocks"):
        serving.sign_flip_p(np.ones(21))
