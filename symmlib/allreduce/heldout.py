"""Is a routing table right at sizes that it was not derived from? Measures them, and what the router itself costs.

Called by `symmlib routes check` and the notebook 03_routing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from symmlib.allreduce.measure import measure
from symmlib.allreduce.plan import ITEMSIZE, ROUTER, AllReducePlan
from symmlib.allreduce.refine import rivals
from symmlib.analysis.allreduce import timed
from symmlib.analysis.crossovers import Timings, ratio, regrets
from symmlib.backends import ONE_GPU
from symmlib.errors import UsageError
from symmlib.progress import say
from symmlib.routing.table import RoutingTable, Table
from symmlib.runs import write_csv
from symmlib.sizes import format_size

PER_OCTAVE = 0.37  # off every grid of doublings, and of halves of doublings
BESIDE = (0.85, 1.18)  # of a bound: close enough to matter, far enough to be told apart
COST_BYTES = (1 << 10, 64 << 10)  # where the router is held against its backend
REGRET_COLUMNS = ["world_size", "dtype", "mode", "bytes", "chosen", "best", "regret"]
COST_COLUMNS = ["world_size", "dtype", "mode", "bytes", "backend", "ratio", "ci_low", "ci_high"]


@dataclass(frozen=True)
class HeldOut:
    """`regret`: a row per held-out size (`REGRET_COLUMNS`); `cost`: the router's time over its backend's, called
    directly (`COST_COLUMNS`, 95 % over launches); `summary`: as `measure` returns it, the router among the backends."""

    regret: pd.DataFrame
    cost: pd.DataFrame
    summary: pd.DataFrame

    def in_words(self) -> str:
        """Median, 95th percentile and maximum of the regret, in a line."""
        p50, p95 = self.regret["regret"].quantile([0.5, 0.95])
        return (
            f"regret over {len(self.regret)} held-out sizes: median {p50:.1%}, 95th percentile {p95:.1%}, "
            f"largest {self.regret['regret'].max():.1%}"
        )


def held_out_sizes(table: Table, measured: list[int]) -> list[int]:
    """Sizes in bytes of the span of `measured` that are none of them: odd numbers of elements off every power of two,
    one for each doubling of the size, and one on either side of each bound."""
    itemsize = ITEMSIZE[table.dtype]
    low, high = min(measured), max(measured)
    octaves = math.floor(math.log2(high / low)) or 1
    wanted = [low * 2 ** (step + PER_OCTAVE) for step in range(octaves)]
    wanted += [route.max_bytes * factor for route in table.routes[:-1] for factor in BESIDE]
    odd = {(int(size / itemsize) | 1) * itemsize for size in wanted if low <= size <= high}
    return sorted(odd - set(measured))


def check(path: Path, results, out: Path, *, launches: int = 3) -> HeldOut:
    """Measure held-out sizes of the table in the file `path` and write `out/results/regret.csv`, `router_cost.csv`.

    `results` (`allreduce.Results`): what was measured on this machine before; it says which setting of the table this
    is, which sizes are not held out, and which backends may be the best one; its world sizes are checked one by one, at
    one list of sizes. Messages start one element off their allocation, so none is aligned to a vector. Samples and
    their summary go to `out/check/`.

    Raises `UsageError` where the table does not cover the setting that was measured.
    """
    found = _tables_for(RoutingTable.load(path), results.timed, path)
    held_out = {table: held_out_sizes(table, sorted(setting["bytes"].unique())) for table, setting in found}
    names = set()
    for table, setting in found:
        names |= rivals(setting) | {route.backend for route in table.routes} & set(setting["backend"])
    first = found[0][0]
    plan = AllReducePlan(
        world_size=[table.world_size for table in held_out],
        backends=[*sorted(names), ROUTER],
        sizes=sorted({*COST_BYTES}.union(*held_out.values())),
        dtype=first.dtype,
        mode=first.mode,
        launches=launches,
        routing_table=str(Path(path).resolve()),
        misaligned=True,
        one_gpu=first.device.endswith(ONE_GPU),
        beside_a_model=results.beside_a_model,
    )
    summary = measure(plan, Path(out) / "check")
    samples = timed(pd.read_csv(Path(out) / "check" / "results" / "allreduce.csv"), summary)
    of_table = {table: samples[samples["world_size"] == table.world_size] for table in held_out}
    regret = [_regret(table, of_table[table], sizes) for table, sizes in held_out.items()]
    cost = [_cost(table, samples) for table, samples in of_table.items()]
    checked = HeldOut(pd.concat(regret, ignore_index=True), pd.concat(cost, ignore_index=True), summary)
    write_csv(Path(out) / "results" / "regret.csv", checked.regret)
    write_csv(Path(out) / "results" / "router_cost.csv", checked.cost)
    return checked


def _tables_for(tables: RoutingTable, measured: pd.DataFrame, path: Path) -> list[tuple[Table, pd.DataFrame]]:
    """The tables of the first setting that was measured, one a world size, each with the samples of that one."""
    keys = ["device", "dtype", "mode", "multicast"]
    for (device, dtype, mode, multicast), samples in measured.groupby(keys):
        known = {"device": device, "dtype": dtype, "mode": mode, "multicast": bool(multicast)}
        by_ranks = samples.groupby("world_size")
        found = [(tables.find(world_size=int(ranks), **known), of_ranks) for ranks, of_ranks in by_ranks]
        if covered := [(table, of_ranks) for table, of_ranks in found if table]:
            return covered
    settings = measured[["device", "world_size", *keys[1:]]].drop_duplicates().to_dict("records")
    raise UsageError(f"{path} has no table for what was measured: {settings}")


def _regret(table: Table, samples: pd.DataFrame, sizes: list[int]) -> pd.DataFrame:
    chosen = {size: table.lookup(size).backend for size in sizes}
    there = set(samples[["bytes", "backend"]].itertuples(index=False, name=None))
    if lost := [format_size(size) for size, name in chosen.items() if (size, name) not in there]:
        say(
            f"on {table.world_size} ranks the table's choice was not timed at {', '.join(lost)}: it has no regret there"
        )
    judged = samples["bytes"].isin([size for size, name in chosen.items() if (size, name) in there])
    found = regrets(Timings.of(samples[judged & (samples["backend"] != ROUTER)]), chosen)
    return found.assign(world_size=table.world_size, dtype=table.dtype, mode=table.mode)[REGRET_COLUMNS]


def _cost(table: Table, samples: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for size in COST_BYTES:
        backend = table.lookup(size).backend
        here = samples[(samples["bytes"] == size) & samples["backend"].isin([backend, ROUTER])]
        if here["backend"].nunique() == 2:
            rows.append(
                (table.world_size, table.dtype, table.mode, size, backend, *ratio(Timings.of(here), ROUTER, backend))
            )
    return pd.DataFrame(rows, columns=COST_COLUMNS)
