"""All-reduce between processes of one host through shared memory: `host/one_shot` and `host/two_shot`.

What symmetric memory is on NVLink, this is on a CPU: every rank reads and writes its peers' buffers itself, with no
socket and no kernel call between. It is the suite's default where there is no GPU, and an honest fast path for
vLLM's CPU build. The arithmetic and the waiting are in `host_kernels`; here is everything around them: memory, checks,
and what happens when a rank does not come.

The memory is one anonymous file in RAM (memfd_create(2)) that rank 0 makes and the others open through /proc. It
never has a name, so there is nothing to unlink, nothing another user could guess, and nothing left behind however a
rank dies; nor does it count against a container's small /dev/shm.
"""

import mmap
import os
import select
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from symmlib import patience
from symmlib.communicators import base
from symmlib.errors import RankLost, RanksDisagree, SymmlibError

MAX_WORLD_SIZE = 8
SLOT_BYTES = 1 << 18  # a message travels in chunks of this size: measured best, small enough to stay in a core's cache
SPINS = 4000  # tries before a waiting rank yields its core: about 50 us, longer than ranks usually drift apart
PATIENCE = 200  # further tries before a kernel returns so that signals and dead peers are noticed
TIMEOUT_S = patience.seconds(300)  # how long a rank waits for a live peer: it may be compiling, or reading weights


DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class HostCommunicator:
    """Owns the memory that its two backends share. Collective: every rank of `group` must construct it.

    Args:
        group: a process group of 2 to 8 ranks on this host that carries CPU tensors (gloo).
        slot_bytes: bytes of a message that travel at once; longer messages are cut into chunks of this size.
        timeout_s: how long an operation waits for a rank that is alive before it raises `RankLost`.

    A rank that has died is noticed within milliseconds of waiting for it. After any `RankLost` or `RanksDisagree` the
    communicator is broken and says so on every further call. Construction raises nothing for a machine that cannot
    serve: see `support`, the same on every rank.
    """

    def __init__(self, group: dist.ProcessGroup, *, slot_bytes: int = SLOT_BYTES, timeout_s: float = TIMEOUT_S):
        self.rank, self.world_size = group.rank(), group.size()
        self.timeout_s = timeout_s
        self.slot_bytes = max(slot_bytes // 128 * 128, 128)
        self._broken = ""
        self._map: mmap.mmap | None = None
        self._watch = select.poll()
        self._pidfds: dict[int, int] = {}
        self.support = base.agree(group, self._machine_support())
        if self.support:
            self.support = base.agree(group, self._share_memory(group))
        if not self.support:
            self.close()
        self.backends = {name: HostBackend(name, self, kernel) for name, kernel in self._kernels().items()}

    def bind(self, kernel, dtype: torch.dtype, numel: int) -> base.Launch:
        """The sum by `kernel` (one of `host_kernels`) of tensors of `dtype` with `numel` elements; see `base.bind`.

        The kernel takes less than a microsecond for a small message, so each look at a tensor counts: here are three.
        """
        code, run = self._codes[dtype], self._run
        # Ranks that call different operations, dtypes or lengths must not sum garbage: compared in every chunk.
        signature = numel << 8 | code << 4 | self._numbers[kernel]

        def launch(tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor | None:
            if not tensor.is_contiguous() or not tensor.is_cpu:
                return None
            source = target = tensor.data_ptr()
            if out is not tensor:
                if out is None:
                    out = torch.empty_like(tensor)
                elif not self.check(tensor, out):
                    return None
                target = out.data_ptr()
            run(kernel, source, target, numel, code, signature)
            return out

        return launch

    def barrier(self) -> None:
        """Return when every rank has called this; within a microsecond of each other where all are spinning."""
        self._run(self._module.barrier)

    def close(self) -> None:
        """Give the memory back. Idempotent; ranks may close at different times."""
        self._broken = self._broken or "it was closed"
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        if self._map is not None:
            self._memory = None
            self._map.close()
            self._map = None

    def check(self, tensor: torch.Tensor, out: torch.Tensor | None = None) -> base.Support:
        """Whether the backends can serve `tensor` (and write into `out`)."""
        if not self.support:
            return self.support
        # Not whether it is broken: ranks learn that at different times, and one that turned to another backend would
        # leave its peers waiting here. The call itself raises.
        if not tensor.is_cpu:
            return base.no(f"the tensor is on {tensor.device}; host backends serve CPU tensors")
        if tensor.dtype not in DTYPES:
            return base.no(f"dtype {tensor.dtype} is none of bfloat16, float16, float32")
        if not tensor.is_contiguous():
            return base.no("the tensor is not contiguous; call .contiguous() first")
        if out is not None and out is not tensor:
            if out.shape != tensor.shape or out.dtype != tensor.dtype:
                return base.no(f"out must be {tuple(tensor.shape)}, {tensor.dtype}, as the input")
            if not out.is_cpu or not out.is_contiguous():
                return base.no("out must be a contiguous CPU tensor")
        return base.YES

    def _run(self, kernel, *arguments) -> None:
        if self._broken:
            raise SymmlibError(f"the host communicator is out of use: {self._broken}")
        try:
            status = kernel(self._control, *arguments)
            if status:
                self._wait(kernel, arguments, status)
        except BaseException as error:  # KeyboardInterrupt too: half an operation cannot be taken back
            self._broken = str(error) or type(error).__name__
            raise

    def _wait(self, kernel, arguments, status: int) -> None:
        """Go on with a kernel that gave up spinning, until it is done or a peer is known to be lost."""
        deadline = time.monotonic() + self.timeout_s
        while status == self._module.WAITING:
            self._raise_for_dead_peers()
            if time.monotonic() > deadline:
                raise RankLost(
                    f"rank {self._behind()[0]} did not come to an all-reduce within {self.timeout_s:g} s "
                    "(timeout_s of HostCommunicator, or SYMMLIB_PATIENCE); its process is alive but does something else"
                )
            status = kernel(self._control, *arguments)
        if status == self._module.MISMATCH:
            peer = int(self._state[self._module.CULPRIT])
            raise RanksDisagree(
                f"rank {peer} called another all-reduce than rank {self.rank}: backend, dtype or number of "
                "elements differ. Every rank must make the same calls in the same order."
            )

    def _raise_for_dead_peers(self) -> None:
        """A dead peer whose flag is up to date did its part and may have ended well; one that is behind never will."""
        if not self._watch.poll(0):
            return
        for rank in self._behind():
            if rank in self._pidfds and select.select([self._pidfds[rank]], [], [], 0)[0]:
                raise RankLost(f"rank {rank} (process {self.pids[rank]}) died and will not finish this all-reduce")

    def _behind(self) -> list[int]:
        """Ranks that have published less than this one, the last first."""
        stride = self._module.HEADER_BYTES // 8
        flags = self._memory[: self.world_size * self._module.HEADER_BYTES].view(np.int64)[::stride]
        mine = self._state[self._module.FLAG]
        return sorted((rank for rank in range(self.world_size) if flags[rank] < mine), key=lambda rank: flags[rank])

    def _kernels(self) -> dict:
        if not self.support:
            return {"host/one_shot": None, "host/two_shot": None}
        return {"host/one_shot": self._module.one_shot, "host/two_shot": self._module.two_shot}

    def _machine_support(self) -> base.Support:
        if not 2 <= self.world_size <= MAX_WORLD_SIZE:
            return base.no(f"host backends serve 2 to {MAX_WORLD_SIZE} ranks, not {self.world_size}")
        if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
            return base.no("host backends need Linux (memfd_create and /proc)")
        try:
            from symmlib.communicators import host_kernels  # compiles, or loads what an earlier process compiled
        except Exception as error:  # numba and LLVM raise errors of many types; whichever it is, it is a reason
            return base.no(f"host backends need numba and a place for its cache (NUMBA_CACHE_DIR): {error}")
        self._module = host_kernels
        self._codes = {
            torch.float32: host_kernels.FLOAT32,
            torch.bfloat16: host_kernels.BFLOAT16,
            torch.float16: host_kernels.FLOAT16,
        }
        self._numbers = {host_kernels.one_shot: 1, host_kernels.two_shot: 2}
        return base.YES

    def _share_memory(self, group: dist.ProcessGroup) -> base.Support:
        """Map the common memory. Collective, and no rank leaves early: a failure is told to all, then agreed on."""
        size = self.world_size * (self._module.HEADER_BYTES + 2 * self.slot_bytes)
        descriptor, problem = -1, None
        if self.rank == 0:
            try:
                descriptor = os.memfd_create("symmlib", os.MFD_CLOEXEC)
                os.ftruncate(descriptor, size)
            except OSError as error:
                problem = error
        mine = _Offer(os.getpid(), descriptor, _identity(descriptor), size, os.sched_getaffinity(0))
        offers = [mine] * self.world_size
        dist.all_gather_object(offers, mine, group=group)
        self.pids = [offer.pid for offer in offers]
        try:
            if problem:
                raise problem
            self._map = self._open(offers[0], size)
        except OSError as error:
            problem = error
        dist.barrier(group=group)  # rank 0's descriptor must stay open until every peer has opened it
        if descriptor >= 0:
            os.close(descriptor)
        if problem:
            return base.no(f"the ranks cannot share memory ({problem}); they must be one user's processes on one host")
        self._watch_peers()
        cores = set().union(*(offer.cores for offer in offers))
        self._prepare(crowded=self.world_size > len(cores))
        return base.YES

    def _open(self, offer: "_Offer", size: int) -> mmap.mmap:
        """Map rank 0's file, having made sure that it is that one: with other ranks' ids, as in a container of its own,
        the same path may lead to any file of this user."""
        if offer.size != size:
            raise OSError(f"slot_bytes differ between rank 0 and rank {self.rank}")
        opened = os.open(f"/proc/{offer.pid}/fd/{offer.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            if _identity(opened) != offer.identity:
                raise OSError(f"rank {self.rank} does not see rank 0's processes")
            return mmap.mmap(opened, size)
        finally:
            os.close(opened)

    def _watch_peers(self) -> None:
        for rank, pid in enumerate(self.pids):
            if rank == self.rank:
                continue
            try:
                self._pidfds[rank] = os.pidfd_open(pid)
            except OSError:
                continue  # kernels before 5.3, some sandboxes: then only the time-out tells that a peer is gone
            self._watch.register(self._pidfds[rank], select.POLLIN)

    def _prepare(self, *, crowded: bool) -> None:
        module = self._module
        self._memory = np.frombuffer(self._map, dtype=np.uint8)
        self._state = np.zeros(module.CONTROL_FIELDS, dtype=np.int64)
        self._control = self._state.ctypes.data
        spins = 0 if crowded else SPINS  # with more ranks than cores, spinning keeps the awaited rank from running
        self._state[[module.MEMORY, module.RANKS, module.RANK]] = self._memory.ctypes.data, self.world_size, self.rank
        self._state[[module.SLOT_BYTES, module.SPINS, module.PATIENCE]] = self.slot_bytes, spins, spins + PATIENCE


@dataclass(frozen=True)
class _Offer:
    """What a rank tells the others before they share memory; the file is rank 0's."""

    pid: int
    descriptor: int
    identity: tuple[int, int]
    size: int
    cores: set[int]


def _identity(descriptor: int) -> tuple[int, int]:
    """Device and inode of an open file."""
    if descriptor < 0:
        return 0, 0
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class HostBackend:
    """One algorithm of a `HostCommunicator`, as an `AllReduceBackend`."""

    def __init__(self, name: str, communicator: HostCommunicator, kernel):
        self.name = name
        self.support = communicator.support
        self._communicator = communicator
        self._kernel = kernel
        self._bound: dict[torch.dtype, dict[int, base.Launch]] = {dtype: {} for dtype in DTYPES}

    def supports(self, tensor: torch.Tensor) -> base.Support:
        return self._communicator.check(tensor)

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        numel = tensor.numel()
        try:
            launch = self._bound[tensor.dtype][numel]
        except KeyError:
            if not (support := self._communicator.check(tensor, out)):
                raise SymmlibError(f"{self.name} cannot serve this tensor: {support.reason}") from None
            launch = self._bound[tensor.dtype][numel] = self.bind(tensor.dtype, numel)
        result = launch(tensor, out)
        if result is None:
            raise SymmlibError(f"{self.name} cannot serve this tensor: {self._communicator.check(tensor, out).reason}")
        return result

    def bind(self, dtype: torch.dtype, numel: int) -> base.Launch:
        return self._communicator.bind(self._kernel, dtype, numel)

    def close(self) -> None:
        self._communicator.close()
