"""Which backend to use at which size, and where the best one changes, each with its interval; pandas and numpy only.

Times are compared by their logs, paired within a launch, because a launch's luck is shared by its backends. The launch
is the unit: everything inside one is summed up first, by its rounds' medians and their trimmed mean. Used by
`symmlib.routing.derive` and by the study in docs/routing-tables.md, which measures what is promised here.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.stats import t

from symmlib.analysis.fastest import LEVEL
from symmlib.analysis.outliers import tame

CONFIDENCE = 0.95  # of intervals
SHOWN = 0.99  # one-sided, before a backend is called slower: a table makes some dozens of such tests
SHOWN_BETWEEN = 0.9975  # likewise, before a backend gets a range on either side: with 0.99, 5 of 1500 ties alternated
REPLICATES = 400
TRIMMED = 0.2  # of the rounds of a launch on either side: what was disturbed goes (Wilcox 2012, chapter 3, takes 20 %)
STEPS_PER_OCTAVE = 64  # of the grid on which a crossover is looked for: 1 % in size


@dataclass(frozen=True)
class Timings:
    """Log times of one setting: `log_us` has the shape (launches, backends, sizes), NaN where nothing was timed.

    `tamed`: (launch, backend, bytes) of figures that stood apart from all others and were cut (`outliers.tame`).
    """

    backends: tuple[str, ...]
    sizes: tuple[int, ...]
    log_us: np.ndarray
    tamed: tuple[tuple[int, str, int], ...] = ()

    @classmethod
    def of(cls, samples: pd.DataFrame) -> "Timings":
        """From samples (`launch`, `backend`, `bytes`, `time_us`, and `round`, if any) of one world size, dtype, mode.

        A launch's figure is the mean of its rounds' log medians, trimmed by a fifth on either side. The median of all
        its iterations would do where times have one peak. On CPU caches they have two, some 30 % apart, in turns of a
        few milliseconds (docs/host-communicator.md), and between two peaks a median jumps where a mean moves.
        """
        points = ["launch", "backend", "bytes"]
        rounds = np.log(samples.groupby([*points, *{"round"}.intersection(samples)])["time_us"].median())
        times = rounds.groupby(points).agg(_trimmed_mean)
        launches, backends, sizes = (times.index.unique(name).sort_values() for name in points)
        whole = pd.MultiIndex.from_product([launches, backends, sizes])
        log_us = times.reindex(whole).to_numpy().reshape(len(launches), len(backends), len(sizes))
        log_us, apart = tame(log_us)
        tamed = tuple((int(launches[a]), backends[b], int(sizes[c])) for a, b, c in np.argwhere(apart))
        return cls(tuple(backends), tuple(map(int, sizes)), log_us, tamed)

    def timed(self, backend: str) -> np.ndarray:
        """At which sizes `backend` was timed, in any launch."""
        return ~np.isnan(self.log_us[:, self.backends.index(backend)]).all(axis=0)

    def means(self) -> np.ndarray:
        """Mean log times, (backends, sizes); NaN where a backend was not timed."""
        return _mean(self.log_us)

    def differences(self, one: str, other: str) -> np.ndarray:
        """log(t_one / t_other), (launches, sizes)."""
        return self.log_us[:, self.backends.index(one)] - self.log_us[:, self.backends.index(other)]


@dataclass(frozen=True)
class Crossover:
    """The size at which two backends take the same time; `low` and `high` bound its 95 % interval, in bytes.

    Both are None where one launch gives no interval. `resolved` is False where the interval runs into the smallest or
    largest size that was measured, and may be longer.
    """

    bytes: int
    low: int | None = None
    high: int | None = None
    resolved: bool = True


def acceptable(timings: Timings, confidence: float = SHOWN) -> list[set[str]]:
    """At each size, the backends that are not shown to be more than 3 % slower than the fastest (one-sided).

    The noise of a difference is pooled over a size and its two neighbours, where there is more than one launch.
    """
    means = timings.means()
    names = []
    for position in range(len(timings.sizes)):
        best = timings.backends[int(np.nanargmin(means[:, position]))]
        accepted = set()
        for row, name in enumerate(timings.backends):
            difference = timings.differences(name, best)
            slower = means[row, position] - means[timings.backends.index(best), position]  # NaN is never accepted
            if slower - _one_sided_margin(difference, position, confidence) <= math.log1p(LEVEL):
                accepted.add(name)
        names.append(accepted)
    return names


def choose(timings: Timings, *, incumbent: str | None = None, previous: Sequence[str] | None = None) -> list[str]:
    """The backend for each size: `acceptable` everywhere, the fastest in all, and each change worth its while.

    The sum over sizes of the mean log times is least, where `incumbent` counts as 3 % faster than it is, and a change
    of backend costs 3 %, or twice the standard error of a difference where that is more. A backend gets two ranges only
    where it is shown to be slower between them, all sizes considered: ties do not alternate. With `previous` (a choice
    per size, such as a table in use makes) that sequence comes first that keeps most of it.
    """
    means, accepted = timings.means(), acceptable(timings)
    rows = {name: means[row] for row, name in enumerate(timings.backends)}
    bonus = {name: math.log1p(LEVEL) if name == incumbent else 0.0 for name in rows}
    change = max(math.log1p(LEVEL), 2 * _noise(timings))
    ways: dict[str, tuple[tuple[int, float], list[str]]] = {}
    for position, names in enumerate(accepted):
        extended = {}
        for name in sorted(names, key=timings.backends.index):
            departs = int(previous is not None and previous[position] != name)
            cost = departs, float(rows[name][position]) - bonus[name]
            options = [
                ((before[0] + cost[0], before[1] + cost[1] + change * (last != name)), path)
                for last, (before, path) in ways.items()
            ] or [(cost, [])]
            best, path = min(options, key=lambda option: option[0])
            extended[name] = best, [*path, name]
        ways = extended
    if not ways:
        return []
    return _without_flipping(timings, min(ways.values(), key=lambda way: way[0])[1])


def crossovers(timings: Timings, before: str, after: str, *, seed: int = 0) -> list[Crossover]:
    """Every size from which on `after` is faster than `before`, in ascending order.

    The mean log-ratio is interpolated over log2(bytes), smoothly and without overshoot (PCHIP), and its upward zeros
    are the crossovers. Launches are resampled `REPLICATES` times; the replicates' spread, widened by sqrt(n/(n-1)) and
    taken t(n-1) times, is the band of the curve, because the plain percentiles of n = 5 resampled launches are a third
    too narrow (Hesterberg 2015, The American Statistician 69(4), on small samples). A crossover's interval is the part
    of the axis around it on which the band contains 0.
    """
    differences = timings.differences(before, after)
    both = ~np.isnan(differences).all(axis=0)
    if both.sum() < 2:
        return []
    differences, octaves = differences[:, both], np.log2(np.array(timings.sizes, dtype=float)[both])
    grid = _grid(octaves)
    curve = _interpolate(octaves, _mean(differences), grid)
    zeros = [place for place in np.flatnonzero((curve[:-1] < 0) & (curve[1:] >= 0))]
    if not zeros:
        return []
    low, high = _band(differences, octaves, grid, seed)
    return [_crossover(grid, curve, low, high, int(place)) for place in zeros]


def crossover_near(timings: Timings, before: str, after: str, size: float, *, seed: int = 0) -> Crossover | None:
    """The crossover from `before` to `after` that is nearest to `size` bytes; None if there is none."""
    found = crossovers(timings, before, after, seed=seed)
    return min(found, key=lambda one: abs(math.log(one.bytes / size)), default=None)


def regrets(timings: Timings, chosen: Mapping[int, str]) -> pd.DataFrame:
    """What a choice costs at each size: `bytes`, `chosen`, `best`, `regret` (t_chosen / t_best − 1).

    `best` is the fastest by its mean. For `regret` the best of each launch is named by the other launches, and its time
    taken from that launch: the best of several noisy times would look better than any backend is, and a choice that is
    level with others would seem to cost something. A regret may therefore be slightly below 0.
    """
    rows = []
    for position, size in enumerate(timings.sizes):
        there = timings.log_us[:, :, position]
        mine = timings.backends.index(chosen[size])
        # A backend that was not timed with the chosen one is none that could have been chosen.
        launches = np.where(np.isnan(there), np.inf, there)[~np.isnan(there[:, mine])]
        if len(launches) > 1:
            others = [np.delete(launches, launch, axis=0).mean(axis=0).argmin() for launch in range(len(launches))]
            costs = [launch[mine] - launch[best] for launch, best in zip(launches, others, strict=True)]
        else:
            costs = launches[:, mine] - launches.min(axis=1)
        best = timings.backends[int(launches.mean(axis=0).argmin())]
        rows.append((size, chosen[size], best, math.expm1(float(np.mean(costs)))))
    return pd.DataFrame(rows, columns=["bytes", "chosen", "best", "regret"])


def ratio(timings: Timings, one: str, other: str) -> tuple[float, float, float]:
    """t_one / t_other at the only size of `timings`, with its 95 % t interval over launches (NaN for one launch)."""
    logs = timings.differences(one, other)[:, 0]
    logs = logs[~np.isnan(logs)]
    if len(logs) < 2:
        return math.exp(logs.mean()), math.nan, math.nan
    margin = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return math.exp(logs.mean()), math.exp(logs.mean() - margin), math.exp(logs.mean() + margin)


def _trimmed_mean(values: pd.Series) -> float:
    """As `scipy.stats.trim_mean`, to the bit, without what that spends on finding out what it was given."""
    cut = int(TRIMMED * len(values))
    parted = np.partition(values.to_numpy(), (cut, len(values) - cut - 1))
    return parted[cut : len(values) - cut].mean() if not np.isnan(parted).any() else np.nan


def _mean(values: np.ndarray) -> np.ndarray:
    """Over launches; NaN where there is none."""
    count = (~np.isnan(values)).sum(axis=0)
    return np.where(count, np.nansum(values, axis=0), np.nan) / np.maximum(count, 1)


def _without_flipping(timings: Timings, names: list[str]) -> list[str]:
    """`names`, but a backend that is not shown to be slower between two of its ranges serves those sizes too.

    Shown by the mean over all sizes between them, which says more than any of them alone.
    """
    for name in dict.fromkeys(names):
        places = [place for place, other in enumerate(names) if other == name]
        for left, right in zip(places, places[1:], strict=False):
            if right > left + 1 and not _slower_between(timings, name, names, range(left + 1, right)):
                names = [*names[:left], *[name] * (right - left), *names[right:]]
    return names


def _slower_between(timings: Timings, name: str, names: list[str], places: range) -> bool:
    """Whether `name` is shown to be more than 3 % slower than `names`, in the mean over the sizes at `places`."""
    differences = np.stack([timings.differences(name, names[place])[:, place] for place in places], axis=1)
    counts = (~np.isnan(differences)).sum(axis=0)
    if not counts.any():
        return True  # it was not timed there
    means = _mean(differences)
    freedom = int(np.maximum(counts - 1, 0).sum())
    slower = float(np.nanmean(means))
    if freedom:
        squares = np.nansum((differences - means) ** 2)
        slower -= t.ppf(SHOWN_BETWEEN, freedom) * math.sqrt(squares / freedom / counts.sum())
    return slower > math.log1p(LEVEL)


def _noise(timings: Timings) -> float:
    """The standard error of a difference between two backends at a size: the median over sizes and pairs."""
    errors = []
    for one, other in itertools.combinations(timings.backends, 2):
        difference = timings.differences(one, other)
        counts = (~np.isnan(difference)).sum(axis=0)
        squares = np.nansum((difference - _mean(difference)) ** 2, axis=0)[counts > 1]
        errors.extend(np.sqrt(squares / (counts[counts > 1] - 1) / counts[counts > 1]))
    return float(np.median(errors)) if errors else 0.0


def _one_sided_margin(difference: np.ndarray, position: int, confidence: float) -> float:
    near = slice(max(0, position - 1), position + 2)
    counts = (~np.isnan(difference)).sum(axis=0)
    freedom = int(np.maximum(counts[near] - 1, 0).sum())
    if freedom < 1 or counts[position] < 1:
        return 0.0
    squares = np.nansum((difference[:, near] - _mean(difference[:, near])) ** 2)
    return float(t.ppf(confidence, freedom) * math.sqrt(squares / freedom / counts[position]))


def _grid(octaves: np.ndarray) -> np.ndarray:
    return np.linspace(octaves[0], octaves[-1], math.ceil((octaves[-1] - octaves[0]) * STEPS_PER_OCTAVE) + 1)


def _interpolate(octaves: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return PchipInterpolator(octaves, values, axis=0)(grid)


def _band(differences: np.ndarray, octaves: np.ndarray, grid: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The curve's 95 % band on `grid`; without limits where some size has a single launch."""
    chance = np.random.default_rng(seed)
    means = _mean(differences)
    replicates = np.repeat(means[:, None], REPLICATES, axis=1)  # (sizes, replicates)
    timed = ~np.isnan(differences)
    # Sizes timed in the same launches are resampled together; sizes that were added later had launches of their own.
    for launches in np.unique(timed, axis=1).T:
        count = int(launches.sum())
        if count < 2:
            return np.full(len(grid), -np.inf), np.full(len(grid), np.inf)
        columns = np.flatnonzero((timed == launches[:, None]).all(axis=0))
        values = differences[np.ix_(np.flatnonzero(launches), columns)]
        drawn = values[chance.integers(count, size=(REPLICATES, count))].mean(axis=1)
        replicates[columns] += math.sqrt(count / (count - 1)) * (drawn.T - means[columns][:, None])
    quantile = t.ppf((1 + CONFIDENCE) / 2, timed.sum(axis=0).min() - 1)
    margin = quantile * _interpolate(octaves, replicates, grid).std(axis=1)
    curve = _interpolate(octaves, means, grid)
    return curve - margin, curve + margin


def _crossover(grid, curve, low, high, place: int) -> Crossover:
    """The crossover between `grid[place]` and the next point, with the interval around it."""
    share = -curve[place] / (curve[place + 1] - curve[place])
    zero = grid[place] + share * (grid[place + 1] - grid[place])
    if np.isinf(low).any():
        return Crossover(round(2**zero), resolved=False)
    outside = ~((low <= 0) & (high >= 0))
    first = max(np.flatnonzero(outside[: place + 1]), default=0)  # the interval ends between this point and the next
    last = place + 1 + min(np.flatnonzero(outside[place + 1 :]), default=len(grid) - place - 2)
    resolved = bool(outside[first] and outside[last])
    return Crossover(round(2**zero), math.floor(2 ** grid[first]), math.ceil(2 ** grid[last]), resolved)
