"""The figure of a comparison of runs: another run's all-reduce times over the first run's."""

import pandas as pd

from symmlib.analysis import words
from symmlib.report import style
from symmlib.report.figures.canvas import line_panels, log_y, styled
from symmlib.report.svg import Figure

PANEL_IN = 2.7


@styled
def unpaired_ratios(rows: pd.DataFrame, label: str, compact: bool = False) -> Figure:
    """Each backend's `ratio` against `bytes`, one panel a (world size, dtype, mode); A stands at 1, in grey.

    `rows`: those of the run `label` in `analysis.unpaired.beside`, with ratios.
    """
    title = f"time in {label} / time in A"
    figure = line_panels(rows, "ratio", title, "ratio", compact, PANEL_IN, finish=_finish, scale="log")
    each = rows.groupby("backend", sort=False).ratio
    told = [f"{name} {words.span(ratios, words.ratio)}" for name, ratios in each]
    spread = words.span(rows.ratio, words.ratio)
    figure.finding = f"{label} took {spread} times as long as A, backend by backend and size by size"
    figure.alt = f"{figure.finding}. Ratio of the median all-reduce time in {label} to that in A: {'; '.join(told)}"
    figure.reading = (
        f"Below the grey line {label} took less time than A. The runs are unpaired: a line away from 1 may be a change "
        "of code or machine, or the noise between two days; no interval can be given."
    )
    return figure


def _finish(axes) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1 / 1.1), max(high, 1.1))
    axes.axhline(1, color=style.COLOURS["grey"][0], linewidth=1.4, zorder=1)
    log_y(axes)
