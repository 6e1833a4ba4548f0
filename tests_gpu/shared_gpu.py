"""One rank of `test_shared_gpu`: what vLLM's ranks need besides sums when they share a GPU, and counted replays.

torchrun ... shared_gpu.py OUT.json
"""

import faulthandler
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib.communicators.gpu import describe
from symmlib.communicators.host import HostCommunicator
from symmlib.routing import Route, Router, RoutingTable, Table
from symmlib.routing.trace import Trace
from symmlib.torchrun import join
from symmlib.vllm_one_gpu import AllGather

SHAPES = ((1, 64), (8, 4096), (64, 64128))  # rows and columns of a rank's part of the logits; the last is Llama's
REPLAYS, IN_GRAPH = 50, 3


def main(out: str) -> None:
    faulthandler.dump_traceback_later(150, exit=True)  # a hang is told by the line it hangs in
    join(timedelta(seconds=120))
    torch.cuda.set_device(0)
    control = HostCommunicator(dist.group.WORLD)
    found = {"gathered": [gathered(*shape) for shape in SHAPES], "trace": replayed(Path(out).with_name("trace"))}
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    torch.cuda.synchronize()
    control.barrier()
    os._exit(0)


def gathered(rows: int, columns: int) -> dict:
    """How many elements of gathered parts were wrong on any rank, with fresh values in quick succession."""
    gather, device = AllGather(dist.group.WORLD, torch.device("cuda", 0)), "cuda"
    wrong = 0
    for call in range(20):
        parts = [torch.full((rows, columns), rank + 10 * call, dtype=torch.bfloat16, device=device)
                 for rank in range(dist.get_world_size())]  # fmt: skip
        for dim in (-1, 0):
            wrong += int((gather(parts[dist.get_rank()], dim) != torch.cat(parts, dim)).sum())
    return {"shape": [rows, columns], "wrong": sum(everyone(wrong))}


def replayed(directory: Path) -> dict:
    """The trace of a router, of eager calls and of a graph that is replayed."""
    device, world_size = torch.device("cuda", 0), dist.get_world_size()
    gpu = describe(dist.group.WORLD, device)
    routes = (Route(None, "triton/one_shot"),)
    table = RoutingTable((Table(gpu.key, world_size, "bfloat16", "graph", False, "this test", routes),))
    trace = Trace(dist.get_rank(), world_size, directory)
    trace.of_graphs(torch.cuda.CUDAGraph)
    router = Router(dist.group.WORLD, table, device=device, mode="graph", trace=trace)
    tensor = torch.ones(4096, dtype=torch.bfloat16, device=device)
    for _ in range(2):
        router.all_reduce(tensor)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_GRAPH):
            router.all_reduce(tensor)
    for _ in range(REPLAYS):
        graph.replay()
    torch.cuda.synchronize()
    trace.write()
    return json.loads((directory / f"rank-{dist.get_rank()}.json").read_text())


def everyone(value) -> list:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


if __name__ == "__main__":
    main(sys.argv[1])
