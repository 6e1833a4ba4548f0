"""Faults of the all-reduce benchmark, injected into real ranks."""

import os
import signal
from pathlib import Path

import pytest

from symmlib.allreduce import AllReducePlan, measure
from symmlib.allreduce.samples import SAMPLE_COLUMNS, LaunchFiles, read_samples
from symmlib.errors import SymmlibError
from tests.waiting import PATIENCE_S

BACKENDS = "host/one_shot,gloo"
# Timing takes seconds, and says so in every round: enough for a fault to be injected while it lasts.
PLAN = AllReducePlan(2, BACKENDS, "2,4MiB", launches=1, rounds=50, iterations=20, budget_s=60)
STALL_S = 20
BENCHMARK = "all-reduce benchmark"
WORKERS = Path(__file__).parents[2] / "tests" / "allreduce"  # where `failing_worker` is


def timing(out: Path):
    """What is being timed at 4 MiB, for seconds, in the first launch in `out`, once it is."""
    files = LaunchFiles(out / "raw" / "allreduce", 1)
    return lambda: (now := files.reported()).get("doing") == "timing" and now["bytes"] == 4 << 20 and now


def to_rank_1(fault, number: int):
    return lambda now: [os.kill(process.pid, number) for process in fault.alive("worker", rank=1)]


def rows(summary) -> str:
    ok = summary[summary["status"] == "ok"]["backend"]
    return f"{len(ok)} of {len(summary)} rows: {', '.join(sorted(set(ok)))}"


def the_failed(summary) -> str:
    """The reason of the backend that failed; the other is all right."""
    by = summary.groupby("backend")["status"].agg(set)
    assert {"ok"} in list(by) and any("failed" in states for states in by), summary
    return summary[summary["status"] == "failed"]["reason"].iloc[0]


@pytest.mark.fault("a rank is killed (SIGKILL)", BENCHMARK)
def test_a_rank_that_is_killed_costs_one_launch_and_the_backend_that_was_running(fault, tmp_path):
    fault.meanwhile(timing(tmp_path), to_rank_1(fault, signal.SIGKILL))
    summary = measure(PLAN, tmp_path)
    reason = the_failed(summary)
    assert reason.startswith("launch 1 ended with exit status")
    fault.saw(reason, None, rows(summary))


@pytest.mark.fault("a rank is stopped (SIGSTOP) for longer than the time-out", BENCHMARK)
def test_a_rank_that_is_stopped_is_given_up_named_and_ended(fault, tmp_path):
    fault.meanwhile(timing(tmp_path), to_rank_1(fault, signal.SIGSTOP))
    summary = measure(PLAN, tmp_path, stall_s=STALL_S)
    reason = the_failed(summary)
    assert "stopped by a signal: process" in reason or "RankLost" in reason
    fault.saw(reason, None, rows(summary))


@pytest.mark.fault("a rank sleeps for ever", BENCHMARK)
def test_a_rank_that_sleeps_for_ever_leaves_its_stack_in_the_log(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(WORKERS), prepend=":")
    monkeypatch.setenv("TEST_FAILURES", "host/one_shot=sleeps")
    summary = measure(PLAN, tmp_path, worker="failing_worker", stall_s=STALL_S)
    log = (tmp_path / "raw" / "allreduce" / "launch-1.log").read_text()
    assert log.count("Current thread 0x") == 2, log  # of both ranks
    assert "in sleep_for_ever" in log
    reason = the_failed(summary)
    assert f"made no progress for {STALL_S} s" in reason
    fault.saw(reason, None, f"{rows(summary)}; both ranks' stacks in launch-1.log")


@pytest.mark.fault("torchrun is missing", BENCHMARK)
def test_without_torchrun_the_error_says_what_is_missing(fault, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("")  # a torch without torchrun, for the processes that this one starts
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(SymmlibError, match="No module named 'torch.distributed'") as caught:
        measure(PLAN, tmp_path / "out")
    fault.saw(str(caught.value), caught.value.exit_status, "a summary that says what was not reached")
    assert (tmp_path / "out" / "results" / "allreduce_summary.csv").is_file()


@pytest.mark.fault("what a rank reports is garbage, and rows of its results are damaged", BENCHMARK)
def test_damaged_rows_are_dropped_one_by_one_and_a_damaged_report_is_none(fault, tmp_path, capsys):
    files = LaunchFiles(tmp_path, 1)
    good = [f"1,1,gloo,2,float16,eager,2,{iteration},10.5" for iteration in (1, 2, 3)]
    bad = ["1,1,gloo,2,float16", "\x00\x00\x00", '"1,1,gloo', "1,1,gloo,2,float16,eager,2,4,1e", "x" * 99]
    lines = [",".join(SAMPLE_COLUMNS), good[0], *bad, *good[1:], "1,1,gl"]
    files.samples.write_text("\n".join(lines))
    assert list(read_samples(tmp_path)["iteration"]) == [1, 2, 3]
    said = capsys.readouterr().out
    assert "5 of 8 rows are damaged and left out" in said
    for text in ("", "{", "\x00", '{"doing": "tim'):
        files.progress.write_text(text)
        assert files.reported() == {}
    fault.saw(said.split("] ")[1], None, "3 of 8 rows: those that are whole")


@pytest.mark.fault("the clock jumps by an hour, forth and back, ten times a second", BENCHMARK)
def test_no_wait_and_no_time_depends_on_the_clock_of_the_day(fault, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n_time = time.time\n"
        "time.time = lambda: _time() + (3600 if int(time.monotonic() * 10) % 2 else -3600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    command = ["allreduce", "--sizes", "4KiB", "--launches", "1", "--backends", BACKENDS, "--out", tmp_path / "out"]
    running = fault.start(*command)
    assert running.wait(PATIENCE_S) == 0, fault.said()
    times = read_samples(tmp_path / "out" / "raw" / "allreduce")["time_us"]
    assert times.between(0, 60e6).all()
    fault.saw("none: nothing reads the clock of the day to wait or to time", 0, f"all {len(times)} times, none absurd")


def test_symmlib_reads_no_clock_that_may_jump():
    package = Path(__file__).parents[2] / "symmlib"
    assert not [path for path in package.rglob("*.py") if "time.time(" in path.read_text()]
