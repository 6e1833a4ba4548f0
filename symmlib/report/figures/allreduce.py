"""Figures of the micro-benchmark: time and bus bandwidth against message size, and the routes that follow from them."""

import math

import pandas as pd
from matplotlib.patches import Patch, Rectangle

from symmlib.analysis import words
from symmlib.analysis.fastest import INCUMBENTS, by_size, usable
from symmlib.report import style
from symmlib.report.figures.canvas import (
    CHARACTER_IN,
    canvas,
    label_line_ends,
    legend_above,
    log_y,
    size_axis,
    styled,
)
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

SETTING = ["world_size", "dtype", "mode"]
PANEL_IN = 2.9


@styled
def latency(summary: pd.DataFrame, compact: bool = False) -> Figure:
    """Median time against message size, both logarithmic: one line a backend, one panel a (world size, dtype, mode).

    `summary` has the columns of `allreduce_summary.csv`; only rows that are `fastest.usable` are drawn.
    """
    figure, ran = _lines(summary, "median_us", "median time, µs", compact, logarithmic=True)
    if ran.empty:
        return figure
    first = ran[_same(ran, ran.iloc[0])]
    best = by_size(first)
    figure.finding = _winners(best)
    incumbent = next((name for name in INCUMBENTS if (first.backend == name).any()), None)
    gained = first[first.backend == incumbent].merge(best, on="bytes", suffixes=("", "_best"))
    if len(gained) and (gained.backend != gained.backend_best).any():
        factors = gained.median_us / gained.median_us_best
        gain = words.span(factors, words.times) if min(factors) >= 1.05 else f"up to {words.times(max(factors))}"
        figure.finding += (
            f"{'; the best is' if figure.finding.startswith('No') else ','} {gain} faster than {incumbent}"
        )
    figure.finding = _placed(figure.finding, ran)
    figure.alt = (
        f"{figure.finding}. Median times at {format_size(int(best.bytes.iloc[-1]))}, the largest size: "
        + "; ".join(
            f"{row.backend} {words.microseconds(row.median_us)}"
            for row in first[first.bytes == best.bytes.iloc[-1]].sort_values("median_us").itertuples()
        )
    )
    launches = words.span(first.launches, lambda count: f"{int(count)}")
    figure.reading = (
        "Lower is faster; one step on either axis multiplies. Every point is the median over "
        f"{launches} launch{'' if launches == '1' else 'es'} of the slowest rank's time for one all-reduce. Backends "
        "less than 3 % apart count as equally fast."
    )
    return figure


@styled
def bus_bandwidth(summary: pd.DataFrame, compact: bool = False) -> Figure:
    """Bus bandwidth (as nccl-tests defines it) against message size; columns as for `latency`."""
    figure, ran = _lines(summary, "busbw_gbps", "bus bandwidth, GB/s", compact, logarithmic=False)
    if ran.empty:
        return figure
    first = ran[_same(ran, ran.iloc[0])]
    peaks = first.loc[first.groupby("backend").busbw_gbps.idxmax()].sort_values("busbw_gbps", ascending=False)
    speeds = [f"{row.backend} {words.bandwidth(row.busbw_gbps)}" for row in peaks.itertuples()]
    told = [f"{speed} at {format_size(int(nbytes))}" for speed, nbytes in zip(speeds, peaks.bytes, strict=True)]
    figure.finding = _placed(f"Peak bus bandwidth: {', '.join([told[0], *speeds[1:][-1:]])}", ran)
    figure.alt = f"{figure.finding}. All peaks: {'; '.join(told)}"
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
    named = set()
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
                    named.add(part.backend)
                    break
    axes.set_xlim(low, high)
    axes.set_ylim(len(tables) - 0.4, -0.6)
    size_axis(axes, measured or [low * 4**step for step in range(12) if low * 4**step <= high], compact)
    axes.set_yticks(range(len(tables)), places)
    axes.grid(False)
    if looks.keys() - named:  # a block was too narrow for its name
        legend_above(figure, {}, more=[Patch(color=look.hex, alpha=0.6, label=name) for name, look in looks.items()])
    first = tables[0][1]
    told = [
        f"{row.backend} {'above' if pd.isna(row.to_bytes) else f'up to {words.size(row.to_bytes)}'}"
        for row in first.itertuples()
    ]
    picks = f"picks {', '.join(told)}"
    if len(told) == 1:
        picks = f"picks {first.backend.iloc[0]} at every size"
    elif len(told) > 3:
        picks = f"changes {len(told) - 1} times between {words.listed(dict.fromkeys(first.backend))}"
    where = f"On {first.world_size.iloc[0]} ranks ({first.device.iloc[0]}) the router"
    figure.finding = f"{where} {picks}"
    figure.alt = (
        f"{figure.finding}: {', '.join(told)}. {len(tables)} routing table{'' if len(tables) == 1 else 's'} in all."
    )
    figure.reading = "Find your message size on the axis: the block above it is the all-reduce that the router picks."
    return figure


def _lines(summary: pd.DataFrame, column: str, title: str, compact: bool, logarithmic: bool):
    ran = usable(summary)
    groups = list(ran.groupby(SETTING, sort=False))
    figure, panels = canvas(-(-max(1, len(groups)) // 2), min(2, max(1, len(groups))), compact, PANEL_IN)
    if not groups:
        figure.finding = figure.alt = "No all-reduce ran"
        figure.reading = "The table below says why for each backend."
        panels[0].set_axis_off()
        return figure, ran
    names = list(dict.fromkeys(ran.backend))
    looks = style.looks(names)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    for axes, (key, rows) in zip(panels, groups, strict=False):
        for name in sorted(names, key=lambda name: name not in INCUMBENTS):
            line = rows[rows.backend == name].sort_values("bytes")
            axes.plot(
                line.bytes, line[column], clip_on=False, zorder=2 if name in INCUMBENTS else 3, **looks[name].line
            )
        if logarithmic:
            log_y(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title if len(groups) == 1 else f"{title}: {key[0]} ranks, {key[1]}, {key[2]}")
        size_axis(axes, list(rows.bytes), narrow=compact or len(groups) > 1)
        if not compact:
            last = rows.sort_values("bytes").groupby("backend", sort=False)[column].last()
            label_line_ends(axes, last.to_dict(), looks, PANEL_IN)
    if compact:
        legend_above(figure, looks)
    return figure, ran


def _placed(finding: str, ran: pd.DataFrame) -> str:
    """The finding with the setting that it is about, the first, where there are several."""
    world_size, dtype, mode = ran[SETTING].iloc[0]
    several = len(ran[SETTING].drop_duplicates()) > 1
    return f"{world_size} ranks, {dtype}, {mode}: {finding[0].lower()}{finding[1:]}" if several else finding


def _same(frame: pd.DataFrame, row: pd.Series) -> pd.Series:
    return (frame[SETTING] == row[SETTING]).all(axis=1)


def _winners(best: pd.DataFrame) -> str:
    """'host/one_shot is fastest up to 1 MiB, then host/two_shot', from the fastest backend at each size."""
    runs: list[tuple[str, int]] = []
    for row in best.itertuples():
        if runs and runs[-1][0] == row.backend:
            runs.pop()
        runs.append((row.backend, int(row.bytes)))
    if len(runs) == 1:
        return f"{runs[0][0]} is the fastest at every size"
    if len(runs) > 3:
        share = best.backend.value_counts()
        return f"No backend is always fastest; {share.index[0]} is at {share.iloc[0]} of {len(best)} sizes"
    steps = [f"{name} up to {format_size(upto)}" for name, upto in runs[:-1]]
    return f"Fastest: {', '.join(steps)}, {runs[-1][0]} above"


def _setting_words(key: tuple, compact: bool) -> str:
    device, world_size, dtype, mode, multicast = key
    separator = "\n" if compact else " · "
    return separator.join([f"{device}, {world_size} ranks", f"{dtype}, {mode}{', multicast' if multicast else ''}"])
