"""One of the ranks that `doctor` starts to learn which backends work here: it opens each and all-reduces with it.

    torchrun --nproc-per-node=2 -m symmlib.probe OUT.json

Rank 0 writes backend name -> reason why it does not work, empty where it does. On the CPU only: backends for GPUs give
their reason, and no GPU is touched.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib import patience
from symmlib.backends import BACKENDS
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.runs import write_json
from symmlib.torchrun import join


def main(out: Path) -> None:
    join(timedelta(seconds=patience.seconds(60)))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    backends = open_backends(list(BACKENDS), dist.group.WORLD, torch.device("cpu"))
    tensor = torch.full((1024,), float(rank + 1), dtype=torch.bfloat16)
    expected = float(sum(range(1, world_size + 1)))  # small whole numbers: exact in bfloat16
    reasons = {}
    for name, backend in backends.items():
        support = backend.supports(tensor)
        reasons[name] = support.reason
        if support:
            reasons[name] = _try(backend, tensor, expected)
    close_backends(backends)
    if rank == 0:
        write_json(out, reasons)
    dist.destroy_process_group()


def _try(backend, tensor: torch.Tensor, expected: float) -> str:
    """Why `backend` does not sum `tensor`; empty where it does. One that raises costs no other its try."""
    try:
        wrong = int((backend.all_reduce(tensor) != expected).sum())
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return f"{wrong} of {tensor.numel()} sums are wrong" if wrong else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
