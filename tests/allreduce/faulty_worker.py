"""The worker of numerics with backends that are faulty as real ones are; run by torchrun in `test_numerics`.

TEST_FAULTS names what is wrong with which backend: `host/one_shot=drops` (every 50th call lacks what rank 1 gives),
`=raises`, `=is killed`.
"""

import os
import signal

import torch
import torch.distributed as dist

from symmlib.allreduce import numerics_worker

OPEN = numerics_worker.open_backends


class Faulty:
    """A backend that does as `fault` says."""

    def __init__(self, backend, fault: str):
        self.name, self.supports, self.close = backend.name, backend.supports, backend.close
        self._backend, self._fault, self._calls = backend, fault, 0

    def all_reduce(self, tensor, *, out=None):
        self._calls += 1
        if self._fault == "raises" and self._calls > 10:
            raise ValueError("numbers that only this test cannot add")
        if self._fault == "is killed" and self._calls > 10 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "drops" and self._calls % 50 == 0 and dist.get_rank() == 1:
            given = torch.zeros_like(tensor)
            result = self._backend.all_reduce(given)
            return result if out is None else out.copy_(result)
        return self._backend.all_reduce(tensor, out=out)


def open_faulty(names, group, device, **options):
    faults = dict(one.split("=") for one in os.environ["TEST_FAULTS"].split(","))
    opened = OPEN(names, group, device, **options)
    return {name: Faulty(one, faults[name]) if name in faults else one for name, one in opened.items()}


numerics_worker.open_backends = open_faulty

if __name__ == "__main__":
    numerics_worker.main()
