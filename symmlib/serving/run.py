"""The experiment, from the first server to the comparison: blocks, arms, rates.

In a block every arm runs once, in a random order that is balanced over blocks, each on a fresh server that serves all
rates. What a tool wrote stays as it is under raw/serving/:

    block-1/tp2-gloo/   server.log  commands.txt  greedy.json  trace/rank-<r>.json
                        warmup.json  qps-4.json  qps-4.log  ...
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.errors import SymmlibError
from symmlib.progress import duration, say
from symmlib.routing import RoutingTable
from symmlib.runs import write_csv, write_json, write_text
from symmlib.serving import gates, load, server
from symmlib.serving.experiment import VLLM_DEFAULT, ServingExperiment
from symmlib.serving.gates import Measurement
from symmlib.serving.model import describe, find_model


def run_experiment(experiment: ServingExperiment, out: Path, routing_table: Path | None = None) -> pd.DataFrame:
    """Run `experiment` and return its comparison (columns: `analysis.serving.COMPARISON_COLUMNS`).

    `routing_table`: the file that the router follows; None means the run's own `out/routing.toml`, where there is one,
    else the built-in tables. Writes `out/raw/serving/` and, in `out/results/`, serving.csv, serving_summary.csv,
    comparison.csv and gates.csv: after every server, so that an error or an interruption, which end the server, cost no
    more than what was running. An arm that this machine lacks is left out, with its reason in
    raw/serving/experiment.json.

    Raises `UsageError` for what cannot run here, `SymmlibError` for a server or a load generator that fails, and for a
    baseline or treatment that this machine lacks.
    """
    raw, results = Path(out) / "raw" / "serving", Path(out) / "results"
    own_table = Path(out) / "routing.toml"
    session = _Session(experiment, raw, routing_table or (own_table if own_table.is_file() else None))
    session.clear()
    write_json(raw / "experiment.json", {**experiment.as_dict(), "left_out": session.left_out})
    comparison = write_results(session.experiment, [], results)
    with load.Client(raw / "client.log") as client:
        for measured in session.servers(client):
            comparison = write_results(session.experiment, measured, results)
    return comparison


def write_results(experiment: ServingExperiment, measured: list[Measurement], results: Path) -> pd.DataFrame:
    """Write the tables and gates of what was `measured`; returns the comparison."""
    checked = gates.check(measured)
    requests, summaries = [], []
    for m in measured:
        place = {"block": m.block, "arm": m.arm, "tp": m.tp, "qps": m.qps}
        requests.append(m.requests.assign(**place))
        summaries.append(analysis.summarize(m.result).assign(**place))
    summary = _concat(summaries, analysis.SUMMARY_COLUMNS)
    comparison = analysis.compare(summary, experiment.pairs(), tier=experiment.tier, invalid=checked.invalid)
    write_csv(results / "serving.csv", _concat(requests, analysis.REQUEST_COLUMNS))
    write_csv(results / "serving_summary.csv", summary)
    write_csv(results / "comparison.csv", comparison)
    write_csv(results / "gates.csv", checked.frame())
    return comparison


@dataclass(frozen=True)
class _Turn:
    """One server to run: an arm in a block."""

    block: int
    tp: int
    arm: str
    place: Path

    @property
    def trace(self) -> Path:
        return self.place / "trace"


class _Session:
    """One running experiment: what there is to do, and what it needs for that."""

    def __init__(self, experiment: ServingExperiment, raw: Path, routing_table: Path | None):
        self.raw = raw
        self.routing_table = routing_table
        self.kind = server.platform()
        self.model = find_model(experiment.model, raw.parent / "model")
        self.left_out = {arm: why for arm in experiment.arms if (why := server.why_not(arm, self.kind))}
        self.experiment = self._without(experiment, self.left_out)
        for tp in experiment.tp:
            server.environment(self.model, "router", tp, self.kind, trace=raw)  # refuses what cannot run
        if routing_table is not None:
            RoutingTable.load(routing_table)  # a typo in it would else be found by a server, a minute later
        if any(arm != VLLM_DEFAULT for arm in self.experiment.arms) and not _plugin_installed():
            raise SymmlibError(
                "vLLM would not find symmlib's plug-in, because symmlib is not installed in this environment "
                f"({sys.prefix}). Install it there: pip install --no-deps -e ."
            )

    def clear(self) -> None:
        """Remove what an earlier experiment left; only now that this one is known to be sound."""
        shutil.rmtree(self.raw, ignore_errors=True)

    def servers(self, client: load.Client) -> Iterator[list[Measurement]]:
        """Run server after server; yields everything measured so far after each.

        The process of the next server does its imports while this one starts, and then waits.
        """
        turns = self._turns()
        rates = " and ".join(f"{qps:g}" for qps in self.experiment.qps)
        say(f"{describe(self.model)}; {len(turns)} servers to start, {rates} requests/s on each")
        measured: list[Measurement] = []
        began = time.monotonic()
        with ExitStack() as stack:
            standby = stack.enter_context(self._prepare(turns[0]))
            for number, turn in enumerate(turns):
                left_s = (time.monotonic() - began) / number * (len(turns) - number) if number else None
                rest = f" (about {duration(left_s)} left)" if left_s else ""
                place = f"block {turn.block} of {self.experiment.blocks}, server {number + 1} of {len(turns)}"
                say(f"{place}: {turn.arm}{rest}")
                with standby as running:
                    running.wait_until_imported()
                    commands = [self._start(running, turn)]
                    if number + 1 < len(turns):
                        standby = stack.enter_context(self._prepare(turns[number + 1]))
                    ready_s = running.wait_until_ready(self.experiment.ready_timeout_s)
                    client.wait_until_ready()
                    standby.wait_until_imported()
                    say(f"  ready after {ready_s:.0f} s")
                    commands += self._load(running, client, turn)
                write_text(turn.place / "commands.txt", "\n".join(commands) + "\n")
                measured += [
                    Measurement(turn.block, turn.arm, turn.tp, qps, turn.place / f"{_name(qps)}.json", turn.trace)
                    for qps in self.experiment.qps
                ]
                yield measured

    def _turns(self) -> list[_Turn]:
        return [
            _Turn(block, tp, arm, self.raw / f"block-{block}" / f"tp{tp}-{arm.replace('/', '-')}")
            for block, order in enumerate(self.experiment.orders(), 1)
            for tp in self.experiment.tp
            for arm in order
        ]

    def _prepare(self, turn: _Turn) -> server.Server:
        turn.trace.mkdir(parents=True)
        label = f"vLLM's server for {turn.arm} at TP={turn.tp}"
        return server.Server(self._environment(turn), log=turn.place / "server.log", label=label)

    def _environment(self, turn: _Turn) -> dict[str, str | None]:
        table = self.routing_table
        return server.environment(self.model, turn.arm, turn.tp, self.kind, trace=turn.trace, routing_table=table)

    def _start(self, running: server.Server, turn: _Turn) -> str:
        """Let the server start; returns the same as a command for a shell."""
        port = self.experiment.port or server.free_port()
        argv = server.command(self.experiment, self.model, turn.arm, turn.tp, port, self.kind)
        running.start(argv, port)
        return server.shell(argv, self._environment(turn))

    def _load(self, running: server.Server, client: load.Client, turn: _Turn) -> list[str]:
        """Warm up, keep greedy answers, and send every rate's schedule; returns the same as commands for a shell."""
        commands = []
        warmup = (max(self.experiment.qps), None, "warmup")
        for qps, block, name in [warmup, *((qps, turn.block, _name(qps)) for qps in self.experiment.qps)]:
            if block:
                say(f"  {qps:g} requests/s for {duration(self.experiment.duration_s)}")
            arguments = load.bench_arguments(
                self.experiment, self.model, running.url, qps, block, turn.place / f"{name}.json",
                {"arm": turn.arm, "tp": turn.tp, "block": turn.block},
            )  # fmt: skip
            commands.append(load.shell(arguments))
            try:
                client.bench(arguments, turn.place / f"{name}.log", timeout_s=3 * self.experiment.duration_s + 300)
            finally:
                running.check()  # a server that died says why, better than the client does
            if not block:
                load.store_greedy(running.url, self.model, turn.place / "greedy.json")
        return commands

    def _without(self, experiment: ServingExperiment, left_out: dict[str, str]) -> ServingExperiment:
        """`experiment` with those of its arms that can run here."""
        for role in ("baseline", "treatment"):
            if (arm := getattr(experiment, role)) in left_out:
                raise SymmlibError(f"the {role} {arm} cannot run here: {left_out[arm]}. Choose another {role}.")
        for arm, why in left_out.items():
            say(f"without {arm}: {why}")
        return replace(experiment, arms=tuple(arm for arm in experiment.arms if arm not in left_out))


def _name(qps: float) -> str:
    return f"qps-{qps:g}"


def _plugin_installed() -> bool:
    return any(point.name == "symmlib" for point in entry_points(group="vllm.general_plugins"))


def _concat(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
