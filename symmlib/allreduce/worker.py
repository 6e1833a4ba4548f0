"""One rank of one launch: checks and times every backend at every size, and keeps what it has as it goes.

`measure.py` starts it as `torchrun -m symmlib.allreduce.worker PLAN.json LAUNCH DIRECTORY [--without NAMES]`; rank 0
writes the launch's files (`samples.LaunchFiles`) into DIRECTORY.
"""

import argparse
import faulthandler
import functools
import gc
import os
import random
import signal
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib import patience
from symmlib.allreduce.correctness import Sums, check, differing, make_sums
from symmlib.allreduce.plan import ROUTER, AllReducePlan
from symmlib.allreduce.samples import CLOSING, OPENING, LaunchFiles
from symmlib.allreduce.timing import PROBES, CpuLoop, GpuLoop, Messages, iterations_that_fit
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.communicators.gpu import describe
from symmlib.communicators.host import HostCommunicator
from symmlib.errors import RankLost, SymmlibError
from symmlib.routing import Router, RoutingTable
from symmlib.sizes import format_size
from symmlib.torchrun import join

# For one all-reduce of a measured backend, after which it has failed.
GLOO_TIMEOUT = timedelta(seconds=patience.seconds(60))
# For a rank to come to one of ours: less than `measure` waits for progress, so that it says why.
HOST_TIMEOUT_S = patience.seconds(30)
START_TIMEOUT_S = patience.seconds(60)  # for a rank to come to a common start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("launch", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--without", default="", help="backends of the plan to leave out, separated by commas")
    arguments = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # `processes.dump_stacks` asks a launch that hangs where it does
    plan = AllReducePlan.loads(arguments.plan.read_text())
    names = [name for name in plan.backends if name not in arguments.without.split(",")]

    torch.set_num_threads(1)
    join(GLOO_TIMEOUT)
    try:
        Launch(plan, names, arguments.launch, arguments.directory).run()
    finally:
        dist.destroy_process_group()


def pin(rank: int, world_size: int) -> list[int]:
    """Give the calling thread cores of its own where there are enough: ranks that spin must not share one.

    Called when all backends are open, so that their helper threads stay free to run anywhere: gloo answers up to ten
    times slower when its threads have to take turns with the thread that waits for them.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // world_size
    if share:
        cores = cores[rank * share : (rank + 1) * share]
        os.sched_setaffinity(0, cores)
    return cores


class Launch:
    """What a rank holds while it measures. Every method is a collective unless it says otherwise."""

    def __init__(self, plan: AllReducePlan, names: list[str], launch: int, directory: Path):
        self.plan, self.names, self.files = plan, names, LaunchFiles(directory, launch)
        self.known = {"launch": launch, "world_size": plan.world_size, "dtype": plan.dtype, "mode": plan.mode}
        self.rank, self.dtype = dist.get_rank(), getattr(torch, plan.dtype)
        self.device = torch.device("cpu")
        if plan.device == "cuda":
            self.device = torch.device("cuda", 0 if plan.one_gpu else int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        # Agreement never travels over the group that is measured: a backend that failed may have left that one askew.
        self.control = dist.new_group(backend="gloo")
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        self._report(doing=OPENING)
        self.backends = self._open()
        self.starter = self._open_starter()
        gpu = describe(self.control, self.device) if self.device.type == "cuda" else None
        self.setting = {"device": gpu.key if gpu else "cpu", "multicast": bool(gpu and not gpu.no_multicast)}
        cores = pin(self.rank, self.plan.world_size)
        print(f"rank {self.rank} of {self.plan.world_size} runs on cores {cores}", flush=True)
        for size in self.plan.sizes:
            self._measure(size)
        self._report(doing=CLOSING)
        self.starter.close()
        close_backends(self.backends)

    def _open(self) -> dict:
        """The plan's backends by name. With a router its own are measured, so that it is compared with the very same
        memory: where that lies differs from one communicator to the next, and by more than the router takes."""
        opened, beside = {}, self.plan.beside_a_model
        if ROUTER in self.names:
            table = RoutingTable.load(self.plan.routing_table)
            router = Router(dist.group.WORLD, table, device=self.device, mode=self.plan.mode, beside_a_model=beside)
            opened = {**router.backends, ROUTER: router}
        missing = [name for name in self.names if name not in opened]
        opened |= open_backends(
            missing, dist.group.WORLD, self.device, host_timeout_s=HOST_TIMEOUT_S, beside_a_model=beside
        )
        return {name: opened[name] for name in self.names}

    def _measure(self, size: int) -> None:
        numel = size // self.dtype.itemsize
        sums = make_sums(
            numel, self.dtype, rank=self.rank, world_size=self.plan.world_size, seed=self.plan.seed, device=self.device
        )
        rows = {name: self._check(name, size, sums) for name in self.names}
        right = [name for name, row in rows.items() if row["status"] == "ok"]
        loops = self._loops(right, size, sums)
        iterations = {name: self._probe(name, size, loops[name]) for name in right}
        samples: list[tuple[int, str, list[int]]] = []
        for number in range(1, self.plan.rounds + 1):
            order = sorted(iterations)
            # Seeded by what all ranks know, so that all have the same order, and no two rounds share a seed.
            random.Random(f"{self.plan.seed} {self.known['launch']} {size} {number}").shuffle(order)
            for name in order:
                timing = functools.partial(self._time, loops[name], iterations[name])
                times = self._attempt(name, size, "timing", timing)
                if times is not None:
                    samples.append((number, name, times))
        for name in right:
            self._attempt(
                name, size, "checking what was timed", functools.partial(self._check_timed, loops[name], sums)
            )
        rows |= {name: rows[name] | self._failure(name) for name in right if name in self.failed}
        self._report(doing="writing results")  # a disk that is full is no backend's fault
        self._write(size, samples, rows)

    def _check(self, name: str, size: int, sums: Sums) -> dict:
        """What the checks say of one backend at one size: the columns of `samples.CHECK_COLUMNS` from `status` on."""
        support = self._attempt(name, size, "checking", lambda: self.backends[name].supports(sums.integers))
        if support is None:
            return self._failure(name)
        refusals = [reason for reason in self._gather(None if support else support.reason) if reason is not None]
        if refusals:
            return {"status": "unavailable", "reason": refusals[0]}
        found = self._attempt(name, size, "checking", lambda: check(self.backends[name], sums))
        if found is None:
            return self._failure(name)
        checks = self._gather(found)
        wrong = sum(one.wrong for one in checks)
        return {
            "status": "failed" if wrong else "ok",
            "reason": f"{wrong} elements wrong at {format_size(size)}, so it was not timed" if wrong else "",
            "wrong": wrong,
            "max_abs_error": max(one.max_abs_error for one in checks),
            "bitwise_equal_across_ranks": len({one.digest for one in checks}) == 1,
        }

    def _loops(self, names: list[str], size: int, sums: Sums) -> dict[str, CpuLoop | GpuLoop | None]:
        """What is timed, by backend; None for one that fails as it is captured."""
        offset = int(self.plan.misaligned)
        if self.device.type == "cpu":
            messages = Messages(sums.noise, offset=offset)
            return {name: CpuLoop(self.backends[name], messages) for name in names}
        make = functools.partial(GpuLoop, source=sums.integers, mode=self.plan.mode, offset=offset)
        return {
            name: self._attempt(name, size, "capturing", functools.partial(make, self.backends[name])) for name in names
        }

    def _check_timed(self, loop: CpuLoop | GpuLoop, sums: Sums) -> bool:
        """On a GPU: that what ran between the events has summed, in a captured graph, too. Raises if it has not."""
        wrong = sum(differing(out, sums.integer_sum) for out in getattr(loop, "outputs", []))
        if wrong:
            raise SymmlibError(f"{wrong} elements were wrong when it was timed in mode {self.plan.mode}")
        return True

    def _probe(self, name: str, size: int, loop: CpuLoop | GpuLoop) -> int:
        """Iterations per round that fit the plan's budget: the same number on all ranks."""

        def probe() -> int:
            start = time.perf_counter_ns()
            self._time(loop, PROBES)
            return (time.perf_counter_ns() - start) // PROBES

        slowest_ns = max(self._gather(self._attempt(name, size, "warming up", probe) or 0))
        plan = self.plan
        return iterations_that_fit(slowest_ns, budget_s=plan.budget_s, rounds=plan.rounds, most=plan.iterations)

    def _time(self, loop: CpuLoop | GpuLoop, iterations: int) -> list[int]:
        gc.disable()  # a collection in one rank would be every rank's time
        try:
            return loop.time(iterations, self.starter.barrier)
        finally:
            gc.enable()

    def _attempt(self, name: str, size: int, doing: str, action):
        """The result of `action`, or None if the backend has failed, now or before, on any rank.

        Whatever one backend raises costs that backend alone: its reason is kept, and no rank runs it again.
        """
        if name in self.failed:
            return None
        self._report(doing=doing, backend=name, bytes=size)
        result, reason = None, None
        try:
            result = action()
        except Exception as error:  # a measured backend may raise anything; its row says what it was
            reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
            print(f"rank {self.rank}, {name}, {doing} at {format_size(size)}: {reason}", flush=True)
            traceback.print_exc()  # now, not after the gather: the launch may be ended while others wait for this rank
        reasons = [(rank, one) for rank, one in enumerate(self._gather(reason)) if one is not None]
        if not reasons:
            return result
        # Ranks that waited in vain for another tell of its absence; the cause comes first.
        rank, reason = min(reasons, key=lambda one: one[1].startswith(RankLost.__name__))
        self.failed[name] = f"rank {rank}, {doing} at {format_size(size)}: {reason}"
        if self.rank == 0:
            print(f"{name} failed and is left out from here on: {self.failed[name]}", flush=True)
        # A rank that raised may have missed a start that others waited for: meet anew.
        self.starter.close()
        self.starter = self._open_starter()
        return None

    def _failure(self, name: str) -> dict:
        """The check of a backend that has failed; not a collective."""
        return {"status": "failed", "reason": self.failed[name]}

    def _open_starter(self) -> HostCommunicator:
        """Its barrier starts all ranks within a microsecond; gloo's would leave them tens of microseconds apart."""
        starter = HostCommunicator(self.control, timeout_s=START_TIMEOUT_S)
        if not starter.support:
            raise SymmlibError(f"ranks cannot start together to be timed: {starter.support.reason}")
        return starter

    def _gather(self, value) -> list:
        """`value` of every rank, in rank order."""
        values = [None] * self.plan.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def _write(self, size: int, samples: list[tuple[int, str, list[int]]], rows: dict[str, dict]) -> None:
        """Append what is known about one size; only now do times cross ranks, so that no gather disturbs a time."""
        slowest = torch.tensor([time_ns for *_, times in samples for time_ns in times], dtype=torch.int64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=self.control)
        if self.rank != 0:
            return
        known, slowest_us = self.known | {"bytes": size}, iter((slowest / 1000).tolist())
        self.files.append_samples(
            [
                known | {"round": number, "backend": name, "iteration": iteration, "time_us": next(slowest_us)}
                for number, name, times in samples
                for iteration in range(1, len(times) + 1)
            ]
        )
        known |= self.setting
        self.files.append_checks([known | {"backend": name} | row for name, row in rows.items()])

    def _report(self, **now) -> None:
        """Say what is running: done by rank 0; not a collective."""
        if self.rank == 0:
            self.files.report(**now)


if __name__ == "__main__":
    main()
