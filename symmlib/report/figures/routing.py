"""Figures of a routing table: which backend serves which sizes, and what that costs at sizes between."""

import math

import pandas as pd
from matplotlib.patches import Patch, Rectangle

from symmlib.analysis import words
from symmlib.analysis.allreduce import SETTING
from symmlib.analysis.fastest import usable
from symmlib.report import style
from symmlib.report.figures.canvas import (
    CHARACTER_IN,
    canvas,
    label_line_ends,
    legend_above,
    panels,
    size_axis,
    styled,
)
from symmlib.report.figures.path import bands, draw_bands
from symmlib.report.figures.settings import each, per_size, setting_words
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

ROUTER = "router"
PANEL_IN = 3.0
CEILING = 2.0  # times the fastest: what is slower than that lies above the figure


@styled
def routes(table_df: pd.DataFrame, summary: pd.DataFrame | None = None, compact: bool = False) -> Figure:
    """Which backend serves which sizes: one bar a routing table. `table_df` as `symmlib.routing.show` gives it.

    The axis spans the sizes measured in `summary`, or else the bounds in the table.
    """
    settings = ["device", "world_size", "dtype", "mode", "multicast"]
    tables = [(key, rows) for key, rows in table_df.groupby(settings, sort=False)]
    bounds = [int(value) for value in table_df.to_bytes.dropna()]
    measured = [] if summary is None or summary.empty else [int(size) for size in summary.bytes.unique()]
    low, high = (min(measured), max(measured)) if measured else (1024, 64 << 20)
    low, high = min([low, *bounds]), max([high, *(2 * bound for bound in bounds)])
    looks = style.looks(dict.fromkeys(table_df.backend))
    figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.55 + 0.55 * max(1, len(tables)) + (0.2 if compact else 0))
    ink, paper = style.COLOURS["ink"][0], style.COLOURS["paper"][0]
    places = [_setting_words(key, compact) for key, _ in tables]
    room_in = (
        figure.get_figwidth() - 0.3 - CHARACTER_IN * max(len(line) for text in places for line in text.split("\n"))
    )
    unnamed = False
    for row, (_, parts) in enumerate(tables):
        for part in parts.itertuples():
            left = max(low, part.from_bytes)
            right = high if pd.isna(part.to_bytes) else min(high, part.to_bytes)
            if right <= left:
                continue
            bar = Rectangle((left, row - 0.32), right - left, 0.64, facecolor=looks[part.backend].hex, alpha=0.28)
            axes.add_patch(bar)
            axes.plot([left, left], [row - 0.32, row + 0.32], color=paper, linewidth=2)
            axes.plot(
                [left, right], [row + 0.32] * 2, color=looks[part.backend].hex, linewidth=3, solid_capstyle="butt"
            )
            width_in = room_in * math.log(right / left) / math.log(high / low)
            for name in (part.backend, part.backend.replace("/", "/\n")):
                if CHARACTER_IN * max(len(line) for line in name.split("\n")) < width_in:
                    axes.text((left * right) ** 0.5, row, name, ha="center", va="center", color=ink)
                    break
            else:
                unnamed = True
    axes.set_xlim(low, high)
    axes.set_ylim(len(tables) - 0.4, -0.6)
    size_axis(axes, measured or [low * 4**step for step in range(12) if low * 4**step <= high])
    axes.set_yticks(range(len(tables)), places)
    axes.grid(False)
    if unnamed:  # a block was too narrow for its name
        legend_above(figure, {}, more=[Patch(color=look.hex, alpha=0.6, label=name) for name, look in looks.items()])
    if len(tables) == 1:
        ((device, world_size, *_), rows) = tables[0]
        figure.finding = f"On {world_size} ranks ({device}) the router picks {_picks(rows)}"
    elif len(tables) <= 4:
        told = {name: _picks(rows) for name, (_, rows) in zip(_told_apart(table_df, tables), tables, strict=True)}
        figure.finding = f"The router picks on {each(told)}"
    else:
        served = words.listed(dict.fromkeys(table_df.backend))
        figure.finding = f"In {len(tables)} settings the router picks by size and setting among {served}"
    figure.alt = f"{figure.finding}. Every route: " + "; ".join(
        f"{places[row]}: {_picks(rows) if len(rows) == 1 else ', '.join(map(_route, rows.itertuples()))}".replace(
            "\n", ", "
        )
        for row, (_, rows) in enumerate(tables)
    )
    figure.numbers = _bounds(table_df)
    figure.reading = "Find your message size on the axis: the block above it is the all-reduce that the router picks."
    return figure


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
    shown = ran[ran.backend.isin(looks)]
    top = min(CEILING, max(1.2, 1.05 * shown.over.max()))
    bottom = min(0.9, 0.97 * shown.over.min())  # noise can let the router beat the backend that it calls
    for axes, (key, here) in zip(drawn, groups, strict=True):
        draw_bands(axes, here, table_df)
        for name in [*names, ROUTER]:
            line = here[here.backend == name].sort_values("bytes")
            axes.plot(line.bytes, line.over, zorder=4 if name == ROUTER else 3, **looks[name].line)
        axes.set_ylim(bottom, top)
        several = f"over the fastest: {setting_words(key, ran)}"
        axes.set_title("time over the fastest backend's" if len(groups) == 1 else several)
        size_axis(axes, list(here.bytes))
    if compact or len(groups) > 1:
        legend_above(figure, looks, columns=2 if compact else 4)
    else:
        ends = shown.sort_values("bytes").groupby("backend").over.last().clip(upper=CEILING)
        label_line_ends(drawn[0], ends.to_dict(), looks, PANEL_IN)
    figure.numbers = _with_regret(per_size(shown, "over", "× fastest"), shown, regret)
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
    )
    if any(bands(here, table_df) for _, here in groups):
        figure.reading += " Shaded: where a change of backend may lie (95 %)."
    return figure


def _bounds(table_df: pd.DataFrame) -> pd.DataFrame:
    """The routes with their bounds to the byte."""
    low, high = (table_df.get(name, float("nan")) for name in ("crossover_low", "crossover_high"))
    return pd.DataFrame(
        {
            "device": table_df.device,
            "ranks": table_df.world_size,
            "dtype": table_df.dtype,
            "mode": table_df["mode"],
            "from, bytes": table_df.from_bytes,
            "up to, bytes": [value if pd.notna(value) else "no limit" for value in table_df.to_bytes],
            "backend": table_df.backend,
            "bound at least, bytes": low,
            "bound at most, bytes": high,
        }
    )


def _with_regret(numbers: pd.DataFrame, shown: pd.DataFrame, regret: pd.DataFrame) -> pd.DataFrame:
    """`numbers`, as `per_size` makes them of `shown`, with what the table's choice costs at each row."""
    points = shown[[*SETTING, "bytes"]].drop_duplicates()
    points = pd.concat([here.sort_values("bytes") for _, here in points.groupby(SETTING, sort=False)])
    cost = points.merge(regret, on=[*SETTING, "bytes"], how="left")
    return numbers.assign(**{"router picks": cost.chosen, "fastest": cost.best, "regret, %": 100 * cost.regret})


def _told_apart(table_df: pd.DataFrame, tables: list) -> list[str]:
    """A name for each of several routing tables: its world size, and what else differs between them."""
    more = [name for name in ("device", "dtype", "mode") if table_df[name].nunique() > 1]
    names = []
    for _, rows in tables:
        first = rows.iloc[0]
        parts = [f"{first.world_size} ranks", *(str(first[name]) for name in more)]
        if table_df.multicast.nunique() > 1:
            parts.append("multicast" if first.multicast else "no multicast")
        names.append(", ".join(parts))
    return names


def _picks(rows: pd.DataFrame) -> str:
    """What one routing table picks, briefly."""
    if len(rows) == 1:
        return f"{rows.backend.iloc[0]} at every size"
    if len(rows) > 3:
        return f"by turns {words.listed(dict.fromkeys(rows.backend))}, with {len(rows) - 1} changes"
    return ", ".join(map(_route, rows.itertuples()))


def _route(row) -> str:
    return f"{row.backend} {'above' if pd.isna(row.to_bytes) else f'up to {words.size(row.to_bytes)}'}"


def _setting_words(key: tuple, compact: bool) -> str:
    device, world_size, dtype, mode, multicast = key
    separator = "\n" if compact else " · "
    return separator.join([f"{device}, {world_size} ranks", f"{dtype}, {mode}{', multicast' if multicast else ''}"])
