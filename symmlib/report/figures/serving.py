"""Figures of a serving experiment: TTFT and TPOT against the request rate, and how sure the differences are."""

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from symmlib.analysis import bands, words
from symmlib.analysis.published import SOURCE
from symmlib.analysis.serving import equivalence_band
from symmlib.analysis.verdicts import METRICS, STATISTICS, headline_rows, tally
from symmlib.report import style
from symmlib.report.figures.canvas import canvas, label_line_ends, legend_above, rate_axis, styled
from symmlib.report.svg import Figure

PANEL_IN = 2.7
FAR = 10  # times the shortest: longer ones get a logarithmic scale, on which both can be read
CUT = 2.5  # times beyond the outermost marks, the axis of ratios ends
BAND = {"color": style.COLOURS["grey"][0], "alpha": 0.3, "linewidth": 0}  # dark enough where it is a few pixels wide
UNCROSSED = {"facecolor": style.COLOURS["paper"][0], "edgecolor": "none", "pad": 1}  # of a text over lines
RATIO_TICKS = (
    [0.98, 0.99, 1, 1.01, 1.02],
    [0.95, 1, 1.05],
    [0.8, 0.9, 1, 1.1, 1.2],
    [0.5, 0.7, 1, 1.4, 2],
    [0.3, 0.5, 1, 2, 3],
    [0.2, 0.3, 0.5, 0.7, 1, 1.5],
    [0.1, 0.2, 0.5, 1, 2, 5, 10],
    [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2],
    [0.01, 0.1, 1, 10, 100],
)
_HOLLOW = {"markerfacecolor": style.COLOURS["paper"][0], "markeredgewidth": 1.2, "linewidth": 1}
REFERENCE = {  # how the published arms are drawn: hollow, dotted, in colours that no arm of the same sort has
    "baseline": {"color": style.COLOURS["muted"][0], "marker": "s", "linestyle": style.DOTTED, **_HOLLOW},
    "symm_mem": {"color": style.COLOURS["pink"][0], "marker": "o", "linestyle": style.DOTTED, **_HOLLOW},
}


@styled
def ttft_tpot(
    serving_summary: pd.DataFrame,
    baseline: str | None = None,
    reference: pd.DataFrame | None = None,
    compact: bool = False,
) -> Figure:
    """TTFT and TPOT against QPS: arms as lines through the mean over blocks, blocks as dots, one row of panels per TP.

    `serving_summary` has the columns of `serving_summary.csv`; the median is drawn, or the mean where there is none.
    `baseline` is grey. `reference`: what others published of the same shapes, as `published.reference` gives it, or
    nothing; drawn hollow, beside the arms, where TP and QPS are the same.
    """
    statistic = next((name for name in STATISTICS if (serving_summary.statistic == name).any()), STATISTICS[0])
    rows = serving_summary[(serving_summary.statistic == statistic) & serving_summary.value_ms.notna()]
    tps, arms = sorted(rows.tp.unique()), list(dict.fromkeys(rows.arm))
    looks = style.looks(arms, baseline)
    figure, panels = canvas(max(1, len(tps)), 2, compact, PANEL_IN)
    if rows.empty:
        figure.finding = figure.alt = "No request was measured"
        figure.reading = "Nothing is drawn: the server's log says why."
        for axes in panels:
            axes.set_axis_off()
        return figure
    means = rows.groupby(["tp", "metric", "arm", "qps"]).value_ms.mean()
    theirs, far_apart = _shared(reference, rows), False
    for axes, (tp, metric) in zip(panels, [(tp, metric) for tp in tps for metric in ("ttft", "tpot")], strict=True):
        chosen = rows[(rows.tp == tp) & (rows.metric == metric)]
        for arm in sorted(arms, key=lambda arm: looks[arm].colour != "grey"):
            if (tp, metric, arm) not in means.index.droplevel("qps"):
                continue
            line = means.loc[tp, metric, arm].sort_index()
            blocks = chosen[chosen.arm == arm]
            dots = {**looks[arm].line, "linestyle": "none", "markersize": 4.2, "alpha": 0.75}
            axes.plot(line.index, line.values, color=looks[arm].hex, linestyle=looks[arm].dash)
            axes.plot(blocks.qps, blocks.value_ms, clip_on=False, **dots)
        for arm, line in theirs[(theirs.tp == tp) & (theirs.metric == metric)].groupby("arm", sort=False):
            axes.plot(line.qps, line.value_ms, **REFERENCE[arm])
        rate_axis(axes, list(rows[rows.tp == tp].qps))
        drawn = pd.concat([chosen.value_ms, theirs[(theirs.tp == tp) & (theirs.metric == metric)].value_ms])
        if apart := 0 < FAR * drawn.min() < drawn.max():
            axes.set_yscale("log")
            axes.set_ylim(drawn.min() / 1.3, drawn.max() * 1.3)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=9))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        far_apart = far_apart or apart
        axes.set_title(f"{statistic} {metric.upper()}, ms" + (f", TP={tp:g}" if len(tps) > 1 else ""))
        if not compact:
            ends = {arm: means.loc[tp, metric, arm].sort_index().iloc[-1] for arm in dict.fromkeys(chosen.arm)}
            label_line_ends(axes, ends, looks, PANEL_IN)
    known = [Line2D([], [], label=f"published, B200: {arm}", **REFERENCE[arm]) for arm in dict.fromkeys(theirs.arm)]
    if compact or known:
        legend_above(figure, looks if compact else {}, columns=1 if compact and known else 2, more=known)
    tp, qps = tps[-1], rows[rows.tp == tps[-1]].qps.max()
    told = {}
    for metric in METRICS:
        values = means.xs((tp, metric, qps), level=("tp", "metric", "qps")).sort_values()
        told[metric] = ", ".join(f"{arm} {words.milliseconds(value)}" for arm, value in values.items())
    place = f"QPS {qps:g}" if len(tps) == 1 else f"TP={tp:g}, QPS {qps:g}"
    figure.finding = f"{statistic.capitalize()} time per token at {place}: {told['tpot']}"
    figure.alt = f"{figure.finding}. Time to first token there: {told['ttft']}"
    count = rows.block.nunique()
    figure.reading = (
        f"Lower is better. A mark is one block (all arms on the same request schedule; {count} here), a line joins "
        "the means of the blocks: marks far from their line mean a noisy machine."
    )
    if far_apart:
        figure.reading += f" Where times differ more than {FAR}-fold, the scale is logarithmic."
    if known:
        figure.reading += f" Hollow marks are {SOURCE}'s, of the same model shapes and requests on B200: one run each."
    figure.numbers = _per_block(rows, theirs)
    return figure


@styled
def effects(comparison: pd.DataFrame, floor: pd.DataFrame | None = None, compact: bool = False) -> Figure:
    """Ratio treatment/baseline with its interval: a row per cell and treatment, a panel per metric; 1 = no change.

    The grey band holds the ratios that are as good as 1, by the rows' `delta`. `comparison` has the columns of
    `comparison.csv`, `floor` those of `noise_floor.csv`, which says where the band comes from; medians are drawn, or
    means where there are none. Invalid cells are left out, as are, beside arms with intervals, those that have none:
    a floor that takes ten times as long would squeeze the rest.
    """
    judged = bands.with_delta(headline_rows(comparison))
    judged = judged[(judged.ratio > 0) & (judged.verdict != "invalid")]
    rows = _with_intervals(judged)
    metrics = [metric for metric in METRICS if (rows.metric == metric).any()]
    pairs = list(dict.fromkeys(zip(rows.baseline, rows.treatment, strict=True)))
    places, headings, height = rows_of_pairs(rows, pairs)
    figure, panels = canvas(1, max(1, len(metrics)), compact, panel_height_in=0.75 + 0.22 * max(1, height))
    if rows.empty:
        figure.finding = figure.alt = "There is no valid comparison"
        figure.reading = "Nothing is drawn: the gates say why."
        panels[0].set_axis_off()
        return figure
    looks = style.looks(treatment for _, treatment in pairs)
    reach = [*rows.ratio, *rows.ci_low.dropna(), *rows.ci_high.dropna(), 1]
    marks = [*rows.ratio, 1]  # one hopeless interval must not squeeze all others
    low, high = max(min(reach), min(marks) / CUT) / 1.12, min(max(reach), max(marks) * CUT) * 1.12
    for axes, metric in zip(panels, metrics, strict=True):
        for row in rows[rows.metric == metric].itertuples():
            place, look = places[row.baseline, row.treatment, row.tp, row.qps], looks[row.treatment]
            if pd.notna(row.ci_low) and pd.notna(row.ci_high):
                axes.plot([row.ci_low, row.ci_high], [place] * 2, color=look.hex, linewidth=2.4, alpha=0.55)
                for end, arrow, goes_on in ((low, "<", row.ci_low < low), (high, ">", row.ci_high > high)):
                    if goes_on:
                        axes.plot([end], [place], arrow, color=look.hex, markersize=4.5, clip_on=False)
            axes.plot([row.ratio], [place], **{**look.line, "markersize": 6.5})
        for delta in rows[rows.metric == metric].delta.unique():  # one, where one experiment was judged
            axes.axvspan(*equivalence_band(delta), **BAND)
        axes.axvline(1, color=style.COLOURS["ink"][0], linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(_ratio_ticks(low, high, 4 if compact else 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.set_ylim(height - 0.3, -0.6)
        show_names = compact or axes is panels[0]
        axes.set_yticks(list(places.values()), [cell_words(*key[2:], rows) if show_names else "" for key in places])
        head_rows(axes, headings, "/")
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        axes.set_title(f"{metric.upper()} ratio")
        axes.set_xlabel("← faster · 1 = no change · slower →" if low < 1 < high else "")
    widths = words.span(rows.delta, bands.width)
    legend_above(figure, {}, more=[Patch(label=f"as good as no change: {widths}", **BAND)])
    figure.finding, figure.alt = _effect_words(judged)
    figure.reading = (
        "A mark is time with the treatment divided by time with the baseline; left of 1 is faster. The bar is its "
        "simultaneous 95 % interval over the cells. A bar that leaves out 1, with its mark beyond the grey band, says "
        "faster (left) or slower (right); a bar inside the band says as fast; any other says nothing yet."
        if rows.ci_low.notna().any()
        else "A mark is time with the treatment divided by time with the baseline; left of 1 is faster, in the grey "
        "band as fast. So few blocks give no interval, and a mark alone proves nothing."
    )
    if min(reach) < low or max(reach) > high:
        figure.reading += " An arrow: the bar goes on beyond the axis."
    if left_out := [arm for arm in dict.fromkeys(judged.treatment) if arm not in set(rows.treatment)]:
        figure.reading += f" Not drawn, as so few blocks give no interval: {words.listed(left_out)}; the table has it."
    figure.reading += f" {bands.origin(rows, floor)}"
    figure.numbers = _ratios(judged)
    return figure


def _with_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those (baseline, treatment) of which a cell has an interval; all rows if none has."""
    has_one = rows.groupby(["baseline", "treatment"]).ci_low.transform(lambda low: low.notna().any()).astype(bool)
    return rows[has_one] if has_one.any() else rows


def rows_of_pairs(rows: pd.DataFrame, pairs: list[tuple[str, str]]) -> tuple[dict, dict, float]:
    """From above: (baseline, treatment, tp, qps) -> its height, pair -> that of its heading, and the height of all."""
    places, headings, height = {}, {}, 0.0
    for baseline, treatment in pairs:
        of_pair = rows[(rows.baseline == baseline) & (rows.treatment == treatment)]
        headings[baseline, treatment] = height
        for tp, qps in sorted(set(zip(of_pair.tp, of_pair.qps, strict=True))):
            height += 1
            places[baseline, treatment, tp, qps] = height
        height += 1.3
    return places, headings, height


def head_rows(axes, headings: dict[tuple[str, str], float], sign: str) -> None:
    """Name each pair above its rows, on paper that lines do not cross."""
    where = {"transform": axes.get_yaxis_transform(), "va": "center", "zorder": 3, "bbox": UNCROSSED}
    for (baseline, treatment), place in headings.items():
        axes.text(0, place, f"{treatment} {sign} {baseline}", **where)


def cell_words(tp: float, qps: float, rows: pd.DataFrame) -> str:
    return f"QPS {qps:g}" if rows.tp.nunique() == 1 else f"TP={tp:g} QPS {qps:g}"


def _shared(reference: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `reference` at TP, QPS and statistic of `rows`; none without one."""
    if reference is None:
        return pd.DataFrame(columns=["tp", "qps", "metric", "statistic", "arm", "value_ms"])
    places = ["tp", "qps", "metric", "statistic"]
    measured = rows[places].drop_duplicates().astype({"qps": float})
    return reference.astype({"qps": float}).merge(measured, on=places).sort_values("qps")


def _per_block(rows: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: a row per place and arm with the mean and each block's value, published numbers last."""
    rows = rows[rows.metric.isin(METRICS)]
    place = ["tp", "qps", "metric", "arm"]
    table = rows.pivot(index=place, columns="block", values="value_ms")
    blocks = {f"block {block:g}, ms": table[block] for block in table}
    table = pd.DataFrame({"mean of blocks, ms": table.mean(axis=1), **blocks}).reset_index()
    more = theirs[[*place, "value_ms"]].rename(columns={"value_ms": "mean of blocks, ms"})
    table = pd.concat([table, more.assign(arm="published, B200: " + more.arm)]) if len(more) else table
    table = table.sort_values(["tp", "metric", "qps"], ascending=[True, False, True], kind="stable")
    names = rows.statistic.iloc[0] + " " + table.metric.str.upper()
    return table.assign(metric=names).rename(columns={"tp": "TP", "qps": "QPS"})


def _ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """What was compared: a row a ratio."""
    return pd.DataFrame(
        {
            "TP": rows.tp,
            "QPS": rows.qps,
            "ratio of": rows.statistic + " " + rows.metric.str.upper(),
            "treatment / baseline": rows.treatment + " / " + rows.baseline,
            "ratio": rows.ratio,
            "95 % from": rows.ci_low,
            "95 % to": rows.ci_high,
            "band": rows.delta.map(bands.width),
            "verdict": rows.verdict,
        }
    )


def _ratio_ticks(low: float, high: float, most: int) -> list[float]:
    """The ticks of an axis of ratios, 1 among them: those of `RATIO_TICKS` that reach furthest, `most` at most."""
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in RATIO_TICKS]
    fitting = [ticks if len(ticks) <= most else ticks[ticks.index(1) % 2 :: 2] for ticks in inside]
    return max(fitting, key=lambda ticks: (len(ticks) > 2, ticks[-1] / ticks[0]))


def _effect_words(rows: pd.DataFrame) -> tuple[str, str]:
    """The outcome against the first baseline, which is the experiment's; and against all, with every ratio."""
    told = []
    for baseline, against in rows.groupby("baseline", sort=False):
        said: dict[str, list[str]] = {}  # what the verdicts say -> the treatments of which they say it
        for treatment, group in against.groupby("treatment", sort=False):
            said.setdefault(_outcome(group), []).append(treatment)
        outcomes = "; ".join(f"{words.listed(names)} {outcome}" for outcome, names in said.items())
        told.append(f"{'against' if told else 'Against'} {baseline}: {outcomes}")
    ratios = [
        f"{row.metric.upper()} {row.treatment}/{row.baseline}, TP={row.tp:g}, QPS {row.qps:g}: {words.ratio(row.ratio)}"
        for row in rows.itertuples()
    ]
    return told[0], f"{'; '.join(told)}. Ratios: {'; '.join(ratios)}"


def _outcome(rows: pd.DataFrame) -> str:
    if (rows.tier == "smoke").all():
        return f"seen in {words.blocks(rows)}: no interval and no verdict"
    told = tally(rows.verdict, unit=" comparisons")
    return told if " of " in told else f"{told} in all {len(rows)} comparisons"
