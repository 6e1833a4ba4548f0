"""How single requests are spread: which of them count, their empirical distributions, and their quantiles.

For showing only. Verdicts come from blocks (`symmlib.analysis.serving`): requests of one server share its luck, so
pooling them would claim more certainty than there is. Used by the figure of distributions.
"""

import numpy as np
import pandas as pd

from symmlib.analysis.serving import BEYOND

STEPS = 100  # of a drawn curve: more would not be seen, and make the page heavy
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
CELL = ["tp", "qps", "arm"]


def counting(requests: pd.DataFrame, comparison: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of `requests` (columns of `results/serving.csv`) whose measurements count.

    These are those of arms that, in their cell, take part in a comparison that is not `invalid`; all, where nothing was
    compared.
    """
    if comparison is None or comparison.empty:
        return requests
    valid = comparison[comparison.verdict != "invalid"]
    sides = [valid[["tp", "qps", side]].set_axis(CELL, axis=1) for side in ("baseline", "treatment")]
    return requests.merge(pd.concat(sides).drop_duplicates(), on=CELL)


def curve(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The empirical distribution of `values` (at least one): values in order, and the per cent that is at most each.

    Of many values only every so many are kept, at most `STEPS` and always the first and the last.
    """
    ordered = np.sort(values.to_numpy(dtype=float))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), STEPS)).round().astype(int))
    return ordered[places], 100 * (places + 1) / len(ordered)


def quantiles(values: pd.Series) -> dict[float, float]:
    """`QUANTILES` of `values`; NaN where fewer than `BEYOND` of them lie beyond one on either side."""
    known = values.dropna()
    return {
        share: float(known.quantile(share)) if len(known) * min(share, 1 - share) >= BEYOND - 1e-9 else float("nan")
        for share in QUANTILES
    }
