"""How much of a measured change the all-reduce explains, in words, out of the rows of prediction.csv.

Called by the notebook 04_serving, the report and its figure. The numbers are those of `symmlib.analysis.prediction`.
"""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.prediction import METRICS, STATISTICS


def headline_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with a prediction and a measurement, of the one statistic that speaks: the median, else the mean."""
    whole = table[table["predicted_ms"].notna() & table["measured_ms"].notna()]
    spoken = next((name for name in STATISTICS if (whole["statistic"] == name).any()), STATISTICS[0])
    return whole[whole["statistic"] == spoken]


def sentences(table: pd.DataFrame) -> list[str]:
    """How much of each pair's change the all-reduce explains, a sentence for TPOT and one for TTFT, in this order;
    and for pairs without a prediction or a measurement, why."""
    rows = headline_rows(table)
    lines, without = [], {}  # (what is not there, why) -> the pairs of which that is so
    for (baseline, treatment), pair in table.groupby(["baseline", "treatment"], sort=False):
        mine = rows[(rows["baseline"] == baseline) & (rows["treatment"] == treatment)]
        lines += [
            _explained(mine[mine["metric"] == metric], metric.upper(), baseline, treatment)
            for metric in reversed(METRICS)
            if (mine["metric"] == metric).any()
        ]
        if mine.empty:
            reasons = words.listed(dict.fromkeys(pair["note"].fillna("").replace("", "nothing was measured")))
            what = "No prediction for" if pair["predicted_ms"].isna().all() else "No measured change to explain between"
            without.setdefault((what, reasons), []).append(f"{baseline} and {treatment}")
    return lines + [f"{what} {'; '.join(pairs)}: {why}." for (what, why), pairs in without.items()]


def _explained(rows: pd.DataFrame, metric: str, baseline: str, treatment: str) -> str:
    known = rows["explained"].dropna()
    spoken = rows if known.empty else rows.loc[known.index]
    predicted, seen = (words.span(spoken[name], change_ms) for name in ("predicted_ms", "measured_ms"))
    if known.empty:
        once = rows["measured_low_ms"].isna().all()
        doubt = "one block cannot tell that from chance" if once else "that may be chance"
        return (
            f"From {baseline} to {treatment}, all-reduce alone would change {metric} by {predicted}; "
            f"measured: {seen}, and {doubt}."
        )
    share = words.span(known * 100, lambda value: f"{value:.0f} %").replace(" % to", " to")
    change = f"change in {metric} between {baseline} and {treatment}"
    less = "" if len(known) == len(rows) else f" (in {len(known)} of {len(rows)} cells; elsewhere it may be chance)"
    if (known < 0).any():
        other = "the other way" if (known < 0).all() else "in part the other way"
        return (
            f"From {baseline} to {treatment}, all-reduce alone would change {metric} by {predicted}; measured: {seen}, "
            f"{other}{less}: something else changed more."
        )
    if known.between(0, 1.05).all():
        return f"All-reduce explains {share} of the {change}{less}."
    return f"All-reduce alone predicts {share} of the measured {change}{less}."


def change_ms(value: float) -> str:
    """A difference with its sign: -1.234 -> '−1.23 ms', 12.3 -> '+12.3 ms'."""
    return f"{'−' if value < 0 else '+'}{words.milliseconds(abs(value))}"
