"""The benchmark's worker on a GPU, in which rank 1 is killed at its third call of triton/two_shot.

TEST_KILLED=before: as it is about to launch, so that the others wait for it inside their kernels for ever.
TEST_KILLED=inside: with its own kernel on the GPU, which waits for the others.
"""

import os
import signal

import torch.distributed as dist

from symmlib.allreduce import worker

OPEN = worker.open_backends


class Killed:
    """`triton/two_shot` until rank 1's third call."""

    def __init__(self, backend):
        self.name, self.supports, self.close = backend.name, backend.supports, backend.close
        self._backend, self._calls = backend, 0

    def all_reduce(self, tensor, *, out=None):
        self._calls += 1
        dies = dist.get_rank() == 1 and self._calls == 3
        if not dies or os.environ["TEST_KILLED"] == "inside":
            out = self._backend.all_reduce(tensor, out=out)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return out


def open_killed(names, group, device, **options):
    opened = OPEN(names, group, device, **options)
    return {name: Killed(one) if name == "triton/two_shot" else one for name, one in opened.items()}


worker.open_backends = open_killed

if __name__ == "__main__":
    worker.main()
