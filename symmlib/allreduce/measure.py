"""Run a plan: fresh torchrun launches, one after the other, then the tables of what they saw.

Called by `symmlib allreduce`, by the notebook 02_allreduce and by tests. The ranks themselves are in `worker.py`.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil

from symmlib.allreduce.plan import ITEMSIZE, AllReducePlan
from symmlib.allreduce.refine import further_sizes, in_words, rivals, unresolved_bounds
from symmlib.allreduce.samples import CLOSING, LaunchFiles, read_checks, read_samples
from symmlib.analysis.allreduce import summarize, timed
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
    with _alone(raw):
        return _measure(plan, raw, Path(out) / "results", worker, stall_s)


def _measure(plan: AllReducePlan, raw: Path, results: Path, worker: str, stall_s: float) -> pd.DataFrame:
    for old in [*raw.glob("launch-*"), *raw.glob("plan*.json")]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()  # a directory is left where SIGKILL ended the suite
    try:
        _launch_all(plan, raw, worker, stall_s)
    except BaseException:
        try:
            _write_results(plan, raw, results)
        except (OSError, SymmlibError) as error:  # such as the full disk that ended the launch: that is told already
            say(f"what was measured could not be written: {error}")
        raise
    summary = _write_results(plan, raw, results)
    if not (summary["launches"] > 0).any():
        reasons = "\n".join(f"  {row.backend}: {row.reason}" for row in summary.drop_duplicates("backend").itertuples())
        raise SymmlibError(f"none of the backends could be measured:\n{reasons}\nLogs are in {raw}.")
    return summary


@contextlib.contextmanager
def _alone(raw: Path) -> Iterator[None]:
    """Keep a second measurement from mixing its samples into these; raises `UsageError` if one is under way."""
    write_text(raw / ".writable", "").unlink()  # makes the directory, or says why not
    directory = os.open(raw, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it whatever ends this process
    except BlockingIOError:
        os.close(directory)
        raise UsageError(f"another measurement writes to {raw}. Choose another directory, or wait.") from None
    try:
        yield
    finally:
        os.close(directory)


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
    """The planned launches, then those of further sizes, by the backends that are in question only."""
    left_out: list[str] = []
    number = _launch_sizes(plan, raw, worker, stall_s, 0, left_out)
    began, last_s = time.monotonic(), 0.0
    while plan.refine_s:
        so_far = _timed(plan, raw)
        sizes = further_sizes(so_far, ITEMSIZE[plan.dtype])
        spent_s = time.monotonic() - began
        if not sizes or spent_s + last_s > plan.refine_s:
            if left := unresolved_bounds(so_far):
                why = "time for it is spent" if sizes else "closer sizes would say no more"
                say(f"left unresolved, because {why}: {in_words(left)}")
            break
        say(f"further sizes around unresolved bounds: {', '.join(map(format_size, sizes))}")
        names = tuple(name for name in plan.backends if name in rivals(so_far))
        further = dataclasses.replace(plan, backends=names, sizes=tuple(sizes), seed=plan.seed + number)
        number = _launch_sizes(further, raw, worker, stall_s, number, left_out)
        last_s = time.monotonic() - began - spent_s


def _launch_sizes(plan: AllReducePlan, raw: Path, worker: str, stall_s: float, number: int, left_out: list[str]) -> int:
    """Start launches, counted on from `number`, until as many as planned have ended well; returns the last number.

    A backend that ended a launch is added to `left_out`, and the next ones go on without it.
    """
    path = raw / (f"plan-{number + 1}.json" if number else "plan.json")
    write_text(path, plan.dumps())
    done, seconds = 0, None
    while done < plan.launches and len(left_out) < len(plan.backends):
        number += 1
        say(f"launch {done + 1} of {plan.launches}" + (f" (about {duration(seconds)} each)" if seconds else ""))
        started = time.monotonic()
        files = LaunchFiles(raw, number)
        arguments = [worker, str(path), str(number), str(raw), "--without", ",".join(left_out)]
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
    return number


def _timed(plan: AllReducePlan, raw: Path) -> pd.DataFrame:
    samples = read_samples(raw)
    return timed(samples, summarize(samples, _all_checks(plan, raw)))


def _launch(plan: AllReducePlan, files: LaunchFiles, arguments: list[str], stall_s: float) -> tuple[str, str]:
    """Run one launch to its end. Returns what became of it ('' if all went well) and the end of its log."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    logs = files.log.with_suffix(".torchrun")  # torchrun makes a directory for logs that nobody asked for
    argv += [f"--nproc-per-node={plan.world_size}", f"--log-dir={logs}", "-m", *arguments]
    # One thread a rank: a second would run on another rank's core. Nothing leaves the loopback interface.
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, logs, ignore_errors=True)
        group = stack.enter_context(ProcessGroup(argv, log=files.log, env=env))
        seen, moved = {}, time.monotonic()
        while group.poll() is None:
            now = files.reported()
            if now != seen:
                if now.get("bytes") not in (None, seen.get("bytes")):
                    position = f"{plan.sizes.index(now['bytes']) + 1} of {len(plan.sizes)}"
                    say(f"  {format_size(now['bytes'])}, size {position}")
                seen, moved = now, time.monotonic()
            elif time.monotonic() - moved > stall_s:
                return f"made no progress for {stall_s:g} s{_first_error(group)}", group.tail()
            time.sleep(POLL_S)
        status = group.poll()
        return f"ended with exit status {status}{_first_error(group)}" if status else "", group.tail()


def _first_error(group: ProcessGroup) -> str:
    """The log's first error in parentheses, such as to be appended to what became of a launch; else empty."""
    return f" ({found})" if (found := group.first_error()) else ""


def _write_results(plan: AllReducePlan, raw: Path, results: Path) -> pd.DataFrame:
    samples = read_samples(raw)
    summary = summarize(samples, _all_checks(plan, raw))
    order = {name: position for position, name in enumerate(plan.backends)}
    summary = summary.sort_values(["backend", "bytes"], key=lambda column: column.replace(order), ignore_index=True)
    write_csv(results / "allreduce_summary.csv", summary)
    write_csv(results / "allreduce.csv", samples)
    return summary


def _all_checks(plan: AllReducePlan, raw: Path) -> pd.DataFrame:
    """What the launches left, and a row for each point that none of them reached."""
    checks = read_checks(raw)
    known = set(zip(checks["backend"], checks["bytes"], strict=True))
    not_reached = [
        _check_row(plan, 0, backend, size, "not reached: the measurement ended before it")
        for backend in plan.backends
        for size in plan.sizes
        if (backend, size) not in known
    ]
    return pd.concat([checks, pd.DataFrame(not_reached)], ignore_index=True)


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
