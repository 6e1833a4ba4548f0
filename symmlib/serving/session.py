"""What a session of servers needs, found and checked before the first one starts, and how one of them is started.

`run` sends them requests by rate, `accuracy` items to solve.
"""

import re
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from symmlib import vllm_one_gpu
from symmlib.errors import SymmlibError
from symmlib.progress import say
from symmlib.provenance import environment, git, versions
from symmlib.routing import RoutingTable
from symmlib.runs import digest, timestamp, write_text
from symmlib.serving import claim, floor, server, workload
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.model import OURS, find_model
from symmlib.serving.routing_table import FILE, own_table
from symmlib.serving.turns import Turn

# Environment variables that may differ within an experiment: symmlib's own, which GPU it is, and where things are.
_MAY_DIFFER = re.compile(r"^SYMMLIB_|^CUDA_VISIBLE_DEVICES$|(CACHE|ROOT|HOME|PORT|PATH|DIR|RANK)$")
OUT_OF_TIME = "time is up (--within)"


class Session:
    """The servers of one experiment.

    `experiment` is what was asked for, less the arms that cannot run here (`left_out`, with their reasons). `failed`:
    the turns whose servers did not run to their end. `stopped`: why no more servers are started, in words that follow
    "10 of 20 servers have run, and"; empty while nothing stands against it. `of_all_servers`: changes to the
    environment of each. `devices`: the GPUs, or the CPU, that it holds, as `claim.devices` names them. `model_id`: what
    two experiments' models are told apart by.

    Raises `SymmlibError` where the baseline, the treatment, or this vLLM cannot serve what is asked for.
    """

    def __init__(self, experiment: ServingExperiment, raw: Path, routing_table: Path | None):
        self.raw = raw
        self.routing_table = routing_table = routing_table or own_table(raw)
        self.failed: dict[Turn, SymmlibError] = {}
        self.stopped = ""
        self.of_all_servers: dict[str, str] = {}
        self.kind = server.platform()
        if experiment.one_gpu and self.kind == "cuda" and (why := vllm_one_gpu.why_not()):
            raise SymmlibError(why)  # as each server would, after its start
        self.devices = claim.devices(self.kind, experiment.one_gpu)
        self.model = find_model(experiment.model, raw.parent / "model")
        # One of ours is made in every run, and is the same wherever that lies.
        self.model_id = experiment.model if experiment.model in OURS else self.model.name
        reasons = {arm.name: server.why_not(arm.all_reduce, self.kind, experiment.one_gpu) for arm in experiment.arms}
        self.left_out = {arm: why for arm, why in reasons.items() if why}
        self.experiment = self._without(experiment, self.left_out)
        for tp in experiment.tp:
            server.environment(self.model, experiment.arms[0], tp, self.kind, trace=raw)  # refuses what cannot run
        workload.dataset_arguments(experiment)
        self.table = RoutingTable.load(routing_table) if routing_table is not None else RoutingTable.builtin()
        self._table_text = routing_table.read_text(encoding="utf-8") if routing_table is not None else ""
        if any(arm.is_plugged for arm in self.experiment.arms) and not _plugin_installed():
            raise SymmlibError(
                "vLLM would not find symmlib's plug-in, because symmlib is not installed in this environment "
                f"({sys.prefix}). Install it there: pip install --no-deps -e ."
            )

    def keep_table(self) -> None:
        """Copy the routing table to where servers read it: whoever edits the original meanwhile changes no arm."""
        if self.routing_table is not None:
            self.routing_table = write_text(self.raw / FILE, self._table_text)

    def note(self) -> dict:
        """The experiment as raw/serving/experiment.json keeps it.

        `hash` is of its `identity`, all that makes its measurements: machine, code and versions too, but not how many
        blocks there are, what is compared with what, or how long one waits for a server. `environment`: see
        `turns.require_same_environment`.
        """
        said = {
            **self.experiment.as_dict(),
            "is_a_a": self.experiment.is_a_a,
            "workload": workload.in_words(self.experiment),
            "vllm": metadata.version("vllm"),
        }
        routed = any(arm.is_routed for arm in self.experiment.arms)
        key = floor.load_key(self.experiment, self.kind)
        identity = {
            "machine or load": key,
            "arms": [arm | {"blocks": 0} for arm in said["arms"]],
            "seed": said["seed"],
            "requests": said["workload"],
            "versions": versions(),
            "code": git()["revision"],
            "model": self.model_id,
            "routing table": self.table.digest if routed else "",
        }
        return {
            **said,
            "hash": digest([*identity.values()]),
            "identity": identity,
            "environment": self._inherited(),
            "load_key": key,
            "left_out": self.left_out,
            "at": timestamp(),
        }

    def _inherited(self) -> dict[str, str]:
        """What servers get of this process's environment as it is, as far as it may change what they do."""
        experiment = self.experiment
        ours = server.environment(
            self.model, experiment.arms[0], experiment.tp[0], self.kind, trace=self.raw, one_gpu=experiment.one_gpu
        )
        return {
            name: value
            for name, value in environment().items()
            if (name == server.KV_CACHE or name not in ours) and not _MAY_DIFFER.search(name)
        }

    def prepare(self, turn: Turn) -> server.Server:
        """A server for `turn` that imports, in a place that holds nothing of one that was prepared before."""
        shutil.rmtree(turn.place, ignore_errors=True)
        turn.trace.mkdir(parents=True)
        label = f"vLLM's server for {turn.arm.name} at TP={turn.tp}"
        env = {**self._environment(turn), claim.MARK: str(self.raw.resolve())}
        return server.Server(env, log=turn.place / "server.log", label=label)

    def _environment(self, turn: Turn) -> dict[str, str | None]:
        table = self.routing_table
        shared = self.experiment.one_gpu
        changes = server.environment(
            self.model, turn.arm, turn.tp, self.kind, trace=turn.trace, routing_table=table, one_gpu=shared
        )
        return changes | self.of_all_servers

    def start(self, running: server.Server, turn: Turn) -> str:
        """Let the server start; returns the same as a command for a shell."""
        port = self.experiment.port or server.free_port()
        argv = server.command(self.experiment, self.model, turn.arm, turn.tp, port, self.kind)
        running.start(argv, port)
        return server.shell(argv, self._environment(turn))

    def what_is_missing(self, ran: int, servers: int) -> str:
        """Why not all `servers` ran, and what to do."""
        told = [f"{turn.arm.name} at TP={turn.tp}, block {turn.block}: {error}" for turn, error in self.failed.items()]
        if told:
            told.insert(0, f"{len(told)} of the servers failed. What the others measured is kept.")
        if self.stopped:
            told.append(
                f"{ran} of {servers} servers have run, and {self.stopped}. What they measured is kept: take the same "
                "run up again, and it goes on with the rest."
            )
        return "\n".join(told)

    def _without(self, experiment: ServingExperiment, left_out: dict[str, str]) -> ServingExperiment:
        """`experiment` with those of its arms that can run here."""
        for role in ("baseline", "treatment"):
            if (arm := getattr(experiment, role)) in left_out:
                raise SymmlibError(f"the {role} {arm} cannot run here: {left_out[arm]}. Choose another {role}.")
        for arm, why in left_out.items():
            say(f"without {arm}: {why}")
        return replace(experiment, arms=tuple(arm for arm in experiment.arms if arm.name not in left_out))


def _plugin_installed() -> bool:
    return any(point.name == "symmlib" for point in metadata.entry_points(group="vllm.general_plugins"))
