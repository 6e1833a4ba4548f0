"""The router as operators of PyTorch, so that compiled and captured programs can hold it: docs/torch-compile.md.

    torch.ops.symmlib.all_reduce(tensor, router.op_name)           a new, contiguous tensor
    torch.ops.symmlib.all_reduce_out(tensor, out, router.op_name)  into `out`, of the same shape and dtype

`Router.all_reduce` calls them by itself where torch.compile traces it. An operator's arguments are tensors and plain
values, so the router is found by its name: the n-th router of a process is "router-n", and no name is given twice.
Operators have no backward, and refuse a tensor that wants one.
"""

import itertools
import weakref
from typing import TYPE_CHECKING

import torch

from symmlib.errors import SymmlibError

if TYPE_CHECKING:
    from symmlib.routing.router import Router

_routers: "weakref.WeakValueDictionary[str, Router]" = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def register(router: "Router") -> str:
    """The name by which operators find `router` until it is withdrawn or gone. Keeps no router alive."""
    name = f"router-{next(_numbers)}"
    _routers[name] = router
    return name


def withdraw(name: str) -> None:
    """Let operators find the router `name` no more. Idempotent."""
    _routers.pop(name, None)


def _all_reduce(input: torch.Tensor, router: str) -> torch.Tensor:
    _require_no_gradient(input)
    result = _find(router).all_reduce(input)
    return result if result.is_contiguous() else result.contiguous()  # as the fake kernel promised


def _all_reduce_out(input: torch.Tensor, out: torch.Tensor, router: str) -> None:
    _require_no_gradient(input, out)
    _find(router).all_reduce(input, out=out)


def _fake_all_reduce(input: torch.Tensor, router: str) -> torch.Tensor:
    _require_no_gradient(input)
    return torch.empty_like(input, memory_format=torch.contiguous_format)


def _fake_all_reduce_out(input: torch.Tensor, out: torch.Tensor, router: str) -> None:
    _require_no_gradient(input, out)
    torch._check(input.shape == out.shape and input.dtype == out.dtype, lambda: "out must be as the input")


def _find(name: str) -> "Router":
    try:
        return _routers[name]
    except KeyError:
        raise SymmlibError(
            f"{name} was closed or is gone, and what was compiled with it cannot reduce any more. Keep the router "
            "open as long as its compiled program runs, and compile anew with another one."
        ) from None


def _require_no_gradient(*tensors: torch.Tensor) -> None:
    """PyTorch would take an operator without a backward for a constant, and gradients would be wrong in silence."""
    for tensor in tensors:
        if tensor.requires_grad and torch.is_grad_enabled():
            raise SymmlibError("symmlib's all-reduce has no backward; call it under torch.inference_mode()")


# By Library and not by torch.library.custom_op, whose wrappers cost another 2 to 7 us a call.
_library = torch.library.Library("symmlib", "DEF")
for _schema, _kernel, _fake in (
    ("all_reduce(Tensor input, str router) -> Tensor", _all_reduce, _fake_all_reduce),
    ("all_reduce_out(Tensor input, Tensor(a!) out, str router) -> ()", _all_reduce_out, _fake_all_reduce_out),
):
    _name = _library.define(_schema)
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _kernel, _device)
    torch.library.register_fake(f"symmlib::{_name}", _fake, lib=_library)
