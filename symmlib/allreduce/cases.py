"""What is summed to see how exact an all-reduce is: four kinds of random inputs, and a table of special values.

Every rank, and whoever judges what they found, makes all ranks' inputs from a seed. All are float64 arrays that hold
numbers of one dtype (`analysis.floats`).
"""

import zlib
from dataclasses import dataclass

import numpy as np

from symmlib.analysis.floats import FORMATS, round_to

INPUTS = {  # name: what it is, as figures and tables say it
    "normal": "standard normal",
    "heavy_tailed": "Student's t, 2 degrees of freedom",
    "cancelling": "normal around ±1000 that cancels over ranks",
    "large": "so large that the sum just fits",
}
ANY_NAN = "any NaN"


@dataclass(frozen=True)
class Case:
    """One special value: its name and what each rank gives. `values` are numbers of the dtype, in rank order."""

    name: str
    values: tuple[float, ...]


def inputs(kind: str, dtype: str, *, world_size: int, numel: int, seed: int) -> np.ndarray:
    """All ranks' messages of one of `INPUTS`: (world_size, numel), each number one of `dtype`."""
    chance = np.random.default_rng([seed, world_size, zlib.crc32(f"{kind} {dtype}".encode())])
    shape = world_size, numel
    if kind == "normal":
        values = chance.standard_normal(shape)
    elif kind == "heavy_tailed":
        values = chance.standard_t(2, shape)
    elif kind == "cancelling":  # what the first half of the ranks adds the second half takes away, but for a rest
        half = world_size // 2
        signs = np.array([1] * half + [0] * (world_size % 2) + [-1] * half)[:, None]
        values = 1000 * (1 + chance.standard_normal(numel) / 8) * signs + chance.standard_normal(shape)
    elif kind == "large":
        values = chance.uniform(-0.99, 0.99, shape) * FORMATS[dtype].largest / world_size
    else:
        raise ValueError(f"{kind!r} is none of {', '.join(INPUTS)}")
    return round_to(values, dtype)


def cases(dtype: str, world_size: int) -> list[Case]:
    """Special values of `dtype`; where a case names one or two ranks, the others give 0, or -0.0 with other -0.0."""
    form, inf, nan = FORMATS[dtype], np.inf, np.nan
    ulp = form.last_place

    def first(*values: float, rest: float = 0.0) -> tuple[float, ...]:
        return values + (rest,) * (world_size - len(values))

    every = world_size
    found = [
        Case("NaN on the first rank", first(nan, rest=1.0)),
        Case("NaN on the last rank", (1.0,) * (every - 1) + (nan,)),
        Case("NaN on every rank", (nan,) * every),
        Case("NaN + inf", first(nan, inf)),
        Case("inf + 1", first(inf, 1.0)),
        Case("-inf + 1", first(-inf, 1.0)),
        Case("inf on every rank", (inf,) * every),
        Case("inf + -inf", first(inf, -inf)),
        Case("-0.0 on every rank", (-0.0,) * every),
        Case("-0.0 and 0.0", first(-0.0, 0.0, rest=-0.0)),
        Case("1 + -1", first(1.0, -1.0, rest=-0.0)),
        Case("smallest subnormal + 0", first(form.smallest)),
        Case("smallest subnormal on every rank", (form.smallest,) * every),
        Case("smallest normal - smallest subnormal", first(form.smallest_normal, -form.smallest)),
        Case("largest + largest", first(form.largest, form.largest)),
        Case("-largest + -largest", first(-form.largest, -form.largest)),
        Case("largest + 1/2 ulp", first(form.largest, ulp / 2)),
        Case("largest + 1/4 ulp", first(form.largest, ulp / 4)),
        Case("largest + 1", first(form.largest, 1.0)),
    ]
    if world_size > 2:
        found.append(Case("largest + largest - largest", first(form.largest, form.largest, -form.largest)))
    return found


def as_text(value: float, dtype: str) -> str:
    """A number of `dtype` as tables of special values show it, alike in all dtypes; a NaN is `ANY_NAN`.

    'largest' is the largest finite number, '3 smallest' three times the smallest subnormal one.
    """
    form = FORMATS[dtype]
    if np.isnan(value):
        return ANY_NAN
    if abs(value) == form.largest:
        return "largest" if value > 0 else "-largest"
    if 0 < abs(value) <= form.smallest_normal:
        return f"{value / form.smallest:.0f} smallest"
    return f"{value:.1f}" if value == 0 else f"{value:.6g}"
