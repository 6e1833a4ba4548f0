"""Lets all tensor-parallel ranks of a vLLM share one GPU: a laboratory for all-reduce inside real vLLM.

With `SYMMLIB_ONE_GPU=1`, which the launcher sets for experiments with `one_gpu: true` and nothing sets by itself, the
plug-in calls `share_gpu`. vLLM gives each rank a GPU of its own and reduces by NCCL, which refuses two ranks on one
GPU. What is changed about that is in `PATCHES`, one function each, with its reason; `OnOneGpu` is what vLLM's
communicator does differently. Each was needed, or was not tried without, by the versions in `KNOWN`.

Ranks must run under NVIDIA MPS, and all-reduces that wait leave room for the model's kernels
(`gpu.HELD_BESIDE_A_MODEL`). HBM stands in for NVLink: docs/one-gpu.md says what such numbers mean.
"""

import os
from importlib import metadata

from symmlib.errors import SymmlibError

VARIABLE = "SYMMLIB_ONE_GPU"
KNOWN = ("0.24.0",)  # served at TP=2 and 4 on one H200 with torch 2.11, CUDA graphs and torch.compile on
RANKS = 8  # of one host, at most
ALL_GATHER_BYTES = 64 << 20  # of a rank's part: 64 requests times its half of 128256 logits, in float32, are a quarter
# Of a server whose ranks share a GPU, besides `mps.SHARED_GPU`.
ENVIRONMENT = {
    VARIABLE: "1",
    "VLLM_DISABLE_PYNCCL": "1",  # NCCL refuses two ranks on one GPU
    "VLLM_ALLREDUCE_USE_FLASHINFER": "0",  # maps the memory of peers' GPUs, and a rank has none
    "OMP_NUM_THREADS": "2",  # as in the runs that made `KNOWN`; not tried without
}
ARGUMENTS = ("--disable-custom-all-reduce",)  # likewise


def is_on() -> bool:
    """Whether this process is of a server whose ranks share a GPU."""
    return os.environ.get(VARIABLE) == "1"


def why_not() -> str:
    """Why ranks cannot share a GPU in the vLLM that is installed; empty if they can."""
    version = metadata.version("vllm")
    if version in KNOWN:
        return ""
    return (
        f"this is vLLM {version}, and ranks on one GPU are known to work with vLLM {', '.join(KNOWN)}. "
        "Install that one, or use a GPU for each rank."
    )


def share_gpu() -> None:
    """Apply `PATCHES` to the vLLM of this process, before it makes process groups. Idempotent.

    Ends the process (vLLM would log an exception and go on) on a vLLM that is none of `KNOWN`, or lacks what is to be
    patched.
    """
    if why := why_not():
        raise SystemExit(f"{VARIABLE}=1: {why}")
    for patch in PATCHES:
        try:
            patch()
        except (ImportError, AttributeError) as error:
            version = metadata.version("vllm")
            raise SystemExit(f"{VARIABLE}=1: vLLM {version} lacks what is to be patched ({error}).") from None


def groups_by_gloo() -> None:
    """Process groups of the GPU's are made with gloo: NCCL's refuses two ranks on one GPU when it is first used."""
    platform = _platform()
    for one in platform.__mro__:  # vLLM asks the class that it found and, in places, the one that this derives from
        if "dist_backend" in vars(one) and one.dist_backend == "nccl":
            one.dist_backend = "gloo"
    platform.dist_backend = "gloo"


def every_rank_on_the_first_gpu() -> None:
    """Every rank is given the first GPU; vLLM would give rank r GPU r, and refuses a list that names a GPU twice."""
    from vllm.engine.arg_utils import EngineArgs

    asked, platform = EngineArgs._resolve_device_ids, _platform()

    def resolve(self):
        ranks = self.tensor_parallel_size * self.pipeline_parallel_size
        first, *_ = os.environ.get(platform.device_control_env_var, "").split(",")
        gpu = platform.device_control_id_to_physical_device_id(first) if first else 0
        return [gpu] * ranks if ranks > 1 else asked(self)

    EngineArgs._resolve_device_ids = resolve


def gpus_for_every_rank() -> None:
    """vLLM refuses more ranks than GPUs when it checks its configuration: it is told of as many as a host may have."""
    platform = _platform()
    counted = platform.device_count

    platform.device_count = classmethod(lambda cls: max(counted(), RANKS))


PATCHES = (groups_by_gloo, every_rank_on_the_first_gpu, gpus_for_every_rank)


class OnOneGpu:
    """To be mixed in before vLLM's `CudaCommunicator`: what its groups do where they can't use NCCL.

    Sums are the plug-in's. Logits are gathered in symmetric memory: gloo would take them through the host, which costs
    more than the rest of a step. What else a group does is left to gloo.
    """

    _gather_logits = None

    def all_gather(self, input_, dim: int = -1):
        if self._gather_logits is None and self.world_size > 1 and input_.is_cuda:
            self._gather_logits = AllGather(self.cpu_group, self.device)
        if self._gather_logits is None or input_.nbytes > ALL_GATHER_BYTES:
            return super().all_gather(input_, dim)
        return self._gather_logits(input_, dim)


class AllGather:
    """Concatenates the ranks' tensors, read where they lie. Collective to construct and to call.

    Args:
        group: of the ranks that share the GPU `device`; it carries CPU objects (gloo).
    """

    def __init__(self, group, device):
        import torch
        from torch.distributed import _symmetric_memory

        self._buffer = _symmetric_memory.empty((ALL_GATHER_BYTES,), dtype=torch.uint8, device=device)
        self._handle = _symmetric_memory.rendezvous(self._buffer, group.group_name)

    def __call__(self, tensor, dim: int):
        """`tensor` of every rank, of the same shape and dtype on each, concatenated along `dim` in rank order."""
        import torch

        handle = self._handle
        self._buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        handle.barrier()  # every rank's part is there
        parts = [handle.get_buffer(rank, tensor.shape, tensor.dtype) for rank in range(handle.world_size)]
        gathered = torch.cat(parts, dim)
        handle.barrier()  # nobody reads it any more
        return gathered


def let_two_shot_in(communicator) -> None:
    """Have vLLM's own symmetric-memory `communicator` serve by two-shot.

    It gives up where there is no multicast, after a rendezvous that went well; two-shot needs no multicast. Raises
    `SymmlibError` where the rendezvous did not go well.
    """
    if communicator is None or getattr(communicator, "buffer", None) is None:
        raise SymmlibError("vLLM's symmetric memory did not open; its log says why (VLLM_ALLREDUCE_USE_SYMM_MEM=1?)")
    from torch.distributed import _symmetric_memory

    _symmetric_memory.rendezvous(communicator.buffer, communicator.group.group_name)  # known by now, or it raises
    communicator.force_multimem, communicator.disabled = False, False


def _platform() -> type:
    from vllm.platforms import current_platform

    return type(current_platform)
