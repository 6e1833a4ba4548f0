"""Figures of the micro-benchmark: time and bus bandwidth against message size, with the router's path through them."""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.fastest import INCUMBENTS, by_size, usable
from symmlib.report.figures.canvas import canvas, line_panels, log_y, styled
from symmlib.report.figures.path import reading
from symmlib.report.figures.settings import by_setting, each
from symmlib.report.svg import Figure
from symmlib.sizes import format_size

PANEL_IN = 2.9


@styled
def latency(summary: pd.DataFrame, table_df: pd.DataFrame | None = None, compact: bool = False) -> Figure:
    """Median time against message size, both logarithmic: one line a backend, one panel a (world size, dtype, mode).

    `summary` has the columns of `allreduce_summary.csv`; only rows that are `fastest.usable` are drawn. With
    `table_df`, as `symmlib.routing.show` gives it, the router's path is shaded, and where its bounds may lie.
    """
    ran = usable(summary)
    if ran.empty:
        return _nothing(compact)
    figure = line_panels(
        ran, "median_us", "median time", "µs", compact, PANEL_IN, finish=log_y, scale="log", table_df=table_df
    )
    settings = by_setting(ran)
    if len(settings) == 1:
        figure.finding = _winners(by_size(ran)) + _gain(ran)
    else:
        figure.finding = f"Fastest on {each({where: _ranges(by_size(rows)) for where, rows in settings.items()})}"
    slowest_last = {where: rows[rows.bytes == rows.bytes.max()] for where, rows in settings.items()}
    figure.alt = f"{figure.finding}. Median times at the largest size: " + each(
        {
            f"{where}, {format_size(int(rows.bytes.max()))}": ", ".join(
                f"{row.backend} {words.microseconds(row.median_us)}"
                for row in rows.sort_values("median_us").itertuples()
            )
            for where, rows in slowest_last.items()
        }
    )
    launches = words.span(ran.launches, lambda count: f"{int(count)}")
    figure.reading = (
        "Lower is faster; one step on either axis multiplies. Every point is the median over "
        f"{launches} launch{'' if launches == '1' else 'es'} of the slowest rank's time for one all-reduce. Backends "
        f"less than 3 % apart count as equally fast.{reading(list(settings.values()), table_df)}"
    )
    return figure


@styled
def bus_bandwidth(summary: pd.DataFrame, table_df: pd.DataFrame | None = None, compact: bool = False) -> Figure:
    """Bus bandwidth (as nccl-tests defines it) against message size; arguments as for `latency`."""
    ran = usable(summary)
    if ran.empty:
        return _nothing(compact)
    figure = line_panels(
        ran, "busbw_gbps", "bus bandwidth", "GB/s", compact, PANEL_IN, finish=_from_zero, table_df=table_df
    )
    rows_of = by_setting(ran)
    settings = {where: _peaks(rows) for where, rows in rows_of.items()}
    if len(settings) == 1:
        (peaks,) = settings.values()
        figure.finding = f"Peak bus bandwidth: {', '.join([_peak(peaks[0]), *map(_speed, peaks[1:][-1:])])}"
    else:
        figure.finding = f"Peak bus bandwidth on {each({where: _peak(peaks[0]) for where, peaks in settings.items()})}"
    told = each({where: ", ".join(map(_peak, peaks)) for where, peaks in settings.items()})
    figure.alt = f"{figure.finding}. All peaks: {told}"
    figure.reading = (
        "Higher is better. Bus bandwidth is what each link carries, so it compares across numbers of ranks; a line "
        f"that flattens has met the limit of the memory or of the links.{reading(list(rows_of.values()), table_df)}"
    )
    return figure


def _from_zero(axes) -> None:
    axes.set_ylim(bottom=0)


def _nothing(compact: bool) -> Figure:
    figure, (axes,) = canvas(1, 1, compact, panel_height_in=0.3)
    axes.set_axis_off()
    figure.finding = figure.alt = "No all-reduce ran"
    figure.reading = "The table below says why for each backend."
    return figure


def _gain(rows: pd.DataFrame) -> str:
    """By how much the best is faster than what a plain program would use, to follow on `_winners`."""
    best = by_size(rows)
    incumbent = next((name for name in INCUMBENTS if (rows.backend == name).any()), None)
    gained = rows[rows.backend == incumbent].merge(best, on="bytes", suffixes=("", "_best"))
    if gained.empty or (gained.backend == gained.backend_best).all():
        return ""
    factors = gained.median_us / gained.median_us_best
    gain = words.span(factors, words.times) if min(factors) >= 1.05 else f"up to {words.times(max(factors))}"
    return f"{'; the best is' if _winners(best).startswith('No') else ','} {gain} faster than {incumbent}"


def _peaks(rows: pd.DataFrame) -> list:
    """Each backend's row of its greatest bus bandwidth, the greatest first."""
    highest = rows.loc[rows.groupby("backend").busbw_gbps.idxmax()]
    return list(highest.sort_values("busbw_gbps", ascending=False).itertuples())


def _speed(row) -> str:
    return f"{row.backend} {words.bandwidth(row.busbw_gbps)}"


def _peak(row) -> str:
    return f"{_speed(row)} at {format_size(int(row.bytes))}"


def _winners(best: pd.DataFrame) -> str:
    """What is the fastest at which size, as a sentence; `best` as `by_size` gives it."""
    ranges = _runs(best)
    if len(ranges) == 1:
        return f"{ranges[0][0]} is the fastest at every size"
    if len(ranges) > 3:
        share = best.backend.value_counts()
        return f"No backend is always fastest; {share.index[0]} is at {share.iloc[0]} of {len(best)} sizes"
    return f"Fastest: {_ranges(best)}"


def _ranges(best: pd.DataFrame) -> str:
    """The same to stand among others: 'host/one_shot up to 1 MiB, host/two_shot above'."""
    ranges = _runs(best)
    if len(ranges) > 3:
        share = best.backend.value_counts()
        return f"{share.index[0]} at {share.iloc[0]} of {len(best)} sizes, others elsewhere"
    steps = [f"{name} up to {format_size(upto)}" for name, upto in ranges[:-1]]
    return ", ".join([*steps, f"{ranges[-1][0]} {'above' if steps else 'at every size'}"])


def _runs(best: pd.DataFrame) -> list[tuple[str, int]]:
    """Each backend in turn with the largest size of its range."""
    runs: list[tuple[str, int]] = []
    for row in best.itertuples():
        if runs and runs[-1][0] == row.backend:
            runs.pop()
        runs.append((row.backend, int(row.bytes)))
    return runs
