"""What vLLM's ranks need when they share a GPU: gathered logits, and a trace that counts what CUDA graphs run."""

import pytest


@pytest.fixture(scope="module", params=[2, 4])
def found(ranks, request):
    return ranks("shared_gpu.py", request.param)


def test_gathered_parts_are_every_rank_s_in_their_order(found):
    assert [row["wrong"] for row in found["gathered"]] == [0, 0, 0]


def test_the_trace_counts_what_ran_in_replays_and_what_was_only_captured(found):
    trace = found["trace"]
    (call,) = trace["calls"]
    assert (trace["graphs"], trace["replays"]) == (1, 50)
    assert (call["backend"], call["calls"], call["captured"], call["replayed"]) == ("triton/one_shot", 152, 3, 150)


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_gets_its_matrix_products_done_while_the_others_wait_for_it(ranks, world_size):
    rows = ranks("beside_a_model.py", world_size)
    assert [row["wrong"] for row in rows] == [0] * 9
