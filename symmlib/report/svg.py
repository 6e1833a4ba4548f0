"""Figures as inline SVG: themed by CSS variables, labelled for screen readers, the same bytes from the same data.

`Figure` is what every function of `symmlib.report.figures` returns: a matplotlib figure that carries its finding, the
same in words for those who cannot see it, and how to read it. Notebooks show it as it is; the page calls `inline`.
"""

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure as MatplotlibFigure

from symmlib.report import style

CSS_PIXELS_PER_PT = 96 / 72


class Figure(MatplotlibFigure):
    """A matplotlib figure with `finding` (its title, computed from the data), `alt` (what it shows, in words, for
    those who do not see it) and `reading` (one sentence: how to read it)."""

    finding: str = ""
    alt: str = ""
    reading: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        """What Jupyter shows: the picture with its title, and words where no picture can be shown."""
        data = {"image/svg+xml": document(self), "text/plain": f"{self.finding}\n{self.alt}"}
        return data, {"image/svg+xml": {"alt": self.alt}}


def document(figure: Figure) -> str:
    """A complete SVG file on white, titled, as for a notebook or a slide."""
    with matplotlib.rc_context(style.RC):
        title = figure.suptitle(
            figure.finding, x=0.01, ha="left", fontsize=style.FONT_PT + 1.5, fontweight="bold", wrap=True
        )
        try:
            svg = _render(figure, facecolor=style.COLOURS["paper"][0])
        finally:
            title.remove()
            figure._suptitle = None
    return svg


def inline(figure: Figure, name: str) -> str:
    """The figure as one `<svg>` element for a page that shows `finding` as its heading; `name` keeps its ids apart."""
    svg = _render(figure, facecolor="none")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    width, height = (float(size) for size in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    head = (
        f'<svg class="plot" role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width * CSS_PIXELS_PER_PT:.0f}px">'
        f'<title id="{name}-title">{escape(figure.finding)}</title><desc id="{name}-desc">{escape(figure.alt)}</desc>'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    return _themed(_prefixed(svg, name))


def _render(figure: Figure, facecolor: str) -> str:
    out = io.StringIO()
    with matplotlib.rc_context(style.RC):
        figure.savefig(out, format="svg", facecolor=facecolor, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _prefixed(svg: str, name: str) -> str:
    """Ids made unique in a page of many figures; matplotlib numbers them alike in each."""
    ids = set(re.findall(r'\bid="([^"]+)"', svg)) - {f"{name}-title", f"{name}-desc"}
    svg = re.sub(r'\bid="([^"]+)"', lambda match: f'id="{name}-{match[1]}"' if match[1] in ids else match[0], svg)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda match: f"{match[1]}{name}-{match[2]}", svg)


def _themed(svg: str) -> str:
    """The palette's colours as CSS variables, the font left to the page."""
    for colour, (light, _dark) in style.COLOURS.items():
        svg = svg.replace(light, f"var(--{colour})")
    svg = re.sub(
        r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"]*", lambda m: f"font-weight: {m[1] or 400}; font-size: {m[2]}px", svg
    )
    return svg.replace("xlink:href=", "href=")
