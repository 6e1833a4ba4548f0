"""`gloo`, `nccl` and `nccl/symmetric`: torch.distributed's own all-reduce, the fallback and the peer to beat."""

import math

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.communicators.gpu import Gpu, describe
from symmlib.errors import SymmlibError

SYMMETRIC_SINCE = (2, 27)  # NCCL, release notes: ncclCommWindowRegister with NCCL_WIN_COLL_SYMMETRIC
SYMMETRIC_MAX_BYTES = 64 << 20
WINDOW_ALIGNMENT_BYTES = 256  # of what `empty` gives, as torch's own allocations have it at least


class DistributedBackend:
    """`torch.distributed.all_reduce` over `group`, whose communication library gives the backend its name.

    Args:
        name: `gloo` (CPU tensors) or `nccl` (CUDA tensors).
        group: a process group that was made with that library for its tensors' device.
        owned: whether `close` destroys the group.
    """

    DEVICE = {"gloo": "cpu", "nccl": "cuda"}

    def __init__(self, name: str, group: dist.ProcessGroup, *, owned: bool = False):
        self.name = name
        self.group = group
        self._owned = owned

    def supports(self, tensor: torch.Tensor) -> base.Support:
        wanted = self.DEVICE[self.name]
        if tensor.device.type != wanted:
            return base.no(f"the tensor is on {tensor.device}; {self.name} serves {wanted} tensors here")
        return base.YES

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            out = tensor.clone(memory_format=torch.contiguous_format)
        elif out is not tensor:
            base.require_like(self.name, tensor, out)
            out.copy_(tensor)
        if out.is_contiguous():
            dist.all_reduce(out, group=self.group)
        else:  # torch.distributed takes contiguous tensors only
            dense = out.contiguous()
            dist.all_reduce(dense, group=self.group)
            out.copy_(dense)
        return out

    def close(self) -> None:
        if self._owned:
            dist.destroy_process_group(self.group)
            self._owned = False


class NcclSymmetricBackend:
    """`nccl/symmetric`: NCCL's all-reduce in memory that all ranks registered as one window; collective to construct.

    Args:
        group: ranks of one node, one GPU each; it carries CPU objects (gloo).
        device: this rank's GPU.
        max_bytes: the largest message, and what `empty` can give in all; each rank allocates twice as much.

    NCCL sums in place, so a message that lies elsewhere costs a copy in and one out, which count in its times. Which
    kernel runs is NCCL's choice: those for windows are called ncclSymkDevKernel_* in a profile. Run on two
    H200 (reports/published), with NVLink multicast switched off.
    """

    name = "nccl/symmetric"

    def __init__(self, group: dist.ProcessGroup, device: torch.device, *, max_bytes: int = SYMMETRIC_MAX_BYTES):
        self._device, self._max_bytes, self._given = device, max_bytes, 0
        self._group = self._pool = self._window = None
        self.support = base.agree(group, cuda_nccl(device))
        if self.support:
            self.support = base.agree(group, symmetric_support(describe(group, device), torch.cuda.nccl.version()))
        if self.support:
            self.support = base.agree(group, self._register(group))
        if not self.support:
            self.close()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor in the window: summed in place, with `out` the tensor itself, it needs no copy.

        All ranks ask for the same shapes and dtypes in the same order. Raises `SymmlibError` when `max_bytes` are gone.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        start = self._max_bytes + self._given
        if start + nbytes > self._window.numel():
            raise SymmlibError(
                f"{nbytes} bytes more do not fit the window: {self._given} of {self._max_bytes} are given"
            )
        self._given += -(-nbytes // WINDOW_ALIGNMENT_BYTES) * WINDOW_ALIGNMENT_BYTES
        return self._window[start : start + nbytes].view(dtype).view(shape)

    def supports(self, tensor: torch.Tensor) -> base.Support:
        if not self.support:
            return self.support
        if tensor.device != self._device:
            return base.no(f"the tensor is on {tensor.device}, this communicator on {self._device}")
        if not tensor.is_contiguous():
            return base.no("the tensor is not contiguous; call .contiguous() first")
        if tensor.nbytes > self._max_bytes:
            return base.no(f"{tensor.nbytes} bytes are more than the window's {self._max_bytes} (max_bytes)")
        return base.YES

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is tensor and self._holds(tensor):
            dist.all_reduce(tensor, group=self._group)
            return tensor
        if out is not None:
            base.require_like(self.name, tensor, out)
        staging = self._window[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        dist.all_reduce(staging, group=self._group)
        return staging.clone() if out is None else out.copy_(staging)

    def close(self) -> None:
        """Withdraw the window before its memory goes, as NCCL requires, and end the group. Idempotent."""
        if self._pool is not None:
            self._group._get_backend(self._device).deregister_mem_pool(self._pool)
        self._window = self._pool = None
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _holds(self, tensor: torch.Tensor) -> bool:
        start, end = self._window.data_ptr(), self._window.data_ptr() + self._window.nbytes
        return start <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= end

    def _register(self, group: dist.ProcessGroup) -> base.Support:
        try:
            self._group = _nccl_group(group, self._device)
            backend = self._group._get_backend(self._device)
            pool = torch.cuda.MemPool(backend.mem_allocator)
            with torch.cuda.use_mem_pool(pool):
                self._window = torch.empty(2 * self._max_bytes, dtype=torch.uint8, device=self._device)
            backend.register_mem_pool(pool, symm=True)
            self._pool = pool
        except (RuntimeError, TypeError, AttributeError) as error:  # NCCL refuses, or torch is too old to ask it
            return base.no(f"NCCL registers no symmetric window: {error}")
        return base.YES


def cuda_nccl(device: torch.device) -> base.Support:
    """Whether this build of torch has NCCL, and `device` is a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return base.no("NCCL serves CUDA tensors, and this run is on the CPU")
    return base.YES if dist.is_nccl_available() else base.no("this build of torch has no NCCL")


def nccl_support(gpu: Gpu) -> base.Support:
    """Whether NCCL runs on such GPUs."""
    if gpu.ranks > 1:
        return base.no(f"NCCL needs one GPU a rank, and {gpu.ranks} ranks share one {gpu.name}")
    return base.YES


def symmetric_support(gpu: Gpu, version: tuple) -> base.Support:
    """Whether NCCL of this `version` (major, minor, patch) has kernels for symmetric windows on such GPUs."""
    if version[:2] < SYMMETRIC_SINCE:
        return base.no(f"symmetric windows came with NCCL 2.27, and this is {'.'.join(map(str, version[:3]))}")
    return nccl_support(gpu)


def open_distributed(name: str, group: dist.ProcessGroup, device: torch.device):
    """The backend `name`, `gloo` or `nccl`, over `group`, or why there is none. Collective for `nccl`."""
    if name == "gloo":
        if device.type != "cpu":
            return base.Unavailable(name, "gloo would move every GPU tensor through the host; it is not measured there")
        return DistributedBackend(name, group)
    own = DistributedBackend(name, group)
    support = base.agree(group, cuda_nccl(device))
    if support:
        support = base.agree(group, nccl_support(describe(group, device)))
    if support and dist.get_backend(group) != "nccl":
        try:
            own = DistributedBackend(name, _nccl_group(group, device), owned=True)
        except RuntimeError as error:
            support = base.no(f"NCCL does not connect: {error}")
        support = base.agree(group, support)
    return own if support else base.Unavailable(name, support.reason)


def _nccl_group(group: dist.ProcessGroup, device: torch.device) -> dist.ProcessGroup:
    """A group of NCCL's own among these ranks alone, connected at once: others of the world need not take part."""
    ranks = dist.get_process_group_ranks(group)
    return dist.new_group(ranks, backend="nccl", use_local_synchronization=True, device_id=device)
