"""Sum for a long time, check every sum, and watch that nothing grows.

    .venv/bin/python scripts/soak.py [OPERATIONS] [--ranks 4] [--minutes M] [--seed SEED]

Real ranks all-reduce through the host communicator, each time by one of its two algorithms, with a dtype, a size (few
bytes as often as many: octaves alike) and alignments drawn at random, a quarter of them in place. 10 million times by
default, or as long as --minutes says. Inputs are whole numbers whose sum is exact; every byte of every sum is compared,
then overwritten, so that a sum that never came is found out. The communicator's slots are small, so that large messages
travel in up to eight chunks.

Now and then (`ROUTERS_EVERY`) a router is made while host backends are missing at random on random ranks, sums by its
table, which lacks dtypes at random, and is closed again: its ranks must agree on what is there. After each tenth rank 0
prints memory (RSS, once what is free went back to the system), open descriptors and names in /dev/shm, of all ranks
together; the last tenth may need no more than the first, but for `TOLERATED_MIB`.
Exits with 1 for a wrong sum and for growth.
"""

import argparse
import ctypes
import gc
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

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
LARGEST = 1 << 15  # elements
SLOT_BYTES = 1 << 14
SIZES = 300  # what is once decided about a size is kept: each further one takes half a KiB a rank
PASS = 250  # operations between two looks at the clock
ROUTERS_EVERY = 2000  # on average, and one each tenth
REMEMBERED = 2000  # collectives that torch's flight recorder keeps (TORCH_FR_BUFFER_SIZE), about 1 KiB each
TOLERATED_MIB = 1  # a rank
POISON = 0xFF  # in every byte: NaN in each dtype

libc = ctypes.CDLL(None)
libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


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


class Kind:
    """A dtype's numbers: what this rank puts in, what all together must get, and room for it."""

    def __init__(self, dtype: torch.dtype, rank: int, ranks: int):
        numbers = torch.randint(16, (LARGEST,), generator=torch.Generator().manual_seed(0))
        self.inputs = (numbers + rank).to(dtype)  # up to 22, so that sums of 8 ranks stay below 256 and are exact
        self.wanted = (numbers * ranks + sum(range(ranks))).to(dtype)
        self.outputs = torch.empty(LARGEST, dtype=dtype)
        self.itemsize = dtype.itemsize


class Soak:
    """What one rank does. `common` draws the same on every rank, `own` does not."""

    def __init__(self, rank: int, arguments: argparse.Namespace):
        self.rank, self.ranks, self.operations = rank, arguments.ranks, arguments.operations
        self.limit_s = 60 * arguments.minutes
        self.sizes = [int(LARGEST ** random.Random(number).random()) for number in range(SIZES)]
        self.common, self.own = random.Random(arguments.seed), random.Random(f"{arguments.seed} {rank}")
        self.kinds = [Kind(dtype, rank, self.ranks) for dtype in DTYPES.values()]
        self.done = self.routers = self.refused = 0

    def run(self) -> None:
        communicator = HostCommunicator(dist.group.WORLD, slot_bytes=SLOT_BYTES)
        algorithms = [backend.all_reduce for backend in communicator.backends.values()]
        self._warm_up(algorithms)
        self._watch(0, 0.0)
        figures, began = [], time.monotonic()
        for tenth in range(1, 11):
            self._route()
            while not self._is_over(tenth, began):
                self._sum(algorithms, PASS)
                if self.common.random() < PASS / ROUTERS_EVERY:
                    self._route()
            figures.append(self._watch(tenth, time.monotonic() - began))
        communicator.close()
        if self.rank == 0:
            grown = figures[-1][0] - figures[0][0]
            more = [last - first for last, first in zip(figures[-1][1:], figures[0][1:], strict=True)]
            print(f"every sum was right; memory grew by {grown:.1f} MiB since the first tenth", flush=True)
            if grown > TOLERATED_MIB * self.ranks or any(one > 0 for one in more):
                sys.exit("something grows")

    def _warm_up(self, algorithms: list) -> None:
        """Do once what leaves something for good: sum each size and dtype, and fill torch's memory of collectives."""
        for all_reduce in algorithms:
            for numel in self.sizes:
                for kind in self.kinds:
                    all_reduce(kind.inputs[:numel], out=kind.outputs[:numel])
        for kind in self.kinds:
            ctypes.memset(kind.outputs.data_ptr(), POISON, kind.outputs.nbytes)
        self._route()
        for _ in range(REMEMBERED // 2):
            dist.all_gather_object([None] * self.ranks, True)  # two collectives: of sizes, then of objects

    def _is_over(self, tenth: int, began: float) -> bool:
        """Whether this tenth of the operations, or of the time, is over: as rank 0 sees it."""
        over = [self.done >= self.operations * tenth / 10]
        if self.limit_s:
            over = [over[0] or time.monotonic() - began > self.limit_s * tenth / 10]
        dist.broadcast_object_list(over, src=0)
        return over[0]

    def _sum(self, algorithms: list, times: int) -> None:
        """Sum `times` times by any of `algorithms`. Lean: what it does besides decides how many sums there are."""
        draw, kinds, sizes = self.common.random, self.kinds, self.sizes
        for _ in range(times):
            kind = kinds[int(3 * draw())]
            numel = sizes[int(SIZES * draw())]
            start, to = int((LARGEST - numel) * draw()), int((LARGEST - numel) * draw())
            mine, out = kind.inputs[start : start + numel], kind.outputs[to : to + numel]
            if draw() < 0.25:
                mine = out.copy_(mine)
            algorithms[int(len(algorithms) * draw())](mine, out=out)
            there, wanted = out.data_ptr(), kind.wanted.data_ptr() + start * kind.itemsize
            if libc.memcmp(there, wanted, numel * kind.itemsize):
                raise SystemExit(f"rank {self.rank}, operation {self.done}: {numel} of {out.dtype} summed wrong")
            ctypes.memset(there, POISON, numel * kind.itemsize)
            self.done += 1

    def _route(self) -> None:
        """A router of whose backends some are missing: on every rank as soon as they are on one."""
        mine = {name for name in ("host/one_shot", "host/two_shot") if self.own.random() < 0.1}
        everyone = [mine] * self.ranks
        dist.all_gather_object(everyone, mine)
        missing, opened = set().union(*everyone), catalog._or_reasons

        def some_missing(backends: dict) -> dict:
            for name in missing & backends.keys():
                backends[name].support = base.no("the soak test took it away")
            if not any(backend.support for backend in backends.values()):
                next(iter(backends.values())).close()  # as a communicator does itself that finds no support
            return opened(backends)

        catalog._or_reasons = some_missing
        try:
            routes = (Route(1024, "host/one_shot"), Route(8192, "host/two_shot"), Route(None, "gloo"))
            covered = [name for name in DTYPES if self.common.random() < 0.8]
            tables = [Table("cpu", self.ranks, name, "eager", False, "soak", routes) for name in covered]
            router = Router(dist.group.WORLD, RoutingTable(tuple(tables)), device="cpu")
        finally:
            catalog._or_reasons = opened
        self._sum([router.all_reduce], 20)
        self.refused += sum(isinstance(backend, base.Unavailable) for backend in router.backends.values())
        self.routers += 1
        router.close()

    def _watch(self, tenth: int, seconds: float) -> tuple[float, int, int]:
        """Resident memory in MiB, open descriptors and names in /dev/shm, of all ranks together."""
        gc.collect()
        libc.malloc_trim(0)  # else what malloc keeps for later varies by 2 MiB a rank
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
        descriptors = len(os.listdir("/proc/self/fd"))
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        names = {line[5] for line in maps if len(line) == 6 and line[5].startswith("/dev/shm/")}
        everyone = [(resident, descriptors, names)] * self.ranks
        dist.all_gather_object(everyone, everyone[0])
        memory, descriptors = (sum(one[column] for one in everyone) for column in (0, 1))
        names = len(set().union(*(one[2] for one in everyone)))
        if self.rank == 0:
            print(
                f"tenth {tenth:2}: {self.done} sums in {seconds:.0f} s, {self.routers} routers "
                f"({self.refused} backends missing): {memory:.1f} MiB, {descriptors} descriptors, {names} names in "
                "/dev/shm", flush=True,
            )  # fmt: skip
        return memory, descriptors, names


if __name__ == "__main__":
    main()
