"""The benchmark with real ranks, started by torchrun: what it writes, and what a bad backend costs."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from symmlib.allreduce import AllReducePlan, measure, read_results
from symmlib.allreduce.samples import SAMPLE_COLUMNS, read_checks, read_samples
from symmlib.analysis.allreduce import SUMMARY_COLUMNS
from symmlib.errors import SymmlibError, UsageError
from symmlib.routing.derive import derive
from tests.waiting import PATIENCE_S

QUICK = {"world_size": 2, "sizes": "2,6KiB", "launches": 1, "rounds": 3, "iterations": 5, "budget_s": 60}


@pytest.fixture
def failing(monkeypatch):
    """Measure with the worker whose backends fail as told."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")

    def measure_failing(plan: AllReducePlan, out: Path, failures: str, **options) -> pd.DataFrame:
        monkeypatch.setenv("TEST_FAILURES", failures)
        return measure(plan, out, worker="failing_worker", **options)

    return measure_failing


def test_real_ranks_are_checked_and_timed_and_files_hold_what_the_plan_asked_for(tmp_path):
    plan = AllReducePlan(backends="gloo,nccl,host/one_shot,host/two_shot", dtype="float16", **QUICK)
    summary = measure(plan, tmp_path)
    assert list(summary.columns) == SUMMARY_COLUMNS
    assert list(summary["bytes"]) == [2, 6144] * 4
    absent, timed = summary[summary["backend"] == "nccl"], summary[summary["backend"] != "nccl"]
    assert set(absent["status"]) == {"unavailable"}
    assert "CUDA" in absent["reason"].iloc[0]
    assert set(timed["status"]) == {"ok"}
    assert set(timed["samples"]) == {15}
    assert (timed["wrong"] == 0).all()
    assert (timed["max_abs_error"] < 0.01).all()
    assert timed["bitwise_equal_across_ranks"].all()

    samples = pd.read_csv(tmp_path / "results" / "allreduce.csv")
    assert list(samples.columns) == SAMPLE_COLUMNS
    assert len(samples) == len(timed) * 15
    assert (samples["time_us"] > 0).all()
    orders = (
        samples[samples["bytes"] == 6144].drop_duplicates(["round", "backend"]).groupby("round")["backend"].agg(tuple)
    )
    assert len(set(orders)) > 1, "backends took turns in the same order in every round"
    results = read_results([tmp_path])
    assert len(results.timed) == len(samples)
    assert derive(results.timed, source="a test").tables[0].device == "cpu"


def test_a_backend_that_raises_or_sums_wrong_costs_its_own_rows(tmp_path, failing):
    plan = AllReducePlan(backends="host/one_shot,gloo,host/two_shot", **QUICK)
    summary = failing(plan, tmp_path, "host/two_shot=raises,host/one_shot=sums wrong").set_index("backend")
    assert set(summary.loc["gloo", "status"]) == {"ok"}
    assert set(summary["status"].drop("gloo")) == {"failed"}
    raised = summary.loc["host/two_shot", "reason"].iloc[0]
    assert raised == ("rank 0, timing at 2 B: ValueError: tensor of a shape that only this test knows")
    assert summary.loc["host/one_shot", "reason"].iloc[0].startswith("4 elements wrong at 2 B")
    assert summary.loc["host/one_shot", "launches"].eq(0).all()


def test_a_backend_that_kills_a_launch_is_named_and_the_next_launch_goes_on_without_it(tmp_path, failing, capsys):
    plan = AllReducePlan(backends="host/one_shot,gloo", **QUICK)
    summary = failing(plan, tmp_path, "host/one_shot=is killed").set_index("backend")
    assert set(summary.loc["gloo", "status"]) == {"ok"}
    assert set(summary.loc["host/one_shot", "status"]) == {"failed"}
    assert "at 2 B; see launch-1.log" in summary.loc["host/one_shot", "reason"].iloc[0]
    assert "Going on without host/one_shot" in capsys.readouterr().out


def test_a_launch_that_hangs_is_ended_in_bounded_time_and_keeps_what_it_has(tmp_path, failing):
    plan = AllReducePlan(backends="host/one_shot,gloo", **QUICK)
    before = time.monotonic()
    summary = failing(plan, tmp_path, "host/one_shot=hangs", stall_s=20).set_index("backend")
    assert time.monotonic() - before < PATIENCE_S  # 20 s to notice, 10 s of grace, and another launch
    assert set(summary.loc["gloo", "status"]) == {"ok"}
    assert summary.loc["host/one_shot", "reason"].iloc[0].startswith("launch 1 made no progress for 20 s")
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(one.info["cmdline"])]


def test_several_world_sizes_are_measured_into_one_table_and_fail_apart(tmp_path, failing, capsys):
    plan = AllReducePlan(backends="gloo,host/one_shot", **QUICK | {"world_size": [3, 2]})
    summary = failing(plan, tmp_path, "host/one_shot=is killed@3")
    assert list(summary["world_size"]) == [3] * 4 + [2] * 4  # as the plan orders them, not as numbers or names do
    assert list(summary["backend"]) == ["gloo", "gloo", "host/one_shot", "host/one_shot"] * 2
    status = summary.groupby(["world_size", "backend"])["status"].agg(set).to_dict()
    assert status.pop((3, "host/one_shot")) == {"failed"}
    assert set(map(frozenset, status.values())) == {frozenset({"ok"})}
    assert set(summary["device"]) == {"cpu"}

    samples = pd.read_csv(tmp_path / "results" / "allreduce.csv")
    assert samples.groupby("launch")["world_size"].agg(set).to_dict() == {2: {3}, 3: {2}}  # the first one was lost
    raw = tmp_path / "raw" / "allreduce"
    assert AllReducePlan.loads((raw / "plan.json").read_text()) == plan
    assert [AllReducePlan.loads((raw / f"plan-{launch}.json").read_text()) for launch in (1, 3)] == list(plan.each())
    assert {table.world_size for table in derive(read_results([tmp_path]).timed, source="a test").tables} == {2, 3}
    said = capsys.readouterr().out
    assert "3 ranks, world size 1 of 2" in said and "launch 1 of 1 on 2 ranks" in said


def test_world_sizes_that_an_interrupted_measurement_did_not_reach_are_told_apart(tmp_path, failing):
    plan = AllReducePlan(backends="gloo", **QUICK | {"world_size": [2, 3]})
    with pytest.raises(SymmlibError, match="launch 2 ended with exit status 1"):
        failing(plan, tmp_path, "gloo=never opens@3")
    summary = pd.read_csv(tmp_path / "results" / "allreduce_summary.csv")
    assert list(summary["status"]) == ["ok", "ok", "failed", "failed"]
    assert summary["reason"][2] == "not reached: the measurement ended before it"


def test_further_sizes_are_found_and_measured_for_each_world_size(tmp_path, monkeypatch):
    seen = []

    def further_sizes(timed, itemsize):
        seen.append((set(timed["world_size"]), sorted(timed["bytes"].unique())))
        return [] if 1024 in seen[-1][1] else [1024]

    monkeypatch.setattr(sys.modules[measure.__module__], "further_sizes", further_sizes)
    plan = AllReducePlan(backends="host/one_shot", refine_s=600, **QUICK | {"world_size": [2, 3], "sizes": "2"})
    summary = measure(plan, tmp_path)
    assert seen == [({ranks}, sizes) for ranks in (2, 3) for sizes in ([2], [2, 1024])]
    assert list(summary[["world_size", "bytes"]].itertuples(index=False, name=None)) == [
        (ranks, size) for ranks in (2, 3) for size in (2, 1024)
    ]
    assert set(read_samples(tmp_path / "raw" / "allreduce")["launch"]) == {1, 2, 3, 4}


def test_where_nothing_can_be_measured_every_reason_is_told_and_the_summary_is_kept(tmp_path):
    plan = AllReducePlan(backends="nccl,symm_mem/one_shot", device="cpu", **QUICK)
    with pytest.raises(SymmlibError, match="(?s)none of the backends could be measured.*nccl: .*symm_mem/one_shot: "):
        measure(plan, tmp_path)
    assert set(pd.read_csv(tmp_path / "results" / "allreduce_summary.csv")["status"]) == {"unavailable"}


def test_an_interrupted_measurement_keeps_what_it_has_and_leaves_no_process(tmp_path):
    code = (
        # A shell starts background jobs, and so perhaps these tests, with Ctrl-C ignored, which children inherit.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from symmlib import live; live._Log.every_s = 0; "
        "from symmlib.allreduce import AllReducePlan, measure, read_results; "
        "measure(AllReducePlan(2, 'gloo', '2,16MiB', launches=1, budget_s=60), sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as measuring:
        assert any("size 2 of 2" in line for line in measuring.stdout)
        measuring.send_signal(signal.SIGINT)
    assert measuring.returncode != 0
    summary = pd.read_csv(tmp_path / "results" / "allreduce_summary.csv")
    assert list(summary["status"]) == ["ok", "failed"]
    assert summary["reason"][1].startswith("not reached")
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(one.info["cmdline"])]


def test_more_ranks_than_gpus_are_refused(tmp_path):
    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has a GPU for every rank")
    with pytest.raises(UsageError, match="world_size 8 needs as many GPUs"):
        measure(AllReducePlan(8, "nccl", "1KiB"), tmp_path)


def test_a_gpu_is_shared_only_where_there_is_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="one_gpu needs a GPU for its ranks to share, and torch .* sees none here"):
        measure(AllReducePlan([2, 4], "symm_mem/one_shot", "1KiB", one_gpu=True), tmp_path)


@pytest.mark.parametrize(
    ("one_gpu", "memory_mib", "refused"),
    [(True, 143771, False), (True, 12288, True), (False, 12288, False), (False, 1024, True)],
)
def test_messages_must_fit_the_memory_of_each_gpu_for_all_ranks_on_it(monkeypatch, one_gpu, memory_mib, refused):
    module = sys.modules[measure.__module__]
    monkeypatch.setattr(module, "_require_gpus", lambda plan: None)
    monkeypatch.setattr(module, "gpus", lambda: [{"memory_mib": "[N/A]"}, {"memory_mib": str(memory_mib)}])
    plan = AllReducePlan([2, 8], "symm_mem/one_shot", "1KiB,64MiB", one_gpu=one_gpu)
    told = pytest.raises(UsageError, match="8 ranks .* 64 MiB need about .* GB of GPU memory, and this GPU has 1")
    with told if refused else contextlib.nullcontext():
        module.require_room(plan)


def test_messages_that_do_not_fit_the_machine_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
    with pytest.raises(UsageError, match="16 MiB need about 1 GB of memory"):
        measure(AllReducePlan(2, "gloo", "16MiB"), tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write .*file"):
        measure(AllReducePlan(backends="gloo", **QUICK), tmp_path / "file")


def test_half_a_line_left_by_a_killed_launch_is_not_read(tmp_path):
    (tmp_path / "launch-1.csv").write_text(f"{','.join(SAMPLE_COLUMNS)}\n1,1,gloo,2,float16,eager,2,1,10.5\n1,1,gl")
    (tmp_path / "launch-2.csv").write_text(f"{','.join(SAMPLE_COLUMNS)}\n1,1,gloo")
    assert list(read_samples(tmp_path)["time_us"]) == [10.5]
    assert read_checks(tmp_path).empty
