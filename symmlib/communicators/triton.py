"""Our own kernels over symmetric memory: `triton/one_shot` and `triton/two_shot`.

Where torch's operations need a copy in, two or three meetings of all ranks and sometimes a copy out, each of these is
one kernel with one meeting (one-shot) or two (two-shot). Sums are in fp32 and in the order of ranks, so they are the
same bits on every rank, wherever in a message an element stands; fp16 is served like bf16 and fp32. The kernels are in
`triton_kernels`, with the argument why so few meetings are enough; here is everything around them.
"""

import importlib.util
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.communicators.gpu import Gpu, cuda_support, describe, one_stream, peer_support, tensor_support
from symmlib.errors import SymmlibError

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_BYTES = 64 << 20
ONE_SHOT_MAX_BYTES = 4 << 20  # beyond, reading every peer's whole message has lost to two-shot at any world size
MAX_BLOCKS = 128  # flags are kept for so many
REGISTERS = 64  # a thread's at most, told to the compiler: so that how many blocks fit is known before it compiles
VECTOR_BYTES = 16  # what a thread loads at once
WIDTH = 8  # flags of a block: one a rank, of at most 8
KEPT = 4096  # sizes whose launches are kept ready: a server meets as many as there are numbers of tokens in a batch
UNIT = 16  # elements: shares and parts are multiples, so that vectors never straddle two of them


@dataclass(frozen=True)
class Algorithm:
    """How one kernel is launched: `warps` of a block, `share_bytes` that a block should have at least."""

    name: str
    warps: int
    share_bytes: int
    max_bytes: int

    def max_blocks(self, gpu: Gpu) -> int:
        """The most blocks of a rank that may wait for others at once on this GPU."""
        return min(MAX_BLOCKS, gpu.resident_blocks(self.warps * 32, REGISTERS))

    def region_bytes(self, gpu: Gpu, world_size: int) -> int:
        """What a block of the largest message stages: a whole number of units of every rank's part in any dtype."""
        unit = UNIT * 4 * world_size
        return math.ceil(self.max_bytes / self.max_blocks(gpu) / unit) * unit

    def shape(self, numel: int, itemsize: int, world_size: int, gpu: Gpu) -> tuple[int, int]:
        """(blocks, elements of a block's share) for a message of `numel` elements."""
        blocks = min(self.max_blocks(gpu), math.ceil(numel * itemsize / self.share_bytes))
        unit = UNIT * world_size
        share = math.ceil(numel / blocks / unit) * unit
        return math.ceil(numel / share), share


ONE_SHOT = Algorithm("triton/one_shot", warps=16, share_bytes=8 << 10, max_bytes=ONE_SHOT_MAX_BYTES)
TWO_SHOT = Algorithm("triton/two_shot", warps=32, share_bytes=16 << 10, max_bytes=MAX_BYTES)


class TritonCommunicator:
    """Owns the symmetric memory of its two backends. Collective: every rank of `group` must construct it.

    Args:
        group: a process group that carries CPU objects (gloo).
        device: this rank's GPU, the current device wherever it is used (Triton launches there). On a CPU device
            everything is unavailable, with the reason.
        algorithms: how the kernels are launched.
        beside_a_model: where ranks share a GPU, whether they also compute a model on it: see `gpu.Gpu`.

    Kernels are compiled for all `DTYPES` and tried once with small whole numbers when this is constructed, so that no
    first call compiles, or hangs because a rank could not. Operations may come from any stream, one at a time: see
    `gpu.OneStream`. Messages of up to 64 MiB take 136 MiB of each rank's GPU memory.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device,
        *,
        algorithms: tuple[Algorithm, ...] = (ONE_SHOT, TWO_SHOT),
        beside_a_model: bool = False,
    ):
        self.group, self.device = group, base.numbered(device)
        self.rank, self.world_size = group.rank(), group.size()
        self.algorithms = algorithms
        self._memory = self._handle = None
        self.support = base.agree(group, self._machine_support())
        if self.support:
            self.gpu = describe(group, self.device, beside_a_model)
            self.support = base.agree(group, why_not(self.gpu, self.world_size))
        # Agreed on step by step: no rank goes where it would wait for one that failed before.
        for prepare in (self._allocate, self._rendezvous, self._compile, self._try):
            if self.support:
                self.support = base.agree(group, _attempt(prepare))
        self.backends = {one.name: TritonBackend(one, self) for one in algorithms}

    def check(self, algorithm: Algorithm, tensor: torch.Tensor) -> base.Support:
        """Whether the kernels take `tensor`."""
        if tensor.dtype not in DTYPES:
            return base.no(f"dtype {tensor.dtype} is none of bfloat16, float16, float32")
        return tensor_support(tensor, self.device, algorithm.max_bytes)

    def launch(self, algorithm: Algorithm, tensor: torch.Tensor, out: torch.Tensor) -> None:
        """Sum `tensor` into `out` (both contiguous, of the same shape and dtype; they may be one)."""
        if self._memory is None:
            raise SymmlibError(f"{algorithm.name} is out of use: it was closed")
        self._stream.enter()
        numel = tensor.numel()
        aligned = numel % UNIT == 0 and (tensor.data_ptr() | out.data_ptr()) % VECTOR_BYTES == 0
        way = algorithm.name, tensor.dtype, aligned
        run, numbers = self._ready.get((*way, numel)) or self._prepare(algorithm, way, numel)
        run(tensor, out, self._peers, self._epochs[algorithm.name], *numbers)

    def close(self) -> None:
        """Let go of the memory, when what was launched is done; peers keep what they have mapped."""
        self._memory = self._handle = None

    def _prepare(self, algorithm: Algorithm, way: tuple, numel: int) -> tuple:
        """What starts the kernel for messages of `numel` elements, and what it is given after the tensors.

        Kept, and the compiled kernel called itself: found by way of Triton's decorator it takes the host several times
        as long to start, which a model that runs without CUDA graphs waits for at each layer.
        """
        _, dtype, _ = way
        blocks, share = algorithm.shape(numel, dtype.itemsize, self.world_size, self.gpu)
        if algorithm.name == "triton/two_shot":
            share //= self.world_size  # this kernel is told the part of a rank
        kernel, constant = self._kernels[way]
        ready = kernel[(blocks, 1, 1)], (numel, share, self.rank, *constant)
        if len(self._ready) < KEPT:
            self._ready[*way, numel] = ready
        return ready

    def _machine_support(self) -> base.Support:
        support = cuda_support(self.device)
        if support and importlib.util.find_spec("triton") is None:
            return base.no("Triton is not installed; it comes with torch for CUDA")
        return support

    def _allocate(self) -> None:
        """The symmetric allocation: the flags of each algorithm, then its two staging halves."""
        from torch.distributed import _symmetric_memory

        self._places, at = {}, 0
        for one in self.algorithms:
            self._places[one.name] = at, at + MAX_BLOCKS * WIDTH * 4
            at += MAX_BLOCKS * WIDTH * 4 + 2 * one.region_bytes(self.gpu, self.world_size) * one.max_blocks(self.gpu)
            at = math.ceil(at / 4096) * 4096
        self._memory = _symmetric_memory.empty(at, dtype=torch.uint8, device=self.device).zero_()
        torch.cuda.synchronize(self.device)  # the flags are zero before any rank can reach them

    def _rendezvous(self) -> None:
        from torch.distributed import _symmetric_memory

        self._handle = _symmetric_memory.rendezvous(self._memory, self.group.group_name)
        self._peers = torch.tensor(self._handle.buffer_ptrs, dtype=torch.int64, device=self.device)
        self._epochs = {
            one.name: torch.zeros(MAX_BLOCKS, dtype=torch.int32, device=self.device) for one in self.algorithms
        }
        self._stream = one_stream(self.device)

    def _compile(self) -> None:
        from symmlib.communicators import triton_kernels as kernels

        by_name = {
            ("triton/one_shot", True): kernels.ONE_SHOT,
            ("triton/one_shot", False): kernels.ONE_SHOT_UNALIGNED,
            ("triton/two_shot", True): kernels.TWO_SHOT,
            ("triton/two_shot", False): kernels.TWO_SHOT_UNALIGNED,
        }
        self._kernels, self._ready = {}, {}
        for one in self.algorithms:
            flags, staging = self._places[one.name]
            for dtype in DTYPES:
                message = torch.empty(64 * UNIT, dtype=dtype, device=self.device)
                for aligned in (True, False):
                    given = constants(one, dtype, self.gpu, self.world_size, flags, staging, aligned)
                    kernel = by_name[one.name, aligned]
                    numbers = message.numel(), UNIT, self.rank
                    memory = message, message, self._peers, self._epochs[one.name]
                    compiled = kernel.warmup(*memory, *numbers, grid=(1,), **given)
                    constant = tuple(given[name] for name in kernel.arg_names[len(memory) + len(numbers) :])
                    self._kernels[one.name, dtype, aligned] = compiled, constant

    def _try(self) -> None:
        """Every kernel once, which also loads it; raises where a sum is wrong, when no peer waits any more."""
        expected, wrong = sum(range(1, self.world_size + 1)), {}
        for name, dtype, aligned in self._kernels:
            one = next(one for one in self.algorithms if one.name == name)
            ones = torch.ones(64 * UNIT + 1, dtype=dtype, device=self.device)[0 if aligned else 1 :][: 64 * UNIT]
            out = torch.full_like(ones, torch.nan)
            self.launch(one, ones * (self.rank + 1) if aligned else ones.mul_(self.rank + 1), out)
            wrong[name, dtype, aligned] = int((out != expected).sum())
        for (name, dtype, _), count in wrong.items():
            if count:
                raise SymmlibError(f"{name} sums {count} of {64 * UNIT} elements of {dtype} wrong")


def why_not(gpu: Gpu, world_size: int) -> base.Support:
    """Whether the kernels can run on such GPUs."""
    if world_size > WIDTH:
        return base.no(f"{world_size} ranks are more than {WIDTH}")
    return peer_support(gpu, world_size)


def constants(
    algorithm: Algorithm, dtype: torch.dtype, gpu: Gpu, world_size: int, flags: int, staging: int, aligned: bool
) -> dict[str, int]:
    """What a kernel is compiled for; `flags` and `staging` are offsets in bytes into the symmetric allocation.

    Of messages that are not aligned a thread moves two elements at a time, so that it needs no more registers.
    """
    vector = VECTOR_BYTES // dtype.itemsize if aligned else 2
    found = {
        "FLAGS": flags,
        "STAGING": staging,
        "BLOCKS": algorithm.max_blocks(gpu),
        "REGION": algorithm.region_bytes(gpu, world_size) // dtype.itemsize,
        "WORLD": world_size,
        "WIDTH": WIDTH,
        "TILE": algorithm.warps * 32 * vector,
        "num_warps": algorithm.warps,
        "maxnreg": REGISTERS,
    }
    if algorithm.name == "triton/two_shot":
        found["COPY_TILE"] = found["TILE"] * (4 if aligned else 1)
    return found


def _attempt(prepare) -> base.Support:
    try:
        prepare()
    except Exception as error:  # compilers, drivers and containers fail in many ways; here each is only a reason
        return base.no(f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}")
    return base.YES


class TritonBackend:
    """One algorithm of a `TritonCommunicator`, as an `AllReduceBackend`."""

    def __init__(self, algorithm: Algorithm, communicator: TritonCommunicator):
        self.name = algorithm.name
        self.support = communicator.support
        self._algorithm, self._communicator = algorithm, communicator

    def supports(self, tensor: torch.Tensor) -> base.Support:
        return self._communicator.check(self._algorithm, tensor) if self.support else self.support

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        out = base.place_for(self, tensor, out)
        dense = out if out.is_contiguous() else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        self._communicator.launch(self._algorithm, tensor.contiguous(), dense)
        return out if dense is out else out.copy_(dense)

    def bind(self, dtype: torch.dtype, numel: int) -> base.Launch:
        """See `base.bind`. Of most tensors that a model reduces, a call looks at what dtype and length leave open."""
        communicator, algorithm = self._communicator, self._algorithm
        fits = self.support and dtype in DTYPES and 0 < numel * dtype.itemsize <= algorithm.max_bytes

        def launch(tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor | None:
            usual = fits and tensor.is_contiguous() and tensor.device == communicator.device
            if not usual or (out is not None and out is not tensor):
                return self.all_reduce(tensor, out=out) if self.supports(tensor) else None
            out = torch.empty_like(tensor) if out is None else out
            communicator.launch(algorithm, tensor, out)
            return out

        return launch

    def close(self) -> None:
        self._communicator.close()
