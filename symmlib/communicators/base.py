"""What every way to all-reduce looks like from outside, and how ranks agree on which of them they have.

A backend is one algorithm (`host/one_shot`). A family (`HostCommunicator`) owns what its backends share, such as
buffers. The router, the benchmark and the vLLM plug-in know only this page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist

from symmlib.errors import SymmlibError


@dataclass(frozen=True)
class Support:
    """Whether a backend can serve a tensor. Truthy, or falsy with a `reason` that a person can act on."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


YES = Support(True)


def no(reason: str) -> Support:
    """A falsy `Support`."""
    return Support(False, reason)


@runtime_checkable
class AllReduceBackend(Protocol):
    """One way to sum a tensor over all ranks of a group.

    `all_reduce` sums elementwise over the ranks. Input: any shape, of a dtype and device for which `supports` is
    truthy; the same shape and dtype on every rank. Result: `out` where given (of the same shape, dtype and device; it
    may be `tensor` itself, and overlaps it in no other way), else a new tensor; `tensor` is left as it was unless it
    is `out`.
    """

    name: str

    def supports(self, tensor: torch.Tensor) -> Support: ...

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor: ...

    def close(self) -> None: ...


Launch = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor | None]


def bind(backend: AllReduceBackend, dtype: torch.dtype, numel: int) -> Launch:
    """`backend.all_reduce` for tensors of `dtype` with `numel` elements, with all decided that these decide.

    The callable takes a tensor and `out` or None, and returns the sum, or None, having done nothing, where the backend
    cannot serve that tensor. A backend may have a faster one of its own, as its method `bind(dtype, numel)`.
    """
    if hasattr(backend, "bind"):
        return backend.bind(dtype, numel)

    def launch(tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor | None:
        return backend.all_reduce(tensor, out=out) if backend.supports(tensor) else None

    return launch


def require_like(name: str, tensor: torch.Tensor, out: torch.Tensor) -> None:
    """Raise `SymmlibError` unless `out` has the shape, dtype and device of `tensor`, whose sum `name` writes there."""
    if out.shape != tensor.shape or out.dtype != tensor.dtype or out.device != tensor.device:
        wanted, given = (f"{tuple(one.shape)} of {one.dtype} on {one.device}" for one in (tensor, out))
        raise SymmlibError(f"{name} needs out as the input, {wanted}, and it is {given}")


def place_for(backend: AllReduceBackend, tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Where `backend` writes the sum of `tensor`: `out`, or a new contiguous tensor.

    Raises `SymmlibError` for a tensor that the backend does not serve, and for an `out` that is not as the tensor.
    """
    support = backend.supports(tensor)
    if not support:
        raise SymmlibError(f"{backend.name} cannot serve this tensor: {support.reason}")
    if out is None:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    require_like(backend.name, tensor, out)
    return out


class Unavailable:
    """Stands in for a backend that cannot run here, so that asking for it yields the reason and not an exception."""

    def __init__(self, name: str, reason: str):
        self.name = name
        self.reason = reason

    def supports(self, tensor: torch.Tensor) -> Support:
        return no(self.reason)

    def all_reduce(self, tensor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        raise SymmlibError(f"{self.name} is unavailable: {self.reason}")

    def close(self) -> None:
        pass


def numbered(device: torch.device | str) -> torch.device:
    """`device` as tensors on it name theirs: "cuda" is the current GPU, by its number."""
    device = torch.device(device)
    if device == torch.device("cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def agree(group: dist.ProcessGroup, support: Support) -> Support:
    """The same `Support` on every rank: truthy only where it is on all of them, else the first failing rank's reason.

    A collective over `group` (which must carry CPU objects, as gloo does); every rank must call it.
    """
    answers: list[Support] = [support] * group.size()
    dist.all_gather_object(answers, support, group=group)
    refused = [(rank, answer.reason) for rank, answer in enumerate(answers) if not answer]
    if not refused:
        return YES
    rank, reason = refused[0]
    others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return no(reason if len(refused) == group.size() else f"rank {rank}{others}: {reason}")
