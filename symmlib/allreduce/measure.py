"""Run a plan: fresh torchrun launches, one after the other, then the tables of what they saw.

Called by `symmlib allreduce`, by the notebook 02_allreduce and by tests. The ranks themselves are in `worker.py`.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil

from symmlib import mps, patience
from symmlib.allreduce.launches import Launches, failed_check
from symmlib.allreduce.plan import ITEMSIZE, AllReducePlan
from symmlib.allreduce.refine import further_sizes, in_words, rivals, unresolved_bounds
from symmlib.allreduce.samples import read_checks, read_samples
from symmlib.allreduce.timing import LEAST_OPERATIONS, OPERATIONS_BYTES, ROTATED_GPU_BYTES
from symmlib.analysis.allreduce import summarize, timed
from symmlib.errors import SymmlibError, UsageError
from symmlib.progress import say
from symmlib.provenance import gpus, memory_bytes
from symmlib.runs import write_csv, write_text
from symmlib.sizes import format_size

WORKER = "symmlib.allreduce.worker"
COPIES = 24  # of the largest message that a rank holds while it checks one, float64 sums included
STALL_S = 120  # without progress, after which a launch is ended
CONTEXT_BYTES = 512 << 20  # of a rank on its GPU: CUDA's own, and the kernels of torch
SYMMETRIC_BYTES = 5 * (64 << 20)  # the buffers of our communicators and of vLLM's
GPU_COPIES = 6  # of the largest message that a rank holds on its GPU while it checks one


def measure(plan: AllReducePlan, out: Path, *, worker: str = WORKER, stall_s: float | None = None) -> pd.DataFrame:
    """Measure `plan` and return its summary, one row per backend and size (columns: `analysis.allreduce.summarize`).

    Of several world sizes each is measured in turn, with launches counted on. Writes `out/raw/allreduce/` (`plan.json`,
    and per launch its samples, checks and log), `out/results/allreduce.csv` (one row per timed all-reduce) and
    `out/results/allreduce_summary.csv`; what was measured is written also when this ends early, by Ctrl-C or by an
    error.

    A backend that is not there, raises or sums wrong costs its own rows: they say why. One that kills a launch, or
    leaves it without progress for `stall_s` seconds (by default 120, stretched by SYMMLIB_PATIENCE), ends that launch,
    whose log then holds the stacks of its ranks; the next goes on without it, and stands in for the one that was lost.
    A launch that dies of anything else raises `SymmlibError` with the end of its log, as does a plan of which nothing
    at all could be timed. `worker` is the module that every rank runs. Raises `UsageError` for a
    plan that this machine has not the GPUs or the memory for.
    """
    require_room(plan)
    raw = Path(out) / "raw" / "allreduce"
    stall_s = patience.seconds(STALL_S) if stall_s is None else stall_s
    with alone(raw):
        return _measure(plan, raw, Path(out) / "results", worker, stall_s)


def _measure(plan: AllReducePlan, raw: Path, results: Path, worker: str, stall_s: float) -> pd.DataFrame:
    for old in [*raw.glob("launch-*"), *raw.glob("plan*.json")]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()  # directories: an MPS keeps its logs in one
    write_text(raw / "plan.json", plan.dumps())
    try:
        _launch_all(plan, Launches(raw, worker, stall_s))
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
def alone(raw: Path) -> Iterator[None]:
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


def require_room(plan: AllReducePlan) -> None:
    """Raise `UsageError` for more ranks or larger messages than this machine has GPUs or memory for."""
    ranks, largest = max(plan.world_sizes), max(plan.sizes)
    if plan.device == "cuda":
        _require_gpus(plan)
        sharing = ranks if plan.one_gpu else 1
        needed = sharing * _gpu_bytes(len(plan.backends), largest)
        there, are = min(memory_bytes(gpus()), default=needed), "GB of GPU memory, and this GPU has"
    else:
        needed = ranks * largest * COPIES
        there, are = psutil.virtual_memory().available, "GB of memory, and free are"
    if needed > there:
        raise UsageError(
            f"{ranks} ranks with messages of {format_size(largest)} need about {needed / 1e9:.0f} {are} "
            f"{there / 1e9:.0f} GB. Choose smaller sizes."
        )
    cores = len(os.sched_getaffinity(0))
    if ranks > cores:
        say(f"{ranks} ranks share {cores} cores and take turns: times are those of a crowded machine")


def _gpu_bytes(backends: int, largest: int) -> int:
    """What a rank takes of its GPU's memory, generously; messages in turn as `timing.GpuLoop` holds them."""
    in_turn = max(2 * largest, min(LEAST_OPERATIONS * largest, ROTATED_GPU_BYTES), OPERATIONS_BYTES)
    return CONTEXT_BYTES + SYMMETRIC_BYTES + 2 * backends * in_turn + GPU_COPIES * largest


def _require_gpus(plan: AllReducePlan) -> None:
    import torch

    seen, ranks = torch.cuda.device_count(), max(plan.world_sizes)
    here = f"torch {torch.__version__} sees {seen or 'none'} here; `symmlib doctor` says what this machine can run"
    if plan.one_gpu:
        if not seen:
            raise UsageError(f"one_gpu needs a GPU for its ranks to share, and {here}.")
        mps.require()
    elif ranks > seen:
        raise UsageError(
            f"world_size {ranks} needs as many GPUs, and {here}. gloo, host/* and vllm/shm need none, and with one_gpu "
            "all ranks share one."
        )


def _launch_all(plan: AllReducePlan, launches: Launches) -> None:
    """World size by world size: the planned launches, then those of further sizes."""
    for number, one in enumerate(plan.each(), start=1):
        if len(plan.world_sizes) > 1:
            say(f"{one.world_size} ranks, world size {number} of {len(plan.world_sizes)}")
        left_out: list[str] = []  # what ends a launch of 8 ranks may serve 2
        launches.run(one, left_out)
        if one.refine_s:
            _refine(one, launches, left_out)


def _refine(plan: AllReducePlan, launches: Launches, left_out: list[str]) -> None:
    """Launches of further sizes, by the backends that are in question only, until nothing is, or the time is spent."""
    began, last_s = time.monotonic(), 0.0
    while True:
        so_far = _timed(plan, launches.raw)
        sizes = further_sizes(so_far, ITEMSIZE[plan.dtype])
        near = rivals(so_far) if sizes else set()
        names = tuple(name for name in plan.backends if name in near and name not in left_out)
        spent_s = time.monotonic() - began
        if not names or spent_s + last_s > plan.refine_s:
            if left := unresolved_bounds(so_far):
                ended = "the backends in question ended launches" if sizes else "closer sizes would say no more"
                why = "time for it is spent" if names else ended
                say(f"left unresolved, because {why}: {in_words(left)}")
            return
        say(f"further sizes around unresolved bounds: {', '.join(map(format_size, sizes))}")
        seed = plan.seed + launches.number
        lost: list[str] = []  # of `names` only: `run` ends when it has lost as many backends as it was given
        launches.run(dataclasses.replace(plan, backends=names, sizes=tuple(sizes), seed=seed), lost)
        left_out += lost
        last_s = time.monotonic() - began - spent_s


def _timed(plan: AllReducePlan, raw: Path) -> pd.DataFrame:
    """What has been timed on as many ranks as `plan` has."""
    samples = read_samples(raw)
    found = timed(samples, summarize(samples, _all_checks(plan, raw)))
    return found[found["world_size"] == plan.world_size]


def _write_results(plan: AllReducePlan, raw: Path, results: Path) -> pd.DataFrame:
    samples = read_samples(raw)
    summary = summarize(samples, _all_checks(plan, raw))
    orders = {"world_size": plan.world_sizes, "backend": plan.backends}
    summary = summary.sort_values(
        ["world_size", "backend", "bytes"],
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        ignore_index=True,
    )
    write_csv(results / "allreduce_summary.csv", summary)
    write_csv(results / "allreduce.csv", samples)
    return summary


def _all_checks(plan: AllReducePlan, raw: Path) -> pd.DataFrame:
    """What the launches left, and a row for each point that none of them reached."""
    checks = read_checks(raw)
    known = set(zip(checks["backend"], checks["world_size"], checks["bytes"], strict=True))
    not_reached = [
        failed_check(one, 0, backend, size, "not reached: the measurement ended before it")
        for one in plan.each()
        for backend in one.backends
        for size in one.sizes
        if (backend, one.world_size, size) not in known
    ]
    return pd.concat([checks, pd.DataFrame(not_reached)], ignore_index=True)
