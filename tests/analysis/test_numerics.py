"""Rounding, steps between numbers, other ways to add, and what is made of results: against torch and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from symmlib.allreduce.cases import INPUTS, as_text, cases, inputs
from symmlib.analysis.floats import FORMATS, NO_NUMBER, accumulate, round_to, steps
from symmlib.analysis.numerics import (
    SPECIAL_COLUMNS,
    WAYS,
    Found,
    flagged,
    histogram,
    judge,
    sentences,
    simulated,
    special_sums,
)

DTYPES = list(FORMATS)


def torch_of(values: np.ndarray, dtype: str) -> torch.Tensor:
    """`values` rounded by torch, by way of fp32, which is exact for what is drawn here."""
    return torch.tensor(values).float().to(getattr(torch, dtype))


@pytest.fixture
def numbers() -> np.ndarray:
    """fp32 numbers over the whole range of exponents, both zeros, infinities, NaN."""
    chance = np.random.default_rng(1)
    spread = chance.standard_normal(20_000) * 2.0 ** chance.integers(-149, 127, 20_000)
    return np.concatenate([spread, chance.standard_normal(20_000), [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(
        np.float32
    ).astype(float)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_rounded_as_torch_rounds_them_subnormals_and_overflow_too(numbers, dtype):
    found, expected = round_to(numbers, dtype), torch_of(numbers, dtype).double().numpy()
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found[:-1]), np.signbit(expected[:-1]))  # the last one is the NaN


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_each_dtype_are_those_that_torch_knows(dtype):
    form, known = FORMATS[dtype], torch.finfo(getattr(torch, dtype))
    assert (form.largest, form.smallest_normal) == (known.max, known.smallest_normal)
    assert (form.smallest, 2 * form.unit_roundoff) == (known.smallest_normal * known.eps, known.eps)


def test_a_number_halfway_is_rounded_once_to_even_and_not_by_way_of_fp32():
    just_above = 1 + 2.0**-8 + 2.0**-40  # rounded to fp32 first it is a tie, and would go down to 1
    assert round_to(np.array([1 + 2.0**-8, just_above]), "bfloat16").tolist() == [1, 1 + 2.0**-7]


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_are_one_step_apart_across_powers_of_two_zero_and_infinity(dtype):
    form = FORMATS[dtype]
    pairs = [
        (1.0, 1 + 2 * form.unit_roundoff), (1.0, 1 - form.unit_roundoff), (0.0, form.smallest),
        (-0.0, -form.smallest), (form.largest, np.inf), (form.smallest_normal, form.smallest_normal - form.smallest),
    ]  # fmt: skip
    one, other = np.array(pairs).T
    assert steps(one, other, dtype).tolist() == [1] * len(pairs)
    assert steps(np.array([0.0, np.nan, np.nan, 1.0]), np.array([-0.0, np.nan, 1.0, 1.0]), dtype).tolist() == [
        0, 0, NO_NUMBER, 0,
    ]  # fmt: skip
    assert steps(np.array([form.smallest]), np.array([-form.smallest]), dtype).item() == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_adding_in_rank_order_is_what_torch_gives_in_that_dtype_and_in_fp32(dtype):
    parts = inputs("normal", dtype, world_size=4, numel=1000, seed=3)
    tensors = [torch_of(part, dtype) for part in parts]
    own = accumulate(parts, dtype, within=dtype, order="rank")
    assert np.array_equal(own, sum(tensors[1:], tensors[0]).double().numpy())
    wide = accumulate(parts, dtype, within="float32", order="rank")
    fp32 = [tensor.float() for tensor in tensors]
    assert np.array_equal(wide, sum(fp32[1:], fp32[0]).to(getattr(torch, dtype)).double().numpy())


def test_a_ring_begins_each_part_at_another_rank_and_a_tree_adds_neighbours_first():
    names = np.array([[1.0], [2.0**-9], [2.0**-9], [2.0**-9]])  # one small part alone is lost beside 1 in bf16
    parts = np.repeat(names, 4, axis=1)
    ring = accumulate(parts, "bfloat16", within="bfloat16", order="ring")
    # The parts of the message end at ranks 0 to 3; going down, 1 comes last, first, in the third and second place.
    assert ring.tolist() == [1 + 2.0**-7, 1, 1, 1]
    assert accumulate(parts[:, :1], "bfloat16", within="bfloat16", order="rank").item() == 1
    assert accumulate(parts[:, :1], "bfloat16", within="bfloat16", order="tree").item() == 1


def test_fp32_keeps_what_bf16_loses_and_the_histogram_shows_it():
    parts = inputs("normal", "bfloat16", world_size=8, numel=4096, seed=0)
    found = {name: rows[0]["share"] for name, rows in simulated(parts, "bfloat16").items()}
    assert found["simulated/fp32_rank_order"] == found["simulated/fp32_ring"] == 1
    assert 0.3 < found["simulated/own_rank_order"] < 0.7
    # In fp32 itself there is nothing wider: the two ways are one and stand once.
    assert list(simulated(parts, "float32")) == [
        "simulated/fp32_rank_order",
        "simulated/fp32_ring",
        "simulated/own_tree",
    ]
    assert {*found} == {*WAYS}


def test_every_distance_is_in_one_bin():
    rows = histogram(np.array([0, 0, 1, 2, 3, 4, 5, 1024, 1025, NO_NUMBER]))
    assert [row["elements"] for row in rows] == [2, 1, 1, 2, 1, 0, 0, 0, 1, 2]
    assert [(row["ulp_from"], row["ulp_to"]) for row in rows][2:5] == [(2, 2), (3, 4), (5, 8)]
    assert rows[-1]["ulp_to"] is None and sum(row["share"] for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_are_numbers_of_the_dtype_alike_on_every_rank_and_their_sums_stay_finite(kind, dtype):
    parts = inputs(kind, dtype, world_size=4, numel=500, seed=1)
    assert np.array_equal(parts, round_to(parts, dtype))
    assert np.array_equal(parts, inputs(kind, dtype, world_size=4, numel=500, seed=1))
    assert np.isfinite(accumulate(parts, dtype, within=dtype, order="rank")).all()
    if kind == "cancelling":
        assert np.median(np.abs(parts.sum(axis=0))) < np.median(np.abs(parts)) / 100


def test_the_promise_for_special_values_is_what_ieee_says_and_fp32_between_does():
    expected = {
        "NaN + inf": "any NaN", "inf + 1": "inf", "inf + -inf": "any NaN", "-0.0 on every rank": "-0.0",
        "-0.0 and 0.0": "0.0", "1 + -1": "0.0", "smallest subnormal + 0": "1 smallest",
        "smallest subnormal on every rank": "4 smallest", "largest + largest": "inf", "largest + 1/2 ulp": "inf",
        "largest + 1/4 ulp": "largest", "largest + 1": "largest",
    }  # fmt: skip
    for dtype in DTYPES:
        asked = cases(dtype, 4)
        sums = special_sums(np.array([case.values for case in asked]).T, dtype)
        found = {case.name: as_text(value, dtype) for case, value in zip(asked, sums, strict=True)}
        assert {name: found[name] for name in expected} == expected, dtype
        # Only fp16 has room above it in fp32.
        assert found["largest + largest - largest"] == ("largest" if dtype == "float16" else "inf")


@pytest.fixture
def parts() -> np.ndarray:
    return inputs("normal", "bfloat16", world_size=2, numel=256, seed=0)


def found_by(parts, results: dict[str, np.ndarray], calls: list[list[str]]) -> dict:
    return judge(Found(calls, results), parts, "bfloat16")


def test_a_right_sum_is_ok_and_tells_which_ways_give_its_bits(parts):
    right = accumulate(parts, "bfloat16", within="float32", order="rank")
    row = found_by(parts, {"a": right}, [["a"] * 3] * 2)
    assert (row["status"], row["max_ulp"], row["share_nearest"]) == ("ok", 0, 1)
    assert row["identical_repeats"] and row["identical_across_ranks"] and row["repeats"] == 3
    assert "own_ring" in row["same_bits_as"].split()


def test_ranks_that_each_begin_with_their_own_message_are_known_by_their_bits():
    parts = inputs("cancelling", "float32", world_size=4, numel=256, seed=0)
    results = {f"{rank}": accumulate(np.roll(parts, -rank, axis=0), "float32", within="float32", order="rank")
               for rank in range(4)}  # fmt: skip
    row = judge(Found([[f"{rank}"] * 2 for rank in range(4)], results), parts, "float32")
    assert row["status"] == "ok" and row["same_bits_as"] == "fp32_from_own_rank"
    assert row["identical_repeats"] and not row["identical_across_ranks"]


def test_a_sum_that_once_lacks_a_rank_is_flagged_by_call_rank_and_amount(parts):
    right = accumulate(parts, "bfloat16", within="float32", order="rank")
    row = found_by(parts, {"a": right, "b": parts[0]}, [["a", "a"], ["a", "b"]])
    assert row["status"] == "failed" and not row["identical_repeats"] and not row["identical_across_ranks"]
    assert "1 of 2 calls with the same inputs gave other bits than the first (call 2, on rank 1)" in row["reason"]
    assert "further from the float64 sum than any order of additions in bf16 explains" in row["reason"]


def test_a_wrong_sum_that_is_always_the_same_is_flagged_too(parts):
    row = found_by(parts, {"a": parts[0]}, [["a"] * 3] * 2)
    assert row["status"] == "failed" and row["identical_repeats"] and "explains" in row["reason"]
    missing = found_by(parts, {"a": np.full(256, np.nan)}, [["a"]] * 2)
    assert missing["status"] == "failed" and missing["max_abs_error"] == np.inf and missing["max_ulp"] == NO_NUMBER


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_way_to_add_that_rounds_every_partial_sum_is_called_wrong(kind, dtype):
    parts = inputs(kind, dtype, world_size=8, numel=2000, seed=5)
    for order in ("rank", "ring", "tree"):
        row = judge(Found([["a"]], {"a": accumulate(parts, dtype, within=dtype, order=order)}), parts, dtype)
        assert row["status"] == "ok", (order, row["reason"])


def test_the_sentences_begin_with_what_should_not_be(parts):
    right = accumulate(parts, "bfloat16", within="float32", order="rank")
    where = {"world_size": 2, "dtype": "bfloat16", "inputs": "normal"}
    bad = {"backend": "host/one_shot", **where, **found_by(parts, {"a": parts[0]}, [["a"]] * 2)}
    good = {"backend": "gloo", **where, **found_by(parts, {"a": right}, [["a"]] * 2)}
    case = {"world_size": 2, "dtype": "bfloat16", "case": "inf + 1", "expected": "inf", "got": "0.0", "ok": False}
    special = pd.DataFrame(
        [{**case, "backend": "host/one_shot", "promised": True}, {**case, "backend": "gloo", "promised": False}],
        columns=SPECIAL_COLUMNS,
    )
    told = sentences(pd.DataFrame([bad, good]), special)
    assert told[0].startswith("host/one_shot, 2 ranks, bfloat16, normal: ")
    assert told[1] == "host/one_shot, 2 ranks, bfloat16: inf + 1 gave 0.0, not inf"
    assert any("every bf16 sum of gloo is the float64 sum rounded once" in one for one in told)
    assert told[-1] == "Backends that promise nothing do otherwise: gloo in inf + 1"
    assert flagged(pd.DataFrame([good]), special[special.backend == "gloo"]) == []
