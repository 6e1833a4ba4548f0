"""Which routing table the arm `router` of an experiment obeys, where nobody names one."""

import contextlib
from pathlib import Path

from symmlib.backends import ONE_GPU
from symmlib.errors import UsageError
from symmlib.progress import say
from symmlib.provenance import routed_device
from symmlib.routing import RoutingTable
from symmlib.runs import Run
from symmlib.serving import server
from symmlib.serving.experiment import ServingExperiment

FILE = "routing.toml"
EAGER = "--enforce-eager"


def own_table(raw: Path) -> Path | None:
    """The table of the run whose servers leave their files in `raw`, or that these obeyed before; None if neither."""
    return next((table for table in (raw.parent.parent / FILE, raw / FILE) if table.is_file()), None)


def table_for(run: Run, experiment: ServingExperiment) -> Path | None:
    """The table for `run`, whose notebook may have been opened alone: its own, or else the newest one of another run
    that has routes for this machine at every TP of `experiment`. None, for those that ship with symmlib, where there is
    no such run, where `run` has a step of its own for that, which failed, and where nothing is routed.
    """
    for raw in (run.path / "raw" / "serving", run.path / "raw" / "accuracy"):
        if own := own_table(raw):
            return own
    routed = [arm for arm in experiment.arms if arm.is_routed]
    if not routed or "03_routing" in run.manifest["steps"]:
        return None
    needed = {(_device(experiment), mode, tp) for mode in _modes(experiment, routed) for tp in experiment.tp}
    for path in sorted(run.path.parent.glob(f"*/{FILE}"), reverse=True):
        with contextlib.suppress(UsageError):  # damaged, or of another version
            found = {(table.device, table.mode, table.world_size) for table in RoutingTable.load(path).tables}
            if needed <= found:
                say(f"the router obeys the table of run {path.parent.name}")
                return path
    return None


def _device(experiment: ServingExperiment) -> str:
    if server.platform() == "cpu":
        return "cpu"
    return routed_device() + (ONE_GPU if experiment.one_gpu else "")


def _modes(experiment: ServingExperiment, routed: list) -> set[str]:
    if server.platform() == "cpu":
        return {"eager"}
    return {"eager" if EAGER in (*experiment.server_args, *arm.server_args) else "graph" for arm in routed}
