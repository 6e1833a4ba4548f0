"""Makes a stock vLLM reduce through symmlib: an entry point of `vllm.general_plugins`, no fork and no patch file.

vLLM loads `register` in each of its processes before any process group exists. Without `SYMMLIB_ALLREDUCE` it does
nothing at all. With it, the class that vLLM makes for a group's device communication becomes a subclass of vLLM's own
that overrides `all_reduce` for tensor-parallel groups and leaves everything else as it was.

    SYMMLIB_ALLREDUCE      router, or one backend's name: gloo, vllm/shm, host/two_shot, symm_mem/multimem, ...
    SYMMLIB_ROUTING_TABLE  the router's table, a file; default: the built-in tables
    SYMMLIB_TRACE          a directory: rank-<r>.json counts what served which sizes (see `routing.trace`)

vLLM's own VLLM_ALLREDUCE_USE_SYMM_MEM=0 takes symmetric memory out of the router, too: symm_mem/* and triton/*.
"""

import faulthandler
import os
import signal
from functools import cache

from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, unknown

ALLREDUCE, ROUTING_TABLE, TRACE = "SYMMLIB_ALLREDUCE", "SYMMLIB_ROUTING_TABLE", "SYMMLIB_TRACE"
SERVING = "SYMMLIB_SERVING"  # in the environment of every server that symmlib starts itself
ROUTER = "router"
# vLLM's own GPU communicators are chosen by vLLM's own variables, with ours unset; `vllm/shm` is here to be counted.
CHOICES = (ROUTER, "vllm/shm", *(name for name in BACKENDS if not name.startswith("vllm/")))


def register() -> None:
    """Called by vLLM. Ends the process on a name that is none: vLLM would log an exception and serve without us."""
    if SERVING in os.environ:  # started by `serving`, whose `processes.dump_stacks` asks a server where it hangs
        faulthandler.register(signal.SIGUSR1)
    choice = os.environ.get(ALLREDUCE)
    if not choice:
        return
    if choice not in CHOICES:
        raise SystemExit(f"{ALLREDUCE}: {unknown('all-reduce', choice, CHOICES)}")

    from vllm.platforms import current_platform

    platform = type(current_platform)
    original = platform.get_device_communicator_cls()
    if original.startswith(f"{__name__}."):
        return  # vLLM may load plug-ins more than once in a process
    _routed_class.original = original
    platform.get_device_communicator_cls = classmethod(lambda cls: f"{__name__}.RoutedCommunicator")


def __getattr__(name: str):
    """vLLM asks for the class by its dotted name; it is made then, over whichever class this platform has."""
    if name == "RoutedCommunicator":
        return _routed_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _routed_class() -> type:
    from vllm.utils.import_utils import resolve_obj_by_qualname

    vllm_class = resolve_obj_by_qualname(_routed_class.original)

    class RoutedCommunicator(vllm_class):
        """vLLM's communicator, with the all-reduces of tensor-parallel groups served as the environment says."""

        def __init__(self, *arguments, unique_name: str = "", **options):
            super().__init__(*arguments, unique_name=unique_name, **options)
            self._symmlib = None
            if unique_name.startswith("tp") and self.world_size > 1:
                choice = os.environ[ALLREDUCE]
                self._symmlib = _VllmShm(self) if choice == "vllm/shm" else _Routed(self, choice)

        def all_reduce(self, input_):
            return super().all_reduce(input_) if self._symmlib is None else self._symmlib.all_reduce(input_)

        def vllm_all_reduce(self, input_):
            return super().all_reduce(input_)

        def destroy(self):
            if self._symmlib is not None:
                self._symmlib.close()
            super().destroy()

    return RoutedCommunicator


class _Routed:
    """All-reduce through a `Router`: by table, or by the one backend that was asked for."""

    def __init__(self, communicator, choice: str):
        from symmlib.routing import Router, RoutingTable

        table = None
        if choice != ROUTER:
            table = _table_of_one(choice, communicator)
        elif path := os.environ.get(ROUTING_TABLE):
            table = RoutingTable.load(path)
        without = {}
        if os.environ.get("VLLM_ALLREDUCE_USE_SYMM_MEM") == "0":
            reason = "VLLM_ALLREDUCE_USE_SYMM_MEM=0 switches symmetric memory off"
            without = {"symm_mem": reason, "triton": reason}  # our kernels' memory is symmetric, too
        self.router = Router(
            communicator.cpu_group,
            table,
            device=_device(communicator),
            mode=_mode(communicator),
            trace=_trace(communicator),
            without=without,
        )
        if choice != ROUTER:
            refused = self.router.explain().query("served_by != @choice")
            if len(refused):
                self.router.close()
                raise SymmlibError(f"{ALLREDUCE}={choice}: {refused.reason.iloc[0]}")
        self._in_place = _device(communicator).type == "cpu"  # as vLLM's own does it there

    def all_reduce(self, tensor):
        return self.router.all_reduce(tensor, out=tensor if self._in_place else None)

    def close(self) -> None:
        self.router.close()


class _VllmShm:
    """vLLM's own all-reduce, counted; it must really be the shared-memory one and not vLLM's silent fallback."""

    def __init__(self, communicator):
        if type(getattr(communicator, "dist_module", None)).__name__ != "_CPUSHMDistributed":
            from symmlib.communicators.vllm_peers import shm_support

            reason = shm_support().reason or "vLLM did not set it up for this group"
            raise SymmlibError(f"{ALLREDUCE}=vllm/shm: {reason}")
        from symmlib.routing import Decision

        self.communicator, self.trace = communicator, _trace(communicator)
        self._decision = Decision("vllm/shm", "vLLM's own")
        self._served = {}

    def all_reduce(self, tensor):
        served = self._served.get((tensor.dtype, tensor.nbytes)) or self._account(tensor)
        served.calls += 1
        return self.communicator.vllm_all_reduce(tensor)

    def close(self) -> None:
        self.trace.close()

    def _account(self, tensor):
        from symmlib.routing.trace import Served

        served = self.trace.add(Served(self._decision, tensor.nbytes, str(tensor.dtype).removeprefix("torch.")))
        self._served[tensor.dtype, tensor.nbytes] = served
        return served


def _table_of_one(backend: str, communicator):
    """A table in which `backend` serves every size and dtype. Collective on GPUs."""
    from symmlib.communicators.gpu import describe
    from symmlib.routing import Route, RoutingTable, Table
    from symmlib.routing.table import DTYPES

    on = _device(communicator)
    device = describe(communicator.cpu_group, on).key if on.type == "cuda" else "cpu"
    mode, source = _mode(communicator), f"{ALLREDUCE}={backend}"
    routes = (Route(None, backend),)
    return RoutingTable(
        tuple(
            Table(device, communicator.world_size, dtype, mode, multicast, source, routes)
            for dtype in DTYPES
            for multicast in (False, True)
        )
    )


def _mode(communicator) -> str:
    """The tables' mode: "graph" where vLLM will capture CUDA graphs, else "eager"."""
    from vllm.config import get_current_vllm_config

    on_gpu = _device(communicator).type == "cuda"
    return "graph" if on_gpu and not get_current_vllm_config().model_config.enforce_eager else "eager"


def _device(communicator):
    import torch

    return torch.device(communicator.device or "cpu")


def _trace(communicator):
    from symmlib.routing.trace import Trace

    return Trace(communicator.rank_in_group, communicator.world_size, os.environ.get(TRACE))
