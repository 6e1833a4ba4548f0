"""bfloat16, float16 and float32 in numpy, which knows no bfloat16: rounding once, steps between numbers, sums.

Every number of these dtypes is a float64, too, so arrays here are float64 and a dtype is a name. `accumulate` sums as
an all-reduce would that rounds every partial sum to a dtype, in one of several orders. Used by `analysis.numerics`, and
by the ranks that measure.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary format of IEEE 754's kind: bits of significand (the leading one counts), and its exponents."""

    significand: int
    min_exponent: int  # of the smallest normal number, 2 ** min_exponent
    max_exponent: int  # of the largest one

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2 - 2.0 ** (1 - self.significand)) * 2.0**self.max_exponent

    @property
    def last_place(self) -> float:
        """The ulp of the largest number."""
        return 2.0 ** (self.max_exponent - self.significand + 1)

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.min_exponent

    @property
    def smallest(self) -> float:
        """The smallest positive number, which is subnormal."""
        return 2.0 ** (self.min_exponent - self.significand + 1)

    @property
    def unit_roundoff(self) -> float:
        """The largest relative error of one rounding."""
        return 2.0**-self.significand


FORMATS = {
    "bfloat16": Format(8, -126, 127),
    "float16": Format(11, -14, 15),
    "float32": Format(24, -126, 127),
}
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
NO_NUMBER = 1 << 32  # how many steps a NaN is away from every number: more than any two numbers are


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` (float64) rounded once to `dtype`: to nearest, ties to even; subnormals kept, overflow to infinity."""
    form = FORMATS[dtype]
    _, exponent = np.frexp(values)
    last_place = np.maximum(exponent - form.significand, form.min_exponent - form.significand + 1)
    rounded = np.ldexp(np.rint(np.ldexp(values, -last_place)), last_place)
    return np.where(np.abs(rounded) > form.largest, np.copysign(np.inf, values), rounded)


def steps(found: np.ndarray, expected: np.ndarray, dtype: str) -> np.ndarray:
    """How many numbers of `dtype` further `found` lies than `expected`, both of that dtype: its distance in ulps.

    Whole numbers (int64). -0.0 is +0.0, infinity the number after the largest; two NaNs are no step apart, a NaN and a
    number `NO_NUMBER`.
    """
    distance = np.abs(_ordinal(found, dtype) - _ordinal(expected, dtype))
    one, other = np.isnan(found), np.isnan(expected)
    return np.where(one & other, 0, np.where(one | other, NO_NUMBER, distance))


def accumulate(parts: np.ndarray, dtype: str, *, within: str, order: str) -> np.ndarray:
    """What ranks that hold `parts` (ranks x elements, of `dtype`) get by adding in `order`, in `dtype`.

    Every partial sum is rounded to the dtype `within`, the result to `dtype`. Orders: "rank" from rank 0 on; "ring",
    in which the part of the message that rank r ends up with begins at rank r - 1 and goes down, as gloo does it;
    "tree", neighbours first.
    """
    ranks, numel = parts.shape
    with np.errstate(over="ignore", invalid="ignore"):  # what infinities give is the point of some inputs
        if order == "tree":
            sums = list(parts)
            while len(sums) > 1:
                pairs = [round_to(one + other, within) for one, other in zip(sums[::2], sums[1::2], strict=False)]
                sums = pairs + sums[len(pairs) * 2 :]
            return round_to(sums[0], dtype)
        elements = np.arange(numel)
        first, step = (elements * ranks // numel - 1, -1) if order == "ring" else (0 * elements, 1)
        total = parts[first % ranks, elements]
        for turn in range(1, ranks):
            total = round_to(total + parts[(first + turn * step) % ranks, elements], within)
        return round_to(total, dtype)


def _ordinal(values: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers in the order of the dtype's numbers, without a gap between neighbours."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "float16":
            bits, sign = values.astype(np.float16).view(np.uint16).astype(np.int64), 1 << 15
        else:
            bits, sign = values.astype(np.float32).view(np.uint32).astype(np.int64), 1 << 31
    if dtype == "bfloat16":
        bits, sign = bits >> 16, sign >> 16  # the upper half of an fp32 of the same value
    return np.where(bits & sign, -(bits & (sign - 1)), bits)
