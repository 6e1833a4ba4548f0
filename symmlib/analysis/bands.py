"""The band of ratios that are as good as 1, in words: how wide it is for each metric, and where that comes from.

Used by the figure of effects, the report's table of comparisons and the serving notebook.
"""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.verdicts import headline_rows

OLDER_DELTA = 0.03  # what the verdicts of files without a column `delta` were read against
HOW_TO_MEASURE = "symmlib serve --aa measures it"


def with_delta(comparison: pd.DataFrame) -> pd.DataFrame:
    """`comparison` with a column `delta`, which older files lack."""
    if "delta" not in comparison:
        return comparison.assign(delta=OLDER_DELTA)
    return comparison.assign(delta=pd.to_numeric(comparison["delta"], errors="coerce").fillna(OLDER_DELTA))


def width(delta: float) -> str:
    """Half of the band: 0.03 -> '±3 %', 0.0142 -> '±1.4 %', 0.123 -> '±12 %'."""
    return f"±{100 * delta:.{2 if delta < 0.995 else 3}g} %"


def widths(rows: pd.DataFrame) -> str:
    """The bands of rows with `metric` and `delta`: '±3 %', or where they differ '±1.4 % for TPOT and ±3 % for TTFT'."""
    by_metric: dict[str, list[str]] = {}
    for metric, group in rows.groupby("metric", sort=False):
        by_metric.setdefault(words.span(group["delta"], width), []).append(metric.upper())
    if len(by_metric) == 1:
        return next(iter(by_metric))
    return words.listed(f"{wide} for {words.listed(metrics)}" for wide, metrics in by_metric.items())


def origin(comparison: pd.DataFrame | None, floor: pd.DataFrame | None = None) -> str:
    """One sentence on where the bands come from against which the verdicts that speak (`headline_rows`) are read.

    `floor`: the table `results/noise_floor.csv`, with the columns of `analysis.serving.noise_floor` and `source`; None
    or empty where no A/A experiment measured any. A row that was not judged by the floor's delta counts as assumed.
    Empty without rows.
    """
    rows = with_delta(headline_rows(comparison)).drop_duplicates(["metric", "statistic", "delta"])
    if rows.empty:
        return ""
    measured = rows.iloc[:0]
    if floor is not None and not floor.empty:
        found = rows[["metric", "statistic", "delta"]].merge(floor, on=["metric", "statistic"], suffixes=("", "_floor"))
        measured = found[(found["delta"] - found["delta_floor"]).abs() < 1e-4]  # a file may round
    assumed = rows[~rows["metric"].isin(measured["metric"])]
    told = []
    for part, is_measured in ((measured, True), (assumed, False)):
        if not part.empty:
            alone = len(part) == len(rows) or part["delta"].nunique() > 1  # then `widths` names what needs a name
            which = "" if alone else f" for {words.listed(part['metric'].str.upper().unique())}"
            told.append(f"{widths(part)}{which}, measured by an A/A experiment ({_how(part)})" if is_measured
                        else f"assumed: {widths(part)}{which}; {HOW_TO_MEASURE}")  # fmt: skip
    return f"The band is {'; '.join(told)}."


def _how(measured: pd.DataFrame) -> str:
    """'6 blocks', and the source where all have one: '6 blocks, run 20261124T...'."""
    sources = measured["source"].fillna("").astype(str).unique() if "source" in measured else []
    return ", ".join([words.blocks(measured), *(sources if len(sources) == 1 and sources[0] else [])])
