"""The timing loop: one all-reduce at a time, all ranks starting together.

On the CPU a rank reads its clock around the call. A GPU is timed otherwise (events around a CUDA graph of many
operations), by another function with the signature of `time_on_cpu`.
"""

import time
from collections.abc import Callable

import torch

PROBES = 3  # iterations that tell how many more fit the budget; they also warm caches up, and are thrown away
LEAST_ITERATIONS = 3  # per round, however slow the backend: fewer give no median
ROTATED_BYTES = 32 << 20  # what rotated messages may take per rank, and more than a core's own cache


class Messages:
    """Messages of one size, used in turn, so that no backend can keep anything about one address.

    `next()` fills a message anew, as the layer before an all-reduce does in a model: the message is in the cache of
    the rank's own core, the numbers stay in range however often they are summed in place, and none is denormal.
    Each starts `offset` elements into its allocation.
    """

    def __init__(self, source: torch.Tensor, *, offset: int = 0):
        count = max(2, min(8, ROTATED_BYTES // max(1, source.nbytes)))
        self._source = source
        self._messages = [source.new_empty(source.numel() + offset)[offset:] for _ in range(count)]
        self._turn = 0

    def next(self) -> torch.Tensor:
        self._turn = (self._turn + 1) % len(self._messages)
        return self._messages[self._turn].copy_(self._source)


def time_on_cpu(backend, messages: Messages, iterations: int, barrier: Callable[[], None]) -> list[int]:
    """This rank's time of each of `iterations` all-reduces in place, in ns, from the common start to the return.

    In place is how vLLM all-reduces on the CPU, and the one form that no backend has to copy for. Every rank calls
    this with the same `iterations`; the maximum over ranks of an iteration's times is the time of that all-reduce.
    """
    clock = time.perf_counter_ns
    times = []
    for _ in range(iterations):
        message = messages.next()
        barrier()  # no rank's clock starts before every rank's message is ready
        start = clock()
        backend.all_reduce(message, out=message)
        times.append(clock() - start)
    return times


def iterations_that_fit(probe_ns: int, *, budget_s: float, rounds: int, most: int) -> int:
    """Iterations per round, so that `rounds` rounds of all-reduces that take `probe_ns` each keep to `budget_s`."""
    return max(LEAST_ITERATIONS, min(most, int(budget_s * 1e9 / rounds / max(1, probe_ns))))
