"""Makes a stock vLLM reduce through symmlib: an entry point of `vllm.general_plugins`, no fork and no patch file.

vLLM loads `register` in each of its processes before any process group exists. Without `SYMMLIB_ALLREDUCE` it does
nothing at all. With it, the class that vLLM makes for a group's device communication becomes a subclass of vLLM's own
that overrides `all_reduce` for tensor-parallel groups and leaves everything else as it was.

    SYMMLIB_ALLREDUCE      router, or one backend's name: gloo, vllm/shm, host/two_shot, symm_mem/multimem, ...
    SYMMLIB_ROUTING_TABLE  the router's table, a file; default: the built-in tables
    SYMMLIB_TRACE          a directory: rank-<r>.json counts what served which sizes (see `routing.trace`)

With `SYMMLIB_ONE_GPU=1` all ranks share one GPU, and more of vLLM is changed: see `vllm_one_gpu`.
vLLM's own VLLM_ALLREDUCE_USE_SYMM_MEM=0 takes symmetric memory out of the router, too: symm_mem/* and triton/*.
"""

import faulthandler
import os
import signal
from functools import cache

from symmlib import vllm_one_gpu
from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, unknown

ALLREDUCE, ROUTING_TABLE, TRACE = "SYMMLIB_ALLREDUCE", "SYMMLIB_ROUTING_TABLE", "SYMMLIB_TRACE"
SERVING = "SYMMLIB_SERVING"  # in the environment of every server that symmlib starts itself
ROUTER = "router"
# Served by vLLM itself and counted. Its other communicators are chosen by its own variables, with ours unset.
COUNTED = ("vllm/shm", "vllm/symm_mem")
CHOICES = (ROUTER, *COUNTED, *(name for name in BACKENDS if not name.startswith("vllm/")))


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
    if vllm_one_gpu.is_on():
        vllm_one_gpu.share_gpu()
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
    bases = (vllm_one_gpu.OnOneGpu, vllm_class) if vllm_one_gpu.is_on() else (vllm_class,)

    class RoutedCommunicator(*bases):
        """vLLM's communicator, with the all-reduces of tensor-parallel groups served as the environment says."""

        def __init__(self, *arguments, unique_name: str = "", **options):
            super().__init__(*arguments, unique_name=unique_name, **options)
            self._symmlib = None
            if unique_name.startswith("tp") and self.world_size > 1:
                self._symmlib = _serving(self, os.environ[ALLREDUCE])

        def all_reduce(self, input_):
            return super().all_reduce(input_) if self._symmlib is None else self._symmlib.all_reduce(input_)

        def vllm_all_reduce(self, input_):
            return super().all_reduce(input_)

        def destroy(self):
            try:
                if self._symmlib is not None:
                    self._symmlib.close()
            finally:
                super().destroy()

    return RoutedCommunicator


def _serving(communicator, choice: str):
    """What serves the all-reduces of one group."""
    if choice == "vllm/shm":
        return _VllmShm(communicator)
    if choice == "vllm/symm_mem":
        return _VllmSymmMem(communicator)
    if choice == "gloo" and vllm_one_gpu.is_on():
        return _Counted(communicator, "gloo")  # what vLLM falls back to, through the host
    return _Routed(communicator, choice)


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
            beside_a_model=True,
        )
        if choice != ROUTER and (refusals := self.router.refusals()):
            self.router.close()
            raise SymmlibError(f"{ALLREDUCE}={choice}: {refusals[0]}")
        self._in_place = _device(communicator).type == "cpu"  # as vLLM's own does it there

    def all_reduce(self, tensor):
        return self.router.all_reduce(tensor, out=tensor if self._in_place else None)

    def close(self) -> None:
        self.router.close()


class _Counted:
    """vLLM's own all-reduce, counted as the backend `name`."""

    def __init__(self, communicator, name: str):
        from symmlib.routing import Decision

        self.communicator, self.trace = communicator, _trace(communicator)
        self._own = Decision(name, "vLLM's own")
        self._served = {}

    def decide(self, tensor):
        """The `Decision` that vLLM takes for `tensor`."""
        return self._own

    def all_reduce(self, tensor):
        served = self._served.get((tensor.dtype, tensor.nbytes)) or self._account(tensor)
        served.calls += 1
        return self.communicator.vllm_all_reduce(tensor)

    def close(self) -> None:
        self.trace.close()

    def _account(self, tensor):
        from symmlib.routing.trace import Served

        served = Served(self.decide(tensor), tensor.nbytes, str(tensor.dtype).removeprefix("torch."))
        self._served[tensor.dtype, tensor.nbytes] = self.trace.add(served)
        return served


class _VllmShm(_Counted):
    """It must really be the shared-memory one and not vLLM's silent fallback."""

    def __init__(self, communicator):
        if type(getattr(communicator, "dist_module", None)).__name__ != "_CPUSHMDistributed":
            from symmlib.communicators.vllm_peers import shm_support

            reason = shm_support().reason or "vLLM did not set it up for this group"
            raise SymmlibError(f"{ALLREDUCE}=vllm/shm: {reason}")
        super().__init__(communicator, "vllm/shm")


class _VllmSymmMem(_Counted):
    """vLLM's symmetric memory; what it does not take, vLLM reduces in its next way, NCCL or, on one GPU, gloo."""

    def __init__(self, communicator):
        theirs = getattr(communicator, "symm_mem_comm", None)
        if vllm_one_gpu.is_on():
            vllm_one_gpu.let_two_shot_in(theirs)
        if theirs is None or theirs.disabled:
            raise SymmlibError(f"{ALLREDUCE}=vllm/symm_mem: vLLM did not set it up for this group; its log says why")
        super().__init__(communicator, "vllm/symm_mem")

    def decide(self, tensor):
        from symmlib.routing import Decision

        if self.communicator.symm_mem_comm.should_use_symm_mem(tensor):
            return self._own
        backend = "gloo" if vllm_one_gpu.is_on() else "nccl"
        return Decision(backend, f"vLLM's symmetric memory does not take {tensor.nbytes} bytes of {tensor.dtype}")


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

    trace = Trace(communicator.rank_in_group, communicator.world_size, os.environ.get(TRACE))
    if _device(communicator).type == "cuda":
        import torch

        trace.of_graphs(torch.cuda.CUDAGraph)
    return trace
