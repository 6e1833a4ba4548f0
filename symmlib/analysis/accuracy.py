"""What lm-eval's answers say of the arms, item by item: how many are right, and whether another all-reduce changed it.

`serving.accuracy` reads the items out of lm-eval's samples and writes what these functions make of them.
"""

import math

import pandas as pd

from symmlib.analysis.paired_items import ALPHA, Paired, detectable, interval, mcnemar_p, verdict
from symmlib.analysis.serving import holm

ITEM_COLUMNS = ["tp", "arm", "task", "filter", "item", "prompt", "right"]
ACCURACY_COLUMNS = ["tp", "arm", "task", "filter", "n", "correct", "accuracy", "stderr"]
COMPARISON_COLUMNS = [
    "tp", "task", "filter", "baseline", "treatment", "n", "both_right", "only_baseline", "only_treatment", "difference",
    "ci_low", "ci_high", "p_value", "p_holm", "detectable", "verdict", "note",
]  # fmt: skip
INVALID = "invalid"


def items_of(samples: list[dict], *, tp: int, arm: str, task: str) -> pd.DataFrame:
    """One row per item and filter of lm-eval's samples (`--log_samples`); `prompt` is the hash of what was asked."""
    rows = [
        [tp, arm, task, sample["filter"], sample["doc_id"], sample["prompt_hash"], bool(sample["exact_match"])]
        for sample in samples
    ]
    return pd.DataFrame(rows, columns=ITEM_COLUMNS).sort_values(["filter", "item"], ignore_index=True)


def accuracy(items: pd.DataFrame) -> pd.DataFrame:
    """One row per (tp, arm, task, filter): `n`, `correct`, `accuracy`, and `stderr` as lm-eval gives it (n - 1)."""
    rows = []
    for key, group in items.groupby(ACCURACY_COLUMNS[:4], sort=False):
        n, correct = len(group), int(group["right"].sum())
        share = correct / n
        rows.append([*key, n, correct, share, math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan])
    return pd.DataFrame(rows, columns=ACCURACY_COLUMNS)


def compare(
    items: pd.DataFrame,
    pairs: list[tuple[str, str]],
    floor: tuple[str, str] | None = None,
    invalid: dict[tuple[int, str], str] | None = None,
) -> pd.DataFrame:
    """Compare (baseline, treatment) `pairs` item by item; columns: COMPARISON_COLUMNS.

    `floor`: the baseline and the same served again, compared too; its discordant share is the noise in `detectable`,
    the smallest loss that so many items show with 80 % (see `paired_items`), and it is no part of the family below.
    `invalid`: (tp, arm) -> why its answers do not count. Arms that were not asked the same are `invalid` as well.

    `p_value` is McNemar's, exact, `p_holm` adjusted over the pairs of one (tp, task, filter): the verdict is by that.
    `ci_low`, `ci_high`: Tango's interval of `difference`, 95 % for this comparison alone.
    """
    found = []
    for (tp, task, filter_), group in items.groupby(["tp", "task", "filter"], sort=False):
        arms = {arm: rows.set_index("item") for arm, rows in group.groupby("arm")}
        both = [(pair, _paired(arms, pair)) for pair in [*pairs, *([floor] if floor else [])] if {*pair} <= {*arms}]
        noise = next((p.discordant / p.n for pair, p in both if pair == floor and p), 0.0)
        family = [pair for pair, _ in both if pair != floor]
        alpha = ALPHA / max(len(family), 1)  # the level at which Holm begins: what a single changed arm must reach
        p_values = pd.Series([mcnemar_p(p) if p else math.nan for pair, p in both if pair != floor], dtype=float)
        adjusted = dict(zip(family, holm(p_values), strict=True))
        for pair, paired in both:
            reasons = [(invalid or {}).get((tp, arm), "") for arm in pair]
            reason = next(filter(None, reasons), "" if paired else "the arms were not asked the same items")
            row = dict(zip(COMPARISON_COLUMNS[:5], (tp, task, filter_, *pair), strict=True))
            if paired:
                p = mcnemar_p(paired)
                p_holm = float(adjusted.get(pair, p))
                low, high = interval(paired)
                least = detectable(paired.n, noise, alpha)
                row |= {"n": paired.n, "both_right": paired.both, "only_baseline": paired.only_baseline}
                row |= {"only_treatment": paired.only_treatment, "difference": paired.difference, "ci_low": low}
                row |= {"ci_high": high, "p_value": p, "p_holm": p_holm, "detectable": least}
                row |= {"verdict": verdict(paired, p_holm, least)}
            found.append(row | {"note": reason} | ({"verdict": INVALID} if reason else {}))
    return pd.DataFrame(found, columns=COMPARISON_COLUMNS)


def sentences(comparison: pd.DataFrame) -> list[str]:
    """One sentence per comparison."""
    said = []
    for row in comparison.itertuples():
        start = f"{row.task}, {row.filter}: {row.treatment} against {row.baseline} at TP={row.tp:g}"
        if row.verdict == INVALID:
            said.append(f"{start}: invalid: {row.note}.")
            continue
        changed = f"{row.only_baseline:g} items lost and {row.only_treatment:g} won of {row.n:g}"
        said.append(f"{start}: {changed} (p = {row.p_holm:.2g}): {row.verdict}.")
    return said


def _paired(arms: dict[str, pd.DataFrame], pair: tuple[str, str]) -> Paired | None:
    """The items of a pair of arms; None if they were not asked the same."""
    first, second = (arms[arm] for arm in pair)
    if list(first.index) != list(second.index) or list(first["prompt"]) != list(second["prompt"]):
        return None
    return Paired.of(first["right"], second["right"])
