"""PyTorch symmetric memory on CUDA: `symm_mem/one_shot`, `symm_mem/two_shot`, `symm_mem/multimem`.

Every rank allocates the same buffer, a rendezvous maps all of them into every rank, and one kernel reads and writes
peers' memory over NVLink. Unlike vLLM's communicator over the same operations (pull request 20759) this one follows
the input's dtype, agrees across ranks on what is available, and needs NVLink multicast for `multimem` only.
"""

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.errors import SymmlibError

DTYPES = (torch.bfloat16, torch.float32)  # what torch's kernels are compiled for
ALIGNMENT_BYTES = 4  # the least that torch's kernels accept; below 16 they take a slower path
MAX_BYTES = 64 << 20


class SymmMemCommunicator:
    """Owns the symmetric buffers that its backends share. Collective: every rank of `group` must construct it.

    Args:
        group: a process group with one rank a GPU that also carries CPU objects.
        device: this rank's GPU. On a CPU device everything is unavailable, with the reason.
        max_bytes: the largest message; one buffer of this size per dtype, made when the dtype is first used.

    All operations of one communicator must come from one CUDA stream, the same on every rank's side of the group: the
    kernels of two streams would wait for each other's peers and never end (torch's own condition).
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, *, max_bytes: int = MAX_BYTES):
        self.group, self.device, self.max_bytes = group, torch.device(device), max_bytes
        self.world_size = group.size()
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        self.support = base.agree(group, self._machine_support())
        if self.support:
            self.support = base.agree(group, self._try_rendezvous())
        multicast = base.agree(group, multicast_support(self.device)) if self.support else self.support
        self.backends = {
            "symm_mem/one_shot": SymmMemBackend("symm_mem/one_shot", self, self._one_shot, self.support),
            "symm_mem/two_shot": SymmMemBackend("symm_mem/two_shot", self, self._two_shot, self.support),
            "symm_mem/multimem": SymmMemBackend("symm_mem/multimem", self, self._multimem, multicast),
        }

    def check(self, tensor: torch.Tensor) -> base.Support:
        """Whether the communicator's kernels take `tensor`."""
        if tensor.device != self.device:
            return base.no(f"the tensor is on {tensor.device}, this communicator on {self.device}")
        if tensor.dtype not in DTYPES:
            return base.no(f"torch's symmetric-memory kernels take bfloat16 and float32, not {tensor.dtype}")
        if not tensor.is_contiguous():
            return base.no("the tensor is not contiguous; call .contiguous() first")
        if not tensor.numel():
            return base.no("the tensor is empty")
        if tensor.nbytes > self.max_bytes:
            return base.no(f"{tensor.nbytes} bytes are more than the buffer's {self.max_bytes} (max_bytes)")
        if tensor.nbytes % ALIGNMENT_BYTES:
            return base.no(f"{tensor.nbytes} bytes are no multiple of {ALIGNMENT_BYTES}, which torch's kernels need")
        return base.YES

    def close(self) -> None:
        """Let go of the buffers; torch unmaps them when nothing refers to them any more."""
        self._buffers.clear()

    def _one_shot(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        """Copy in and reduce in one kernel; every rank reads (world_size - 1) * bytes."""
        name = self.group.group_name
        torch.ops.symm_mem.one_shot_all_reduce_copy_out(self._staging(tensor), tensor, "sum", name, out)

    def _two_shot(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        staging = self._staging(tensor).copy_(tensor)
        torch.ops.symm_mem.two_shot_all_reduce_(staging, "sum", self.group.group_name)
        out.copy_(staging)

    def _multimem(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        staging = self._staging(tensor).copy_(tensor)
        torch.ops.symm_mem.multimem_all_reduce_(staging, "sum", self.group.group_name)
        out.copy_(staging)

    def _staging(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of the dtype's symmetric buffer that holds `tensor`'s elements, in its shape."""
        buffer = self._buffers.get(tensor.dtype)
        if buffer is None:
            buffer = self._buffers[tensor.dtype] = self._allocate(tensor.dtype, self.max_bytes)
        return buffer[: tensor.numel()].view(tensor.shape)

    def _allocate(self, dtype: torch.dtype, nbytes: int) -> torch.Tensor:
        """A symmetric buffer of `nbytes`. Collective: all ranks meet a dtype first in the same call."""
        from torch.distributed import _symmetric_memory

        buffer = _symmetric_memory.empty(nbytes // dtype.itemsize, dtype=dtype, device=self.device)
        _symmetric_memory.rendezvous(buffer, self.group.group_name)
        return buffer

    def _machine_support(self) -> base.Support:
        if self.device.type != "cuda" or not torch.cuda.is_available():
            return base.no("symmetric memory needs CUDA GPUs, and this run is on the CPU; host/* is its stand-in here")
        if torch.cuda.get_device_capability(self.device)[0] < 9:
            return base.no(f"{torch.cuda.get_device_name(self.device)} is older than Hopper (sm_90)")
        if self.world_size < 2:
            return base.no("there is nothing to reduce over one rank")
        return base.YES

    def _try_rendezvous(self) -> base.Support:
        """Meet once with a small buffer: what fails in containers or without Fabric Manager fails here, not later."""
        try:
            self._allocate(torch.bfloat16, 4096)
        except RuntimeError as error:
            return base.no(f"the ranks' GPUs cannot map each other's memory: {error}")
        return base.YES


def multicast_support(device: torch.device) -> base.Support:
    """Whether the GPU `device` is behind an NVSwitch that sums, by what the driver says of this one GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return base.no("multicast is a feature of NVLink, and this run is on the CPU")
    from torch._C._autograd import DeviceType
    from torch._C._distributed_c10d import _SymmetricMemory

    index = device.index if device.index is not None else torch.cuda.current_device()
    if not _SymmetricMemory.has_multicast_support(DeviceType.CUDA, index):
        return base.no("these GPUs have no NVLink multicast (an NVSwitch), which multimem needs; two_shot does not")
    return base.YES


class SymmMemBackend:
    """One algorithm of a `SymmMemCommunicator`, as an `AllReduceBackend`."""

    def __init__(self, name: str, communicator: SymmMemCommunicator, operation, support: base.Support):
        self.name = name
        self.support = support
        self._communicator = communicator
        self._operation = operation

    def supports(self, tensor: torch.Tensor) -> base.Support:
        return self._communicator.check(tensor) if self.support else self.support

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        support = self.supports(tensor)
        if not support:
            raise SymmlibError(f"{self.name} cannot serve this tensor: {support.reason}")
        if out is None:
            out = torch.empty_like(tensor)
        self._operation(tensor, out)
        return out

    def close(self) -> None:
        self._communicator.close()
