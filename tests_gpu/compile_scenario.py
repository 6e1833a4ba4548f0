"""One rank of `test_compile`: a module with two all-reduces through the router, eager, compiled, and in CUDA graphs.

    torchrun ... compile_scenario.py OUT.json

All arithmetic is on small whole numbers, exact in bfloat16, so every value must be that of a calculation on the inputs
of all ranks without any all-reduce. Rank 0 writes a list of rows: `wrong` counts elements over ranks and iterations,
`max_difference` is the largest distance from eager; `calls` are the router's: a replayed graph makes none.
"""

import faulthandler
import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from symmlib.communicators.gpu import describe
from symmlib.communicators.host import HostCommunicator
from symmlib.routing import Route, Router, RoutingTable, Table
from symmlib.torchrun import join

WIDTH = 4096
ROWS = {torch.bfloat16: (4, 256), torch.float32: (4,)}  # of WIDTH elements: by one-shot and, if many, by two-shot
ROUTES = (Route(256 << 10, "triton/one_shot"), Route(None, "symm_mem/two_shot"))
ITERATIONS = 20
COMPILED = {"eager": None, "fullgraph": {}, "reduce-overhead": {"mode": "reduce-overhead"}}


class Block(torch.nn.Module):
    """A matrix product (by a permutation), an all-reduce, and another all-reduce of what came of both."""

    def __init__(self, router: Router, dtype: torch.dtype):
        super().__init__()
        self.router = router
        permutation = torch.eye(WIDTH, dtype=dtype, device="cuda").roll(1, dims=1)
        self.register_buffer("permutation", permutation)

    def forward(self, hidden):
        hidden = hidden + self.router.all_reduce(torch.relu(hidden @ self.permutation))
        return hidden - self.router.all_reduce(hidden.flip(-1).contiguous() * 2)


def main(out: str) -> None:
    faulthandler.dump_traceback_later(150, exit=True)  # a hang is told by the line it hangs in
    join(timedelta(minutes=5))
    device = torch.device("cuda", 0 if os.environ.get("SYMMLIB_TEST_ONE_GPU") == "1" else int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    control = HostCommunicator(dist.group.WORLD)
    gpu, world_size = describe(dist.group.WORLD, device), dist.get_world_size()
    table = RoutingTable(
        tuple(
            Table(gpu.key, world_size, name, mode, not gpu.no_multicast, "this test", ROUTES)
            for name in ("bfloat16", "float32")
            for mode in ("eager", "graph")
        )
    )
    routers = {mode: Router(dist.group.WORLD, table, device=device, mode=mode) for mode in ("eager", "graph")}
    rows = []
    with torch.no_grad():
        for dtype, counts in ROWS.items():
            for count in counts:
                rows += [one(routers, name, options, dtype, count, control) for name, options in COMPILED.items()]
    if dist.get_rank() == 0:
        with open(out, "w") as file:
            json.dump(rows, file)
    torch.cuda.synchronize()
    control.barrier()
    for router in routers.values():
        router.close()
    os._exit(0)


def one(routers, name, options, dtype, count, control) -> dict:
    """What all ranks found of one way to run the module, with fresh inputs each time; a collective."""
    router = routers["graph" if name == "reduce-overhead" else "eager"]
    plain = Block(routers["eager"], dtype)
    torch.compiler.reset()
    counters.clear()
    module = Block(router, dtype)
    run = module if options is None else torch.compile(module, fullgraph=True, dynamic=False, **options)
    results, expected = [], []
    before = calls(router)
    for iteration in range(ITERATIONS):
        inputs = [whole_numbers(dtype, count, iteration, rank) for rank in range(dist.get_world_size())]
        control.barrier()
        torch.compiler.cudagraph_mark_step_begin()
        results.append(run(inputs[dist.get_rank()]).clone())  # the next replay writes into the same memory
        expected.append(without_all_reduces(inputs))
    after = calls(router)
    differences = [
        float((plain(whole_numbers(dtype, count, iteration, dist.get_rank())) - result).abs().max())
        for iteration, result in enumerate(results)
    ]
    wrong = sum(int((result != want).sum()) for result, want in zip(results, expected, strict=True))
    nbytes = count * WIDTH * dtype.itemsize
    return {
        "run": name,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": nbytes,
        "backend": router.route(results[0]).backend,
        "iterations": ITERATIONS,
        "wrong": sum(everyone(wrong)),
        "max_difference": max(everyone(max(differences))),
        "calls": after - before,
        "cudagraph_skips": counters["inductor"]["cudagraph_skips"],
    }


def whole_numbers(dtype: torch.dtype, count: int, iteration: int, rank: int) -> torch.Tensor:
    """This rank's input: -1, 0 and 1."""
    generator = torch.Generator("cuda").manual_seed(1000 * iteration + rank)
    return torch.randint(-1, 2, (count, WIDTH), generator=generator, device="cuda").to(dtype)


def without_all_reduces(inputs: list[torch.Tensor]) -> torch.Tensor:
    """What `Block` must give this rank, from all ranks' inputs, in float64."""
    inputs = [one.double() for one in inputs]
    total = sum(torch.relu(one.roll(1, dims=1)) for one in inputs)
    hidden = [one + total for one in inputs]
    return hidden[dist.get_rank()] - sum(one.flip(-1) * 2 for one in hidden)


def calls(router: Router) -> int:
    return sum(served.calls for served in router.trace.served)


def everyone(value) -> list:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


if __name__ == "__main__":
    main(sys.argv[1])
