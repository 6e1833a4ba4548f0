"""PyTorch symmetric memory on CUDA: `symm_mem/one_shot`, `symm_mem/two_shot`, `symm_mem/multimem`.

Every rank allocates the same buffer, a rendezvous maps all of them into every rank, and one kernel reads and writes
peers' memory over NVLink. Unlike vLLM's communicator over the same operations (pull request 20759) this one follows
the input's dtype, agrees across ranks on what is available, saves copies, and needs NVLink multicast for `multimem`
only.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.communicators.gpu import Gpu, cuda_support, describe, one_stream, peer_support, tensor_support
from symmlib.errors import SymmlibError

DTYPES = (torch.bfloat16, torch.float32)  # what torch's kernels are compiled for
TWO_SHOT_WORLD_SIZES = (2, 4, 8)  # likewise, for the two-shot that writes its result elsewhere
VECTOR_BYTES = 16  # torch's kernels move so much at once; what is not a multiple goes through the padded buffer
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Grid:
    """How torch launches a kernel (CUDASymmetricMemoryOps.cu of torch 2.11): so many `blocks` at most of `threads`.

    `registers` of a thread: 28 to 50 were seen, for 2 and 4 ranks on an H200; two-shot's 1024 threads cannot have more
    than 64, of one-shot's 512 that is an assumption. `split`: whether a rank's blocks share its part of the message
    only, and not the whole.
    """

    blocks: int
    threads: int
    registers: int
    split: bool

    def largest(self, gpu: Gpu, world_size: int) -> int | None:
        """The largest message in bytes whose blocks are all on the GPU at once, when ranks share it; None: any.

        Each block waits inside the kernel for the block of its number on every other rank. With 8 ranks of 24 blocks on
        the 132 multiprocessors of an H200, each of which holds one such block of two-shot, the last ones would find no
        place until the first ones end, which wait for them: the hang that was seen from 4 MiB on (docs/one-gpu.md).
        """
        resident = gpu.resident_blocks(self.threads, self.registers)
        if resident >= self.blocks:
            return None
        return resident * self.threads * VECTOR_BYTES * (world_size if self.split else 1)


ONE_SHOT = Grid(blocks=24, threads=512, registers=64, split=False)
TWO_SHOT = Grid(blocks=24, threads=1024, registers=64, split=True)


class SymmMemCommunicator:
    """Owns the symmetric buffers that its backends share. Collective: every rank of `group` must construct it.

    Args:
        group: a process group that also carries CPU objects (gloo).
        device: this rank's GPU. On a CPU device everything is unavailable, with the reason.
        max_bytes: the largest message, and the size of the buffer through which messages go that lie elsewhere.

    `empty` gives tensors that lie in symmetric memory: summed in place by two_shot or multimem, or out of place by
    one_shot, they need no copy. Operations may come from any stream, one at a time: see `gpu.OneStream`.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, *, max_bytes: int = MAX_BYTES):
        self.group, self.device, self.max_bytes = group, base.numbered(device), max_bytes
        self.world_size = group.size()
        self._buffer = self._handle = None
        self._symmetric: list[torch.Tensor] = []  # what `empty` gave away; kept, because peers have it mapped
        self.support = base.agree(group, cuda_support(self.device))
        if self.support:
            self.gpu = describe(group, self.device)
            self.support = base.agree(group, peer_support(self.gpu, self.world_size))
        # Agreed on step by step: no rank goes to the rendezvous, where it would wait for one that has no memory.
        for prepare in (self._allocate, self._rendezvous):
            if self.support:
                self.support = base.agree(group, _attempt(prepare))
        multicast = base.agree(group, self._multicast()) if self.support else self.support
        self.backends = {
            "symm_mem/one_shot": OneShot("symm_mem/one_shot", self, self.support),
            "symm_mem/two_shot": TwoShot("symm_mem/two_shot", self, self.support),
            "symm_mem/multimem": Multimem("symm_mem/multimem", self, multicast),
        }

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor in symmetric memory, to be written by what comes before an all-reduce.

        Collective: all ranks ask for the same shapes and dtypes in the same order, and all of them give it, or the same
        part of it, to the same all-reduces: where one rank's tensor lies here and another's elsewhere, they wait for
        each other for ever. It lives as long as the communicator. Raises `SymmlibError` where symmetric memory is
        unavailable or the dtype is none of `DTYPES`.
        """
        if not self.support:
            raise SymmlibError(f"there is no symmetric memory here: {self.support.reason}")
        if dtype not in DTYPES:
            raise SymmlibError(f"torch's symmetric-memory kernels take bfloat16 and float32, not {dtype}")
        from torch.distributed import _symmetric_memory

        tensor = _symmetric_memory.empty(shape, dtype=dtype, device=self.device)
        _symmetric_memory.rendezvous(tensor, self.group.group_name)
        self._symmetric.append(tensor)
        return tensor

    def is_symmetric(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` lies in what `empty` gave, and where torch's kernels can use it."""
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return is_aligned(tensor) and any(
            one.data_ptr() <= start and end <= one.data_ptr() + one.nbytes for one in self._symmetric
        )

    def check(self, tensor: torch.Tensor) -> base.Support:
        """Whether the communicator's kernels take `tensor`."""
        if tensor.dtype not in DTYPES:
            return base.no(f"torch's kernels sum bfloat16 and float32, not {tensor.dtype}; triton/* do")
        return tensor_support(tensor, self.device, self.max_bytes)

    def enter(self) -> None:
        """To be called before each operation; see `gpu.OneStream`. Raises `SymmlibError` when it was closed."""
        if self._buffer is None:
            raise SymmlibError("symm_mem/* are out of use: their communicator was closed")
        one_stream(self.device).enter()

    def staging(self, tensor: torch.Tensor) -> torch.Tensor:
        """A flat part of the buffer with room for `tensor`'s elements, padded to whole vectors."""
        return self._buffer[: padded(tensor.nbytes)].view(tensor.dtype)

    def close(self) -> None:
        """Let go of the buffers; torch unmaps them when nothing refers to them any more."""
        self._buffer = self._handle = None
        self._symmetric.clear()

    def _allocate(self) -> None:
        from torch.distributed import _symmetric_memory

        self._buffer = _symmetric_memory.empty((padded(self.max_bytes),), dtype=torch.uint8, device=self.device)

    def _rendezvous(self) -> None:
        """What fails in containers or without Fabric Manager fails here, not later."""
        from torch.distributed import _symmetric_memory

        self._handle = _symmetric_memory.rendezvous(self._buffer, self.group.group_name)

    def _multicast(self) -> base.Support:
        """A GPU with multicast may be in a group without: the rendezvous says so by an address or none."""
        if self.gpu.no_multicast:
            return base.no(self.gpu.no_multicast)
        if not self._handle.multicast_ptr:
            return base.no("these GPUs have multicast, but this group's memory got no multicast address")
        return base.YES


def _attempt(prepare) -> base.Support:
    try:
        prepare()
    except RuntimeError as error:
        return base.no(f"the ranks' GPUs cannot share memory: {error}")
    return base.YES


def padded(nbytes: int) -> int:
    """`nbytes` filled up to whole vectors."""
    return -(-nbytes // VECTOR_BYTES) * VECTOR_BYTES


def is_aligned(tensor: torch.Tensor) -> bool:
    """Whether torch's kernels take `tensor` as it is, and at their best."""
    offset = tensor.storage_offset() * tensor.element_size()  # they look at this, and at the address only if it is 0
    return tensor.is_contiguous() and not (tensor.data_ptr() | tensor.nbytes | offset) % VECTOR_BYTES


def chunks(nbytes: int, largest: int | None) -> list[tuple[int, int]]:
    """[begin, end) in bytes of what is summed at once: all, or pieces of `largest`."""
    step = largest or nbytes
    return [(begin, min(begin + step, nbytes)) for begin in range(0, nbytes, step)]


class SymmMemBackend:
    """One algorithm of a `SymmMemCommunicator`, as an `AllReduceBackend`; `_sum` is the algorithm."""

    def __init__(self, name: str, communicator: SymmMemCommunicator, support: base.Support):
        self.name, self.support = name, support
        self._communicator = communicator

    def supports(self, tensor: torch.Tensor) -> base.Support:
        return self._communicator.check(tensor) if self.support else self.support

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        out = base.place_for(self, tensor, out)
        self._communicator.enter()
        self._sum(tensor, out)
        return out

    def close(self) -> None:
        self._communicator.close()

    def _sum(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        raise NotImplementedError

    def _lies_in_place(self, tensor: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether `tensor` is symmetric and to be overwritten."""
        return out.data_ptr() == tensor.data_ptr() and self._communicator.is_symmetric(tensor)

    def _staged(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of the buffer into which `tensor` was copied."""
        staging = self._communicator.staging(tensor)
        staging[: tensor.numel()].view(tensor.shape).copy_(tensor)
        return staging

    def _run(self, operation, inputs: tuple[torch.Tensor, ...], target: tuple = (), grid: Grid | None = None) -> None:
        """torch's `operation` on flat tensors, in pieces where the blocks of `grid` would not fit on the GPU."""
        communicator, itemsize = self._communicator, inputs[0].element_size()
        largest = grid.largest(communicator.gpu, communicator.world_size) if grid else None
        for begin, end in chunks(inputs[0].nbytes, largest):
            piece = slice(begin // itemsize, end // itemsize)
            sources, targets = ([one[piece] for one in tensors] for tensors in (inputs, target))
            operation(*sources, "sum", communicator.group.group_name, *targets)

    def _run_into(self, out: torch.Tensor, operation, inputs: tuple[torch.Tensor, ...], grid: Grid) -> None:
        """As `_run`, with the sum in `out`, straight or, where torch's kernels cannot write there, through a copy."""
        target = out.view(-1) if is_aligned(out) else torch.empty_like(inputs[0])
        self._run(operation, inputs, (target,), grid)
        if target.data_ptr() != out.data_ptr():
            out.copy_(target[: out.numel()].view(out.shape))

    def _run_in_place(self, operation, tensor: torch.Tensor, out: torch.Tensor, grid: Grid | None = None) -> None:
        """As `_run`, where `tensor` lies or, unless it is symmetric and to be overwritten, between two copies."""
        if self._lies_in_place(tensor, out):
            self._run(operation, (tensor.view(-1),), grid=grid)
            return
        staging = self._staged(tensor)
        self._run(operation, (staging,), grid=grid)
        out.copy_(staging[: out.numel()].view(out.shape))


class OneShot(SymmMemBackend):
    """Every rank reads (world_size - 1) * bytes. From the caller's memory one kernel copies in and sums."""

    def _sum(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        communicator, ops = self._communicator, torch.ops.symm_mem
        if not is_aligned(tensor):
            self._run_into(out, ops.one_shot_all_reduce_out, (self._staged(tensor),), ONE_SHOT)
        elif communicator.is_symmetric(tensor) and out.data_ptr() != tensor.data_ptr():
            self._run_into(out, ops.one_shot_all_reduce_out, (tensor.view(-1),), ONE_SHOT)
        else:
            inputs = communicator.staging(tensor), tensor.view(-1)
            self._run_into(out, ops.one_shot_all_reduce_copy_out, inputs, ONE_SHOT)


class TwoShot(SymmMemBackend):
    """Every rank sums its part, then all read the others' parts: 2 (world_size - 1) / world_size * bytes a rank."""

    def _sum(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        ops = torch.ops.symm_mem
        if self._lies_in_place(tensor, out) or self._communicator.world_size not in TWO_SHOT_WORLD_SIZES:
            self._run_in_place(ops.two_shot_all_reduce_, tensor, out, TWO_SHOT)
        else:
            self._run_into(out, ops.two_shot_all_reduce_out, (self._staged(tensor),), TWO_SHOT)


class Multimem(SymmMemBackend):
    """The NVSwitch sums and multicasts: (1 + 1 / world_size) * bytes a rank."""

    def _sum(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        self._run_in_place(torch.ops.symm_mem.multimem_all_reduce_, tensor, out)
