"""From samples to the summary: the launch is the unit, and a row that did not run says why."""

import math

import pandas as pd
import pytest

from symmlib.analysis.allreduce import AGAINST_COLUMNS, SUMMARY_COLUMNS, against, correctness, medians, summarize

POINT = {"world_size": 4, "dtype": "bfloat16", "mode": "eager", "bytes": 4096}
OK = {"status": "ok", "reason": "", "wrong": 0, "max_abs_error": 0.5, "bitwise_equal_across_ranks": True}


def samples(backend: str, launches: list[list[float]], **point) -> list[dict]:
    return [
        POINT | point | {"launch": launch, "round": 1, "backend": backend, "iteration": iteration, "time_us": time_us}
        for launch, times in enumerate(launches, start=1)
        for iteration, time_us in enumerate(times, start=1)
    ]


def checks(backend: str, *launches: dict, **point) -> list[dict]:
    known = POINT | point | {"backend": backend, "device": "cpu", "multicast": False}
    return [known | {"launch": number} | launch for number, launch in enumerate(launches, start=1)]


def test_the_median_is_that_of_the_launches_and_bandwidths_follow_nccl_tests():
    rows = summarize(
        pd.DataFrame(samples("gloo", [[8, 8, 8, 8, 8], [1, 2, 3], [4, 4, 4]])), pd.DataFrame(checks("gloo", OK, OK, OK))
    )
    row = rows.iloc[0]
    assert list(rows.columns) == SUMMARY_COLUMNS
    assert (row["launches"], row["samples"], row["median_us"]) == (3, 11, 4)
    assert row["algbw_gbps"] == pytest.approx(4096 / 4e-6 / 1e9)
    assert row["busbw_gbps"] == pytest.approx(4096 / 4e-6 / 1e9 * 1.5)


def test_a_percentile_stands_only_where_ten_samples_lie_beyond_it():
    few, many = list(range(999)), list(range(1000))
    rows = summarize(
        pd.DataFrame(samples("gloo", [few]) + samples("nccl", [many])),
        pd.DataFrame(checks("gloo", OK) + checks("nccl", OK)),
    ).set_index("backend")
    assert pd.isna(rows.loc["gloo", "p99_us"])
    assert rows.loc["nccl", "p99_us"] == pytest.approx(989.01)


def test_the_worst_launch_decides_the_status_and_checks_add_up():
    wrong = {"status": "failed", "reason": "3 elements wrong", "wrong": 3, "max_abs_error": 2.0}
    wrong["bitwise_equal_across_ranks"] = False
    row = summarize(pd.DataFrame(samples("gloo", [[1]])), pd.DataFrame(checks("gloo", OK, wrong, OK))).iloc[0]
    assert (row["status"], row["reason"], row["wrong"], row["max_abs_error"]) == ("failed", "3 elements wrong", 3, 2.0)
    assert not row["bitwise_equal_across_ranks"]


def test_a_backend_that_never_ran_keeps_its_rows_with_the_reason():
    absent = {"status": "unavailable", "reason": "no GPU"}
    rows = summarize(
        pd.DataFrame(samples("gloo", [[1]])), pd.DataFrame(checks("gloo", OK) + checks("nccl", absent))
    ).set_index("backend")
    assert (rows.loc["nccl", "status"], rows.loc["nccl", "reason"]) == ("unavailable", "no GPU")
    assert rows.loc["nccl", "launches"] == 0
    assert rows.loc["nccl", ["median_us", "wrong", "max_abs_error"]].isna().all()


def test_a_measurement_of_nothing_is_still_a_summary():
    absent = {"status": "unavailable", "reason": "no GPU", "wrong": None, "max_abs_error": None}
    absent["bitwise_equal_across_ranks"] = None
    empty = pd.DataFrame(columns=[*POINT, "backend", "launch", "time_us"])
    rows = summarize(empty, pd.DataFrame(checks("nccl", absent)))
    assert list(rows["launches"]) == [0]


def test_medians_are_laid_out_by_size_and_backend():
    rows = summarize(
        pd.DataFrame(samples("host/one_shot", [[2]]) + samples("gloo", [[9]]) + samples("gloo", [[20]], bytes=8192)),
        pd.DataFrame(checks("host/one_shot", OK) + checks("gloo", OK) + checks("gloo", OK, bytes=8192)),
    )
    table = medians(rows)
    assert list(table.columns) == ["host/one_shot", "gloo"]
    assert table.loc["8 KiB", "gloo"] == 20


def test_correctness_is_a_row_per_backend_over_all_sizes():
    failed = {"status": "failed", "reason": "it broke"}
    rows = summarize(
        pd.DataFrame(samples("gloo", [[9]])),
        pd.DataFrame(checks("gloo", OK) + checks("gloo", OK | {"max_abs_error": 0.75}, bytes=8192)).pipe(
            lambda ok: pd.concat([ok, pd.DataFrame(checks("nccl", OK) + checks("nccl", failed, bytes=8192))])
        ),
    )
    table = correctness(rows)
    assert list(table.loc["gloo"]) == ["ok", 0, 0.75, True, ""]
    assert table.loc["nccl", "status"] == "ok, failed"
    assert table.loc["nccl", "why"] == "it broke"


def test_several_world_sizes_keep_their_rows_apart():
    both = [(backend, ranks) for ranks in (2, 4) for backend in ("host/one_shot", "gloo")]
    failed = {"status": "failed", "reason": "it broke"}
    rows = summarize(
        pd.DataFrame([row for backend, ranks in both for row in samples(backend, [[ranks]], world_size=ranks)]),
        pd.DataFrame(
            [row for backend, ranks in both
             for row in checks(backend, failed if (backend, ranks) == ("gloo", 4) else OK, world_size=ranks)]
        ),
    )  # fmt: skip
    assert medians(rows).loc[(4, "4 KiB"), "host/one_shot"] == 4
    assert medians(rows).index.names == ["ranks", "median µs"]
    table = correctness(rows)
    assert list(table.index) == [(ranks, backend) for backend, ranks in both]
    assert (table.loc[(2, "gloo"), "status"], table.loc[(4, "gloo"), "status"]) == ("ok", "failed")
    assert pd.isna(table.loc[(4, "gloo"), "bitwise_equal_across_ranks"])  # nobody knows


def timed_in(*launches: dict[str, float], **point) -> pd.DataFrame:
    """Samples in which a backend takes the given time in each of `launches`; those not named were not timed."""
    rows = [
        POINT | point | {"launch": number, "backend": backend, "time_us": time_us}
        for number, times in enumerate(launches, start=1)
        for backend, time_us in times.items()
    ]
    return pd.DataFrame(rows)


def test_vllms_way_is_compared_with_the_best_of_ours_launch_by_launch():
    launches = [{"vllm/symm_mem": 15 * luck, "triton/one_shot": 10 * luck, "triton/two_shot": 12 * luck, "nccl": 1}
                for luck in (1, 2, 4)]  # fmt: skip
    (row,) = against(timed_in(*launches)).itertuples()
    assert (row.peer, row.ours, row.launches, row.peer_us, row.ours_us) == (
        "vllm/symm_mem", "triton/one_shot", 3, 30, 20,
    )  # fmt: skip
    assert row.ratio == pytest.approx(1.5) and row.ci_low == pytest.approx(1.5) and row.ci_high == pytest.approx(1.5)


def test_the_interval_is_that_of_t_over_launches():
    (row,) = against(
        timed_in(*({"vllm/shm": 10 * math.exp(d), "host/one_shot": 10} for d in (0.1, 0.2, 0.3)))
    ).itertuples()
    margin = 4.302653 * 0.1 / math.sqrt(3)  # t(0.975) with 2 degrees of freedom
    assert [math.log(value) for value in (row.ratio, row.ci_low, row.ci_high)] == pytest.approx(
        [0.2, 0.2 - margin, 0.2 + margin], rel=1e-5
    )


def test_launches_that_timed_one_side_only_do_not_count():
    launches = [{"vllm/shm": 20, "host/one_shot": 10}, {"host/one_shot": 1}, {"vllm/shm": 500}, {"vllm/shm": 20}]
    (row,) = against(timed_in(*launches)).itertuples()
    assert (row.launches, row.ratio) == (1, pytest.approx(2)) and math.isnan(row.ci_low)
    apart = timed_in({"vllm/shm": 20}, {"host/one_shot": 10})
    assert against(apart).empty and list(against(apart).columns) == AGAINST_COLUMNS


def test_a_backend_that_never_met_the_peer_is_not_the_best_of_ours():
    met = timed_in({"vllm/shm": 20, "host/one_shot": 10}, {"vllm/shm": 20, "host/one_shot": 10}, {"host/two_shot": 1})
    assert list(against(met).ours) == ["host/one_shot"]


def test_settings_and_sizes_are_compared_by_themselves_and_a_peer_may_be_named():
    whole = pd.concat(
        [timed_in({"vllm/symm_mem": 20, "vllm/custom": 5, "triton/one_shot": 10 * ranks}, world_size=ranks, bytes=size)
         for ranks in (2, 4) for size in (1024, 4096)]
    )  # fmt: skip
    assert list(against(whole).ratio) == pytest.approx([1, 1, 0.5, 0.5])
    assert list(against(whole, peer="vllm/custom").ratio) == pytest.approx([0.25, 0.25, 0.125, 0.125])
    assert against(whole, peer="nccl").empty


def test_a_summary_gives_ratios_of_medians_without_intervals_and_only_of_what_counts():
    launches = [[10, 10], [20, 20], [30, 30]]
    wrong = OK | {"wrong": 3}
    rows = summarize(
        pd.DataFrame(samples("vllm/shm", launches) + samples("host/one_shot", [[5]]) + samples("host/two_shot", [[1]])),
        pd.DataFrame(checks("vllm/shm", OK, OK, OK) + checks("host/one_shot", OK) + checks("host/two_shot", wrong)),
    )
    (row,) = against(rows).itertuples()
    assert (row.ours, row.ratio) == ("host/one_shot", pytest.approx(4)) and math.isnan(row.ci_low)
