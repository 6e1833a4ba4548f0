"""The figure of the published B200 numbers: what was saved, against what was claimed."""

import pandas as pd
from matplotlib.patches import Patch

from symmlib.analysis import words
from symmlib.analysis.published import CLAIMS, claims, finding, reductions
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, legend_above, styled
from symmlib.report.svg import Figure

MARKS = {"mean": style.Look("blue", "o", "-"), "median": style.Look("orange", "D", style.DASHED)}


@styled
def published_pr20759(published: pd.DataFrame, compact: bool = False) -> Figure:
    """By how much symmetric memory lowered TTFT and TPOT at each QPS and TP, with the claimed range shaded.

    `published` as `symmlib.analysis.published.load` gives it.
    """
    saved = reductions(published)
    tps, rates = sorted(saved.tp.unique()), sorted(saved.qps.unique())
    figure, panels = canvas(len(tps), 2, compact, panel_height_in=2.0)
    top = saved.reduction_pct.max() * 1.12
    for axes, (tp, metric) in zip(panels, [(tp, metric) for tp in tps for metric in ("ttft", "tpot")], strict=True):
        for claim in CLAIMS:
            if (claim.tp, claim.metric) == (tp, metric):
                axes.axhspan(
                    claim.low_pct or 0, claim.high_pct, color=style.COLOURS["grey"][0], alpha=0.18, linewidth=0
                )
        for statistic, look in MARKS.items():
            rows = saved[(saved.tp == tp) & (saved.metric == metric) & (saved.statistic == statistic)].sort_values(
                "qps"
            )
            axes.plot(range(len(rows)), rows.reduction_pct, clip_on=False, **look.line)
        axes.set_xticks(range(len(rates)), [f"QPS {qps:g}" for qps in rates])
        axes.set_xlim(-0.3, len(rates) - 0.7)
        axes.set_ylim(min(0, saved.reduction_pct.min() * 1.1), top)
        axes.set_title(f"{metric.upper()} at TP={tp}: less by, %")
    claimed = Patch(color=style.COLOURS["grey"][0], alpha=0.18, linewidth=0, label="claimed")
    legend_above(figure, MARKS, columns=3, more=[claimed])
    means = saved[saved.statistic == "mean"]
    told = {
        metric: words.span(means[means.metric == metric].reduction_pct, words.percent).replace(" % to", " to")
        for metric in ("ttft", "tpot")
    }
    figure.finding = f"On B200 symmetric memory cut mean TTFT by {told['ttft']}, mean TPOT by {told['tpot']}"
    details = "; ".join(
        f"TP={row.tp} QPS {row.qps} {row.metric.upper()} {row.reduction_pct:.1f} %" for row in means.itertuples()
    )
    figure.alt = f"{figure.finding}. By cell: {details}. {finding(claims(published))}"
    figure.numbers = pd.DataFrame(
        {
            "TP": saved.tp,
            "QPS": saved.qps,
            "what": saved.statistic + " " + saved.metric.str.upper(),
            "baseline, ms": saved.baseline_ms,
            "symmetric memory, ms": saved.symm_mem_ms,
            "less by, %": saved.reduction_pct,
        }
    )
    figure.reading = (
        "Higher is better: per cent of time saved. Grey is what the pull request claims; TPOT at TP=4 has no claim. "
        "Every mark is one run, so nothing here says how much of it is chance."
    )
    return figure
