"""Counts what CUDA graphs hold and how often they run: a replayed graph calls no Python, so nobody else would know.

`count_replays` puts itself between torch's `CUDAGraph` and whoever captures and replays it (vLLM, Inductor, us). What
is called between `capture_begin` and `capture_end` is in the graph, and runs at each `replay`.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Graph:
    """What one graph holds, as `count_replays` was told, and how often it has run."""

    holds: list
    replays: int = 0


def count_replays(graph_class: type, now: Callable[[], list], captured: Callable[[list, list], list]) -> list[Graph]:
    """The graphs of `graph_class` (`torch.cuda.CUDAGraph`) that are captured from now on, as they come.

    `now()` is what was counted so far; `captured(before, after)` turns that of a capture's begin and end into what its
    graph holds. A graph that holds nothing is not kept, and its replays cost nothing. A capture that fails adds none.
    """
    graphs: list[Graph] = []
    begin, end, replay = graph_class.capture_begin, graph_class.capture_end, graph_class.replay

    def capture_begin(self, *arguments, **options):
        self._symmlib_before, self._symmlib_graph = now(), None
        return begin(self, *arguments, **options)

    def capture_end(self, *arguments, **options):
        result = end(self, *arguments, **options)
        if holds := captured(self._symmlib_before, now()):
            self._symmlib_graph = Graph(holds)
            graphs.append(self._symmlib_graph)
        return result

    def counted_replay(self, *arguments, **options):
        if (graph := getattr(self, "_symmlib_graph", None)) is not None:
            graph.replays += 1
        return replay(self, *arguments, **options)

    graph_class.capture_begin, graph_class.capture_end = capture_begin, capture_end
    graph_class.replay = counted_replay
    return graphs
