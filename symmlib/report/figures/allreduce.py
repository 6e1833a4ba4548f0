"""Figures of the micro-benchmark: time and bus bandwidth against message size, and the routes that follow from them."""

import math

import pandas as pd
from matplotlib.patches import Patch, Rectangle

from symmlib.analysis import words
from symmlib.analysis.allreduce import SETTING
from symmlib.analysis.fastest import INCUMBENTS, by_size, usable
from symmlib.report import style
from symmlib.report.figures.canvas import (
    CHARACTER_IN,
    canvas,
    legend_above,
    line_panels,
    log_y,
    setting_words,
    size_axis,
    styled,
)
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

PANEL_IN = 2.9


@styled
def latency(summary: pd.DataFrame, compact: bool = False) -> Figure:
    """Median time against message size, both logarithmic: one line a backend, one panel a (world size, dtype, mode).

    `summary` has the columns of `allreduce_summary.csv`; only rows that are `fastest.usable` are drawn.
    """
    ran = usable(summary)
    if ran.empty:
        return _nothing(compact)
    figure = line_panels(ran, "median_us", "median time, µs", compact, PANEL_IN, finish=log_y, scale="log")
    settings = _settings(ran)
    if len(settings) == 1:
        figure.finding = _winners(by_size(ran)) + _gain(ran)
    else:
        figure.finding = f"Fastest on {_each({where: _ranges(by_size(rows)) for where, rows in settings.items()})}"
    slowest_last = {where: rows[rows.bytes == rows.bytes.max()] for where, rows in settings.items()}
    figure.alt = f"{figure.finding}. Median times at the largest size: " + _each(
        {
            f"{where}, {format_size(int(rows.bytes.max()))}": ", ".join(
                f"{row.backend} {words.microseconds(row.median_us)}"
                for row in rows.sort_values("median_us").itertuples()
            )
            for where, rows in slowest_last.items()
        }
    )
    launches = words.span(ran.launches, lambda count: f"{int(count)}")
    figure.reading = (
        "Lower is faster; one step on either axis multiplies. Every point is the median over "
        f"{launches} launch{'' if launches == '1' else 'es'} of the slowest rank's time for one all-reduce. Backends "
        "less than 3 % apart count as equally fast."
    )
    return figure


@styled
def bus_bandwidth(summary: pd.DataFrame, compact: bool = False) -> Figure:
    """Bus bandwidth (as nccl-tests defines it) against message size; columns as for `latency`."""
    ran = usable(summary)
    if ran.empty:
        return _nothing(compact)
    figure = line_panels(
        ran, "busbw_gbps", "bus bandwidth, GB/s", compact, PANEL_IN, finish=lambda axes: axes.set_ylim(bottom=0)
    )
    settings = {where: _peaks(rows) for where, rows in _settings(ran).items()}
    if len(settings) == 1:
        (peaks,) = settings.values()
        figure.finding = f"Peak bus bandwidth: {', '.join([_peak(peaks[0]), *map(_speed, peaks[1:][-1:])])}"
    else:
        figure.finding = f"Peak bus bandwidth on {_each({where: _peak(peaks[0]) for where, peaks in settings.items()})}"
    told = _each({where: ", ".join(map(_peak, peaks)) for where, peaks in settings.items()})
    figure.alt = f"{figure.finding}. All peaks: {told}"
    figure.reading = (
        "Higher is better. Bus bandwidth is what each link carries, so it compares across numbers of ranks; a line "
        "that flattens has met the limit of the memory or of the links."
    )
    return figure


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
        figure.finding = f"The router picks on {_each(told)}"
    else:
        served = words.listed(dict.fromkeys(table_df.backend))
        figure.finding = f"In {len(tables)} settings the router picks by size and setting among {served}"
    figure.alt = f"{figure.finding}. Every route: " + "; ".join(
        f"{places[row]}: {_picks(rows) if len(rows) == 1 else ', '.join(map(_route, rows.itertuples()))}".replace(
            "\n", ", "
        )
        for row, (_, rows) in enumerate(tables)
    )
    figure.reading = "Find your message size on the axis: the block above it is the all-reduce that the router picks."
    return figure


def _nothing(compact: bool) -> Figure:
    figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.3)
    axes.set_axis_off()
    figure.finding = figure.alt = "No all-reduce ran"
    figure.reading = "The table below says why for each backend."
    return figure


def _settings(ran: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each (world size, dtype, mode), by its name in words."""
    return {setting_words(key, ran): rows for key, rows in ran.groupby(SETTING, sort=False)}


def _each(told: dict[str, str]) -> str:
    """'2 ranks: this; 4 and 8 ranks: that'."""
    places: dict[str, list[str]] = {}
    for where, what in told.items():
        places.setdefault(what, []).append(where)
    return "; ".join(f"{_together(names)}: {what}" for what, names in places.items())


def _together(names: list[str]) -> str:
    """'4 ranks' and '8 ranks' as '4 and 8 ranks'."""
    if all(name.endswith(" ranks") for name in names):
        return f"{words.listed(name.removesuffix(' ranks') for name in names)} ranks"
    return words.listed(names)


def _gain(rows: pd.DataFrame) -> str:
    """By how much the best is faster than what a plain program would use, to follow on `_winners`."""
    best = by_size(rows)
    incumbent = next((name for name in INCUMBENTS if (rows.backend == name).any()), None)
    gained = rows[rows.backend == incumbent].merge(best, on="bytes", suffixes=("", "_best"))
    if gained.empty or (gained.backend == gained.backend_best).all():
        return ""
    factors = gained.median_us / gained.median_us_best
    gain = words.span(factors, words.times) if min(factors) >= 1.05 else f"up to {words.times(max(factors))}"
    return f"{'; the best is' if _winners(best).startswith('No') else ','} {gain} faster than {incumbent}"


def _peaks(rows: pd.DataFrame) -> list:
    """Each backend's row of its greatest bus bandwidth, the greatest first."""
    highest = rows.loc[rows.groupby("backend").busbw_gbps.idxmax()]
    return list(highest.sort_values("busbw_gbps", ascending=False).itertuples())


def _speed(row) -> str:
    return f"{row.backend} {words.bandwidth(row.busbw_gbps)}"


def _peak(row) -> str:
    return f"{_speed(row)} at {format_size(int(row.bytes))}"


def _winners(best: pd.DataFrame) -> str:
    """What is the fastest at which size, as a sentence; `best` as `by_size` gives it."""
    ranges = _runs(best)
    if len(ranges) == 1:
        return f"{ranges[0][0]} is the fastest at every size"
    if len(ranges) > 3:
        share = best.backend.value_counts()
        return f"No backend is always fastest; {share.index[0]} is at {share.iloc[0]} of {len(best)} sizes"
    return f"Fastest: {_ranges(best)}"


def _ranges(best: pd.DataFrame) -> str:
    """The same to stand among others: 'host/one_shot up to 1 MiB, host/two_shot above'."""
    ranges = _runs(best)
    if len(ranges) > 3:
        share = best.backend.value_counts()
        return f"{share.index[0]} at {share.iloc[0]} of {len(best)} sizes, others elsewhere"
    steps = [f"{name} up to {format_size(upto)}" for name, upto in ranges[:-1]]
    return ", ".join([*steps, f"{ranges[-1][0]} {'above' if steps else 'at every size'}"])


def _runs(best: pd.DataFrame) -> list[tuple[str, int]]:
    """Each backend in turn with the largest size of its range."""
    runs: list[tuple[str, int]] = []
    for row in best.itertuples():
        if runs and runs[-1][0] == row.backend:
            runs.pop()
        runs.append((row.backend, int(row.bytes)))
    return runs


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
