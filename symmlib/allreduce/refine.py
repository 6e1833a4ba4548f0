"""Where more sizes would tell more: around bounds that are known less well than half an octave.

Called by `measure` between rounds of launches, until all bounds are resolved or the plan's time for it is spent.
"""

import math

import pandas as pd

from symmlib.analysis.crossovers import Timings, acceptable
from symmlib.errors import SymmlibError
from symmlib.routing.derive import derive, unresolved
from symmlib.sizes import format_size

LEAST_STEP_OCTAVES = 0.25  # closer neighbours than this say the same
MOST_SIZES = 4  # in one round, so that each round learns from the one before


def further_sizes(timed: pd.DataFrame, itemsize: int) -> list[int]:
    """Sizes in bytes to measure next, ascending; empty where every bound is resolved or has no room for more.

    `timed`: samples as `analysis.allreduce.timed` gives them. Between neighbouring measured sizes that an unresolved
    bound's interval touches, the geometric middle is next, the widest gaps first.
    """
    measured = sorted(timed["bytes"].unique())
    gaps = {}
    for _, low, high in unresolved_bounds(timed):
        for left, right in zip(measured, measured[1:], strict=False):
            octaves = math.log2(right / left)
            if right >= low and left <= high and octaves >= 2 * LEAST_STEP_OCTAVES:
                middle = round(math.sqrt(left * right) / itemsize) * itemsize
                gaps[int(middle)] = octaves
    widest = sorted(gaps, key=gaps.get, reverse=True)[:MOST_SIZES]
    return sorted(widest)


def unresolved_bounds(timed: pd.DataFrame) -> list[tuple[int, int, int]]:
    """(bytes, low, high) of every bound that the measurements leave wider than half an octave."""
    try:
        tables = derive(timed, source="so far").tables
    except SymmlibError:
        return []  # nothing that could be chosen was measured
    return [bound for table in tables for bound in unresolved(table)]


def rivals(timed: pd.DataFrame) -> set[str]:
    """The backends that a table could choose at some size: near the fastest there, and none of vLLM's own."""
    candidates = timed[~timed["backend"].str.startswith("vllm/")]
    return set().union(*acceptable(Timings.of(candidates)))


def in_words(bounds: list[tuple[int, int, int]]) -> str:
    """What is left, for a person."""
    return "; ".join(f"near {format_size(at)} (between {format_size(low)} and {format_size(high)})"
                     for at, low, high in bounds)  # fmt: skip
