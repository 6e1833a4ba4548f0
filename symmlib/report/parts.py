"""What the page is put together from: a plot with the numbers behind it, and a table, as its templates take them."""

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd
from markupsafe import Markup

from symmlib.analysis import words
from symmlib.report import svg

COUNTED = ("TP", "QPS")  # columns of numbers that somebody chose, and nobody measured
MOST_ROWS = 80  # of a table behind a plot; whoever wants more wants the file


@dataclass(frozen=True)
class Table:
    """A table as the page shows it: `numeric` columns are right-aligned, a `wordy` one keeps its width on a phone.

    `name` is what it is unfolded by, where it is one of many. `left_out`: rows that are not shown for their number.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    wordy: bool = False
    name: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class Plot:
    """One figure of the page: its SVG for wide pages and for phones, the words around it, and the numbers behind it.

    `source`: the file of the run that holds all of these numbers, or empty.
    """

    finding: str
    reading: str
    wide: Markup
    compact: Markup
    tables: tuple[Table, ...] = ()
    source: str = ""


def plot(name: str, draw, *args, tables: Iterable[Table] | None = None, source: str = "", **kwargs) -> Plot:
    """What `draw`, of `symmlib.report.figures`, makes of the arguments; `name` keeps its ids apart in the page.

    `tables`: what to show behind it, where that is more than the figure's own `numbers`.
    """
    wide, compact = draw(*args, **kwargs), draw(*args, compact=True, **kwargs)
    pictures = Markup(svg.inline(wide, name)), Markup(svg.inline(compact, f"{name}-compact"))
    if tables is None:
        tables = [] if wide.numbers is None else [_numbers(wide)]
    return Plot(wide.finding, wide.reading, *pictures, tuple(map(_shortened, tables)), source)


def unbroken(text: str) -> str:
    """A size that no line end tears apart."""
    return text.replace(" ", "\u00a0")


def _numbers(figure: svg.Figure) -> Table:
    frame = figure.numbers
    rows = [[_cell(*cell) for cell in zip(frame, row, strict=True)] for row in frame.itertuples(index=False)]
    numeric = frozenset(
        place
        for place, name in enumerate(frame)
        if pd.api.types.is_numeric_dtype(frame[name]) or name.endswith("bytes")
    )
    caption = f"{figure.finding}. {figure.banner}".removesuffix(". ")
    return Table(caption, list(frame), rows, numeric)


def _cell(column: str, value) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, str):
        return unbroken(value)
    if column in COUNTED or isinstance(value, numbers.Integral):
        return f"{value:.12g}"
    return f"{value:.1f}" if column.endswith("%") else words.digits(value)


def _shortened(table: Table) -> Table:
    """`table` with at most `MOST_ROWS` rows."""
    return replace(table, rows=table.rows[:MOST_ROWS], left_out=max(0, len(table.rows) - MOST_ROWS))
