"""The figure of numerics: how far sums lie from float64, measured beside what other ways to add would have given."""

import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter

from symmlib.analysis import words
from symmlib.analysis.floats import SHORT
from symmlib.analysis.numerics import WAYS, in_words
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, legend_above, styled
from symmlib.report.svg import Figure

ROW_IN = 0.2
BINS = (  # (up to how many steps, how the key says it, colour, how strong it is)
    (0, "the nearest number", "blue", 0.35),
    (1, "1 step (ulp) off", "gold", 0.6),
    (2, "2 steps", "orange", 0.75),
    (None, "more", "pink", 0.9),
)
INPUT_WORDS = {"heavy_tailed": "heavy-tailed"}


@styled
def numerics(histogram: pd.DataFrame, dtype: str | None = None, compact: bool = False) -> Figure:
    """Shares of elements by their distance from the float64 sum rounded once: a bar a backend, a panel a kind of input.

    `histogram` has the columns of `ulp_histogram.csv` (`analysis.numerics.HISTOGRAM_COLUMNS`); drawn is `dtype`, by
    default bfloat16 where it was measured, of the most ranks that were, with the simulated ways to add below.
    """
    measured = histogram[~histogram.backend.isin(WAYS)]
    if measured.empty:
        figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.1)
        axes.set_axis_off()
        figure.finding = figure.alt = "No backend's sums were measured"
        figure.reading = "Nothing is drawn: the table says why."
        return figure
    dtypes = list(dict.fromkeys(measured.dtype))
    dtype = dtype or ("bfloat16" if "bfloat16" in dtypes else dtypes[0])
    here = histogram[histogram.dtype == dtype]
    ranks = int(measured[measured.dtype == dtype].world_size.max())
    simulated_ranks = int(here[here.backend.isin(WAYS)].world_size.max()) if here.backend.isin(WAYS).any() else ranks
    groups = {
        f"measured, {ranks} ranks": here[~here.backend.isin(WAYS) & (here.world_size == ranks)],
        f"simulated, {simulated_ranks} ranks": here[here.backend.isin(WAYS) & (here.world_size == simulated_ranks)],
    }
    groups = {heading: rows for heading, rows in groups.items() if len(rows)}
    kinds = list(dict.fromkeys(here.inputs))
    places, headings, height = _places(groups)
    figure, panels = canvas(1, len(kinds), compact, panel_height_in=0.5 + ROW_IN * height)
    for axes, kind in zip(panels, kinds, strict=True):
        for heading, rows in groups.items():
            for name, of_backend in rows[rows.inputs == kind].groupby("backend", sort=False):
                _bar(axes, places[heading, name], of_backend, compact)
        named = compact or axes is panels[0]
        axes.set_yticks(list(places.values()), [in_words(name, dtype) if named else "" for _, name in places])
        for heading, place in headings.items():
            axes.text(0, place, heading if named else "", va="center", style="italic")
        axes.set_ylim(height - 0.3, -0.6)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_locator(FixedLocator([0, 50, 100]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.grid(False)
        axes.set_title(f"{INPUT_WORDS.get(kind, kind)} inputs")
    _key(figure, columns=2 if compact else 4)
    figure.finding, figure.alt = _words(groups, dtype)
    figure.numbers = _numbers(groups, dtype)
    figure.reading = (
        f"A bar holds all elements of a sum. Its part in blue, whose share it tells, is the float64 sum rounded once; "
        f"nothing in {SHORT[dtype]} is nearer. The other parts lie so many steps between neighbouring numbers away. "
        "The simulated ways round every partial sum: to fp32 or to the dtype itself, in rank order, a ring or a tree."
    )
    return figure


def _places(groups: dict[str, pd.DataFrame]) -> tuple[dict, dict, float]:
    """From above: (heading, backend) -> its height, heading -> its own, and the height of all."""
    places, headings, height = {}, {}, 0.0
    for heading, rows in groups.items():
        headings[heading] = height
        for name in dict.fromkeys(rows.backend):
            height += 1
            places[heading, name] = height
        height += 1.3
    return places, headings, height


def _bar(axes, place: float, rows: pd.DataFrame, compact: bool) -> None:
    left = 0.0
    for (_, _, colour, strength), width in zip(BINS, _shares(rows), strict=True):
        axes.barh(place, width, 0.74, left=left, color=style.COLOURS[colour][0], alpha=strength, linewidth=0)
        left += width
    nearest = 100 * _nearest(rows)
    axes.text(2, place, f"{nearest:.0f} %", va="center", clip_on=True)


def _shares(rows: pd.DataFrame) -> list[float]:
    """What per cent of the elements of `rows` lies in each of `BINS`."""
    shares, at = [], 0
    for last, *_ in BINS:
        inside = rows.ulp_from.ge(at) if last is None else rows.ulp_from.between(at, last)
        shares.append(100 * float(rows.share[inside].sum()))
        at = at if last is None else last + 1
    return shares


def _numbers(groups: dict[str, pd.DataFrame], dtype: str) -> pd.DataFrame:
    """What is drawn: a row a bar."""
    rows = [
        [heading, in_words(name, dtype), INPUT_WORDS.get(kind, kind), *_shares(of_bar)]
        for heading, of_group in groups.items()
        for (name, kind), of_bar in of_group.groupby(["backend", "inputs"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["how", "backend", "inputs", *(f"{text}, %" for _, text, *_ in BINS)])


def _key(figure: Figure, columns: int) -> None:
    """The key of the bars' parts."""
    handles = [Patch(facecolor=style.COLOURS[colour][0], alpha=strength, linewidth=0, label=text)
               for _, text, colour, strength in BINS]  # fmt: skip
    legend_above(figure, {}, columns, more=handles)


def _nearest(rows: pd.DataFrame) -> float:
    return float(rows.share[rows.ulp_from == 0].sum() / rows[["world_size", "inputs"]].drop_duplicates().shape[0])


def _words(groups: dict[str, pd.DataFrame], dtype: str) -> tuple[str, str]:
    """The finding, over all kinds of inputs together, and every share in words."""
    shares = {
        heading: {name: _nearest(rows) for name, rows in of_group.groupby("backend", sort=False)}
        for heading, of_group in groups.items()
    }
    measured, *simulated = shares.values()
    heading, *_ = shares
    ranks = heading.removeprefix("measured, ")
    exact = [name for name, share in measured.items() if share == 1]
    others = [f"of {name} {100 * share:.0f} % are" for name, share in measured.items() if share < 1]
    short = SHORT[dtype]
    if not others:
        finding = f"On {ranks} every {short} sum of every backend is as near to float64 as {short} can be"
    elif exact:
        finding = (
            f"On {ranks} every {short} sum of {words.listed(exact)} is as near to float64 as {short} can be; "
            f"{words.listed(others)}"
        )
    else:
        finding = f"On {ranks} no backend's {short} sums are all as near to float64 as they can be"
    if own := {name: share for ways in simulated for name, share in ways.items() if "/own_" in name and share < 1}:
        least = min(own.values())
        many = next(heading for heading in shares if heading.startswith("simulated")).removeprefix("simulated, ")
        if not others:
            finding += f"; adding in {short} would miss it in {100 - 100 * least:.0f} % of them on {many}"
    told = [
        f"{heading}: " + ", ".join(f"{in_words(name, dtype)} {100 * share:.0f} %" for name, share in ways.items())
        for heading, ways in shares.items()
    ]
    return finding, f"{finding}. Elements that are the float64 sum rounded once, all inputs together: {'; '.join(told)}"
