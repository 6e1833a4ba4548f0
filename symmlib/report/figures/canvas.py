"""What all figures share: an empty canvas in the house style, axes of message sizes and rates, labels at line ends."""

import functools
from collections.abc import Callable

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from symmlib.analysis import words
from symmlib.analysis.allreduce import SETTING
from symmlib.analysis.fastest import INCUMBENTS
from symmlib.report import style
from symmlib.report.figures.path import draw_bands, draw_path, key_of
from symmlib.report.figures.settings import SIZE, per_size, setting_words
from symmlib.report.svg import LINE_IN, Figure, carry, lay_out

WIDE_IN, COMPACT_IN = 7.6, 3.55  # 730 and 341 CSS pixels: a page's column, and a phone less its margins
LABEL_IN = 0.85  # a label of a size, with the space that keeps it apart
CHARACTER_IN = 0.6 * style.FONT_PT / 72  # a character of DejaVu Sans, wider than most


def styled(draw):
    """Draw in the house style, whatever the caller's matplotlib settings are.

    Where a table that is drawn has rows of ranks that shared a GPU, the figure carries `words.banner`.
    """

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style.RC, "backend": matplotlib.get_backend()}):
            figure = draw(*args, **kwargs)
            tables = [table for table in (*args, *kwargs.values()) if isinstance(table, pd.DataFrame)]
            carry(figure, words.banner(device for table in tables for device in table.get("device", ())))
            return figure

    return wrapper


def panels(count: int, compact: bool, panel_height_in: float) -> tuple[Figure, list]:
    """A figure and its `count` axes, up to three beside each other."""
    columns = 2 if count in (2, 4) else min(3, count)
    figure, made = canvas(count if compact else -(-count // columns), 1 if compact else columns, False, panel_height_in)
    if compact:
        figure.set_figwidth(COMPACT_IN)
    for axes in made[count:]:
        axes.remove()
    return figure, made[:count]


def canvas(rows: int, columns: int, compact: bool, panel_height_in: float) -> tuple[Figure, list]:
    """A figure and its axes, row by row; on a phone all panels stand in one column."""
    if compact:
        rows, columns = rows * columns, 1
    size = (COMPACT_IN if compact else WIDE_IN, panel_height_in * rows + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, hspace=0.06, wspace=0.04)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def size_axis(axes, sizes: list[int]) -> None:
    """A log2 axis of message sizes, labelled in words at some of the measured `sizes`, as many as stand well apart."""
    axes.set_xscale("log", base=2)
    sizes = sorted({int(size) for size in sizes}, reverse=True)
    columns = axes.get_subplotspec().get_gridspec().ncols
    apart = (sizes[0] / sizes[-1]) ** (LABEL_IN * columns / axes.figure.get_figwidth())
    shown = sizes[:1]  # the largest always has its label
    for size in sizes:
        if size * apart <= shown[-1]:
            shown.append(size)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.size(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(SIZE)


def log_y(axes) -> None:
    """Plain numbers on a log axis: 0.1, 1, 10, 1000; with 2 and 5 between them where it is short."""
    low, high = axes.get_ylim()
    if high < 200 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def rate_axis(axes, rates: list[float]) -> None:
    """An axis of request rates with a tick at each measured one."""
    rates = sorted(set(rates))
    axes.xaxis.set_major_locator(FixedLocator(rates))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    margin = 0.08 * (rates[-1] - rates[0]) or 0.5
    axes.set_xlim(rates[0] - margin, rates[-1] + margin)
    axes.set_xlabel("requests per second (QPS)")


def line_panels(
    rows: pd.DataFrame,
    column: str,
    title: str,
    unit: str,
    compact: bool,
    panel_height_in: float,
    finish: Callable[[Axes], None],
    scale: str = "linear",
    table_df: pd.DataFrame | None = None,
) -> Figure:
    """`column`, in `unit`, against `bytes`: one line a backend, one panel a (world size, dtype, mode), on one scale.

    `rows`: at least one. `finish(axes)` is called for each panel when its lines are drawn. Where there is one panel and
    it is wide, lines are named at their ends, else in a key. `table_df`: the routes whose path is drawn, if any.
    """
    groups = list(rows.groupby(SETTING, sort=False))
    figure, drawn = panels(len(groups), compact, panel_height_in)
    names = list(dict.fromkeys(rows.backend))
    looks = style.looks(names)
    for axes, (key, here) in zip(drawn, groups, strict=True):
        axes.set_yscale(scale)
        for name in sorted(names, key=lambda name: name not in INCUMBENTS):
            line = here[here.backend == name].sort_values("bytes")
            (drawn_line,) = axes.plot(
                line.bytes, line[column], clip_on=False, zorder=2 if name in INCUMBENTS else 3, **looks[name].line
            )
            drawn_line.set_in_layout(False)  # what is not clipped would count beyond its panel, and squeeze others
        draw_path(axes, here, column, table_df)
        axes.set_title(f"{title}, {unit}" if len(groups) == 1 else f"{title}, {unit}: {setting_words(key, rows)}")
        size_axis(axes, list(here.bytes))
    limits = [axes.get_ylim() for axes in drawn]
    for axes, (_, here) in zip(drawn, groups, strict=True):
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        finish(axes)
        draw_bands(axes, here, table_df)
    figure.numbers = per_size(rows, column, unit)
    path_key = key_of([here for _, here in groups], table_df)
    if compact or len(groups) > 1:
        legend_above(figure, looks, columns=2 if compact else 4, more=path_key)
    else:
        if path_key:
            legend_above(figure, {}, more=path_key)
        ends = rows.sort_values("bytes").groupby("backend", sort=False)[column].last()
        label_line_ends(drawn[0], ends.to_dict(), looks, panel_height_in)
    return figure


def label_line_ends(axes, ends: dict[str, float], looks: dict[str, style.Look], panel_height_in: float) -> None:
    """Names at the right of the lines, each with its own dash and marker, moved apart where lines end together.

    `ends`: name -> the line's last value; `panel_height_in` as given to `canvas`. Call it when the limits of the axes
    are final.
    """
    to_axes = axes.transScale + axes.transLimits
    heights = {name: float(to_axes.transform((axes.get_xlim()[1], value))[1]) for name, value in ends.items()}
    gap = LINE_IN / (panel_height_in - 0.7)  # a line of text, over the axes' height less title and labels
    placed: list[tuple[str, float]] = []
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        placed.append((name, max(height, placed[-1][1] + gap) if placed else height))
    overflow = max(0.0, placed[-1][1] - 1.0 + gap / 2) if placed else 0.0  # the title is above
    for index in range(len(placed) - 1, -1, -1):  # push down again what would leave at the top
        ceiling = placed[index + 1][1] - gap if index + 1 < len(placed) else placed[index][1] - overflow
        placed[index] = (placed[index][0], min(placed[index][1], ceiling))
    right_edge = axes.figure.dpi_scale_trans + ScaledTranslation(1, 0, axes.transAxes)  # x in inches from there
    beside = blended_transform_factory(right_edge, axes.transAxes)
    for name, height in placed:
        sample = [0.06, 0.2, 0.34]
        axes.plot(sample, [height] * 3, transform=beside, clip_on=False, markevery=[1], **looks[name].line)
        axes.text(0.4, height, name, transform=beside, va="center")


def legend_above(figure, looks: dict[str, style.Look], columns: int = 2, more: list | None = None) -> None:
    """A key above all panels, where there is no room at the right; `more` handles last. The figure grows by it."""
    handles = [Line2D([], [], label=name, **look.line) for name, look in looks.items()] + (more or [])
    legend = figure.legend(
        handles=handles,
        ncols=columns,
        loc="upper left",
        borderpad=0,
        borderaxespad=0.3,
        frameon=False,
        handlelength=2.6,
        columnspacing=1,
    )
    legend.set_in_layout(False)
    figure.key_in = LINE_IN * -(-len(handles) // columns) + 0.06
    figure.set_figheight(figure.get_figheight() + figure.key_in)
    lay_out(figure)
