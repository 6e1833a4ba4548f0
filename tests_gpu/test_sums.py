"""Every backend sums right on a GPU that its ranks share, whatever the dtype, the size and the layout."""

import functools

import pandas as pd
import pytest

DTYPES = {
    "symm_mem/one_shot": ("bfloat16", "float32"),
    "symm_mem/two_shot": ("bfloat16", "float32"),
    "triton/one_shot": ("bfloat16", "float32", "float16"),
    "triton/two_shot": ("bfloat16", "float32", "float16"),
    "vllm/symm_mem": ("bfloat16",),
}


@pytest.fixture(scope="module")
def rows(ranks):
    return functools.cache(lambda world_size: pd.DataFrame(ranks("sums.py", world_size)))


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_no_element_is_wrong_eager_or_replayed_with_fresh_inputs(rows, world_size):
    served = rows(world_size).dropna(subset=["wrong"])
    assert len(served) > 100
    bad = served[(served.wrong > 0) | (served.graph_wrong > 0)]
    assert bad.empty, bad.to_string()
    print(served.groupby(["backend", "dtype"]).agg({"max_abs_error": "max", "bitwise_equal_across_ranks": "all"}))


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_our_kernels_give_the_same_bits_on_every_rank(rows, world_size):
    ours = rows(world_size).dropna(subset=["wrong"]).query("backend.str.startswith('triton')")
    assert ours.bitwise_equal_across_ranks.all()


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_only_what_a_backend_says_it_does_not_take_is_refused(rows, world_size):
    table = rows(world_size)
    for backend, dtypes in DTYPES.items():
        mine = table[(table.backend == backend) & table.dtype.isin(dtypes)]
        refused = mine.dropna(subset=["refused"]) if "refused" in mine else mine.iloc[:0]
        if backend.startswith("symm_mem"):
            assert refused.empty, refused.to_string()
        elif backend == "triton/one_shot":
            assert set(refused.bytes) <= {8 << 20, 64 << 20}
        elif backend == "triton/two_shot":
            assert refused.empty, refused.to_string()
        else:
            assert refused.refused.str.contains("vLLM's communicator|would not all fit").all()
        other = table[(table.backend == backend) & ~table.dtype.isin(dtypes)]
        assert other.refused.notna().all()


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_what_lies_in_symmetric_memory_is_summed_there(rows, world_size):
    found = rows(world_size).query("backend == 'empty'")
    assert len(found) == 3 and (found.zero_copy_wrong == 0).all(), found.to_string()
