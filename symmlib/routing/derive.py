"""Measurements to a routing table: as few routes as the evidence allows, each bound with its interval.

Called by `symmlib allreduce`, `symmlib routes derive` and the notebook 03_routing. The statistics are in
`symmlib.analysis.crossovers`; docs/routing-tables.md says why they are as they are.
"""

import math

import pandas as pd

from symmlib.analysis import crossovers
from symmlib.analysis.crossovers import Timings
from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, unknown
from symmlib.routing.table import Route, RoutingTable, Table

KEY = ["device", "world_size", "dtype", "mode", "multicast"]
RESOLVED_OCTAVES = 0.5  # a crossover that is known within half a doubling of the size needs no more measuring


def derive(
    timed: pd.DataFrame,
    *,
    source: str,
    candidates: list[str] | None = None,
    incumbent: str | None = None,
    previous: RoutingTable | None = None,
) -> RoutingTable:
    """The table that the measurements support, for every device, world size, dtype and mode in them.

    `timed`: samples as `analysis.allreduce.timed` gives them. `candidates`: the backends that may be chosen; by default
    all but `vllm/*`, which live inside vLLM's processes alone and are what a table is compared with. `source` names the
    run.

    At each measured size the choice is not shown to be more than 3 % slower than the fastest. Of all sequences that
    keep to this the one with the fewest changes is taken, then the fastest, with `incumbent` counted 3 % faster than it
    is; by default that is the simplest backend that is level with the fastest anywhere, and the table names it. With
    `previous` (a table in use), choices change only where keeping them would be shown to be slower, and a bound moves
    only if its new interval excludes the old one. The largest size's backend serves all larger ones too.

    Raises `SymmlibError` if no candidate was measured, `UsageError` for a name that is no backend's.
    """
    for name in [*(candidates or []), *([incumbent] if incumbent else [])]:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    wanted = candidates or [name for name in BACKENDS if not name.startswith("vllm/")]
    rows = timed[timed["backend"].isin(wanted)]
    if rows.empty:
        measured = ", ".join(sorted(timed["backend"].unique())) or "none"
        raise SymmlibError(f"no routes can be derived: none of the candidates was measured. Measured: {measured}.")
    return RoutingTable(
        tuple(_table(key, Timings.of(of_key), source, incumbent, previous) for key, of_key in rows.groupby(KEY))
    )


def unresolved(table: Table) -> list[tuple[int, int, int]]:
    """The bounds that deserve more sizes around them, as (bytes, low, high): intervals wider than half an octave.

    A bound without an interval comes with its own size as both ends.
    """
    found = []
    for route in table.routes[:-1]:
        low, high = route.crossover_bytes or (route.max_bytes, route.max_bytes)
        if not route.crossover_bytes or math.log2(high / low) > RESOLVED_OCTAVES:
            found.append((route.max_bytes, low, high))
    return found


def _table(key: tuple, timings: Timings, source: str, incumbent: str | None, previous: RoutingTable | None) -> Table:
    device, world_size, dtype, mode, multicast = key
    known = dict(zip(KEY, (device, int(world_size), dtype, mode, bool(multicast)), strict=True))
    incumbent = incumbent or _simplest(timings)
    old = previous.find(**known) if previous else None
    kept = [old.lookup(size).backend for size in timings.sizes] if old else None
    names = crossovers.choose(timings, incumbent=incumbent, previous=kept)
    return Table(**known, source=source, routes=_routes(timings, names, old), incumbent=incumbent)


def _simplest(timings: Timings) -> str:
    """The first of `BACKENDS`, which stand in the order of what they need, that is level with the best at some size."""
    level = set().union(*crossovers.acceptable(timings))
    return min(level, key=list(BACKENDS).index)


def _routes(timings: Timings, names: list[str], old: Table | None) -> tuple[Route, ...]:
    routes: list[Route] = []
    changes = [place for place in range(len(names) - 1) if names[place] != names[place + 1]]
    for number, place in enumerate(changes):
        # A bound lies between its neighbours, whatever a curve does elsewhere.
        least = timings.sizes[changes[number - 1]] if number else 0
        most = timings.sizes[changes[number + 1] + 1] if number + 1 < len(changes) else math.inf
        routes.append(_route(timings, place, names[place], names[place + 1], old, least, most))
    return (*routes, Route(None, names[-1]))


def _route(timings: Timings, place: int, before: str, after: str, old: Table | None, least, most) -> Route:
    if not timings.timed(before)[place + 1]:
        return Route(timings.sizes[place], before)  # it takes no more, or nobody knows whether it does
    middle = math.sqrt(timings.sizes[place] * timings.sizes[place + 1])
    found = crossovers.crossover_near(timings, before, after, middle)
    if found is None or not least < found.bytes < most:
        return Route(round(middle), before)  # one gives way to the other without a size at which they are level
    interval = (found.low, found.high) if found.low is not None else None
    bound = found.bytes
    for one, following in zip(old.routes, old.routes[1:], strict=False) if old else ():
        same = (one.backend, following.backend) == (before, after)
        if same and interval and interval[0] <= one.max_bytes <= interval[1]:
            bound = one.max_bytes
    return Route(bound, before, interval)
