"""The figure of distributions: how the TTFT and TPOT of single requests are spread, arm beside arm."""

import itertools

import pandas as pd
from matplotlib.ticker import MaxNLocator

from symmlib.analysis import words
from symmlib.analysis.distributions import counting, curve, quantiles
from symmlib.analysis.verdicts import METRICS
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, legend_above, styled
from symmlib.report.figures.serving import cell_words
from symmlib.report.svg import Figure

PANEL_IN = 2.3
MOST = 0.9  # the share of requests of which the finding speaks
SHOWN = 0.99  # of each arm's requests; the axis ends behind the slowest arm's


@styled
def distributions(
    requests: pd.DataFrame,
    comparison: pd.DataFrame | None = None,
    baseline: str | None = None,
    compact: bool = False,
) -> Figure:
    """The empirical distribution (ECDF) of TTFT and of TPOT over requests: a row of panels per cell, a line per arm.

    `requests` has the columns of `results/serving.csv`; with `comparison`, only what takes part in a valid comparison
    is drawn. Blocks are pooled, for showing. `baseline` is grey.
    """
    rows = counting(requests, comparison)
    rows = rows[rows.ttft_ms.notna() | rows.tpot_ms.notna()]
    cells = sorted(set(zip(rows.tp, rows.qps, strict=True)))
    figure, panels = canvas(max(1, len(cells)), 2, compact, PANEL_IN)
    if rows.empty:
        figure.finding = figure.alt = "There is no request whose times count"
        figure.reading = "Nothing is drawn: the gates say why."
        for axes in panels:
            axes.set_axis_off()
        return figure
    looks = style.looks(sorted(dict.fromkeys(rows.arm), key=lambda arm: arm != baseline), baseline)
    ends = {metric: max(rows.groupby("arm")[f"{metric}_ms"].quantile(SHOWN).dropna()) for metric in METRICS}
    order = [(tp, qps, metric) for tp, qps in cells for metric in reversed(METRICS)]
    for axes, (tp, qps, metric) in zip(panels, order, strict=True):
        here = rows[(rows.tp == tp) & (rows.qps == qps)]
        for arm in sorted(looks, key=lambda arm: looks[arm].colour != "grey"):
            values = here[here.arm == arm][f"{metric}_ms"].dropna()
            if len(values):
                times, shares = curve(values)
                axes.plot([times[0], *times], [0, *shares], drawstyle="steps-post", markevery=0.25, **looks[arm].line)
        axes.set_xlim(0, 1.05 * ends[metric])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_ylim(0, 101)
        axes.set_yticks([0, 50, 90, 100], ["0 %", "50 %", "90 %", "100 %"])
        axes.set_title(f"{metric.upper()}, {cell_words(tp, qps, rows)}")
        axes.set_xlabel(f"{metric.upper()} of a request, ms")
    legend_above(figure, looks, columns=2 if compact else 4)
    _describe(figure, rows, cells, list(looks))
    return figure


def _describe(figure: Figure, rows: pd.DataFrame, cells: list[tuple], arms: list[str]) -> None:
    """The words and the numbers of the figure."""
    found = {}
    for tp, qps in cells:
        for metric, arm in itertools.product(reversed(METRICS), arms):
            here = rows[(rows.tp == tp) & (rows.qps == qps) & (rows.arm == arm)][f"{metric}_ms"]
            found[tp, qps, metric, arm] = (here.count(), quantiles(here))
    told = {}
    for metric in METRICS:
        at_most = {
            arm: of[MOST] for (*cell, name, arm), (_, of) in found.items() if (*cell, name) == (*cells[-1], metric)
        }
        known = sorted((value, arm) for arm, value in at_most.items() if pd.notna(value))
        told[metric] = ", ".join(f"{arm} {words.milliseconds(value)}" for value, arm in known)
    place = cell_words(*cells[-1], rows)
    if told["tpot"]:
        figure.finding = f"At {place}, nine of ten requests have a TPOT of at most: {told['tpot']}"
        figure.alt = f"{figure.finding}. Of their TTFT, nine of ten are at most: {told['ttft']}"
    else:
        figure.finding = f"So few requests were measured at {place} that nothing is said of nine in ten"
        figure.alt = figure.finding
    figure.numbers = pd.DataFrame(
        [
            {
                "TP": tp,
                "QPS": qps,
                "metric": metric.upper(),
                "arm": arm,
                "requests": count,
                **{f"{100 * share:g} % at most, ms": value for share, value in of.items()},
            }
            for (tp, qps, metric, arm), (count, of) in found.items()
        ]
    ).dropna(axis=1, how="all")
    blocks = rows.block.nunique()
    figure.reading = (
        "An empirical distribution (ECDF): go up to 90 %, then right to a line, and read below how long nine of ten "
        "requests took at most. A line further left is faster; a long slope at its top is a few slow requests. "
        + (f"The {blocks} blocks are pooled for showing only: the verdicts come from blocks. " if blocks > 1 else "")
        + "Each axis ends where 99 % of the slowest arm's requests lie."
    )
