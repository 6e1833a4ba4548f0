"""Sends each all-reduce to the backend that the routing table names for its size, or to one that always works."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from symmlib.communicators import base
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.errors import RanksDisagree
from symmlib.routing.table import RoutingTable, Table
from symmlib.routing.trace import Trace
from symmlib.sizes import format_size

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Decision:
    """The name of the backend that serves a tensor, and why it does."""

    backend: str
    reason: str


class Router:
    """All-reduce by routing table. Collective: every rank of `group` constructs it with the same arguments.

    Args:
        group: a process group of the ranks to sum over, which carries CPU objects (gloo).
        table: routes by device, world size, dtype, mode and multicast; None: the built-in tables.
        device: of the tensors to come; of a CPU or this rank's GPU.
        mode: "eager", or "graph" where calls are captured in CUDA graphs.
        batch_invariant: serve every size by the backend of the largest sizes, so that a row's sum does not depend on
            how many rows surround it.
        trace: where calls are counted; None: counted in memory only.
        without: families not to open ("symm_mem"), each with the reason, which `explain` then shows.

    Raises `RanksDisagree` on every rank if tables, mode or `batch_invariant` differ between ranks.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        table: RoutingTable | None = None,
        *,
        device: torch.device | str,
        mode: str = "eager",
        batch_invariant: bool = False,
        trace: Trace | None = None,
        without: Mapping[str, str] | None = None,
    ):
        self.device = torch.device(device)
        self.world_size = group.size()
        self.mode = mode
        self.table = table if table is not None else RoutingTable.builtin()
        self.trace = trace or Trace(group.rank(), group.size())
        self._require_agreement(group, batch_invariant)

        self.fallback = "gloo" if self.device.type == "cpu" else "nccl"
        names = {route.backend for table in self._tables_for_any_link() for route in table.routes}
        shut = {name: (without or {})[name.split("/")[0]] for name in names if name.split("/")[0] in (without or {})}
        self.backends = open_backends([self.fallback, *sorted(names - {self.fallback, *shut})], group, self.device)
        self.backends |= {name: base.Unavailable(name, reason) for name, reason in shut.items()}
        self._last_resort = self.backends[self.fallback]
        self._routes = {dtype: self._resolve(dtype, batch_invariant) for dtype in DTYPES}

    def route(self, tensor: torch.Tensor) -> Decision:
        """Which backend serves `tensor`, and why; nothing is sent."""
        return self._choose(tensor)[1]

    def all_reduce(self, tensor: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Sum `tensor` elementwise over the ranks, into `out` (which may be `tensor`) or a new tensor."""
        backend, decision = self._choose(tensor)
        self.trace.count(decision.backend, tensor.nbytes, tensor.dtype, decision.reason)
        return backend.all_reduce(tensor, out=out)

    def explain(self):
        """A DataFrame of what serves what: dtype, min_bytes, max_bytes, backend by the table, served_by, reason."""
        import pandas as pd

        rows = []
        for dtype, routes in self._routes.items():
            lowest = 0
            for bound, (named, _, decision) in zip([*routes.bounds, None], routes.entries, strict=True):
                name = str(dtype).removeprefix("torch.")
                rows.append((name, lowest, bound, named, decision.backend, decision.reason))
                lowest = (bound or 0) + 1
        columns = ["dtype", "min_bytes", "max_bytes", "backend", "served_by", "reason"]
        return pd.DataFrame(rows, columns=columns).astype({"max_bytes": "Int64"})

    def close(self) -> None:
        """Close all backends. Idempotent."""
        close_backends(self.backends)

    def _choose(self, tensor: torch.Tensor) -> tuple[base.AllReduceBackend, Decision]:
        routes = self._routes.get(tensor.dtype)
        if routes is None:
            return self._last_resort, Decision(self.fallback, f"no table covers dtype {tensor.dtype}")
        _, backend, decision = routes.entries[bisect_left(routes.bounds, tensor.nbytes)]
        if support := backend.supports(tensor):
            return backend, decision
        return self._last_resort, Decision(self.fallback, f"{backend.name}: {support.reason}")

    def _require_agreement(self, group: dist.ProcessGroup, batch_invariant: bool) -> None:
        mine = {"table": self.table.digest[:12], "mode": self.mode, "batch_invariant": batch_invariant}
        everyone: list[dict] = [{}] * group.size()
        dist.all_gather_object(everyone, mine, group=group)
        for key in mine:
            values = [theirs[key] for theirs in everyone]
            if len(set(values)) > 1:
                listed = ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
                raise RanksDisagree(f"the ranks' routers differ in {key} ({listed}); give every rank the same")

    def _find(self, dtype: torch.dtype, multicast: bool) -> Table | None:
        device = base.device_key(self.device)
        name = str(dtype).removeprefix("torch.")
        return self.table.find(
            device=device, world_size=self.world_size, dtype=name, mode=self.mode, multicast=multicast
        )

    def _tables_for_any_link(self) -> list[Table]:
        """Tables for this device with and without multicast: which one holds is known once backends are open."""
        found = [self._find(dtype, multicast) for dtype in DTYPES for multicast in (False, True)]
        return [table for table in found if table]

    def _resolve(self, dtype: torch.dtype, batch_invariant: bool) -> "_Routes":
        multimem = self.backends.get("symm_mem/multimem")
        multicast = multimem is not None and not isinstance(multimem, base.Unavailable)
        table = self._find(dtype, multicast)
        if table is None:
            decision = Decision(self.fallback, f"no table for {dtype} at world size {self.world_size}, {self.mode}")
            return _Routes([], [(self.fallback, self._last_resort, decision)])
        routes = table.routes[-1:] if batch_invariant else table.routes
        why = "one backend for every size (batch_invariant)" if batch_invariant else None
        entries = [self._entry(route.backend, why or _range(route.max_bytes)) for route in routes]
        return _Routes([route.max_bytes for route in routes[:-1]], entries)

    def _entry(self, named: str, reason: str) -> tuple[str, base.AllReduceBackend, Decision]:
        backend = self.backends[named]
        if isinstance(backend, base.Unavailable):
            return named, self._last_resort, Decision(self.fallback, f"{named} is unavailable: {backend.reason}")
        return named, backend, Decision(named, reason)


@dataclass(frozen=True)
class _Routes:
    """One dtype's routes, ready to bisect: inclusive upper bounds, and one more entry than bounds."""

    bounds: list[int]
    entries: list[tuple[str, base.AllReduceBackend, Decision]]


def _range(max_bytes: int | None) -> str:
    return f"the table's route up to {format_size(max_bytes)}" if max_bytes else "the table's route for larger sizes"
