"""Routing tables as rows for people: which backend serves which sizes, on whose word, and what a new table changes."""

from collections.abc import Mapping

import pandas as pd

from symmlib.analysis.crossovers import Timings, regrets
from symmlib.errors import UsageError
from symmlib.routing.table import RoutingTable, Table
from symmlib.sizes import format_size

KEY = ["device", "world_size", "dtype", "mode", "multicast"]
POINT = ["world_size", "dtype", "mode", "bytes"]
COLUMNS = [
    *KEY, "from_bytes", "to_bytes", "sizes", "backend", "why", "crossover_low", "crossover_high",
]  # fmt: skip
COST_COLUMNS = ["table", "world_size", "dtype", "mode", "sizes", "regret_p50", "regret_p95", "regret_max", "why_not"]


def show(
    table: RoutingTable,
    *,
    device: str | None = None,
    world_size: int | None = None,
    dtype: str | None = None,
    mode: str | None = None,
) -> pd.DataFrame:
    """One row per route of every table that matches the arguments given, in order of size.

    `from_bytes` and `to_bytes` are inclusive (`to_bytes` empty: no upper bound); `sizes` says the same in words; `why`
    is the interval of the crossover, where measured, and the table's source; `crossover_low` and `crossover_high` are
    that interval in bytes. Raises `UsageError` where nothing matches, with what there is.
    """
    wanted = {"device": device, "world_size": world_size, "dtype": dtype, "mode": mode}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    matching = [one for one in table.tables if all(getattr(one, key) == value for key, value in wanted.items())]
    if not matching:
        asked = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in wanted.items())
        have = "; ".join(
            f"{key.replace('_', ' ')} {', '.join(str(one) for one in sorted({getattr(t, key) for t in table.tables}))}"
            for key in wanted
        )
        raise UsageError(f"no table for {asked or 'anything: the file is empty'}. There is: {have or 'nothing'}.")
    rows = [row for one in sorted(matching, key=lambda one: one.key) for row in _rows(one)]
    bounds = dict.fromkeys(("to_bytes", "crossover_low", "crossover_high"), "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(bounds)


def compare(before: RoutingTable, after: RoutingTable, summary: pd.DataFrame) -> pd.DataFrame:
    """What `after` changes against `before` at the sizes measured in `summary` (see `symmlib.allreduce.measure`).

    One row per size of every table of `after`, with the backend that either table picks and its median there:
    `world_size, dtype, mode, bytes, before, after, before_us, after_us, speedup`. Empty where `before` has no table,
    or where a backend was not measured.
    """
    times = summary[summary["status"] == "ok"].set_index([*POINT, "backend"])["median_us"]
    rows = []
    for table in after.tables:
        old = before.find(**dict(zip(KEY, table.key, strict=True)))
        for nbytes in sorted(summary["bytes"].unique()):
            point = (table.world_size, table.dtype, table.mode, int(nbytes))
            picks = old.lookup(nbytes).backend if old else None, table.lookup(nbytes).backend
            rows.append([*point, *picks, *(times.get((*point, backend)) for backend in picks)])
    frame = pd.DataFrame(rows, columns=[*POINT, "before", "after", "before_us", "after_us"])
    frame = frame.astype({"before_us": float, "after_us": float})
    return frame.assign(speedup=frame["before_us"] / frame["after_us"])


def costs(tables: Mapping[str, RoutingTable], timed: pd.DataFrame) -> pd.DataFrame:
    """What each of `tables` would cost on the machine that `timed` is from (see `analysis.allreduce.timed`).

    One row per name and measured setting: how many of the measured `sizes` it covers by backends that were measured,
    and over those the median, 95th percentile and maximum of the regret (`analysis.crossovers.regrets`). `why_not`:
    what keeps it from being judged at the other sizes.
    """
    rows = []
    for key, samples in timed.groupby(KEY):
        timings = Timings.of(samples)
        known = dict(zip(KEY, (key[0], int(key[1]), key[2], key[3], bool(key[4])), strict=True))
        for name, table in tables.items():
            rows.append([name, *key[1:4], *_cost(table.find(**known), timings, _describe(known))])
    return pd.DataFrame(rows, columns=COST_COLUMNS)


def _cost(table: Table | None, timings: Timings, setting: str) -> list:
    if table is None:
        return [0, None, None, None, f"it has no table for {setting}"]
    choices = {size: table.lookup(size).backend for size in timings.sizes}
    missing = sorted({name for name in choices.values() if name not in timings.backends})
    covered = [place for place, size in enumerate(timings.sizes) if choices[size] in timings.backends]
    why = f"{', '.join(missing)} was not measured here" if missing else ""
    if not covered:
        return [0, None, None, None, why]
    sizes = tuple(timings.sizes[place] for place in covered)
    found = regrets(Timings(timings.backends, sizes, timings.log_us[:, :, covered]), choices)["regret"]
    return [len(covered), *found.quantile([0.5, 0.95]), found.max(), why]


def _describe(known: dict) -> str:
    return f"{known['device']}, {known['world_size']} ranks, {known['dtype']}, {known['mode']}"


def _rows(table: Table) -> list[list]:
    rows, start = [], 1
    for route in table.routes:
        why = table.source
        if route.crossover_bytes:
            low, high = route.crossover_bytes
            why = f"crossover between {format_size(low)} and {format_size(high)} (95 %); {why}"
        interval = route.crossover_bytes or (None, None)
        sizes = _in_words(start, route.max_bytes)
        rows.append([*table.key, start, route.max_bytes, sizes, route.backend, why, *interval])
        start = (route.max_bytes or 0) + 1
    return rows


def _in_words(first: int, last: int | None) -> str:
    if last is None:
        return "every size" if first == 1 else f"above {format_size(first - 1)}"
    return f"up to {format_size(last)}"
