"""One rank of `test_shared_gpu`: matrix products of a Llama's layer between all-reduces, as vLLM's ranks have them.

torchrun ... beside_a_model.py OUT.json [0]

Each rank has its products done at another time, so that in every all-reduce one rank waits while the other computes.
With 0, waiting ranks leave as little room as where they only add: in vLLM's server that hung.
"""

import faulthandler
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib.communicators.host import HostCommunicator
from symmlib.communicators.triton import ONE_SHOT_MAX_BYTES, TritonCommunicator
from symmlib.torchrun import join

HIDDEN, INTERMEDIATE, TOKENS = 4096, 14336, (1, 16, 128, 512, 1024)
ROUNDS, LAYERS = 20, 8


def main(out: str, beside_a_model: int = True) -> None:
    faulthandler.dump_traceback_later(30, exit=True)  # a hang is told by the line it hangs in
    join(timedelta(seconds=50))
    torch.cuda.set_device(0)
    control = HostCommunicator(dist.group.WORLD)
    device = torch.device("cuda", 0)
    backends = TritonCommunicator(dist.group.WORLD, device, beside_a_model=bool(beside_a_model)).backends
    found = [
        {"backend": name, "tokens": tokens, "wrong": sum(everyone(layers(backend, tokens)))}
        for tokens in TOKENS
        for name, backend in backends.items()
        if tokens * HIDDEN * 2 <= ONE_SHOT_MAX_BYTES or name != "triton/one_shot"
    ]
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    torch.cuda.synchronize()
    control.barrier()
    os._exit(0)


def layers(backend, tokens: int) -> int:
    """How many elements of sums were wrong on this rank; each follows products whose time differs between ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    wide = INTERMEDIATE // ranks
    up = torch.randn(HIDDEN, wide, dtype=torch.bfloat16, device="cuda") / 64
    down = torch.randn(wide, HIDDEN, dtype=torch.bfloat16, device="cuda") / 64
    states = torch.randn(tokens, HIDDEN, dtype=torch.bfloat16, device="cuda")
    message = torch.full((tokens, HIDDEN), rank + 1, dtype=torch.bfloat16, device="cuda")
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    for step in range(ROUNDS * LAYERS):
        for _ in range(1 + 3 * (step % ranks == rank)):
            states = torch.nn.functional.rms_norm(states @ up @ down, (HIDDEN,))
        wrong += (backend.all_reduce(message) != sum(range(1, ranks + 1))).sum()
    return int(wrong) + int(not states.isfinite().all())


def everyone(value) -> list:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
