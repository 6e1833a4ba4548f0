"""The figure that lays the change which the all-reduce alone explains beside the measured one."""

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from symmlib.analysis.explained import change_ms, headline_rows, sentences
from symmlib.analysis.verdicts import METRICS
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, legend_above, styled
from symmlib.report.figures.serving import cell_words, head_rows, rows_of_pairs
from symmlib.report.svg import Figure

BELOW = 0.3  # rows between a measured mark and the predicted one, so that both are seen where they agree
INK = style.COLOURS["ink"][0]
CROSS = {"marker": "x", "color": INK, "linestyle": "none", "markersize": 5.5, "markeredgewidth": 1.6}  # no arm's marker


@styled
def predicted_beside_measured(prediction: pd.DataFrame, compact: bool = False) -> Figure:
    """Change treatment − baseline in ms: a row per cell and pair, a panel per metric; 0 = no change.

    `prediction` has the columns of `prediction.csv`; medians are drawn, or means where there are none. Pairs without a
    prediction or a measurement are left out.
    """
    rows = headline_rows(prediction)
    metrics = [metric for metric in METRICS if (rows.metric == metric).any()]
    pairs = list(dict.fromkeys(zip(rows.baseline, rows.treatment, strict=True)))
    places, headings, height = rows_of_pairs(rows, pairs)
    figure, panels = canvas(1, max(1, len(metrics)), compact, panel_height_in=0.75 + 0.26 * max(1, height))
    if rows.empty:
        figure.finding = figure.alt = "There is no prediction to lay beside what was measured"
        figure.reading = "Nothing is drawn: the table says why."
        panels[0].set_axis_off()
        return figure
    looks = style.looks(treatment for _, treatment in pairs)
    for axes, metric in zip(panels, metrics, strict=True):
        for row in rows[rows.metric == metric].itertuples():
            place, look = places[row.baseline, row.treatment, row.tp, row.qps], looks[row.treatment]
            if pd.notna(row.measured_low_ms) and pd.notna(row.measured_high_ms):
                reach = [row.measured_low_ms, row.measured_high_ms]
                axes.plot(reach, [place] * 2, color=look.hex, linewidth=2.4, alpha=0.55)
            axes.plot([row.measured_ms], [place], **{**look.line, "markersize": 6.5})
            axes.plot([row.predicted_ms], [place + BELOW], **CROSS)
        axes.axvline(0, color=INK, linewidth=1)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4 if compact else 5, steps=[1, 2, 5, 10]))
        axes.set_ylim(height - 0.3, -0.6)
        show_names = compact or axes is panels[0]
        axes.set_yticks(list(places.values()), [cell_words(*key[2:], rows) if show_names else "" for key in places])
        head_rows(axes, headings, "−")
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        axes.set_title(f"change in {rows.statistic.iloc[0]} {metric.upper()}, ms")
        axes.set_xlabel("← faster · 0 = no change · slower →")
    filled = {"color": style.COLOURS["muted"][0], "marker": "o", "linewidth": 2.4, "markersize": 6.5}
    has_interval = rows.measured_low_ms.notna().any()
    measured = "measured, with its 95 % interval" if has_interval else "measured"
    key = [Line2D([], [], label=measured, **filled), Line2D([], [], label="predicted: all-reduce alone", **CROSS)]
    legend_above(figure, {}, columns=1 if compact else 2, more=key)
    said = sentences(rows)
    figure.finding = said[0].removesuffix(".")
    figure.alt = f"{' '.join(said)} {_values(rows)}"
    figure.reading = (
        "A filled mark is the measured change from baseline to treatment"
        + (", its bar the 95 % interval of this cell over blocks" if has_interval else ": one block gives no interval")
        + "; the cross below it is the change that all-reduce times alone predict, for the sizes that the "
        "baseline's servers reduced. Left of 0 is faster. A cross within the bar: the all-reduce is all there is to "
        "see; one nearer to 0: something else changed, too, such as waiting for the other rank or for other requests; "
        "one farther from 0: the all-reduce alone was timed on a busier machine than the servers had."
    )
    figure.numbers = pd.DataFrame(
        {
            "TP": rows.tp,
            "QPS": rows.qps,
            "change in": rows.statistic + " " + rows.metric.str.upper(),
            "treatment − baseline": rows.treatment + " − " + rows.baseline,
            "predicted, ms": rows.predicted_ms,
            "measured, ms": rows.measured_ms,
            "95 % from, ms": rows.measured_low_ms,
            "95 % to, ms": rows.measured_high_ms,
        }
    )
    return figure


def _values(rows: pd.DataFrame) -> str:
    told = [
        f"{row.metric.upper()} {row.treatment} − {row.baseline}, {cell_words(row.tp, row.qps, rows)}: predicted "
        f"{change_ms(row.predicted_ms)}, measured {change_ms(row.measured_ms)}"
        for row in rows.itertuples()
    ]
    return f"{'; '.join(told)}"
