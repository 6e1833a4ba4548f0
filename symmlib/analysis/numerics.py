"""How exact the sums of an all-reduce are: distance from float64, and what other ways to add would have given.

The yardstick is the sum in float64, rounded once to the dtype: no sum in that dtype can be nearer. Distances are in
steps from there to what was found (ulps, `floats.steps`). Works on numpy arrays; `allreduce.numerics` measures them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.floats import FORMATS, SHORT, accumulate, round_to, steps

SUMMARY_COLUMNS = [
    "backend", "world_size", "dtype", "inputs", "device", "max_abs_error", "max_rel_error", "share_nearest", "mean_ulp",
    "p50_ulp", "p99_ulp", "max_ulp", "repeats", "identical_repeats", "identical_across_ranks", "same_bits_as", "status",
    "reason",
]  # fmt: skip
HISTOGRAM_COLUMNS = ["backend", "world_size", "dtype", "inputs", "device", "ulp_from", "ulp_to", "elements", "share"]
SPECIAL_COLUMNS = ["backend", "world_size", "dtype", "case", "device", "expected", "got", "promised", "ok"]

# Steps of a histogram: 0, 1, 2, 3 to 4, 5 to 8 and so on; whatever lies above the last bound is in one more bin.
BOUNDS = (0, 1, 2, 4, 8, 16, 64, 256, 1024)
SIMULATED = "simulated/"
WAYS = {  # a name for the table: (which dtype every partial sum is rounded to, in which order, the same in words)
    "simulated/fp32_rank_order": ("float32", "rank", "fp32, rank order"),
    "simulated/fp32_ring": ("float32", "ring", "fp32, in a ring"),
    "simulated/own_rank_order": ("", "rank", "{dtype}, rank order"),
    "simulated/own_ring": ("", "ring", "{dtype}, in a ring"),
    "simulated/own_tree": ("", "tree", "{dtype}, in a tree"),
}
FROM_OWN = {  # the same for ranks that each begin with their own message and go round: ranks get different bits
    "simulated/fp32_from_own_rank": ("float32", "fp32, each rank's own first"),
    "simulated/own_from_own_rank": ("", "{dtype}, each rank's own first"),
}
PROMISED = ("host/", "triton/")  # ours: fp32, in rank order, rounded once


@dataclass(frozen=True)
class Found:
    """What the ranks got from repeated calls with the same inputs.

    `digests[rank][call]`: a name for the bits of that result. `values`: the result of each name, float64 numbers.
    """

    digests: Sequence[Sequence[str]]
    values: dict[str, np.ndarray]

    @property
    def identical_repeats(self) -> bool:
        """Whether on every rank each call gave the bits of that rank's first."""
        return all(len(set(calls)) == 1 for calls in self.digests)

    @property
    def identical_across_ranks(self) -> bool:
        """Whether in each call all ranks got the same bits."""
        return all(len(set(ranks)) == 1 for ranks in zip(*self.digests, strict=True))


def judge(found: Found, parts: np.ndarray, dtype: str) -> dict:
    """The columns of `SUMMARY_COLUMNS` from `max_abs_error` on, for the sum of `parts` (ranks x elements, float64).

    Errors are the largest over all ranks, calls and elements, infinite where a NaN was found; ulps are of all distinct
    results together; `share_nearest` of the elements are the yardstick itself. `same_bits_as`: those of `WAYS` that
    would have given these very bits, else of `FROM_OWN`, which tells how a backend adds where they differ. `status` is
    "failed", with what was seen as `reason`, where a repeated call gave other bits, or an element is further off than
    rounding every partial sum to the dtype explains.
    """
    exact = parts.sum(axis=0)
    nearest = round_to(exact, dtype)
    results = list(found.values.values())
    off = np.max([np.nan_to_num(np.abs(one - exact), nan=np.inf) for one in results], axis=0)
    ulps = np.concatenate([steps(one, nearest, dtype) for one in results])
    relative = off[exact != 0] / np.abs(exact[exact != 0])
    reasons = _differing(found), _beyond_rounding(off, parts, dtype)
    reason = "; ".join(one for one in reasons if one)
    return {
        "max_abs_error": off.max(),
        "max_rel_error": relative.max(initial=0),
        "share_nearest": (ulps == 0).mean(),
        "mean_ulp": ulps.mean(),
        **{f"p{p}_ulp": int(np.percentile(ulps, p, method="inverted_cdf")) for p in (50, 99)},
        "max_ulp": int(ulps.max()),
        "repeats": len(found.digests[0]),
        "identical_repeats": found.identical_repeats,
        "identical_across_ranks": found.identical_across_ranks,
        "same_bits_as": " ".join(name.removeprefix(SIMULATED) for name in _same_bits(found, parts, dtype)),
        "status": "failed" if reason else "ok",
        "reason": reason,
    }


def histogram(ulps: np.ndarray) -> list[dict]:
    """How many elements lie how many steps off: `ulp_from`, `ulp_to` (None without end), `elements`, `share` of all."""
    counts = np.bincount(np.searchsorted(BOUNDS, ulps), minlength=len(BOUNDS) + 1)
    ends = [*BOUNDS, None]
    starts = [0, *(bound + 1 for bound in BOUNDS)]
    return [
        {"ulp_from": start, "ulp_to": end, "elements": int(count), "share": count / len(ulps)}
        for start, end, count in zip(starts, ends, counts, strict=True)
    ]


def histogram_of(found: Found, parts: np.ndarray, dtype: str) -> list[dict]:
    """The `histogram` of all distinct results of `found`, against the float64 sum of `parts` rounded once."""
    nearest = round_to(parts.sum(axis=0), dtype)
    return histogram(np.concatenate([steps(one, nearest, dtype) for one in found.values.values()]))


def simulated(parts: np.ndarray, dtype: str) -> dict[str, list[dict]]:
    """The `histogram` that each of `WAYS` would have given for `parts`; ways that are one in this dtype stand once."""
    nearest = round_to(parts.sum(axis=0), dtype)
    return {name: histogram(steps(result, nearest, dtype)) for name, result in _simulated(parts, dtype).items()}


def in_words(name: str, dtype: str) -> str:
    """A backend, or one of `WAYS` or `FROM_OWN` in words: 'bf16, in a ring'."""
    return (WAYS | FROM_OWN)[name][-1].format(dtype=SHORT[dtype]) if name in WAYS | FROM_OWN else name


def promised(backend: str) -> bool:
    """Whether symmlib promises what this backend does with special values: to sum in fp32, in rank order, and round
    once."""
    return backend.startswith(PROMISED)


def special_sums(parts: np.ndarray, dtype: str) -> np.ndarray:
    """What the promise says of special values: `parts` (ranks x cases) summed so."""
    return accumulate(parts, dtype, within="float32", order="rank")


def flagged(summary: pd.DataFrame, special: pd.DataFrame) -> list[str]:
    """A sentence for everything that should not be: sums that changed or are off, promises that were not kept."""
    failed = summary[summary["status"] == "failed"]
    told = [
        f"{row.backend}, {_where(row)}{f', {row.inputs}' if isinstance(row.inputs, str) else ''}: {row.reason}"
        for row in failed.itertuples()
    ]
    broken = special[special["promised"].astype(bool) & ~special["ok"].astype(bool)]
    told += [f"{row.backend}, {_where(row)}: {row.case} gave {row.got}, not {row.expected}"
             for row in broken.itertuples()]  # fmt: skip
    return told


def sentences(summary: pd.DataFrame, special: pd.DataFrame) -> list[str]:
    """What was found, in sentences: first what should not be, then how near the sums are, how steady, how equal."""
    ran = summary[summary["max_ulp"].notna()]
    if ran.empty:
        return ["No backend could be measured"]
    told = flagged(summary, special)
    for world_size, rows in ran.groupby("world_size", sort=False):
        told += _nearest(f"{world_size} ranks", rows)
    if (ran["identical_repeats"].astype(bool) & (ran["status"] == "ok")).all():
        told.append(f"{int(ran['repeats'].min())} calls with the same inputs gave the same bits each time")
    unequal = ran[~ran["identical_across_ranks"].astype(bool)]
    if unequal.empty:
        told.append("All ranks got the same bits from every backend")
    for name, rows in unequal.groupby("backend", sort=False):
        dtypes = words.listed(SHORT[dtype] for dtype in rows["dtype"].unique())
        ranks = words.listed(f"{world_size}" for world_size in rows["world_size"].unique())
        told.append(f"Of {ranks} ranks not all got the same bits from {name} in {dtypes}")
    return told + _special_sentences(special)


def _nearest(ranks: str, rows: pd.DataFrame) -> list[str]:
    """Which backends' sums are the yardstick itself, and how many of the others'; dtypes that are alike together."""
    shares = rows.groupby(["dtype", "backend"], sort=False)["share_nearest"].mean()
    if (shares == 1).all():
        return [f"On {ranks} every sum of every backend is the float64 sum rounded once"]
    alike: dict[tuple, list[str]] = {}
    for dtype in rows["dtype"].unique():
        alike.setdefault(tuple(name for name, share in shares[dtype].items() if share == 1), []).append(dtype)
    told = []
    for exact, dtypes in alike.items():
        shown = words.listed(SHORT[dtype] for dtype in dtypes)
        others = shares[dtypes].drop(list(exact), level="backend", errors="ignore")
        some = [f"of {name} {words.span(found, _percent)}" for name, found in others.groupby("backend", sort=False)]
        if exact:
            rest = f"; {words.listed(some)} are" if some else ""
            told.append(f"On {ranks} every {shown} sum of {words.listed(exact)} is the float64 sum rounded once{rest}")
        else:
            share = words.span(others, _percent)
            told.append(f"On {ranks} {share} of a backend's {shown} sums are the float64 sum rounded once")
    return told


def _special_sentences(special: pd.DataFrame) -> list[str]:
    promised, ok = special["promised"].astype(bool), special["ok"].astype(bool)
    told = []
    if promised.any() and ok[promised].all():
        told.append(f"All {int(promised.sum())} special values are as promised")
    others = special[~promised & ~ok]
    of_each = [f"{name} in {words.listed(rows['case'].unique())}"
               for name, rows in others.groupby("backend", sort=False)]  # fmt: skip
    if of_each:
        told.append(f"Backends that promise nothing do otherwise: {'; '.join(of_each)}")
    return told


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 0.995 or share == 1 else f"{100 * share:.1f} %"


def _where(row) -> str:
    return f"{row.world_size} ranks, {row.dtype}"


def _simulated(parts: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """What each of `WAYS` gives, by name; one that adds as an earlier one does in this dtype is left out."""
    names: dict[tuple, str] = {}
    for name, (within, order, _) in WAYS.items():
        names.setdefault((within or dtype, order), name)
    return {name: accumulate(parts, dtype, within=within, order=order) for (within, order), name in names.items()}


def _same_bits(found: Found, parts: np.ndarray, dtype: str) -> list[str]:
    """Those of `WAYS`, else the one of `FROM_OWN`, that give each rank what it got."""
    if not found.identical_repeats:
        return []
    of_ranks = [found.values[calls[0]] for calls in found.digests]

    def gives(result_of) -> bool:
        return all(np.array_equal(result_of(rank), one, equal_nan=True) for rank, one in enumerate(of_ranks))

    same = [name for name, result in _simulated(parts, dtype).items() if gives(lambda _, result=result: result)]
    for name, (within, _) in FROM_OWN.items():

        def from_own(rank: int, within: str = within or dtype) -> np.ndarray:
            return accumulate(np.roll(parts, -rank, axis=0), dtype, within=within, order="rank")

        if not same and gives(from_own):
            same.append(name)
    return same


def _differing(found: Found) -> str:
    """Which call gave other bits than the first, on which ranks, in how many elements and by how much; or nothing."""
    if found.identical_repeats:
        return ""
    calls = {rank: [n for n, one in enumerate(digests, start=1) if one != digests[0]]
             for rank, digests in enumerate(found.digests)}  # fmt: skip
    ranks = [rank for rank, numbers in calls.items() if numbers]
    numbers = calls[ranks[0]]
    digests = found.digests[ranks[0]]
    first, other = found.values[digests[0]], found.values[digests[numbers[0] - 1]]
    changed = ~((first == other) | (np.isnan(first) & np.isnan(other)))
    by = np.nan_to_num(np.abs(first - other)[changed], nan=np.inf).max(initial=0)
    shown = _listed(numbers, 4)
    return (
        f"{len(numbers)} of {len(digests)} calls with the same inputs gave other bits than the first (call {shown}, "
        f"on rank {_listed(ranks, 8)}): {int(changed.sum())} of {len(first)} elements, by up to {by:.3g}"
    )


def _beyond_rounding(off: np.ndarray, parts: np.ndarray, dtype: str) -> str:
    """How far an element is off, if no order of additions in the dtype explains it (Higham, Accuracy and Stability of
    Numerical Algorithms, 4.2: |error| <= (n - 1) u sum |x|, to first order in u); or nothing."""
    form = FORMATS[dtype]
    terms = len(parts) - 1
    bound = terms * form.unit_roundoff * np.abs(parts).sum(axis=0) * (1 + 2 * len(parts) * form.unit_roundoff)
    over = off > bound + form.smallest
    if not over.any():
        return ""
    worst = int(np.argmax(np.where(over, off - bound, -1)))
    return (
        f"{int(over.sum())} elements are further from the float64 sum than any order of additions in {SHORT[dtype]} "
        f"explains: one by {off[worst]:.3g}, where rounding explains {bound[worst]:.3g}"
    )


def _listed(numbers: Iterable[int], most: int) -> str:
    numbers = [str(number) for number in numbers]
    return words.listed(numbers) if len(numbers) <= most else f"{', '.join(numbers[:most])} and so on"
