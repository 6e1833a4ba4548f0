"""Numbers as people read them: factors, times, intervals and cells in words, with the digits that matter.

Used by `verdicts`, the figures' titles and the report's tables, so that one number reads alike everywhere.
"""

import math
from collections.abc import Callable, Iterable

import pandas as pd

from symmlib.backends import ONE_GPU

TIMES_FROM = 1.3  # from here on "1.3x faster" reads better than "23 % less time"
ONE_GPU_BANNER = (
    "Ranks shared one GPU: its memory (HBM) stands in for NVLink. Times hold for no node; ratios within this run show "
    "launch, copy and barrier costs."
)
ONE_GPU_MARK = "ranks shared one GPU"  # the banner, where there is room for a badge only


def banner(devices: Iterable) -> str:
    """What everything made from rows of these `device`s has to carry; empty unless ranks shared a GPU in some.

    For a table that may be old and have no such column: `banner(table.get("device", ()))`.
    """
    return ONE_GPU_BANNER if any(str(device).endswith(ONE_GPU) for device in set(devices)) else ""


def times(factor: float) -> str:
    """A factor: 5.13 -> '5.1x', 66.2 -> '66x'."""
    return f"{factor:.1f}x" if factor < 9.95 else f"{factor:.0f}x"


def percent(value: float) -> str:
    """A percentage: 6.49 -> '6.5 %', 13.62 -> '13.6 %', 82.6 -> '83 %'."""
    return f"{value:.1f} %" if abs(value) < 19.95 else f"{value:.0f} %"


def microseconds(time_us: float) -> str:
    """A time from microseconds: 0.61 -> '0.61 µs', 3.08 -> '3.1 µs', 205.3 -> '205 µs', 13841 -> '13.8 ms'."""
    if time_us >= 9995:
        return milliseconds(time_us / 1000)
    return f"{time_us:.{0 if time_us >= 99.5 else 1 if time_us >= 0.995 else 2}f} µs"


def milliseconds(time_ms: float) -> str:
    """A time from milliseconds: 2.753 -> '2.75 ms', 33.84 -> '33.8 ms', 1204 -> '1204 ms'."""
    return f"{time_ms:.{0 if time_ms >= 99.5 else 1 if time_ms >= 9.95 else 2}f} ms"


def bandwidth(gbps: float) -> str:
    """A bandwidth from 1e9 bytes/s: 0.9781 -> '0.978 GB/s', 5.987 -> '5.99 GB/s', 1013.2 -> '1013 GB/s'."""
    return f"{gbps:.{0 if gbps >= 99.5 else 3}{'f' if gbps >= 99.5 else 'g'}} GB/s"


def digits(value: float) -> str:
    """A number with the three digits that count, without its unit: 0.612, 3.08, 45.1, 205, 13841; 0 is '0'."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))}f}"


def size(nbytes: float) -> str:
    """Bytes in words, rounded where they are no round number: 65536 -> '64 KiB', 1482910 -> '1.41 MiB'."""
    for name, unit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}" if nbytes < 1000 * unit else f"{nbytes / unit:.0f} {name}"
    return f"{nbytes:.0f} B"


def ratio(value: float) -> str:
    """A ratio: two digits behind the point, three where it is within a tenth of 1, at least two that count."""
    if abs(value - 1) < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def ratio_interval(low: float, high: float, beside: float) -> str:
    """An interval with the digits of the ratio `beside` it: '0.17 to 0.22'."""
    digits = 3 if abs(beside - 1) < 0.1 else 2 if beside >= 0.1 else 3
    return f"{low:.{digits}f} to {high:.{digits}f}"


def span(values: Iterable[float], show: Callable[[float], str]) -> str:
    """The least and the greatest: '4.9x to 5.1x', or one of them where both read alike."""
    values = list(values)
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    items = list(items)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def change(ratios: pd.Series) -> tuple[str, str]:
    """Ratios treatment/baseline as an amount and a direction: ('5.1x to 5.4x', 'faster'), ('6.5 %', 'slower').

    The direction is that of the geometric mean. A percentage is of the baseline's time.
    """
    typical = geometric_mean(ratios)
    direction = "faster" if typical < 1 else "slower"
    if max(typical, 1 / typical) >= TIMES_FROM:
        return span(1 / ratios if typical < 1 else ratios, times), direction
    return span((ratios - 1).abs() * 100, percent).replace(" % to", " to"), direction


def geometric_mean(ratios: pd.Series) -> float:
    """The mean that suits ratios: twice and half as fast average to no change."""
    return math.exp(ratios.map(math.log).mean())


def cells(rows: pd.DataFrame) -> str:
    """Cells by `tp` and `qps`: 'TP=2, QPS 4 and 8', or 'TP=4 (QPS 1 and 5) and TP=8 (QPS 1)'."""
    rates = {tp: listed(f"{qps:g}" for qps in sorted(group.qps.unique())) for tp, group in rows.groupby("tp")}
    if len(rates) == 1:
        return "".join(f"TP={tp:g}, QPS {qps}" for tp, qps in rates.items())
    return listed(f"TP={tp:g} (QPS {qps})" for tp, qps in rates.items())


def blocks(rows: pd.DataFrame) -> str:
    """How many blocks `rows` of a comparison stand on: '1 block', '3 blocks', '2 to 3 blocks'."""
    count = span(rows.blocks, lambda value: f"{int(value)}")
    return f"{count} block{'' if count == '1' else 's'}"
