"""Opens backends by name, so that the router, the benchmark and the plug-in ask for them in the same words."""

import torch
import torch.distributed as dist

from symmlib.backends import BACKENDS
from symmlib.communicators import base
from symmlib.communicators.distributed import open_distributed
from symmlib.communicators.host import TIMEOUT_S, HostCommunicator
from symmlib.communicators.symm_mem import SymmMemCommunicator
from symmlib.communicators.triton import TritonCommunicator
from symmlib.communicators.vllm_peers import VllmShm, VllmSymmMem
from symmlib.errors import unknown

NOT_WRAPPED = "symmlib has no code for it yet"


def open_backends(
    names, group: dist.ProcessGroup, device: torch.device | str, *, host_timeout_s: float = TIMEOUT_S
) -> dict[str, base.AllReduceBackend]:
    """All backends in `names`, in that order. Collective: every rank of `group` asks for the same names.

    A backend that cannot run here is `Unavailable`, on every rank with the same reason: nothing is raised for a
    missing feature. `host_timeout_s`: how long host backends wait for a rank that lives. Raises `UsageError` for a name
    that no backend has.
    """
    device = torch.device(device)
    for name in names:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    families = {name.split("/")[0] for name in names}
    opened: dict[str, base.AllReduceBackend] = {}
    if "host" in families:
        opened |= _reasons_for(HostCommunicator(group, timeout_s=host_timeout_s))
    if "symm_mem" in families:
        opened |= _reasons_for(SymmMemCommunicator(group, device))
    if "triton" in families:
        opened |= _reasons_for(TritonCommunicator(group, device))
    if "vllm/symm_mem" in names:
        peer = VllmSymmMem(group, device)
        opened[peer.name] = peer if peer.support else base.Unavailable(peer.name, peer.support.reason)
    if "vllm/shm" in names:
        shm = VllmShm(group)
        opened[shm.name] = shm if shm.support else base.Unavailable(shm.name, shm.support.reason)
    for name in ("gloo", "nccl"):
        if name in names:
            opened[name] = open_distributed(name, group, device)
    return {name: opened.get(name) or base.Unavailable(name, NOT_WRAPPED) for name in names}


def close_backends(backends: dict[str, base.AllReduceBackend]) -> None:
    """Close every backend; those of one family share a communicator, which closes once."""
    for backend in backends.values():
        backend.close()


def _reasons_for(communicator) -> dict[str, base.AllReduceBackend]:
    """A family's backends, those without support replaced by their reason."""
    return {
        name: backend if backend.support else base.Unavailable(name, backend.support.reason)
        for name, backend in communicator.backends.items()
    }
