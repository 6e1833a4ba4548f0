"""The benchmark on a GPU that ranks share: it measures, and it ends when a rank is lost inside a kernel."""

import time

import pandas as pd
import pytest

from symmlib.allreduce import AllReducePlan, measure

pytestmark = pytest.mark.usefixtures("one_gpu")

PLAN = dict(device="cuda", mode="graph", one_gpu=True, launches=1, rounds=2, iterations=5)


def test_times_come_from_replayed_graphs_and_carry_the_shared_gpu(tmp_path):
    plan = AllReducePlan([2, 4], "symm_mem/two_shot,triton/two_shot,vllm/symm_mem", "16KiB,1MiB", **PLAN)
    summary = measure(plan, tmp_path)
    assert set(summary.status) == {"ok"}, summary.to_string()
    assert summary.device.str.endswith("/one-gpu").all()
    assert (summary.wrong == 0).all() and (summary.median_us > 0.5).all()
    assert set(summary.world_size) == {2, 4}


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_rank_that_is_killed_in_an_operation_ends_the_launch_and_keeps_the_samples(tmp_path, monkeypatch, when):
    monkeypatch.setenv("TEST_KILLED", when)
    plan = AllReducePlan(2, "symm_mem/two_shot,triton/two_shot", "16KiB,1MiB", **(PLAN | {"launches": 2}))
    began = time.monotonic()
    summary = measure(plan, tmp_path, worker="tests_gpu.killed_worker", stall_s=30)
    assert time.monotonic() - began < 180  # ended by torchrun, at the latest by `stall_s`, never by waiting for ever
    assert summary[summary.backend == "symm_mem/two_shot"].median_us.notna().all()
    lost = summary[summary.backend == "triton/two_shot"]
    assert (lost.status == "failed").all() and lost.reason.str.contains("triton/two_shot").all()
    assert len(pd.read_csv(tmp_path / "results" / "allreduce.csv"))


def test_eight_ranks_reach_sizes_at_which_torchs_grids_would_not_fit(tmp_path):
    plan = AllReducePlan(8, "symm_mem/two_shot,vllm/symm_mem,triton/two_shot", "2MiB,8MiB,32MiB", **PLAN)
    summary = measure(plan, tmp_path).set_index(["backend", "bytes"])
    assert (summary.loc["symm_mem/two_shot"].status == "ok").all()
    assert (summary.loc["triton/two_shot"].status == "ok").all()
    assert summary.loc[("vllm/symm_mem", 2 << 20)].status == "ok"
    assert "would not all fit" in summary.loc[("vllm/symm_mem", 8 << 20)].reason
