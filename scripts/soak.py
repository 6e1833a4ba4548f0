"""Sum for a long time, check every sum, and watch that nothing grows.

    .venv/bin/python scripts/soak.py [OPERATIONS] [--ranks 4] [--minutes M] [--seed SEED]

Real ranks all-reduce through the host communicator (both algorithms) with random dtypes, alignments and sizes, drawn
from `SIZES` random ones (what is once decided about a size is kept: each further size takes half a KiB a rank). 10
million times by default, or as long as --minutes says. Inputs are whole numbers whose sum is exact, and every sum is
compared: in full each hundredth time and below 256 elements, else at 32 places and at the end. Each `ROUTERS_EVERY`
operations a router is made while host backends are missing at random on random ranks, sums by its table, which lacks
dtypes at random, and is closed again: its ranks must agree on what is there. After each tenth rank 0 prints memory
(RSS), open descriptors and names in /dev/shm, of all ranks together; the last tenth must need no more than the first,
save `ROUTER_KIB` for each router.
Exits with 1 for a wrong sum and for growth.
"""

import argparse
import logging
import os
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from symmlib.communicators import base, catalog
from symmlib.communicators.host import HostCommunicator
from symmlib.routing import Route, Router, RoutingTable, Table
from symmlib.torchrun import loopback_store

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LARGEST = 1 << 15  # elements
SIZES = 300
ROUTERS_EVERY = 1000
ROUTER_KIB = 64  # what a router that was made and closed may leave in a rank
TOLERATED_MIB = 8  # between the first tenth and the last, of all ranks together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operations", nargs="?", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=0, help="at most so long (default: as long as it takes)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "lo"}
    store = loopback_store(arguments.ranks)
    multiprocessing.start_processes(rank_main, (arguments, store.port), nprocs=arguments.ranks, start_method="spawn")


def rank_main(rank: int, arguments: argparse.Namespace, port: int) -> None:
    torch.set_num_threads(1)
    logging.getLogger("symmlib").setLevel(logging.ERROR)  # each router says what it lacks: here that is the point
    store = dist.TCPStore("127.0.0.1", port, arguments.ranks, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=arguments.ranks, timeout=timedelta(minutes=10))
    Soak(rank, arguments).run()
    dist.destroy_process_group()


class Soak:
    """What one rank does. `common` draws the same on every rank, `own` does not."""

    def __init__(self, rank: int, arguments: argparse.Namespace):
        self.rank, self.ranks, self.operations = rank, arguments.ranks, arguments.operations
        self.deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
        self.limit_s = 60 * arguments.minutes
        self.sizes = [int(LARGEST ** random.Random(number).random()) for number in range(SIZES)]  # octaves alike
        self.common, self.own = random.Random(arguments.seed), random.Random(f"{arguments.seed} {rank}")
        numbers = torch.arange(LARGEST, dtype=torch.float32) % 16
        self.inputs = {dtype: (numbers + rank).to(dtype) for dtype in DTYPES}  # of up to 19: sums below 256 are exact
        total = numbers * self.ranks + sum(range(self.ranks))
        self.sums = {dtype: total.to(dtype) for dtype in DTYPES}
        self.outputs = {dtype: torch.empty(LARGEST, dtype=dtype) for dtype in DTYPES}
        self.done = self.routers = self.refused = 0

    def run(self) -> None:
        communicator = HostCommunicator(dist.group.WORLD)
        backends = list(communicator.backends.values())
        for backend in backends:  # every size and dtype once, so that what is kept about them is there
            for numel in self.sizes:
                for dtype in DTYPES:
                    backend.all_reduce(self.inputs[dtype][:numel], out=self.outputs[dtype][:numel])
        self._route()
        figures, began = [], time.monotonic()
        for tenth in range(1, 11):
            while not self._is_over(tenth, began):
                self._sum(self.common.choice(backends).all_reduce, ROUTERS_EVERY)
                self._route()
            figures.append(self._watch(tenth, time.monotonic() - began))
        communicator.close()
        if self.rank == 0:
            grown = figures[-1][0] - figures[0][0]
            more = [last - second for last, second in zip(figures[-1][1:], figures[0][1:], strict=True)]
            print(f"every sum was right; memory grew by {grown:.1f} MiB since the first tenth", flush=True)
            if grown > TOLERATED_MIB + self.routers * self.ranks * ROUTER_KIB / 1024 or any(one > 0 for one in more):
                sys.exit("something grows")

    def _is_over(self, tenth: int, began: float) -> bool:
        """Whether this tenth of the operations, or of the time, is over: as rank 0 sees it."""
        over = [self.done >= self.operations * tenth / 10]
        if self.limit_s:
            over = [over[0] or time.monotonic() - began > self.limit_s * tenth / 10]
        dist.broadcast_object_list(over, src=0)
        return over[0]

    def _sum(self, all_reduce, times: int) -> None:
        for _ in range(min(times, max(1, self.operations // 10))):
            dtype = DTYPES[int(3 * self.common.random())]
            numel = self.sizes[int(SIZES * self.common.random())]
            start = int((LARGEST - numel) * self.common.random())
            mine, out = self.inputs[dtype][start : start + numel], self.outputs[dtype][start : start + numel]
            all_reduce(mine, out=out)
            wanted = self.sums[dtype][start : start + numel]
            step = 1 if numel < 256 or self.done % 100 == 0 else numel // 32
            same = torch.equal(out[::step], wanted[::step]) and out[-1] == wanted[-1]
            if not same:
                raise SystemExit(f"rank {self.rank}, operation {self.done}: {numel} elements of {dtype} summed wrong")
            out[::step] = -1  # so that a sum that never came is found out
            self.done += 1

    def _route(self) -> None:
        """A router of whose backends some are missing: on every rank as soon as they are on one."""
        missing = {name for name in ("host/one_shot", "host/two_shot") if self.own.random() < 0.1}
        opened = catalog._or_reasons

        def some_missing(backends: dict) -> dict:
            for name, backend in backends.items():
                said = base.no("the soak test took it away") if name in missing else backend.support
                backend.support = base.agree(dist.group.WORLD, said)
            if not any(backend.support for backend in backends.values()):
                next(iter(backends.values())).close()  # as a communicator does itself that finds no support
            return opened(backends)

        catalog._or_reasons = some_missing
        try:
            routes = (Route(1024, "host/one_shot"), Route(8192, "host/two_shot"), Route(None, "gloo"))
            covered = [name for name in ("bfloat16", "float16", "float32") if self.common.random() < 0.8]
            tables = [Table("cpu", self.ranks, name, "eager", False, "soak", routes) for name in covered]
            router = Router(dist.group.WORLD, RoutingTable(tuple(tables)), device="cpu")
        finally:
            catalog._or_reasons = opened
        self._sum(router.all_reduce, 20)
        self.refused += sum(isinstance(backend, base.Unavailable) for backend in router.backends.values())
        self.routers += 1
        router.close()

    def _watch(self, tenth: int, seconds: float) -> tuple[float, int, int]:
        """Resident memory in MiB, open descriptors and names in /dev/shm, of all ranks together."""
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
        mine = (resident, len(os.listdir("/proc/self/fd")))
        everyone = [mine] * self.ranks
        dist.all_gather_object(everyone, mine)
        memory, descriptors = sum(one[0] for one in everyone), sum(one[1] for one in everyone)
        maps = Path("/proc/self/maps").read_text()
        names = len({line.split()[-1] for line in maps.splitlines() if "/dev/shm/" in line})
        if self.rank == 0:
            print(
                f"tenth {tenth:2}: {self.done} sums in {seconds:.0f} s, {self.routers} routers "
                f"({self.refused} backends missing): {memory:.1f} MiB, {descriptors} descriptors, {names} names in "
                "/dev/shm", flush=True,
            )  # fmt: skip
        return memory, descriptors, names


if __name__ == "__main__":
    main()
