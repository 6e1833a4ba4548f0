"""Figures as inline SVG: themed by CSS variables, labelled for screen readers, the same bytes from the same data.

`Figure` is what every function of `symmlib.report.figures` returns: a matplotlib figure that carries its finding, the
same in words for those who cannot see it, and how to read it. Notebooks show it as it is; the page calls `inline`.
"""

import base64
import io
import re
import textwrap
from html import escape

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.patches import Rectangle

from symmlib.report import style

CSS_PIXELS_PER_PT = 96 / 72
TITLE_CHARACTERS_PER_INCH = 11.5  # of bold DejaVu Sans at the title's size
TEXT_CHARACTERS_PER_INCH = 14  # of DejaVu Sans at the size of all other text
LINE_IN = 0.165  # of that text


class Figure(MatplotlibFigure):
    """A matplotlib figure with `finding` (its title, computed from the data), `alt` (what it shows, in words, for
    those who do not see it) and `reading` (one sentence: how to read it). A `banner` is drawn, too (`carry`).

    `numbers`: the values that are drawn, a row per mark or per place on the axis, with their units in the columns'
    names; None where nothing is drawn."""

    finding: str = ""
    alt: str = ""
    reading: str = ""
    numbers: pd.DataFrame | None = None
    banner: str = ""
    banner_in: float = 0  # inches that it takes
    key_in: float = 0  # inches that its key takes

    def _repr_mimebundle_(self, include=None, exclude=None):
        """What Jupyter shows: the titled picture, as an HTML image because JupyterLab gives every other kind an empty
        alternative text; as PNG where HTML is not shown; as words where no picture can be."""
        picture = base64.b64encode(titled(self, "svg")).decode()
        data = {
            "text/html": f'<img src="data:image/svg+xml;base64,{picture}" alt="{escape(self.alt)}">',
            "image/png": base64.b64encode(titled(self, "png")).decode(),
            "text/plain": f"{self.finding}\n{self.alt}",
        }
        return data, {"image/png": {"alt": self.alt}}


def carry(figure: Figure, banner: str) -> None:
    """Write `banner` on the drawing, above all else, and into `alt`; nothing if it is empty."""
    if not banner:
        return
    lines = textwrap.wrap(banner, int((figure.get_figwidth() - 0.2) * TEXT_CHARACTERS_PER_INCH))
    figure.banner, figure.banner_in = banner, LINE_IN * len(lines) + 0.14
    figure.alt = f"{figure.alt.removesuffix('.')}. {banner}"
    figure.set_figheight(figure.get_figheight() + figure.banner_in)
    bar = Rectangle((0, 0), 0.04 / figure.get_figwidth(), 0, transform=figure.transFigure, gid="banner")
    bar.set(facecolor=style.COLOURS["orange"][0], edgecolor="none")
    figure.add_artist(bar)
    figure.text(0.13 / figure.get_figwidth(), 0, "\n".join(lines), va="top", gid="banner").set_in_layout(False)
    lay_out(figure)


def lay_out(figure: Figure, room_in: float = 0) -> None:
    """Place the banner at the top, the key and the panels below it; `room_in` inches above them stay free."""
    height = figure.get_figheight()
    top = 1 - (room_in + figure.banner_in) / height
    figure.get_layout_engine().set(rect=(0, 0, 1, top - figure.key_in / height))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, top), figure.transFigure)
    for part in figure.findobj(lambda artist: artist.get_gid() == "banner"):
        if isinstance(part, Rectangle):
            part.set(y=top + 0.08 / height, height=(figure.banner_in - 0.1) / height)
        else:
            part.set_y(1 - (room_in + 0.04) / height)


def titled(figure: Figure, format: str) -> bytes:
    """The figure on white with its finding written above, as for a notebook or a slide; `format` 'svg' or 'png'."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(figure.finding, int(width * TITLE_CHARACTERS_PER_INCH))
    room = 0.2 * len(lines) + 0.12
    figure.set_size_inches(width, height + room)
    lay_out(figure, room)
    ink = style.COLOURS["ink"][0]  # or it is black, which no scheme changes
    words = {"va": "top", "weight": "bold", "size": style.FONT_PT + 1, "color": ink}
    title = figure.text(0.01, 1 - 0.06 / (height + room), "\n".join(lines), **words)
    title.set_in_layout(False)
    try:
        return _render(figure, format, facecolor=style.COLOURS["paper"][0])
    finally:
        title.remove()
        figure.set_size_inches(width, height)
        lay_out(figure)


def inline(figure: Figure, name: str) -> str:
    """The figure as one `<svg>` element for a page that shows `finding` as its heading; `name` keeps its ids apart."""
    return adopted(_render(figure, "svg", facecolor="none").decode(), name, figure.finding, figure.alt)


def adopted(svg: str, name: str, title: str, description: str) -> str:
    """An SVG file of matplotlib's as one `<svg>` element of a page: in its colours, named for those who do not see it.

    `name` keeps its ids apart in the page; `title` and `description` are plain text.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    width, height = (float(size) for size in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    head = (
        f'<svg class="plot" role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width * CSS_PIXELS_PER_PT:.0f}px">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    return _themed(_prefixed(_shortened(svg), name))


def _render(figure: Figure, format: str, facecolor: str) -> bytes:
    out = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
    with matplotlib.rc_context(style.RC):
        figure.savefig(out, format=format, facecolor=facecolor, metadata=metadata, dpi=144 if format == "png" else 72)
    return out.getvalue()


def _prefixed(svg: str, name: str) -> str:
    """Ids made unique in a page of many figures; matplotlib numbers them alike in each."""
    ids = set(re.findall(r'\bid="([^"]+)"', svg)) - {f"{name}-title", f"{name}-desc"}
    svg = re.sub(r'\bid="([^"]+)"', lambda match: f'id="{name}-{match[1]}"' if match[1] in ids else match[0], svg)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda match: f"{match[1]}{name}-{match[2]}", svg)


def _shortened(svg: str) -> str:
    """A file of matplotlib's without what nobody sees, which is a third: space between elements, digits after a
    hundredth of a point, turns by no angle, names that nothing refers to, and in lines along an axis the coordinate
    that stays. Those of other programs, which a notebook may hold, stay as they are."""
    if '<g id="figure_1">' not in svg:
        return svg

    def rounded(number: re.Match) -> str:
        return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

    def attribute(found: re.Match) -> str:
        value = re.sub(r"-?\d+\.\d{2,}", rounded, found[2])
        return f' {found[1]}="{_along_axes(value) if found[1] == "d" else value}"'

    def tag(found: re.Match) -> str:
        turned = re.sub(r' transform="rotate\(-?0 [^")]*\)"', "", found[0])
        return re.sub(r' (d|x|y)="([^"]*)"', attribute, turned)

    svg = re.sub(r"<[^<>]*>", tag, re.sub(r">\s+<", "><", svg))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    return re.sub(r'(<g) id="([^"]*)"', lambda group: group[0] if group[2] in used else group[1], svg)


def _along_axes(path: str) -> str:
    """An SVG path with H and V where L would repeat a coordinate: steps take half. Of paths as matplotlib writes them:
    absolute commands, plain numbers; others stay as they are."""
    if not re.fullmatch(r"[MLQCz\d\s.-]*", path):
        return path
    at, commands = [], []
    for command, arguments in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        numbers = arguments.split()
        is_line = command == "L" and len(at) == len(numbers) == 2
        if is_line and at[1] == numbers[1]:
            commands.append(f"H{numbers[0]}")
        elif is_line and at[0] == numbers[0]:
            commands.append(f"V{numbers[1]}")
        else:
            commands.append(command + " ".join(numbers))
        at = numbers[-2:]  # none after z: a new subpath begins where M says
    return "".join(commands)


def _themed(svg: str) -> str:
    """The palette's colours as CSS variables, the font left to the page."""
    for colour, (light, _dark) in style.COLOURS.items():
        svg = svg.replace(light, f"var(--{colour})")
    svg = re.sub(
        r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"]*", lambda m: f"font-weight: {m[1] or 400}; font-size: {m[2]}px", svg
    )
    return svg.replace("xlink:href=", "href=")
