"""How far verdicts can be believed: `analysis.serving.compare` on simulated blocks whose true ratios are known.

Each experiment is a summary such as servers give: a log-normal time per arm and block, with the block's own luck, which
its arms share. `scripts/study_verdicts.py` runs it and writes what docs/serving-statistics.md shows; a small version
runs in the tests.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from symmlib.analysis.serving import DELTA, SUMMARY_COLUMNS, compare, equivalence_band, noise_floor

NOISE = 0.03  # standard deviation of d = ln(treatment / baseline) from block to block
BLOCK_NOISE = 0.10  # shared by the arms of a block: pairing removes it
PAIR = ("A", "B")
FINDS = ("faster", "slower")
COLUMNS = ["setting", "true_ratio", "first_look", "blocks", "cells", "families", "band", "experiments", "any_family",
           "per_family", "per_family_old"]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A design whose true ratio is the same everywhere. Each of `metrics` makes one family of `cells` cells.

    `first_look`: so many blocks run first, and the others where these found nothing; 0: nobody looks before the end.
    """

    name: str
    true_ratio: float
    blocks: int
    cells: int
    metrics: tuple[str, ...]
    first_look: int = 0


def settings() -> list[Setting]:
    """Two equal arms, in 3 and 6 blocks; an effect of 5 %, told as a ratio and as a factor; and both where 3 blocks are
    added to 3 that found nothing."""
    both, one = ("ttft", "tpot"), ("tpot",)
    return [
        Setting("equal arms", 1, 6, 2, both),
        Setting("equal arms", 1, 3, 2, both),
        Setting("5 % less time", 0.95, 6, 1, one),
        Setting("1.05x faster", 1 / 1.05, 6, 1, one),
        Setting("5 % less time", 0.95, 10, 1, one),
        Setting("5 % less time", 0.95, 3, 1, one),
        Setting("equal arms", 1, 6, 2, both, first_look=3),
        Setting("5 % less time", 0.95, 6, 1, one, first_look=3),
    ]


def study(repetitions: int, *, which: list[Setting] | None = None) -> pd.DataFrame:
    """Two rows per setting (`COLUMNS`), over `repetitions` seeded experiments: `band` "A/A", from another simulated
    experiment of the same design with equal arms, and "assumed", DELTA everywhere.

    `any_family`: the share of experiments that call any cell of any metric faster or slower; `per_family`: of families
    (the cells of one metric, which are one question) that do, and `per_family_old` those that would by the rule "the
    whole interval lies beyond the band". Where the true ratio is not 1, only "faster" counts. What either look finds
    counts as found.
    """
    return pd.DataFrame(
        [row for setting in which or settings() for row in _rows(setting, repetitions)], columns=COLUMNS
    )


def simulate(setting: Setting, chance: np.random.Generator) -> pd.DataFrame:
    """One experiment: per block, cell and metric a time of either arm (columns: SUMMARY_COLUMNS).

    Noise is independent between cells and metrics. Those of one server share some of their luck, which makes fewer
    experiments wrong in any of them.
    """
    shape = setting.blocks, setting.cells, len(setting.metrics), len(PAIR)
    block, cell, metric, arm = (axis.ravel() for axis in np.indices(shape))
    logs = chance.normal(0, NOISE / math.sqrt(2), shape) + chance.normal(0, BLOCK_NOISE, (setting.blocks, 1, 1, 1))
    logs[..., 1] += math.log(setting.true_ratio)
    return pd.DataFrame(
        {
            "block": block + 1,
            "arm": np.array(PAIR)[arm],
            "tp": 2,
            "qps": 4 * 2**cell,
            "metric": np.array(setting.metrics)[metric],
            "statistic": "median",
            "value_ms": 10 * np.exp(logs.ravel()),
            "requests": 100,
            "note": "",
        }
    )[SUMMARY_COLUMNS]


def _rows(setting: Setting, repetitions: int) -> list[tuple]:
    rows = []
    equal = Setting(setting.name, 1, setting.blocks, setting.cells, setting.metrics)
    found = {"A/A": [], "assumed": []}  # for each experiment, its families: (found, found by the old rule)
    for repetition in range(repetitions):
        chance = np.random.default_rng([repetition, setting.blocks, *setting.name.encode()])
        floor = noise_floor(compare(simulate(equal, chance), [PAIR]))
        summary = simulate(setting, chance)
        looks = [summary[summary.block <= seen] for seen in (setting.first_look, setting.blocks) if seen]
        for band, delta in (("A/A", floor), ("assumed", DELTA)):
            each = [_found(compare(seen, [PAIR], delta=delta), setting.true_ratio) for seen in looks]
            found[band].append(np.any(each, axis=0))
    for band, experiments in found.items():
        counted = np.array(experiments)  # experiments x families x rules
        any_family, (per_family, old) = counted[:, :, 0].any(axis=1).mean(), counted.mean(axis=(0, 1))
        rows.append((setting.name, setting.true_ratio, setting.first_look, setting.blocks, setting.cells,
                     len(setting.metrics), band, repetitions, any_family, per_family, old))  # fmt: skip
    return rows


def _found(comparison: pd.DataFrame, true_ratio: float) -> list[tuple[bool, bool]]:
    """For each metric, whether a verdict of the wanted kind is among its cells: by the rule in use, and by the old."""
    wanted = FINDS if true_ratio == 1 else ("faster",)
    verdicts = comparison.assign(old=[_whole_interval_beyond(row) for row in comparison.itertuples()])
    return [
        (bool(family["verdict"].isin(wanted).any()), bool(family["old"].isin(wanted).any()))
        for _, family in verdicts.groupby("metric", sort=False)
    ]


def _whole_interval_beyond(row) -> str:
    least, most = equivalence_band(row.delta)
    return "faster" if row.ci_high < least else "slower" if row.ci_low > most else "other"
