"""Scenarios of torch.compile: `scenarios.py` runs them as compile_scenarios.NAME."""

import os
import tempfile

import torch
import torch.distributed as dist

from symmlib.errors import SymmlibError
from symmlib.routing import Route, Router, RoutingTable, Table

ROUTES = (Route(1024, "host/one_shot"), Route(4096, "host/two_shot"), Route(None, "gloo"))
WIDTH = 64
ROWS = (2, 3, 9, 40)  # of WIDTH floats: by one_shot, one_shot, two_shot and gloo


def router_of(world_size: int) -> Router:
    table = RoutingTable((Table("cpu", world_size, "float32", "eager", False, "a test", ROUTES),))
    return Router(dist.group.WORLD, table, device="cpu")


class Block(torch.nn.Module):
    """Two all-reduces, the second of which needs the first, as a layer of a model has them."""

    def __init__(self, router: Router, rank: int):
        super().__init__()
        self.router = router
        torch.manual_seed(rank)
        self.up, self.down = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden):
        hidden = hidden + self.router.all_reduce(torch.relu(self.up(hidden)))
        return hidden + self.router.all_reduce(self.down(hidden))


class InPlace(torch.nn.Module):
    """All-reduces into a tensor of its own, into its input's copy, and into that copy itself."""

    def __init__(self, router: Router):
        super().__init__()
        self.router = router

    def forward(self, hidden):
        own = torch.zeros_like(hidden)
        self.router.all_reduce(hidden * 2, out=own)
        copy = hidden.clone()
        self.router.all_reduce(copy, out=copy)
        return own + copy, self.router.all_reduce(own, out=copy)


def inputs(rank: int, rows: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(100 * rows + rank))


def largest_difference(module, compiled, rank) -> float:
    found = 0.0
    for rows in ROWS:
        hidden = inputs(rank, rows)
        pairs = zip(_tuple(module(hidden)), _tuple(compiled(hidden)), strict=True)
        found = max(found, *(float((eager - other).abs().max()) for eager, other in pairs))
    return found


def aot_eager(rank, world_size):
    return _compiled("aot_eager", rank, world_size)


def inductor(rank, world_size):
    with tempfile.TemporaryDirectory() as own:  # compiled here and now, whatever an earlier test left
        cache = [own]
        dist.broadcast_object_list(cache)  # the ranks' programs are the same, and a C++ compiler takes seconds for each
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache[0]
        answer = _compiled("inductor", rank, world_size)
        dist.barrier()  # nobody reads there any more
        return answer


@torch.inference_mode()
def _compiled(backend, rank, world_size):
    """Differences from eager by module and by how shapes are taken, and which backends served either, how often."""
    router = router_of(world_size)
    answer = {}
    for name, module in (("block", Block(router, rank)), ("in place", InPlace(router))):
        for dynamic in (True, False):
            torch.compiler.reset()
            compiled = torch.compile(module, backend=backend, fullgraph=True, dynamic=dynamic)
            answer[f"{name}, {'dynamic' if dynamic else 'fixed'} shapes"] = largest_difference(module, compiled, rank)
    by_backend = {}
    for one in router.trace.served:
        by_backend[one.decision.backend] = by_backend.get(one.decision.backend, 0) + one.calls
    router.close()
    return {"differences": answer, "calls": by_backend}


@torch.no_grad()
def another_router(rank, world_size):
    """A compiled module is given another router, and the first is closed; then this one is closed, too."""
    first, second = router_of(world_size), router_of(world_size)
    module = Block(first, rank)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    compiled(inputs(rank, 2))
    module.router = second
    first.close()
    difference = float((module(inputs(rank, 2)) - compiled(inputs(rank, 2))).abs().max())
    second.close()
    try:
        compiled(inputs(rank, 2))
    except SymmlibError as error:
        return {"difference": difference, "names": [first.op_name, second.op_name], "said": str(error)}


def operator_checks(rank, world_size):
    """torch's own checks of a custom operator, of tensors of every kind."""
    router = router_of(world_size)
    kinds = {
        "small": inputs(rank, 2),
        "by gloo": inputs(rank, 40),
        "strided": inputs(rank, 9).t(),
        "empty": torch.empty(0, 4),
        "no table": inputs(rank, 2).to(torch.float16),
    }
    answer = {}
    for name, tensor in kinds.items():
        into = tensor.new_empty(tensor.shape)
        ops = torch.ops.symmlib
        checked = torch.library.opcheck(ops.all_reduce.default, (tensor, router.op_name))
        checked_out = torch.library.opcheck(ops.all_reduce_out.default, (tensor, into, router.op_name))
        total = ops.all_reduce(tensor, router.op_name)
        answer[name] = [*checked.values(), *checked_out.values(), torch.equal(total, router.all_reduce(tensor))]
    return answer


def operator_refusals(rank, world_size):
    """What the operator says to a gradient, to a name that no router has, and to a router that nobody holds."""
    router = router_of(world_size)
    tensor, learnt = torch.ones(8), torch.ones(8, requires_grad=True)
    compiled = torch.compile(lambda input: router.all_reduce(input), backend="aot_eager", fullgraph=True)
    attempts = {
        "gradient": lambda: torch.ops.symmlib.all_reduce(learnt, router.op_name),
        "gradient, compiled": lambda: compiled(learnt * 2),
        "gradient, out": lambda: torch.ops.symmlib.all_reduce_out(learnt, torch.empty(8), router.op_name),
        "unknown": lambda: torch.ops.symmlib.all_reduce(tensor, "router-0"),
    }
    said = {name: _error(attempt) for name, attempt in attempts.items()}
    with torch.no_grad():
        said["sum without a gradient"] = float(torch.ops.symmlib.all_reduce(learnt, router.op_name)[0])
    name = router.op_name
    router.close()
    said["closed"] = _error(lambda: torch.ops.symmlib.all_reduce(tensor, name))
    return said


def _error(attempt) -> str:
    try:
        attempt()
    except Exception as error:  # torch wraps what is raised while it traces
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)
