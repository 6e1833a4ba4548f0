"""The figure of held-out sizes: what the router takes where its table was not derived, beside every backend."""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.allreduce import SETTING
from symmlib.analysis.fastest import usable
from symmlib.report import style
from symmlib.report.figures.canvas import (
    canvas,
    label_line_ends,
    legend_above,
    panels,
    setting_words,
    size_axis,
    styled,
)
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

ROUTER = "router"
PANEL_IN = 3.0
CEILING = 2.0  # times the fastest: what is slower than that lies above the figure


@styled
def held_out(summary: pd.DataFrame, regret: pd.DataFrame, table_df: pd.DataFrame, compact: bool = False) -> Figure:
    """Time over the fastest backend's at each held-out size; the router on top, crossover intervals shaded.

    `summary`: of the check, with `allreduce_summary.csv`'s columns and the router among the backends. `regret`: as
    `results/regret.csv`. `table_df`: as `symmlib.routing.show` gives it, for the intervals. One panel a (world size,
    dtype, mode) of `regret`.
    """
    point = [*SETTING, "bytes"]
    ran = usable(summary).merge(regret[point].drop_duplicates(), on=point)
    if ran.empty:
        figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.3)
        figure.finding = figure.alt = "No held-out size was measured"
        axes.set_axis_off()
        return figure
    fastest = ran[ran.backend != ROUTER].groupby(point).median_us.min().rename("fastest_us")
    ran = ran.join(fastest, on=point)
    ran = ran.assign(over=ran.median_us / ran.fastest_us)
    groups = list(ran.groupby(SETTING, sort=False))
    figure, drawn = panels(len(groups), compact, PANEL_IN)
    names = [name for name, rows in ran.groupby("backend") if rows.over.min() < CEILING and name != ROUTER]
    looks = style.looks(names) | {ROUTER: style.Look("ink", "o", "-")}
    top = min(CEILING, max(1.2, 1.05 * ran[ran.backend.isin(looks)].over.max()))
    shaded = False
    for axes, (key, here) in zip(drawn, groups, strict=True):
        for low, high in _intervals(table_df, key, here.bytes):
            axes.axvspan(low, high, color=style.COLOURS["grey"][0], alpha=0.15, linewidth=0)
            shaded = True
        for name in [*names, ROUTER]:
            line = here[here.backend == name].sort_values("bytes")
            axes.plot(line.bytes, line.over, zorder=4 if name == ROUTER else 3, **looks[name].line)
        axes.set_ylim(0.9, top)
        several = f"over the fastest: {setting_words(key, ran)}"
        axes.set_title("time over the fastest backend's" if len(groups) == 1 else several)
        size_axis(axes, list(here.bytes))
    if compact or len(groups) > 1:
        legend_above(figure, looks, columns=2 if compact else 4)
    else:
        ends = ran[ran.backend.isin(looks)].sort_values("bytes").groupby("backend").over.last().clip(upper=CEILING)
        label_line_ends(drawn[0], ends.to_dict(), looks, PANEL_IN)
    worst = regret.loc[regret.regret.idxmax()]
    p95 = words.percent(100 * max(0, regret.regret.quantile(0.95)))
    figure.finding = f"At {len(regret)} held-out sizes the table's choice costs {p95} at most in 95 % of them"
    where = f" on {worst.world_size} ranks" if len(groups) > 1 else ""
    figure.alt = (
        f"{figure.finding}; most at {format_size(int(worst.bytes))}{where}: {words.percent(100 * worst.regret)}, where "
        f"{worst.chosen} serves and {worst.best} is the fastest."
    )
    if (ran.backend == ROUTER).any():
        over = words.span(ran[ran.backend == ROUTER].over, words.times)
        figure.alt += f" The router itself takes {over} the fastest backend's time."
    figure.reading = (
        "1 is the fastest backend at that size; the router lies above it by what its choice and it itself cost. None "
        "of these sizes was used to derive the table, and all messages are unaligned."
        + (" Shaded: where a change of backend may lie (95 %)." if shaded else "")
    )
    return figure


def _intervals(table_df: pd.DataFrame, setting: tuple, sizes: pd.Series) -> list[tuple[int, int]]:
    """The crossover intervals of the tables for a (world size, dtype, mode), cut to the span of `sizes`."""
    known = table_df.dropna(subset=["crossover_low"])
    known = known[(known[SETTING] == list(setting)).all(axis=1)]
    return [(max(low, sizes.min()), min(high, sizes.max()))
            for low, high in zip(known.crossover_low, known.crossover_high, strict=True)]  # fmt: skip
