"""Run a plan: fresh torchrun launches, one after the other, then the tables of what they saw.

Called by `symmlib allreduce`, by the notebook 02_allreduce and by tests. The ranks themselves are in `worker.py`.
"""

import os
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

from symmlib.allreduce.plan import AllReducePlan
from symmlib.allreduce.samples import CLOSING, LaunchFiles, read_checks, read_samples
from symmlib.analysis.allreduce import summarize
from symmlib.errors import SymmlibError, UsageError
from symmlib.processes import ProcessGroup
from symmlib.progress import duration, say
from symmlib.runs import write_csv, write_text
from symmlib.sizes import format_size

WORKER = "symmlib.allreduce.worker"
COPIES = 24  # of the largest message that a rank holds while it checks one, float64 sums included
POLL_S = 0.2


def measure(plan: AllReducePlan, out: Path, *, worker: str = WORKER, stall_s: float = 120) -> pd.DataFrame:
    """Measure `plan` and return its summary, one row per backend and size (columns: `analysis.allreduce.summarize`).

    Writes `out/raw/allreduce/` (`plan.json`, and per launch its samples, checks and log), `out/results/allreduce.csv`
    (one row per timed all-reduce) and `out/results/allreduce_summary.csv`; what was measured is written also when this
    ends early, by Ctrl-C or by an error.

    A backend that is not there, raises or sums wrong costs its own rows: they say why. One that kills a launch, or
    leaves it without progress for `stall_s` seconds, ends that launch; the next goes on without it, and stands in for
    the one that was lost. A launch that dies of anything else raises `SymmlibError` with the end of its log, as does a
    plan of which nothing at all could be timed. `worker` is the module that every rank runs.
    """
    _require_room(plan)
    raw = Path(out) / "raw" / "allreduce"
    for old in raw.glob("launch-*"):
        old.unlink()
    write_text(raw / "plan.json", plan.dumps())
    try:
        _launch_all(plan, raw, worker, stall_s)
    finally:
        summary = _write_results(plan, raw, Path(out) / "results")
    if not (summary["launches"] > 0).any():
        reasons = "\n".join(f"  {row.backend}: {row.reason}" for row in summary.drop_duplicates("backend").itertuples())
        raise SymmlibError(f"none of the backends could be measured:\n{reasons}\nLogs are in {raw}.")
    return summary


def _require_room(plan: AllReducePlan) -> None:
    if plan.device == "cuda":
        import torch

        if plan.world_size > torch.cuda.device_count():
            raise UsageError(
                f"world_size {plan.world_size} needs as many GPUs, and this machine has {torch.cuda.device_count()}. "
                "`symmlib doctor` says what it can run; gloo, host/* and vllm/shm need no GPU."
            )
        raise UsageError("timing on GPUs is not built yet; device 'cpu' with gloo, host/* and vllm/shm is.")
    largest = max(plan.sizes)
    needed, free = plan.world_size * largest * COPIES, psutil.virtual_memory().available
    if needed > free:
        raise UsageError(
            f"{plan.world_size} ranks with messages of {format_size(largest)} need about {needed / 1e9:.0f} GB of "
            f"memory, and {free / 1e9:.0f} GB are free. Choose smaller sizes."
        )
    cores = len(os.sched_getaffinity(0))
    if plan.world_size > cores:
        say(f"{plan.world_size} ranks share {cores} cores and take turns: times are those of a crowded machine")


def _launch_all(plan: AllReducePlan, raw: Path, worker: str, stall_s: float) -> None:
    """Start launches until as many as planned have ended well; leave out backends that ended one."""
    left_out: list[str] = []
    done, number, seconds = 0, 0, None
    while done < plan.launches and len(left_out) < len(plan.backends):
        number += 1
        say(f"launch {done + 1} of {plan.launches}" + (f" (about {duration(seconds)} each)" if seconds else ""))
        started = time.monotonic()
        files = LaunchFiles(raw, number)
        arguments = [worker, str(raw / "plan.json"), str(number), str(raw), "--without", ",".join(left_out)]
        ended, log_tail = _launch(plan, files, arguments, stall_s)
        now = files.reported()
        if not ended or now.get("doing") == CLOSING:  # what dies there has measured everything
            if ended:
                say(f"launch {number} {ended} after its last measurement; its log is {files.log}")
            done, seconds = done + 1, time.monotonic() - started
            files.progress.unlink(missing_ok=True)
            continue
        if "backend" not in now:
            doing = now.get("doing", "starting")
            raise SymmlibError(f"launch {number} {ended} while {doing}. The end of {files.log}:\n{log_tail}")
        reason = f"launch {number} {ended} while {now['doing']} {now['backend']} at {format_size(now['bytes'])}"
        say(f"{reason}. Going on without {now['backend']}; the log is {files.log}")
        left_out.append(now["backend"])
        files.append_checks(
            [
                _check_row(plan, number, now["backend"], size, f"{reason}; see {files.log.name}")
                for size in plan.sizes[plan.sizes.index(now["bytes"]) :]
            ]
        )


def _launch(plan: AllReducePlan, files: LaunchFiles, arguments: list[str], stall_s: float) -> tuple[str, str]:
    """Run one launch to its end. Returns what became of it ('' if all went well) and the end of its log."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    argv += [f"--nproc-per-node={plan.world_size}", "-m", *arguments]
    # One thread a rank: a second would run on another rank's core. Nothing leaves the loopback interface.
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
    with ProcessGroup(argv, log=files.log, env=env) as group:
        seen, moved = {}, time.monotonic()
        while group.poll() is None:
            now = files.reported()
            if now != seen:
                if now.get("bytes") not in (None, seen.get("bytes")):
                    position = f"{plan.sizes.index(now['bytes']) + 1} of {len(plan.sizes)}"
                    say(f"  {format_size(now['bytes'])}, size {position}")
                seen, moved = now, time.monotonic()
            elif time.monotonic() - moved > stall_s:
                return f"made no progress for {stall_s:g} s", group.tail()
            time.sleep(POLL_S)
        return "" if group.poll() == 0 else f"ended with exit status {group.poll()}", group.tail()


def _write_results(plan: AllReducePlan, raw: Path, results: Path) -> pd.DataFrame:
    samples, checks = read_samples(raw), read_checks(raw)
    known = set(zip(checks["backend"], checks["bytes"], strict=True))
    not_reached = [
        _check_row(plan, 0, backend, size, "not reached: the measurement ended before it")
        for backend in plan.backends
        for size in plan.sizes
        if (backend, size) not in known
    ]
    summary = summarize(samples, pd.concat([checks, pd.DataFrame(not_reached)], ignore_index=True))
    order = {name: position for position, name in enumerate(plan.backends)}
    summary = summary.sort_values(["backend", "bytes"], key=lambda column: column.replace(order), ignore_index=True)
    write_csv(results / "allreduce.csv", samples)
    write_csv(results / "allreduce_summary.csv", summary)
    return summary


def _check_row(plan: AllReducePlan, launch: int, backend: str, size: int, reason: str) -> dict:
    """The row of a point that has no time because of `reason`."""
    return {
        "launch": launch,
        "backend": backend,
        "world_size": plan.world_size,
        "dtype": plan.dtype,
        "mode": plan.mode,
        "bytes": size,
        "device": plan.device,
        "multicast": False,
        "status": "failed",
        "reason": reason,
    }
