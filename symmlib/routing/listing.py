"""Routing tables as rows for people: which backend serves which sizes, on whose word, and what a new table changes."""

import pandas as pd

from symmlib.errors import UsageError
from symmlib.routing.table import RoutingTable, Table
from symmlib.sizes import format_size

KEY = ["device", "world_size", "dtype", "mode", "multicast"]
POINT = ["world_size", "dtype", "mode", "bytes"]
COLUMNS = ["device", "world_size", "dtype", "mode", "multicast", "from_bytes", "to_bytes", "sizes", "backend", "why"]


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
    is the interval of the crossover, where measured, and the table's source. Raises `UsageError` where nothing
    matches, with what there is.
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
    return pd.DataFrame(rows, columns=COLUMNS).astype({"to_bytes": "Int64"})


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


def _rows(table: Table) -> list[list]:
    rows, start = [], 1
    for route in table.routes:
        why = table.source
        if route.crossover_bytes:
            low, high = route.crossover_bytes
            why = f"crossover between {format_size(low)} and {format_size(high)} (95 %); {why}"
        rows.append([*table.key, start, route.max_bytes, _in_words(start, route.max_bytes), route.backend, why])
        start = (route.max_bytes or 0) + 1
    return rows


def _in_words(first: int, last: int | None) -> str:
    if last is None:
        return "every size" if first == 1 else f"above {format_size(first - 1)}"
    return f"up to {format_size(last)}"
