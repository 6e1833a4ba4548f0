"""Backends that vLLM wrote, opened outside vLLM so that they are measured beside ours in one run.

`vllm/shm` is the shared-memory all-reduce of vLLM's CPU build (`torch.ops._C.shm_allreduce`), which exists in its
AVX-512 and Arm builds only. Importing this module does not import vLLM.
"""

import importlib.util
import platform
import secrets
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib.communicators import base, symm_mem


def shm_support() -> base.Support:
    """Whether vLLM on this machine has the operation, without importing vLLM. Decides what `vllm/shm` arms can do."""
    if importlib.util.find_spec("vllm") is None:
        return base.no("vLLM is not installed in this environment")
    if torch.cuda.is_available():
        return base.no("this is vLLM's CPU path, and this machine has a GPU")
    if platform.machine() == "x86_64" and not torch.cpu._is_avx512_supported():  # the test by which vLLM picks a build
        return base.no("vLLM builds its shared-memory all-reduce for AVX-512 only, which this CPU lacks; it uses gloo")
    return base.YES


class VllmShm:
    """vLLM's shared-memory all-reduce over `group`; collective to construct, as vLLM's own CPU communicator does it."""

    name = "vllm/shm"
    DTYPES = (torch.bfloat16, torch.float16, torch.float32)

    def __init__(self, group: dist.ProcessGroup):
        self.support = base.agree(group, shm_support())
        if self.support:
            self.support = base.agree(group, self._load())
        if self.support:
            self._join(group)

    def supports(self, tensor: torch.Tensor) -> base.Support:
        if not self.support:
            return self.support
        if tensor.device.type != "cpu" or tensor.dtype not in self.DTYPES or not tensor.is_contiguous():
            return base.no("vLLM's operation takes contiguous CPU tensors of bfloat16, float16 or float32")
        return base.YES

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            out = tensor.clone()
        elif out is not tensor:
            base.require_like(self.name, tensor, out)
            out.copy_(tensor)
        torch.ops._C.shm_allreduce(self._handle, out)  # in place
        return out

    def close(self) -> None:
        """vLLM offers no way to give its shared memory back before the process ends."""

    def _load(self) -> base.Support:
        try:
            from vllm.platforms import current_platform

            current_platform.import_kernels()
        except Exception as error:  # a broken installation can fail in any way; the benchmark goes on without it
            return base.no(f"vLLM does not load: {error}")
        if not hasattr(torch.ops._C, "init_shm_manager"):
            return base.no("this build of vLLM has no shared-memory all-reduce (torch.ops._C.init_shm_manager)")
        return base.YES

    def _join(self, group: dist.ProcessGroup) -> None:
        names = [f"symmlib-{secrets.token_hex(8)}"]
        dist.broadcast_object_list(names, group=group, group_src=0)
        threads = torch.tensor([torch.get_num_threads()])
        dist.all_reduce(threads, op=dist.ReduceOp.MIN, group=group)
        self._handle = torch.ops._C.init_shm_manager(names[0], group.size(), group.rank(), int(threads))
        dist.barrier(group=group)
        torch.ops._C.join_shm_manager(self._handle, names[0])
        dist.barrier(group=group)
        # All have mapped it: without its name nothing is left in /dev/shm, however a rank ends.
        Path(f"/dev/shm/{names[0]}_{group.rank()}").unlink(missing_ok=True)


class VllmSymmMem:
    """What vLLM does with symmetric memory: copy in, two-shot in place, copy out; see its `symm_mem.py` of 0.32.

    vLLM's own class cannot be opened outside vLLM, takes bfloat16 only, as this does, and gives two-shot up where
    multicast is missing, which this does not, so that it can be compared there, too. At world sizes 6 and 8 vLLM
    itself uses multimem.
    """

    name = "vllm/symm_mem"

    def __init__(self, group: dist.ProcessGroup, device: torch.device):
        self._communicator = symm_mem.SymmMemCommunicator(group, device)
        self.support = self._communicator.support

    def supports(self, tensor: torch.Tensor) -> base.Support:
        if not self.support:
            return self.support
        if tensor.dtype != torch.bfloat16:
            return base.no(f"vLLM's communicator takes bfloat16 only, not {tensor.dtype}")
        if not symm_mem.is_aligned(tensor):
            return base.no("vLLM's communicator takes contiguous tensors of whole 16-byte vectors")
        largest = symm_mem.TWO_SHOT.largest(self._communicator.gpu, self._communicator.world_size)
        if largest and tensor.nbytes > largest:
            return base.no(f"above {largest} bytes its blocks would not all fit on a GPU that ranks share, and hang")
        return self._communicator.check(tensor)

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(tensor)
        base.require_like(self.name, tensor, out)
        self._communicator.enter()
        buffer = self._communicator.staging(tensor).view(tensor.shape)
        buffer.copy_(tensor)
        torch.ops.symm_mem.two_shot_all_reduce_(buffer, "sum", self._communicator.group.group_name)
        return out.copy_(buffer)

    def close(self) -> None:
        self._communicator.close()
