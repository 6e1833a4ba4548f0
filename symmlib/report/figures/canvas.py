"""What all figures share: an empty canvas in the house style, axes of message sizes and rates, labels at line ends."""

import functools

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from symmlib.report import style
from symmlib.report.svg import Figure, lay_out
from symmlib.sizes import format_size

WIDE_IN, COMPACT_IN = 7.6, 3.55  # 730 and 341 CSS pixels: a page's column, and a phone less its margins
CHARACTER_IN = 0.6 * style.FONT_PT / 72  # a character of DejaVu Sans, wider than most


def styled(draw):
    """Draw in the house style, whatever the caller's matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style.RC, "backend": matplotlib.get_backend()}):
            return draw(*args, **kwargs)

    return wrapper


def canvas(rows: int, columns: int, compact: bool, panel_height_in: float) -> tuple[Figure, list]:
    """A figure and its axes, row by row; on a phone all panels stand in one column."""
    if compact:
        rows, columns = rows * columns, 1
    size = (COMPACT_IN if compact else WIDE_IN, panel_height_in * rows + (0.4 if compact else 0.1))
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, hspace=0.06, wspace=0.04)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def size_axis(axes, sizes: list[int], narrow: bool) -> None:
    """A log2 axis of message sizes, labelled at some of the measured `sizes` in words."""
    axes.set_xscale("log", base=2)
    sizes = sorted({int(size) for size in sizes})
    step = -(-len(sizes) // (4 if narrow else 8))
    shown = sizes[::-1][::step][::-1]  # the largest always has its label
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_size(round(value))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("message size per rank")


def log_y(axes) -> None:
    """A log axis with plain numbers: 0.1, 1, 10, 1000; with 2 and 5 between them where it is short."""
    axes.set_yscale("log")
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


def label_line_ends(axes, ends: dict[str, float], looks: dict[str, style.Look], panel_height_in: float) -> None:
    """Names at the right of the lines, each with its own dash and marker, moved apart where lines end together.

    `ends`: name -> the line's last value; `panel_height_in` as given to `canvas`. Call it when the limits of the axes
    are final.
    """
    to_axes = axes.transScale + axes.transLimits
    heights = {name: float(to_axes.transform((axes.get_xlim()[1], value))[1]) for name, value in ends.items()}
    gap = 0.165 / (panel_height_in - 0.7)  # a line of text, over the axes' height less title and labels
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
    """A key above all panels, where there is no room at the right; `more` handles last."""
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
    figure.key_in = 0.165 * -(-len(handles) // columns) + 0.06
    lay_out(figure)
