"""From samples to the summary: the launch is the unit, and a row that did not run says why."""

import pandas as pd
import pytest

from symmlib.analysis.allreduce import SUMMARY_COLUMNS, correctness, medians, summarize

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
