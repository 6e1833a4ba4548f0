"""The part of the page on how much of the measured change the all-reduce explains. Called by `page`."""

import pandas as pd

from symmlib.analysis.explained import change_ms, headline_rows, sentences
from symmlib.report import figures
from symmlib.report.contents import Contents
from symmlib.report.parts import Table, plot, unbroken

HOW = (
    "Predicted, in ms: the difference of the two all-reduces' times alone, at the sizes that the baseline's servers "
    "reduced, times all-reduces per step; the same for all QPS. Measured: mean over blocks, with the 95 % interval of "
    "its cell. Explained: predicted over measured, where that interval leaves 0 out"
)


def explained(run: Contents) -> dict:
    """`sentences` on what the all-reduce explains, `plots` of predicted beside measured, or else its `table`."""
    table = run.tables["prediction"]
    if table is None:
        return {"sentences": [], "plots": [], "table": None}
    if headline_rows(table).empty:
        return {"sentences": sentences(table), "plots": [], "table": _table(table)}
    source = "results/prediction.csv"
    drawn = plot("prediction", figures.predicted_beside_measured, table, tables=[_table(table)], source=source)
    return {"sentences": sentences(table), "plots": [drawn], "table": None}


def _table(table: pd.DataFrame) -> Table:
    rows = [
        [
            f"{row.tp:g}",
            f"{row.qps:g}",
            unbroken(f"{row.statistic} {row.metric.upper()}"),
            f"{row.treatment} − {row.baseline}",
            _ms(row.predicted_ms),
            _ms(row.measured_ms),
            f"{_ms(row.measured_low_ms)} to {_ms(row.measured_high_ms)}" if pd.notna(row.measured_low_ms) else "–",
            f"{row.explained:.0%}".replace("%", " %") if pd.notna(row.explained) else "–",
            row.note if isinstance(row.note, str) else "",
        ]
        for row in table.itertuples()
    ]
    columns = [
        "TP",
        "QPS",
        "what",
        "treatment − baseline",
        "predicted, ms",
        "measured, ms",
        "95 % interval, ms",
        "explained",
        "note",
    ]
    return Table(HOW, columns, rows, frozenset({0, 1, 4, 5, 6, 7}), wordy=True)


def _ms(value: float) -> str:
    return change_ms(value).removesuffix(" ms") if pd.notna(value) else "–"
