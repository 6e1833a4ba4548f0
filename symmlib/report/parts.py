"""What the page is put together from: a plot and a table, as its templates take them."""

from dataclasses import dataclass

from markupsafe import Markup

from symmlib.report import svg


@dataclass(frozen=True)
class Plot:
    """One figure of the page: its SVG for wide pages and for phones, with the words around it."""

    finding: str
    reading: str
    wide: Markup
    compact: Markup


@dataclass(frozen=True)
class Table:
    """A table as the page shows it: `numeric` columns are right-aligned, a `wordy` one keeps its width on a phone.

    `name` is what it is unfolded by, where it is one of many.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    wordy: bool = False
    name: str = ""


def plot(name: str, draw, *args, **kwargs) -> Plot:
    """What `draw`, of `symmlib.report.figures`, makes of the arguments; `name` keeps its ids apart in the page."""
    wide, compact = draw(*args, **kwargs), draw(*args, compact=True, **kwargs)
    pictures = Markup(svg.inline(wide, name)), Markup(svg.inline(compact, f"{name}-compact"))
    return Plot(wide.finding, wide.reading, *pictures)


def unbroken(text: str) -> str:
    """A size that no line end tears apart."""
    return text.replace(" ", "\u00a0")
