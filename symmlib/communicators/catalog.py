"""Opens backends by name, so that the router, the benchmark and the plug-in ask for them in the same words."""

import torch
import torch.distributed as dist

from symmlib.backends import BACKENDS
from symmlib.communicators import base
from symmlib.communicators.distributed import NcclSymmetricBackend, open_distributed
from symmlib.communicators.host import TIMEOUT_S, HostCommunicator
from symmlib.communicators.symm_mem import SymmMemCommunicator
from symmlib.communicators.triton import TritonCommunicator
from symmlib.communicators.vllm_gpu_peers import VllmCustom, VllmFlashInfer
from symmlib.communicators.vllm_peers import VllmShm, VllmSymmMem
from symmlib.errors import unknown


def open_backends(
    names,
    group: dist.ProcessGroup,
    device: torch.device | str,
    *,
    host_timeout_s: float = TIMEOUT_S,
    beside_a_model: bool = False,
) -> dict[str, base.AllReduceBackend]:
    """All backends in `names`, in that order. Collective: every rank of `group` asks for the same names.

    A backend that cannot run here is `Unavailable`, on every rank with the same reason: nothing is raised for a
    missing feature. `host_timeout_s`: how long host backends wait for a rank that lives. `beside_a_model`:
    see `gpu.Gpu`. Raises `UsageError` for a name that no backend has.
    """
    device = base.numbered(device)
    for name in names:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    families = {name.split("/")[0] for name in names}
    opened: dict[str, base.AllReduceBackend] = {}
    if "host" in families:
        opened |= _or_reasons(HostCommunicator(group, timeout_s=host_timeout_s).backends)
    if "symm_mem" in families:
        opened |= _or_reasons(SymmMemCommunicator(group, device).backends)
    if "triton" in families:
        opened |= _or_reasons(TritonCommunicator(group, device, beside_a_model=beside_a_model).backends)
    if "vllm/shm" in names:
        opened |= _or_reasons({"vllm/shm": VllmShm(group)})
    for peer in (VllmSymmMem, VllmCustom, VllmFlashInfer, NcclSymmetricBackend):
        if peer.name in names:
            opened |= _or_reasons({peer.name: peer(group, device)})
    for name in ("gloo", "nccl"):
        if name in names:
            opened[name] = open_distributed(name, group, device)
    return {name: opened[name] for name in names}


def close_backends(backends: dict[str, base.AllReduceBackend]) -> None:
    """Close every backend; those of one family share a communicator, which closes once."""
    for backend in backends.values():
        backend.close()


def _or_reasons(backends: dict) -> dict[str, base.AllReduceBackend]:
    """`backends`, those without support replaced by their reason."""
    return {
        name: backend if backend.support else base.Unavailable(name, backend.support.reason)
        for name, backend in backends.items()
    }
