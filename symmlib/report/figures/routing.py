"""The figure of held-out sizes: what the router takes where its table was not derived, beside every backend."""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.fastest import usable
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, label_line_ends, legend_above, size_axis, styled
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

ROUTER = "router"
PANEL_IN = 3.0
CEILING = 2.0  # times the fastest: what is slower than that lies above the figure


@styled
def held_out(summary: pd.DataFrame, regret: pd.DataFrame, table_df: pd.DataFrame, compact: bool = False) -> Figure:
    """Time over the fastest backend's at each held-out size; the router on top, crossover intervals shaded.

    `summary`: of the check, with `allreduce_summary.csv`'s columns and the router among the backends. `regret`: as
    `results/regret.csv`. `table_df`: as `symmlib.routing.show` gives it, for the intervals.
    """
    figure, (axes,) = canvas(1, 1, compact, PANEL_IN)
    ran = usable(summary)
    ran = ran[ran.bytes.isin(regret.bytes)]
    if ran.empty:
        figure.finding = figure.alt = "No held-out size was measured"
        axes.set_axis_off()
        return figure
    backends = ran[ran.backend != ROUTER]
    ran = ran.assign(over=ran.median_us / ran.bytes.map(backends.groupby("bytes").median_us.min()))
    names = [name for name, rows in ran.groupby("backend") if rows.over.min() < CEILING and name != ROUTER]
    looks = style.looks(names) | {ROUTER: style.Look("ink", "o", "-")}
    for low, high in _intervals(table_df, ran.bytes):
        axes.axvspan(low, high, color=style.COLOURS["grey"][0], alpha=0.15, linewidth=0)
    ends = {}
    for name in [*names, ROUTER]:
        line = ran[ran.backend == name].sort_values("bytes")
        axes.plot(line.bytes, line.over, zorder=4 if name == ROUTER else 3, **looks[name].line)
        if len(line):
            ends[name] = min(float(line.over.iloc[-1]), CEILING)
    axes.set_ylim(0.9, min(CEILING, max(1.2, 1.05 * ran[ran.backend.isin(looks)].over.max())))
    axes.set_title("time over the fastest backend's")
    size_axis(axes, list(ran.bytes), narrow=True)
    if compact:
        legend_above(figure, looks)
    else:
        label_line_ends(axes, ends, looks, PANEL_IN)
    worst = regret.loc[regret.regret.idxmax()]
    p95 = regret.regret.quantile(0.95)
    figure.finding = (
        f"At {len(regret)} held-out sizes the table's choice costs {max(0, p95):.1%} at most in 95 % of them"
    )
    figure.alt = (
        f"{figure.finding}; most at {format_size(int(worst.bytes))}: {worst.regret:.1%}, where {worst.chosen} serves "
        f"and {worst.best} is the fastest."
    )
    if (ran.backend == ROUTER).any():
        over = words.span(ran[ran.backend == ROUTER].over, words.times)
        figure.alt += f" The router itself takes {over} the fastest backend's time."
    figure.reading = (
        "1 is the fastest backend at that size; the router lies above it by what its choice and it itself cost. None "
        "of these sizes was used to derive the table, and all messages are unaligned."
        + (" Shaded: where a change of backend may lie (95 %)." if _intervals(table_df, ran.bytes) else "")
    )
    return figure


def _intervals(table_df: pd.DataFrame, sizes: pd.Series) -> list[tuple[int, int]]:
    known = table_df.dropna(subset=["crossover_low"])
    return [(max(low, sizes.min()), min(high, sizes.max()))
            for low, high in zip(known.crossover_low, known.crossover_high, strict=True)]  # fmt: skip
