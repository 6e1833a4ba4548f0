"""How far derived tables can be believed: derivation on synthetic timings whose crossovers are known.

Timings come from the alpha-beta models of `analysis.alpha_beta`, with log-normal noise from launch to launch; each
repetition derives a table from them and holds it against the models. `scripts/study_crossovers.py` runs it and writes
what docs/routing-tables.md shows; a small version runs in the tests.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from symmlib.analysis.alpha_beta import time_us
from symmlib.routing.derive import derive
from symmlib.routing.table import Table

SIZES = tuple(2**power for power in range(10, 27))  # 1 KiB to 64 MiB, every doubling
TRIED = np.exp2(np.arange(10, 26.01, 0.125))  # where a table's choices are held against the models
LAUNCHES = 5
NOISE = (0.02, 0.05, 0.10)
LAUNCH_NOISE = 0.10  # shared by all backends of a launch: pairing removes it
MODELS = {
    "symm_mem/one_shot": "one_shot",
    "symm_mem/two_shot": "two_shot",
    "symm_mem/multimem": "multimem",
    "nccl": "ring",
}
COLUMNS = ["setting", "noise", "tables", "bounds", "covered", "octaves", "regret_mean", "regret_p95", "alternating"]


@dataclass(frozen=True)
class Setting:
    """Backends with known times: `time_us(backend, bytes)`."""

    name: str
    backends: tuple[str, ...]
    time_us: Callable[[str, float], float]

    def crossover(self, before: str, after: str) -> float | None:
        """The size at which the two models take the same time; None where they never do."""

        def ratio(octaves: float) -> float:
            return math.log(self.time_us(before, 2**octaves) / self.time_us(after, 2**octaves))

        ends = math.log2(SIZES[0]), math.log2(SIZES[-1])
        return 2 ** brentq(ratio, *ends) if ratio(ends[0]) * ratio(ends[1]) < 0 else None


def settings() -> list[Setting]:
    """2, 4 and 8 ranks, with and without multicast, and a tie of two backends at every size."""

    def modelled(world_size: int, backends: tuple[str, ...], name: str) -> Setting:
        return Setting(name, backends, lambda backend, nbytes: time_us(MODELS[backend], nbytes, world_size))

    plain = ("symm_mem/one_shot", "symm_mem/two_shot", "nccl")
    switched = ("symm_mem/one_shot", "symm_mem/two_shot", "symm_mem/multimem", "nccl")
    return [
        modelled(2, plain, "2 ranks"),
        modelled(4, plain, "4 ranks"),
        modelled(8, plain, "8 ranks"),
        modelled(4, switched, "4 ranks, multicast"),
        modelled(8, switched, "8 ranks, multicast"),
        Setting("a tie", plain[:2], lambda backend, nbytes: time_us("one_shot", nbytes, 4)),
    ]


def study(repetitions: int, *, noise: tuple[float, ...] = NOISE, which: list[Setting] | None = None) -> pd.DataFrame:
    """One row per setting and noise (`COLUMNS`), over `repetitions` seeded repetitions of 5 launches each.

    `bounds`: how many bounds with an interval the tables have in all; `covered`: the share of the intervals that hold
    the size at which the two models cross; `octaves`: the median width. `regret_mean` and `regret_p95`: over sizes,
    what the table's choice costs beyond the best model, then the mean over tables. `alternating`: the share of tables
    that give a backend two ranges, which none of these models has.
    """
    rows = [_summarize(setting, sigma, repetitions) for setting in which or settings() for sigma in noise]
    return pd.DataFrame(rows, columns=COLUMNS)


def _summarize(setting: Setting, sigma: float, repetitions: int) -> tuple:
    covered, octaves, regrets, alternating = [], [], [], 0
    for repetition in range(repetitions):
        table = derive(_samples(setting, sigma, repetition), source="synthetic timings").tables[0]
        for truth, low, high in _bounds(setting, table):
            covered.append(low <= truth <= high)
            octaves.append(math.log2(high / low))
        regrets.append(_regrets(setting, table))
        names = [route.backend for route in table.routes]
        alternating += len(names) != len(set(names))
    return (
        setting.name,
        sigma,
        repetitions,
        len(covered),
        np.mean(covered) if covered else math.nan,
        np.median(octaves) if octaves else math.nan,
        np.mean(regrets),
        np.mean(np.quantile(regrets, 0.95, axis=1)),
        alternating / repetitions,
    )


def _samples(setting: Setting, sigma: float, repetition: int) -> pd.DataFrame:
    """One sample per launch, backend and size, as `derive` takes them."""
    chance = np.random.default_rng([repetition, round(1000 * sigma), *setting.name.encode()])
    shape = LAUNCHES, len(setting.backends), len(SIZES)
    exact = np.array([[setting.time_us(backend, size) for size in SIZES] for backend in setting.backends])
    times = exact * np.exp(chance.normal(0, sigma, shape) + chance.normal(0, LAUNCH_NOISE, (LAUNCHES, 1, 1)))
    launch, backend, size = (axis.ravel() for axis in np.indices(shape))
    return pd.DataFrame(
        {
            "launch": launch + 1,
            "backend": np.array(setting.backends)[backend],
            "bytes": np.array(SIZES)[size],
            "time_us": times.ravel(),
        }
    ).assign(device="sm_90", world_size=8, dtype="bfloat16", mode="graph", multicast=True)


def _bounds(setting: Setting, table: Table) -> Iterator[tuple[float, int, int]]:
    for route, following in zip(table.routes, table.routes[1:], strict=False):
        truth = setting.crossover(route.backend, following.backend)
        if route.crossover_bytes and truth is not None:
            yield truth, *route.crossover_bytes


def _regrets(setting: Setting, table: Table) -> list[float]:
    regrets = []
    for size in TRIED:
        best = min(setting.time_us(backend, size) for backend in setting.backends)
        regrets.append(setting.time_us(table.lookup(size).backend, size) / best - 1)
    return regrets
