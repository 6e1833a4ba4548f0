"""The figure of the roofline: how much of what links or memory allow each backend reaches."""

import pandas as pd

from symmlib.analysis import alpha_beta, words
from symmlib.analysis.allreduce import SETTING
from symmlib.report import style
from symmlib.report.contents import gpu_names
from symmlib.report.figures.canvas import canvas, line_panels, styled
from symmlib.report.figures.settings import setting_words
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

PANEL_IN = 2.9


@styled
def roofline(summary: pd.DataFrame, manifest: dict | None = None, compact: bool = False) -> Figure:
    """Each backend's alpha-beta bound over its time, in per cent, against message size (`alpha_beta.bounds`).

    `summary` has the columns of `allreduce_summary.csv`; the run's `manifest` tells which GPUs it had. Where nothing
    has a bound, as on the CPU, the figure is the reason in words.
    """
    bounded = alpha_beta.bounds(summary, gpu_names(manifest or {}))
    drawn = bounded[bounded.share.notna()].assign(percent=lambda rows: 100 * rows.share)
    if drawn.empty:
        return _in_words(bounded, compact)
    figure = line_panels(drawn, "percent", "share of the bound", "%", compact, PANEL_IN, finish=_finish)
    last = {
        setting_words(key, drawn): rows[rows.bytes == rows.bytes.max()].sort_values("share", ascending=False)
        for key, rows in drawn.groupby(SETTING, sort=False)
    }
    if len(last) == 1:
        (rows,) = last.values()
        size, (best, *others) = format_size(int(rows.bytes.iloc[0])), list(rows.itertuples())
        worst = f", {others[-1].backend} {others[-1].percent:.0f} %" if others else ""
        figure.finding = f"At {size} {best.backend} reaches {best.percent:.0f} % of its bound{worst}"
    else:
        nearest = [f"{where}: {rows.backend.iloc[0]}, {rows.percent.iloc[0]:.0f} %" for where, rows in last.items()]
        figure.finding = f"Nearest to its bound at the largest size on {'; '.join(nearest)}"
    told = [
        f"{where}, {format_size(int(rows.bytes.iloc[0]))}: "
        + ", ".join(f"{row.backend} {row.percent:.0f} %" for row in rows.itertuples())
        for where, rows in last.items()
    ]
    figure.alt = f"{figure.finding}. All at the largest size: {'; '.join(told)}"
    starts = words.span(drawn.alpha_us, words.microseconds)
    figure.reading = (
        f"Higher is better; 100 % (dashed) is the bound of the backend's own algorithm: the shortest start that any "
        f"backend here had ({starts}), its bytes at full speed through {words.listed(drawn.link.unique())}. At "
        "small sizes a low line is a slow start, at large ones an idle link or copies that the algorithm does not need."
    )
    if (drawn.percent > 100.5).any() and words.banner(drawn.device):
        figure.reading += " Above 100 % the L2 cache has served a part."
    figure.reading = " ".join([figure.reading, *_not_drawn(bounded)])
    return figure


def _finish(axes) -> None:
    axes.set_ylim(0, max(105, axes.get_ylim()[1]))
    axes.axhline(100, color=style.COLOURS["muted"][0], linestyle=style.DASHED, linewidth=1, zorder=1)


def _not_drawn(bounded: pd.DataFrame) -> list[str]:
    """A sentence for each reason why something has no bound."""
    return [
        f"Not drawn: {words.listed(rows.backend.unique())}"
        + (f" up to {format_size(int(rows.bytes.max()))}" if some else "")
        + f", because {why}."
        for why, rows in bounded[bounded.share.isna()].groupby("why_not", sort=False)
        for some in [bounded[bounded.backend.isin(rows.backend)].share.notna().any()]
    ]


def _in_words(bounded: pd.DataFrame, compact: bool) -> Figure:
    figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.1)
    axes.set_axis_off()
    why = "; ".join(bounded.why_not.unique()) or "no all-reduce ran"
    figure.finding = figure.alt = f"There is no bound to hold these times against: {why}"
    figure.reading = "On GPUs the bound follows from the links between them."
    return figure
