"""The benchmark's worker with backends that fail as real ones do; run by torchrun in `test_measure`.

TEST_FAILURES names what happens to which backend: `host/two_shot=raises`, `=sums wrong`, `=is killed`.
"""

import os
import signal

import torch.distributed as dist

from symmlib.allreduce import worker

OPEN = worker.open_backends


class Failing:
    """A backend that serves its first calls, then does what `failure` says."""

    def __init__(self, backend, failure: str):
        self.name, self.supports, self.close = backend.name, backend.supports, backend.close
        self._backend, self._failure, self._calls = backend, failure, 0

    def all_reduce(self, tensor, *, out=None):
        self._calls += 1
        if self._failure == "raises" and self._calls > 10:
            raise ValueError("tensor of a shape that only this test knows\nand a second line")
        if self._failure == "is killed" and self._calls > 10 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        result = self._backend.all_reduce(tensor, out=out)
        if self._failure == "sums wrong" and dist.get_rank() == 1:
            result.view(-1)[-1] += 1
        return result


def open_failing(names, group, device, **options):
    failures = dict(one.split("=") for one in os.environ["TEST_FAILURES"].split(","))
    return {
        name: Failing(backend, failures[name]) if name in failures else backend
        for name, backend in OPEN(names, group, device, **options).items()
    }


worker.open_backends = open_failing

if __name__ == "__main__":
    worker.main()
