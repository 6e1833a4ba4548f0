"""What a trace says that ran: calls, and what CUDA graphs hold, each time that they are replayed."""

import json

import pytest

from symmlib.routing import Decision
from symmlib.routing.trace import Served, Trace


@pytest.fixture
def graph_class():
    """With the methods of `torch.cuda.CUDAGraph` that matter. (`tests_gpu/test_shared_gpu.py` counts real ones.)"""

    class Graph:
        ran = 0

        def capture_begin(self, pool=None):
            pass

        def capture_end(self):
            pass

        def replay(self):
            self.ran += 1

    return Graph


def served(trace: Trace, backend: str, size: int) -> Served:
    return trace.add(Served(Decision(backend, "a test", by_table=True), size, "bfloat16"))


def told(trace: Trace, tmp_path) -> tuple[dict, dict]:
    trace.write()
    said = json.loads((tmp_path / "rank-0.json").read_text())
    return said, {call["bytes"]: (call["calls"], call["captured"], call["replayed"]) for call in said["calls"]}


def test_what_a_graph_holds_counts_as_often_as_the_graph_ran(tmp_path, graph_class):
    trace = Trace(0, 2, tmp_path)
    trace.of_graphs(graph_class)
    small = served(trace, "triton/one_shot", 1024)
    small.calls += 5  # eager, before any capture
    graphs = []
    for calls in (2, 3):
        graphs.append(graph_class())
        graphs[-1].capture_begin(pool=None)
        small.calls += calls
        if calls == 3:
            served(trace, "symm_mem/two_shot", 4096).calls += 1  # a size that nobody had met before
        graphs[-1].capture_end()
    for graph, times in zip(graphs, (10, 100), strict=True):
        for _ in range(times):
            graph.replay()
    small.calls += 1
    said, by_size = told(trace, tmp_path)
    trace.close()
    assert (said["graphs"], said["replays"]) == (2, 110)
    assert by_size == {1024: (6 + 2 * 10 + 3 * 100, 5, 2 * 10 + 3 * 100), 4096: (100, 1, 100)}
    assert [graph.ran for graph in graphs] == [10, 100]


def test_a_graph_without_an_all_reduce_is_no_evidence_of_any(tmp_path, graph_class):
    trace = Trace(0, 2, tmp_path)
    trace.of_graphs(graph_class)
    served(trace, "gloo", 8).calls += 1
    graph = graph_class()
    graph.capture_begin()
    graph.capture_end()
    graph.replay()
    said, by_size = told(trace, tmp_path)
    trace.close()
    assert (said["graphs"], said["replays"], by_size) == (0, 0, {8: (1, 0, 0)})


def test_what_was_only_captured_did_not_run(tmp_path, graph_class):
    trace = Trace(0, 2, tmp_path)
    trace.of_graphs(graph_class)
    one, graph = served(trace, "triton/one_shot", 8), graph_class()
    graph.capture_begin()
    one.calls += 3
    graph.capture_end()
    assert told(trace, tmp_path)[1] == {8: (0, 3, 0)}
    trace.close()
