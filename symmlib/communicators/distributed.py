"""`gloo` and `nccl`: torch.distributed's own all-reduce, the fallback that always works and the peer to beat."""

import torch
import torch.distributed as dist

from symmlib.communicators import base


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


def open_distributed(name: str, group: dist.ProcessGroup, device: torch.device):
    """The backend `name` over `group`, or why there is none. Not collective beyond making NCCL's own group."""
    if name == "gloo" and device.type != "cpu":
        return base.Unavailable(name, "gloo would move every GPU tensor through the host; it is not measured there")
    if name == "nccl":
        if device.type != "cuda":
            return base.Unavailable(name, "NCCL serves CUDA tensors, and this run is on the CPU")
        if not dist.is_nccl_available():
            return base.Unavailable(name, "this build of torch has no NCCL")
        if torch.cuda.device_count() < group.size():
            reason = f"NCCL needs one GPU a rank: {torch.cuda.device_count()} for {group.size()} ranks"
            return base.Unavailable(name, reason)
        if dist.get_backend(group) != "nccl":
            # Among these ranks alone: others of the world need not take part.
            ranks = dist.get_process_group_ranks(group)
            return DistributedBackend(
                name, dist.new_group(ranks, backend="nccl", use_local_synchronization=True), owned=True
            )
    return DistributedBackend(name, group)
