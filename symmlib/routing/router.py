"""Sends each all-reduce to the backend that the routing table names for its size, or to one that always works."""

import logging
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from symmlib import patience
from symmlib.backends import FIXED_ORDER
from symmlib.communicators import base
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.communicators.gpu import Gpu, describe
from symmlib.errors import RankLost, RanksDisagree, SymmlibError
from symmlib.routing import ops
from symmlib.routing import table as tables
from symmlib.routing.table import RoutingTable, Table
from symmlib.routing.trace import Served, Trace
from symmlib.sizes import format_size

DTYPES = {getattr(torch, name): name for name in tables.DTYPES}

MEET_S = 300  # for the last rank to make its router: it may be reading weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """The name of the backend that serves a tensor, and why it does; `by_table` is False where it is the fallback."""

    backend: str
    reason: str
    by_table: bool = False


class Router:
    """All-reduce by routing table, and a backend itself.

    Collective: every rank of `group` constructs it, with the same arguments.

    Args:
        group: a process group of the ranks to sum over, which carries CPU objects (gloo).
        table: routes by device, world size, dtype, mode and multicast; None: the built-in tables.
        device: of the tensors to come; of a CPU or this rank's GPU.
        mode: "eager", or "graph" where calls are captured in CUDA graphs.
        batch_invariant: serve every size by one backend, so that a row's sum does not depend on how many rows
            surround it: by that of the table's which sums in a fixed order and serves the largest sizes, else by the
            last, whose sums may then depend on where in a message a row stands.
        trace: where calls are counted; None: counted in memory only.
        without: families not to open ("symm_mem"), each with the reason, which `explain` then shows.
        beside_a_model: where ranks share a GPU, whether they also compute a model on it: see `gpu.Gpu`.
        timeout_s: how long the ranks wait for each other to come here; 300, stretched by SYMMLIB_PATIENCE, by default.

    Raises `RankLost` if a rank died or does not come in time, and `RanksDisagree` on every rank if tables, kind of
    device, mode or `batch_invariant` differ between ranks. What the table does not cover goes to the fallback, `gloo`
    or `nccl`, and each reason for that is logged once: no route is guessed from another world size, dtype or machine,
    nor from ranks that share a GPU to ranks with one each. Where ranks share a GPU there is no `nccl`, and then the
    table must cover what is reduced.
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
        beside_a_model: bool = False,
        timeout_s: float | None = None,
    ):
        self.name = "router"
        self.device = base.numbered(device)
        self.world_size = group.size()
        self.mode = mode
        self.table = table if table is not None else RoutingTable.builtin()
        self.trace = trace or Trace(group.rank(), group.size())
        _meet(group, patience.seconds(MEET_S) if timeout_s is None else timeout_s)
        self._require_agreement(group, batch_invariant)

        self.gpu = describe(group, self.device, beside_a_model) if self.device.type == "cuda" else None
        self.setting = setting(self.gpu, world_size=self.world_size, mode=mode)
        self.fallback = "nccl" if self.gpu else "gloo"
        found = {dtype: self.table.find(**self.setting, dtype=name) for dtype, name in DTYPES.items()}
        names = {self.fallback} | {route.backend for table in found.values() if table for route in table.routes}
        shut = {name: (without or {})[name.split("/")[0]] for name in names if name.split("/")[0] in (without or {})}
        self.backends = open_backends(sorted(names - shut.keys()), group, self.device, beside_a_model=beside_a_model)
        self.backends |= {name: base.Unavailable(name, reason) for name, reason in shut.items()}
        self._last_resort = self.backends[self.fallback]
        self._routes = {dtype: self._resolve(dtype, table, batch_invariant) for dtype, table in found.items()}
        self._ways: dict[torch.dtype, dict[int, Served]] = {dtype: {} for dtype in DTYPES}
        self._numel, self._dtype, self._way = -1, None, _NO_WAY  # of the last call
        self._others: dict[tuple, Served] = {}
        self._logged: set[str] = set()
        self.op_name = ops.register(self)

    def route(self, tensor: torch.Tensor) -> Decision:
        """Which backend serves `tensor`, and why; nothing is sent."""
        return self._choose(tensor)[1]

    def supports(self, tensor: torch.Tensor) -> base.Support:
        """Whether its route takes `tensor`, or else the fallback, which serves whatever no route does."""
        backend, decision = self._choose(tensor)
        return base.no(decision.reason) if isinstance(backend, base.Unavailable) else backend.supports(tensor)

    def all_reduce(self, tensor: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Sum `tensor` elementwise over the ranks, into `out` (which may be `tensor`) or a new tensor.

        The size of the call before, as a model's layers have it one after the other, costs two comparisons and a count;
        another that was met before two look-ups more. In compiled code this becomes an operator
        (`symmlib.routing.ops`), which leaves the choice of backend to each call. There is no backward. Raises
        `SymmlibError` where a tensor needs the fallback and this machine has none: NCCL needs a GPU for each rank.
        """
        numel, way = tensor.numel(), self._way
        if numel != self._numel or tensor.dtype is not self._dtype:
            way = self._way_of(tensor, numel)
        result = way.launch(tensor, out)
        if result is None:
            return self._fall_back(tensor, out)
        way.calls += 1
        return result

    def _all_reduce_in_a_graph(self, tensor: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            return torch.ops.symmlib.all_reduce(tensor, self.op_name)
        torch.ops.symmlib.all_reduce_out(tensor, out, self.op_name)
        return out

    # Where torch.compile meets a call of the one, it traces the other: as torch marks its own wrappers (torch._dynamo's
    # UserFunctionVariable). `torch.compiler.is_compiling()` would ask the same of each eager call, for 25 ns.
    all_reduce._torchdynamo_inline = _all_reduce_in_a_graph

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

    def refusals(self) -> list[str]:
        """Why what the table names does not serve, for each of its routes of which that is so."""
        entries = [entry for routes in self._routes.values() for entry in routes.entries]
        return [decision.reason for named, _, decision in entries if decision.backend != named]

    def close(self) -> None:
        """Close all backends and the trace; compiled programs that use the router say so from now on. Idempotent."""
        ops.withdraw(self.op_name)
        close_backends(self.backends)
        self.trace.close()

    def _way_of(self, tensor: torch.Tensor, numel: int) -> Served:
        """What serves tensors of this dtype and size; the next call finds it without a look-up."""
        try:
            way = self._ways[tensor.dtype][numel]
        except KeyError:
            way = self._new_way(tensor, numel)
        self._numel, self._dtype, self._way = numel, tensor.dtype, way
        return way

    def _new_way(self, tensor: torch.Tensor, numel: int) -> Served:
        """What serves tensors of this dtype and size as long as they are as they should be; kept for the next one."""
        if tensor.dtype not in self._routes:
            return _NO_WAY
        routes = self._routes[tensor.dtype]
        _, backend, decision = routes.entries[bisect_left(routes.bounds, tensor.nbytes)]
        if isinstance(backend, base.Unavailable):
            return _NO_WAY
        way = self._account(decision, tensor)
        way.launch = base.bind(backend, tensor.dtype, numel)
        self._ways[tensor.dtype][numel] = way
        return way

    def _fall_back(self, tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
        """Serve a tensor that is not as it should be: strided, elsewhere, of a dtype without a table."""
        backend, decision = self._choose(tensor)
        if isinstance(backend, base.Unavailable):
            what = f"{format_size(tensor.nbytes)} of {tensor.dtype} on {tensor.device}"
            raise SymmlibError(f"nothing here can all-reduce {what}: {decision.reason}")
        key = decision, tensor.dtype, tensor.nbytes
        if key not in self._others:
            self._others[key] = self._account(decision, tensor)
        self._others[key].calls += 1
        return backend.all_reduce(tensor, out=out)

    def _account(self, decision: Decision, tensor: torch.Tensor) -> Served:
        if not decision.by_table and decision.reason not in self._logged:
            self._logged.add(decision.reason)
            log.warning("all-reduces by %s, not by the routing table: %s", decision.backend, decision.reason)
        return self.trace.add(Served(decision, tensor.nbytes, str(tensor.dtype).removeprefix("torch.")))

    def _choose(self, tensor: torch.Tensor) -> tuple[base.AllReduceBackend, Decision]:
        routes = self._routes.get(tensor.dtype)
        if routes is None:
            return self._last_resort, self._by_fallback(f"no table covers dtype {tensor.dtype}")
        _, backend, decision = routes.entries[bisect_left(routes.bounds, tensor.nbytes)]
        if not decision.by_table or (support := backend.supports(tensor)):
            return backend, decision
        return self._last_resort, self._by_fallback(f"{backend.name}: {support.reason}")

    def _require_agreement(self, group: dist.ProcessGroup, batch_invariant: bool) -> None:
        mine = {
            "table": self.table.digest[:12],
            "device": self.device.type,
            "mode": self.mode,
            "batch_invariant": batch_invariant,
        }
        everyone: list[dict] = [{}] * group.size()
        dist.all_gather_object(everyone, mine, group=group)
        for key in mine:
            values = [theirs[key] for theirs in everyone]
            if len(set(values)) > 1:
                listed = ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
                raise RanksDisagree(f"the ranks' routers differ in {key} ({listed}); give every rank the same")

    def _resolve(self, dtype: torch.dtype, table: Table | None, batch_invariant: bool) -> "_Routes":
        if table is None:
            decision = self._by_fallback(self.table.why_none(**self.setting, dtype=DTYPES[dtype]))
            return _Routes([], [(self.fallback, self._last_resort, decision)])
        if batch_invariant:
            return _Routes([], [self._entry(_invariant(table), "one backend for every size (batch_invariant)")])
        entries = [self._entry(route.backend, _range(route.max_bytes)) for route in table.routes]
        return _Routes([route.max_bytes for route in table.routes[:-1]], entries)

    def _entry(self, named: str, reason: str) -> tuple[str, base.AllReduceBackend, Decision]:
        backend = self.backends[named]
        if isinstance(backend, base.Unavailable):
            return named, self._last_resort, self._by_fallback(f"{named} is unavailable: {backend.reason}")
        return named, backend, Decision(named, reason, by_table=True)

    def _by_fallback(self, reason: str) -> Decision:
        if isinstance(self._last_resort, base.Unavailable):
            reason += f"; the fallback, {self.fallback}, is unavailable: {self._last_resort.reason}"
        return Decision(self.fallback, reason)


def setting(gpu: Gpu | None, *, world_size: int, mode: str) -> dict:
    """What a table must be for, dtype aside: for ranks that have `gpu`, or for ranks on the CPU where it is None."""
    multicast = gpu is not None and not gpu.no_multicast
    return {"device": gpu.key if gpu else "cpu", "world_size": world_size, "mode": mode, "multicast": multicast}


def _meet(group: dist.ProcessGroup, timeout_s: float) -> None:
    """Return when every rank has called this; the collectives that follow then find all of them alive."""
    try:
        dist.monitored_barrier(group, timeout=timedelta(seconds=timeout_s), wait_all_ranks=True)
    except RuntimeError as error:
        what = next(iter(str(error).splitlines()), "")
        raise RankLost(
            f"not every rank made its router within {timeout_s:g} s (timeout_s, or SYMMLIB_PATIENCE): one died, "
            f"hangs, or makes none. torch.distributed says: {what}"
        ) from error


def _invariant(table: Table) -> str:
    fixed = [route.backend for route in table.routes if route.backend in FIXED_ORDER]
    return fixed[-1] if fixed else table.routes[-1].backend


_NO_WAY = Served(Decision("", ""), 0, "", launch=lambda *_: None)


@dataclass(frozen=True)
class _Routes:
    """One dtype's routes, ready to bisect: inclusive upper bounds, and one more entry than bounds."""

    bounds: list[int]
    entries: list[tuple[str, base.AllReduceBackend, Decision]]


def _range(max_bytes: int | None) -> str:
    return f"the table's route up to {format_size(max_bytes)}" if max_bytes else "the table's route for larger sizes"
