"""One rank of `test_sums`: every backend, dtype, size and layout, eager and in a replayed CUDA graph.

    torchrun ... sums.py OUT.json

Rank 0 writes a list of rows; what every rank found is in them: `wrong` counts elements over ranks and calls.
"""

import faulthandler
import hashlib
import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from symmlib.allreduce.correctness import make_sums
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.communicators.host import HostCommunicator
from symmlib.communicators.symm_mem import SymmMemCommunicator
from symmlib.torchrun import join

BACKENDS = ("symm_mem/one_shot", "symm_mem/two_shot", "triton/one_shot", "triton/two_shot", "vllm/symm_mem")
SIZES = (16, 258, 4 << 10, 48 << 10, 256 << 10, 1 << 20, 3 << 20, 8 << 20, 64 << 20)  # bytes; 258: no whole vectors
REPLAYS = 200
CALLS = 4


def main(out: str) -> None:
    faulthandler.dump_traceback_later(280, exit=True)  # a hang is told by the line it hangs in
    join(timedelta(minutes=5))
    torch.cuda.set_device(0)
    control = HostCommunicator(dist.group.WORLD)
    backends = open_backends(BACKENDS, dist.group.WORLD, torch.device("cuda", 0))
    rows = []
    for size in SIZES:
        for dtype in (torch.bfloat16, torch.float32, torch.float16):
            if size % dtype.itemsize:
                continue
            sums = make_sums(size // dtype.itemsize, dtype, rank=dist.get_rank(), world_size=dist.get_world_size(),
                             seed=7, device="cuda")  # fmt: skip
            for name, backend in backends.items():
                for layout in ("aligned", "unaligned", "strided"):
                    control.barrier()
                    row = {"backend": name, "bytes": size, "dtype": str(dtype).removeprefix("torch."), "layout": layout}
                    rows.append(row | one(backend, sums, layout))
    rows += [in_symmetric_memory(size, control) for size in (4 << 10, 1 << 20, 8 << 20)]
    if dist.get_rank() == 0:
        with open(out, "w") as file:
            json.dump(rows, file)
    torch.cuda.synchronize()
    control.barrier()
    close_backends(backends)
    os._exit(0)


def one(backend, sums, layout: str) -> dict:
    """What all ranks found of one backend on `sums` in `layout`; a collective."""
    make, expected = laid_out(sums.integers, layout), sums.integer_sum
    message = make(sums.integers)
    if support := everyone(backend.supports(message).reason):
        return {"refused": support}
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for shift in range(CALLS):  # back to back: one that reuses memory too early is wrong
        message, out = make(sums.integers.roll(shift)), make(torch.full_like(expected, torch.nan))
        backend.all_reduce(message, out=out)
        wrong += (out.reshape(-1) != expected.roll(shift)).sum()
        wrong += (message.reshape(-1) != sums.integers.roll(shift)).sum()
    noise = make(sums.noise)
    backend.all_reduce(noise, out=noise)  # in place
    noise = noise.contiguous()
    error = (noise.double() - sums.noise_sum).abs().nan_to_num(nan=torch.inf).max().item()
    digest = hashlib.blake2b(noise.view(torch.uint8).cpu().numpy().data).hexdigest()

    message, out = make(sums.integers), make(torch.full_like(expected, torch.nan))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        backend.all_reduce(message, out=out)
    graph_wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for shift in range(REPLAYS):
        message.copy_(sums.integers.roll(shift).view(message.shape))
        out.fill_(torch.nan)
        graph.replay()
        graph_wrong += (out.reshape(-1) != expected.roll(shift)).sum()
    return {
        "wrong": sum(everyone(int(wrong), all_of=True)),
        "graph_wrong": sum(everyone(int(graph_wrong), all_of=True)),
        "replays": REPLAYS,
        "max_abs_error": max(everyone(error, all_of=True)),
        "bitwise_equal_across_ranks": len(set(everyone(digest, all_of=True))) == 1,
    }


def in_symmetric_memory(size: int, control) -> dict:
    """What `SymmMemCommunicator.empty` gives, summed where it lies and refilled at once; a collective."""
    communicator = SymmMemCommunicator(dist.group.WORLD, torch.device("cuda", 0))
    sums = make_sums(size // 2, torch.bfloat16, rank=dist.get_rank(), world_size=dist.get_world_size(), seed=7,
                     device="cuda")  # fmt: skip
    message, wrong = communicator.empty((size // 2,), torch.bfloat16), torch.zeros((), dtype=torch.int64, device="cuda")
    control.barrier()
    for name in ("symm_mem/one_shot", "symm_mem/two_shot"):
        out = message if name == "symm_mem/two_shot" else torch.empty_like(sums.integers)
        for shift in range(CALLS):
            message.copy_(sums.integers.roll(shift))  # peers may not be reading the last one any more
            communicator.backends[name].all_reduce(message, out=out)
            wrong += (out != sums.integer_sum.roll(shift)).sum()
    found = {"backend": "empty", "bytes": size, "zero_copy_wrong": sum(everyone(int(wrong), all_of=True))}
    communicator.close()
    return found


def laid_out(like: torch.Tensor, layout: str):
    """A function that puts a flat tensor's elements into memory of that layout."""
    if layout == "aligned":
        return lambda flat: flat.clone()
    if layout == "unaligned":
        return lambda flat: flat.new_empty(flat.numel() + 1)[1:].copy_(flat)
    return lambda flat: flat.new_empty(flat.numel(), 2)[:, 0].copy_(flat)  # every other element


def everyone(value, all_of: bool = False):
    """`value` of every rank, or of the first that has any."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values if all_of else next((one for one in values if one), "")


if __name__ == "__main__":
    main(sys.argv[1])
