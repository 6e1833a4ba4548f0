"""Two arms that answered the same items, compared item by item: did answers that were right become wrong?

An item counts by what became of it in both arms. Items that both answer alike say nothing about a change; those that
only one of them answers right say all of it. Error bars of two accuracies, laid beside each other, throw that away.

`serving.accuracy` makes results/accuracy_comparison.csv of it, `analysis.agreement` compares sequences by it.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

ALPHA = 0.05
POWER = 0.80
Z = 1.959963984540054  # the 97.5 % point of the normal distribution
NO_CHANGE, WORSE, BETTER = "no change detected", "worse", "better"


@dataclass(frozen=True)
class Paired:
    """Counts of items: right in both arms, in the baseline only, in the treatment only, in neither."""

    both: int
    only_baseline: int
    only_treatment: int
    neither: int

    @classmethod
    def of(cls, baseline, treatment) -> "Paired":
        """From two equally long sequences of booleans, item by item. Raises `ValueError` for any others."""
        first, second = np.asarray(baseline, dtype=bool), np.asarray(treatment, dtype=bool)
        if first.shape != second.shape or first.ndim != 1:
            raise ValueError(f"items in pairs are two sequences of one length, not {first.shape} and {second.shape}")
        counts = (first & second, first & ~second, ~first & second, ~first & ~second)
        return cls(*(int(items.sum()) for items in counts))

    @property
    def n(self) -> int:
        """All items."""
        return self.both + self.only_baseline + self.only_treatment + self.neither

    @property
    def discordant(self) -> int:
        """Items that one arm answers right and the other wrong."""
        return self.only_baseline + self.only_treatment

    @property
    def difference(self) -> float:
        """Accuracy of the treatment less that of the baseline."""
        return (self.only_treatment - self.only_baseline) / self.n


def mcnemar_p(paired: Paired) -> float:
    """Exact two-sided p of "a discordant item is as likely to be of one kind as of the other".

    McNemar (1947), Psychometrika 12:153-157, in its exact form: twice the smaller tail of Binomial(discordant, 1/2).
    """
    m, fewer = paired.discordant, min(paired.only_baseline, paired.only_treatment)
    tail = sum(math.comb(m, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**m)


def interval(paired: Paired, z: float = Z) -> tuple[float, float]:
    """An interval (95 %, by `z`) of the difference of two proportions for paired data: Tango's score interval.

    Tango (1998), Statistics in Medicine 17:891-908: all d that the score test does not reject, the nuisance parameter
    estimated under d (his equation for q21). It stays inside -1 to 1 and has a length even where no item is discordant.
    """
    low = _where_score_is(paired, z, -1.0, paired.difference)
    high = _where_score_is(paired, -z, paired.difference, 1.0)
    return low, high


def detectable(n: int, noise: float = 0.0, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest loss of accuracy that `n` items show with probability `power`, as a share of the items; nan if none.

    The model: a share `noise`/2 of items flips each way by chance, as items at the edge do from run to run, and a share
    d turns from right to wrong. The power at d is exact: the probability, summed over all counts of discordant items
    (n, noise + d) and of their kinds, that `mcnemar_p` is below `alpha` in the direction of a loss. After Duffy (1984),
    Biometrics 40:1005-1015, who sums it so; d is found by bisection to 1e-4.
    """
    low, high = 0.0, 1.0 - noise
    if high <= 0 or _power(n, high, noise, alpha) < power:
        return math.nan
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(n, middle, noise, alpha) >= power else (middle, high)
    return high


def verdict(paired: Paired, p_value: float, detectable_loss: float, alpha: float = ALPHA) -> str:
    """In words: `better`, `worse`, or `no change detected` with the smallest change that so many items could show."""
    if p_value < alpha:
        return WORSE if paired.difference < 0 else BETTER
    if math.isnan(detectable_loss):
        return f"{NO_CHANGE}, and {paired.n} items could not show any"
    return f"{NO_CHANGE}; {paired.n} items show one of {100 * detectable_loss:.1f} points or more (power 80 %)"


def _score(paired: Paired, d: float) -> float:
    """Tango's score statistic for the difference `d`: falls as `d` grows, 0 at the observed difference."""
    n, b, c = paired.n, paired.only_treatment, paired.only_baseline
    # q estimates the share of items that only the baseline answers right, under the difference d.
    first, second, third = 2 * n, -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
    q = (math.sqrt(max(second**2 - 4 * first * third, 0.0)) - second) / (2 * first)
    variance = n * (2 * q + d * (1 - d))
    surplus = b - c - n * d
    if variance <= 1e-15:
        return math.copysign(math.inf, surplus) if abs(surplus) > 1e-12 else 0.0
    return surplus / math.sqrt(variance)


def _where_score_is(paired: Paired, target: float, low: float, high: float) -> float:
    """The difference between `low` and `high` at which the falling score is `target`, to 1e-10; an end if beyond it."""
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if _score(paired, middle) > target else (low, middle)
    return (low + high) / 2


def _power(n: int, loss: float, noise: float, alpha: float) -> float:
    """The probability that `n` items show the `loss` (a share of items) beside `noise`; see `detectable`."""
    discordant = min(loss + noise, 1.0)
    m = np.arange(n + 1)
    weights = binom.pmf(m, n, discordant)
    likely = m[weights > 1e-12]
    # The most items of the treatment's kind with which the test still sees a loss among m discordant ones; -1 if none.
    most = binom.ppf(alpha / 2, likely, 0.5)
    most = np.where(2 * binom.cdf(most, likely, 0.5) < alpha, most, most - 1)
    seen = binom.cdf(most, likely, (noise / 2) / discordant)
    return float((weights[likely] * np.where(most >= 0, seen, 0.0)).sum())
