"""The benchmark's worker with backends that fail as real ones do; run by torchrun in `test_measure`.

TEST_FAILURES names what happens to which backend: `host/two_shot=raises`, `=sums wrong`, `=is killed`, `=hangs`,
`=sleeps`, `=never opens` (which is nobody's fault alone); with `@3` behind it, as in `gloo=is killed@3`, only among 3
ranks.
"""

import os
import signal
import time

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
        if self._failure == "hangs" and self._calls > 10:  # as a rank does that waits for others inside a GPU's kernel
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass
        if self._failure == "sleeps" and self._calls > 10:
            sleep_for_ever()
        result = self._backend.all_reduce(tensor, out=out)
        if self._failure == "sums wrong" and dist.get_rank() == 1:
            result.view(-1)[-1] += 1
        return result


def sleep_for_ever():
    while True:
        time.sleep(3600)


def open_failing(names, group, device, **options):
    failures = dict(one.split("=") for one in os.environ["TEST_FAILURES"].split(","))
    there = {name: failure.partition("@") for name, failure in failures.items()}
    failures = {name: failure for name, (failure, _, ranks) in there.items() if ranks in ("", str(group.size()))}
    if "never opens" in failures.values():
        raise RuntimeError("backends that never open")
    return {
        name: Failing(backend, failures[name]) if name in failures else backend
        for name, backend in OPEN(names, group, device, **options).items()
    }


worker.open_backends = open_failing

if __name__ == "__main__":
    worker.main()
