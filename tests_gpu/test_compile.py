"""torch.compile on a GPU that its ranks share: whole graphs, CUDA graphs, and the values of eager."""

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def rows(ranks):
    return pd.DataFrame(ranks("compile_scenario.py", 2))


def test_two_all_reduces_compile_whole_and_give_the_values_of_eager_with_fresh_inputs(rows):
    assert set(rows.backend) == {"triton/one_shot", "symm_mem/two_shot"}
    assert set(rows.run) == {"eager", "fullgraph", "reduce-overhead"}
    assert (rows.wrong == 0).all() and (rows.max_difference == 0).all(), rows.to_string()


def test_in_cuda_graphs_the_router_is_called_when_they_are_captured_and_not_when_they_are_replayed(rows):
    replayed, called = rows[rows.run == "reduce-overhead"], rows[rows.run != "reduce-overhead"]
    assert (called.calls == 2 * called.iterations).all(), rows.to_string()
    assert ((replayed.calls > 0) & (replayed.calls < replayed.iterations)).all(), rows.to_string()
    assert (replayed.cudagraph_skips == 0).all(), rows.to_string()
