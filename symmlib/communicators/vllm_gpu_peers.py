"""`vllm/custom` and `vllm/flashinfer`: what vLLM has for GPUs, opened outside vLLM to be measured beside ours.

Both are vLLM's own classes (`vllm.distributed.device_communicators`, written against 0.32), with vLLM's own answers to
which tensors they take. Neither has run yet on a node with several GPUs, and on one shared GPU neither can. Importing
this module does not import vLLM.
"""

import importlib.util
from contextlib import contextmanager, suppress
from importlib import metadata

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.communicators.gpu import Gpu, describe

CUSTOM_WORLD_SIZES = (2, 4, 6, 8)  # CustomAllreduce of vLLM 0.32, within one node
ALIGNMENT_BYTES = 16  # vLLM's kernels load and store so much at once, and do not check
ROW = 4096  # elements: FlashInfer's kernels want rows, and messages without any are cut so


def cuda_build(device: torch.device) -> base.Support:
    """Whether this environment has a vLLM for `device`, a GPU, as far as can be told without importing it."""
    if importlib.util.find_spec("vllm") is None:
        return base.no("vLLM is not installed in this environment")
    with suppress(metadata.PackageNotFoundError):  # a checkout, say: importing it will tell
        if (version := metadata.version("vllm")).endswith("cpu"):
            return base.no(f"this vLLM, {version}, is built for the CPU")
    if device.type != "cuda" or not torch.cuda.is_available():
        return base.no("it needs CUDA GPUs, and this run is on the CPU")
    return base.YES


def custom_support(gpu: Gpu, world_size: int) -> base.Support:
    """Whether vLLM would try its custom all-reduce on such GPUs."""
    if gpu.ranks > 1:
        return base.no(f"vLLM wants peer access between GPUs, and {gpu.ranks} ranks share one {gpu.name}")
    if world_size not in CUSTOM_WORLD_SIZES:
        return base.no(f"vLLM's custom all-reduce serves 2, 4, 6 or 8 ranks, not {world_size}")
    return base.YES


def flashinfer_support(gpu: Gpu) -> base.Support:
    """Whether FlashInfer's all-reduce could run on such GPUs; for which world sizes, vLLM knows."""
    if gpu.ranks > 1:
        return base.no(f"FlashInfer maps memory between GPUs, and {gpu.ranks} ranks share one {gpu.name}")
    if gpu.capability < (9, 0):
        return base.no(f"{gpu.name} is older than Hopper (sm_90)")
    return base.YES


class VllmCustom:
    """vLLM's custom all-reduce over CUDA IPC; collective to construct.

    Args:
        group: ranks of one node, one GPU each; it carries CPU objects (gloo).
        device: this rank's GPU.

    Outside a CUDA graph, and in one that is captured outside `capture()`, vLLM first copies the message into a buffer
    that its peers have mapped; inside, the graph reads the message where it lies, as in vLLM's own graphs.
    """

    name = "vllm/custom"

    def __init__(self, group: dist.ProcessGroup, device: torch.device):
        self._device, self._group = device, group
        self._communicator, self._capturing = None, False
        self.support = base.agree(group, cuda_build(device))
        if self.support:
            self.support = base.agree(group, custom_support(describe(group, device), group.size()))
        if self.support:
            self.support = base.agree(group, self._open())
        if not self.support:
            self.close()

    def supports(self, tensor: torch.Tensor) -> base.Support:
        if not self.support:
            return self.support
        if refused := _not_for(tensor, self._device):
            return base.no(refused)
        if not self._communicator.should_custom_ar(tensor):
            return base.no(f"vLLM's custom all-reduce does not take {tensor.nbytes} bytes of {tensor.dtype}")
        return base.YES

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is not None:
            base.require_like(self.name, tensor, out)
        result = out if out is not None and _is_aligned(out) else torch.empty_like(tensor)
        # Peers read a registered message while this rank writes its result: never into the same place.
        apart = result.data_ptr() != tensor.data_ptr()
        registered = self._capturing and apart and torch.cuda.is_current_stream_capturing()
        self._communicator.all_reduce(tensor, out=result, registered=registered)
        return result if out is None or out is result else out.copy_(result)

    @contextmanager
    def capture(self):
        """Around the capture of CUDA graphs; at its end all ranks tell each other where their messages lie."""
        with self._communicator.capture():
            self._capturing = True
            try:
                yield
            finally:
                self._capturing = False

    def close(self) -> None:
        """Give the shared buffers back; graphs that use them must not be replayed any more. Idempotent."""
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None

    def _open(self) -> base.Support:
        try:
            from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce

            self._communicator = CustomAllreduce(self._group, self._device)
        except Exception as error:  # vLLM or the driver may fail in any way; the benchmark goes on without it
            return base.no(f"vLLM's custom all-reduce does not open: {type(error).__name__}: {error}")
        if self._communicator.disabled:
            return base.no("vLLM switched its custom all-reduce off: no peer access, or more than two GPUs over PCIe")
        return base.YES


class VllmFlashInfer:
    """vLLM's use of FlashInfer's all-reduce; collective to construct, and when it first meets a tensor.

    Args:
        group: ranks of one node, one GPU each; it carries CPU objects (gloo).
        device: this rank's GPU.

    vLLM makes FlashInfer's workspace, one a process, for the dtype that comes first; other dtypes are refused. The
    kernels take matrices: other messages are cut into rows of `ROW` elements, or are one row.
    """

    name = "vllm/flashinfer"

    def __init__(self, group: dist.ProcessGroup, device: torch.device):
        self._device, self._group = device, group
        self._communicator, self._dtype = None, None
        self.support = base.agree(group, cuda_build(device))
        if self.support:
            self.support = base.agree(group, flashinfer_support(describe(group, device)))
        if self.support:
            self.support = base.agree(group, self._open())

    def supports(self, tensor: torch.Tensor) -> base.Support:
        if not self.support:
            return self.support
        if refused := _not_for(tensor, self._device):
            return base.no(refused)
        if self._dtype not in (None, tensor.dtype):
            return base.no(f"FlashInfer's workspace was made for {self._dtype}, not {tensor.dtype}")
        if (rows := as_rows(tensor)) is None:
            return base.no(f"FlashInfer takes rows, and {tensor.numel()} elements are no whole number of {ROW}")
        if not self._communicator.should_use_fi_ar(rows):
            return base.no(f"vLLM's FlashInfer communicator does not take {tensor.nbytes} bytes of {tensor.dtype}")
        self._dtype = tensor.dtype
        return base.YES

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is not None:
            base.require_like(self.name, tensor, out)
        result = self._communicator.all_reduce(as_rows(tensor)).view(tensor.shape)
        return result if out is None else out.copy_(result)

    def close(self) -> None:
        """Give the workspace back. Idempotent."""
        if self._communicator is not None:
            self._communicator.destroy()
            self._communicator = None

    def _open(self) -> base.Support:
        try:
            from vllm.distributed.device_communicators import flashinfer_all_reduce

            self._communicator = flashinfer_all_reduce.FlashInferAllReduce(self._group, self._device)
        except Exception as error:  # as above
            return base.no(f"vLLM's FlashInfer communicator does not open: {type(error).__name__}: {error}")
        if self._communicator.disabled:
            missing = "" if flashinfer_all_reduce.fi_ar_available else ", which is not installed,"
            return base.no(f"vLLM does not use FlashInfer{missing} for {self._group.size()} such GPUs")
        return base.YES


def as_rows(tensor: torch.Tensor) -> torch.Tensor | None:
    """`tensor` (contiguous) as the matrix that FlashInfer takes: as it is, or one row, or rows of `ROW` elements."""
    if tensor.dim() == 2:
        return tensor
    if tensor.numel() <= ROW:
        return tensor.view(1, -1)
    return None if tensor.numel() % ROW else tensor.view(-1, ROW)


def _not_for(tensor: torch.Tensor, device: torch.device) -> str:
    """Why kernels on `device` cannot read `tensor`, where vLLM itself does not ask; empty where they can."""
    if tensor.device != device:
        return f"the tensor is on {tensor.device}, this communicator on {device}"
    if not tensor.is_contiguous() or not tensor.numel():
        return "the tensor is not contiguous, or empty"
    if not _is_aligned(tensor) or tensor.nbytes % ALIGNMENT_BYTES:
        return f"vLLM's kernels take whole and aligned blocks of {ALIGNMENT_BYTES} bytes"
    return ""


def _is_aligned(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT_BYTES == 0
