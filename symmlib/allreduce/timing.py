"""The timing loops, all ranks starting together: on the CPU a clock around each call, on a GPU events around many.

A GPU works behind the host's back, so there a sample is the mean over the operations between two events, which stand
in a CUDA graph (mode "graph") or are called one after the other ("eager"). The host waits after each sample only.
"""

import contextlib
import math
import time
from collections.abc import Callable

import torch

PROBES = 3  # iterations that tell how many more fit the budget; they also warm caches up, and are thrown away
LEAST_ITERATIONS = 15  # in all rounds together, however slow the backend
ROTATED_BYTES = 32 << 20  # what rotated messages may take per rank, and more than a core's own cache
ROTATED_GPU_BYTES = 512 << 20  # likewise of inputs, and of outputs: more than any GPU's cache
OPERATIONS = 32  # between two events, of small messages: the events' own cost is spread over them
OPERATIONS_BYTES = 64 << 20  # of all operations together, so that large messages get fewer of them
LEAST_OPERATIONS = 4


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


class CpuLoop:
    """All-reduces of one backend in place, one at a time, each timed by itself.

    In place is how vLLM all-reduces on the CPU, and the one form that no backend has to copy for.
    """

    def __init__(self, backend, messages: Messages):
        self._backend, self._messages = backend, messages

    def time(self, iterations: int, barrier: Callable[[], None]) -> list[int]:
        """This rank's time of each of `iterations` all-reduces, in ns, from the common start to the return.

        Every rank calls this with the same `iterations`; the maximum over ranks of an iteration's times is its time.
        """
        clock, all_reduce = time.perf_counter_ns, self._backend.all_reduce
        times = []
        for _ in range(iterations):
            message = self._messages.next()
            barrier()  # no rank's clock starts before every rank's message is ready
            start = clock()
            all_reduce(message, out=message)
            times.append(clock() - start)
        return times


class GpuLoop:
    """`OPERATIONS` all-reduces of one backend back to back, out of place, as it is done in a model's CUDA graph.

    Args:
        backend: as `AllReduceBackend`; in mode "graph" its calls are captured here, which runs none of them.
        source: the message, on the GPU. Each operation has an input and an output of its own as long as all inputs
            keep within 512 MiB: small ones lie in the cache, as what a layer has just written does, large ones do not.
        offset: elements by which inputs and outputs are off their allocations' starts.
    """

    def __init__(self, backend, source: torch.Tensor, *, mode: str, offset: int = 0):
        self.operations = max(LEAST_OPERATIONS, min(OPERATIONS, OPERATIONS_BYTES // source.nbytes))
        count = max(2, min(self.operations, ROTATED_GPU_BYTES // source.nbytes))
        self._inputs = [source.new_empty(source.numel() + offset)[offset:].copy_(source) for _ in range(count)]
        self.outputs = [source.new_full((source.numel() + offset,), torch.nan)[offset:] for _ in range(count)]
        self._backend = backend
        # What runs first brings all ranks to the same place on their GPUs: the host's barrier is too coarse for that.
        self._lead = max(1, self.operations // 4)
        self._graphs = None
        if mode == "graph":
            torch.cuda.synchronize()
            self._graphs = [self._capture(count) for count in (self._lead, self.operations)]

    def time(self, iterations: int, barrier: Callable[[], None]) -> list[int]:
        """This rank's mean time of an operation in each of `iterations` samples, in ns; as `CpuLoop.time`."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        times = []
        for _ in range(iterations):
            barrier()
            self._run(0, self._lead)
            start.record()
            self._run(1, self.operations)
            end.record()
            end.synchronize()
            times.append(round(start.elapsed_time(end) * 1e6 / self.operations))
        return times

    def _run(self, graph: int, operations: int) -> None:
        if self._graphs:
            self._graphs[graph].replay()
        else:
            self._call(operations)

    def _call(self, operations: int) -> None:
        for number in range(operations):
            turn = number % len(self._inputs)
            self._backend.all_reduce(self._inputs[turn], out=self.outputs[turn])

    def _capture(self, operations: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # vLLM's custom all-reduce registers what it reads in a graph when its own capture ends, and copies else.
        with getattr(self._backend, "capture", contextlib.nullcontext)(), torch.cuda.graph(graph):
            self._call(operations)
        return graph


def iterations_that_fit(probe_ns: int, *, budget_s: float, rounds: int, most: int) -> int:
    """Iterations per round, so that `rounds` rounds of all-reduces that take `probe_ns` each keep to `budget_s`."""
    return max(math.ceil(LEAST_ITERATIONS / rounds), min(most, int(budget_s * 1e9 / rounds / max(1, probe_ns))))
