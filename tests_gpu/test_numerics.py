"""How exact sums are on a GPU that its ranks share: what is promised for our kernels, and what the others may do."""

import functools

import pandas as pd
import pytest

from symmlib.allreduce.numerics import measure_numerics

pytestmark = pytest.mark.usefixtures("one_gpu")

OURS = ("triton/one_shot", "triton/two_shot")
TORCHS = ("symm_mem/one_shot", "symm_mem/two_shot")
WORLD_SIZES = (2, 4, 8)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What was found on so many ranks."""

    @functools.cache
    def measure(world_size: int):
        out = tmp_path_factory.mktemp(f"numerics-{world_size}")
        return measure_numerics(
            out, world_size=world_size, backends=(*OURS, *TORCHS, "vllm/symm_mem"), device="cuda", one_gpu=True
        )

    return measure


def served(found, backends) -> pd.DataFrame:
    rows = found.summary[found.summary.backend.isin(backends)]
    return rows[rows.status != "unavailable"]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_our_kernels_sum_in_fp32_and_rank_order_to_the_last_bit_again_and_again_on_all_ranks(measured, world_size):
    ours = served(measured(world_size), OURS)
    assert len(ours) == len(OURS) * 3 * 4, measured(world_size).summary.to_string()
    assert (ours.status == "ok").all(), ours.reason.unique()
    assert ours.same_bits_as.str.split().map(lambda names: "fp32_rank_order" in names).all(), ours.to_string()
    assert ours.identical_repeats.all() and ours.identical_across_ranks.all()


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_our_kernels_treat_special_values_as_promised(measured, world_size):
    found = measured(world_size)
    ours = found.special[found.special.backend.isin(OURS)]
    assert ours.promised.all() and len(ours) and ours.ok.all(), ours[~ours.ok].to_string()


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_torchs_kernels_are_as_near_as_rounding_allows_and_steady(measured, world_size):
    torchs = served(measured(world_size), TORCHS)
    assert set(torchs.dtype) == {"bfloat16", "float32"}
    assert (torchs.status == "ok").all(), torchs.reason.unique()
    # Each part is summed by one rank, so that all ranks get the same; in one-shot each rank sums for itself.
    assert torchs[torchs.backend == "symm_mem/two_shot"].identical_across_ranks.all()
    print(torchs[["backend", "dtype", "inputs", "share_nearest", "max_ulp", "same_bits_as", "identical_across_ranks"]])


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_no_backend_loses_a_nan_or_an_infinity(measured, world_size):
    special = measured(world_size).special
    named = special[special.case.str.contains("NaN|inf", regex=True)]
    assert {*OURS, *TORCHS} <= {*named.backend}
    assert named.ok.all(), named[~named.ok].to_string()


def test_what_a_backend_does_not_serve_is_told_and_costs_nothing_else(measured):
    summary = measured(2).summary
    refused = summary[summary.status == "unavailable"]
    assert {*refused.backend} == {*TORCHS, "vllm/symm_mem"}
    assert refused[refused.backend.isin(TORCHS)].dtype.eq("float16").all() and refused.reason.ne("").all()


def test_numbers_of_a_shared_gpu_say_so(measured):
    found = measured(2)
    assert found.summary.device.str.endswith("/one-gpu").all() and found.special.device.str.endswith("/one-gpu").all()
