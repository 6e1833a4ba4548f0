"""Measurements to a routing table: at each measured size the fastest backend, between sizes the geometric middle.

Called by `symmlib allreduce`, `symmlib routes derive` and the notebook 03_routing.
"""

import math

import pandas as pd

from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, unknown
from symmlib.routing.table import Route, RoutingTable, Table

KEY = ["device", "world_size", "dtype", "mode", "multicast"]


def derive(summary: pd.DataFrame, *, source: str, candidates: list[str] | None = None) -> RoutingTable:
    """The table under which every size in `summary` is served by the backend with the lowest median there.

    `summary` is that of `symmlib.allreduce.measure`, for one or several world sizes, dtypes and modes. Only rows with
    status `ok` count. `candidates` are the backends that may be chosen; by default all but `vllm/*`, which live inside
    vLLM's processes alone and are what a table is compared with. Neighbouring sizes with one winner make one route;
    where the winner changes, the bound is the geometric mean of the two sizes. The largest size's winner serves all
    larger ones too. `source` names the run. Raises `SymmlibError` if no candidate was measured.
    """
    for name in candidates or []:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    usable = summary[(summary["status"] == "ok") & summary["median_us"].notna()]
    usable = usable[usable["backend"].isin(candidates or [name for name in BACKENDS if not name.startswith("vllm/")])]
    if usable.empty:
        measured = ", ".join(sorted(summary.loc[summary["status"] == "ok", "backend"].unique())) or "none"
        raise SymmlibError(f"no routes can be derived: none of the candidates was measured. Measured: {measured}.")
    return RoutingTable(
        tuple(
            Table(device, int(world_size), dtype, mode, bool(multicast), source, _routes(rows))
            for (device, world_size, dtype, mode, multicast), rows in usable.groupby(KEY)
        )
    )


def _routes(rows: pd.DataFrame) -> tuple[Route, ...]:
    fastest = rows.loc[rows.groupby("bytes")["median_us"].idxmin()]  # in ascending order of bytes
    points = list(zip(fastest["bytes"], fastest["backend"], strict=True))
    changes = [
        Route(round(math.sqrt(size * next_size)), winner)
        for (size, winner), (next_size, next_winner) in zip(points, points[1:], strict=False)
        if winner != next_winner
    ]
    return (*changes, Route(None, points[-1][1]))
