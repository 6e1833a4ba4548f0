"""The experiment, from the first server to the comparison: blocks, arms, rates.

In a block every arm runs once, in a random order that is balanced over blocks, each on a fresh server that serves all
rates. What a tool wrote stays as it is under raw/serving/:

    block-1/tp2-gloo/   server.log  commands.txt  greedy.json  trace/rank-<r>.json
                        warmup.json  qps-4.json  qps-4.log  ...
"""

import shutil
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.errors import SymmlibError
from symmlib.progress import duration, say
from symmlib.runs import write_csv, write_json, write_text
from symmlib.serving import gates, load, server
from symmlib.serving.experiment import VLLM_DEFAULT, ServingExperiment
from symmlib.serving.gates import Measurement
from symmlib.serving.model import describe, find_model


def run_experiment(experiment: ServingExperiment, out: Path, routing_table: Path | None = None) -> pd.DataFrame:
    """Run `experiment` and return its comparison (columns: `analysis.serving.COMPARISON_COLUMNS`).

    `routing_table`: the file that the router follows; None means the built-in tables. Writes `out/raw/serving/` and, in
    `out/results/`, serving.csv, serving_summary.csv, comparison.csv and gates.csv: after every server, so that an error
    or an interruption, which end the server, cost no more than what was running.

    Raises `UsageError` for what cannot run here, `SymmlibError` for a server or a load generator that fails.
    """
    raw = Path(out) / "raw" / "serving"
    shutil.rmtree(raw, ignore_errors=True)
    write_json(raw / "experiment.json", experiment.as_dict())
    session = _Session(experiment, raw, routing_table)
    session.require()
    comparison = write_results(experiment, [], Path(out) / "results")
    with load.Client(raw / "client.log") as client:
        for measured in session.servers(client):
            comparison = write_results(experiment, measured, Path(out) / "results")
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


class _Session:
    """The state of one running experiment: what there is to do, what is measured, and how long it takes."""

    def __init__(self, experiment: ServingExperiment, raw: Path, routing_table: Path | None):
        self.experiment = experiment
        self.raw = raw
        self.routing_table = routing_table
        self.kind = server.platform()
        self.model = find_model(experiment.model, raw / "model")
        self.measured: list[Measurement] = []

    def require(self) -> None:
        """Raise what can be known before a server starts."""
        if any(arm != VLLM_DEFAULT for arm in self.experiment.arms) and not _plugin_installed():
            raise SymmlibError(
                "vLLM would not find symmlib's plug-in, because symmlib is not installed in this environment "
                f"({sys.prefix}). Install it there: pip install --no-deps -e ."
            )
        for tp in self.experiment.tp:
            self._environment("router", tp, self.raw)

    def servers(self, client: load.Client):
        """Run server after server; yields everything measured so far after each."""
        todo = [
            (block, tp, arm)
            for block, order in enumerate(self.experiment.orders(), 1)
            for tp in self.experiment.tp
            for arm in order
        ]
        rates = " and ".join(f"{qps:g}" for qps in self.experiment.qps)
        say(f"{describe(self.model)}; {len(todo)} servers to start, {rates} requests/s on each")
        started = time.monotonic()
        for number, (block, tp, arm) in enumerate(todo):
            left = (time.monotonic() - started) / number * (len(todo) - number) if number else None
            rest = f" (about {duration(left)} left)" if left else ""
            place = f"block {block} of {self.experiment.blocks}, server {number + 1} of {len(todo)}"
            say(f"{place}: {arm} at TP={tp}{rest}")
            self.measured += self._measure(client, block, tp, arm)
            yield self.measured

    def _measure(self, client: load.Client, block: int, tp: int, arm: str) -> list[Measurement]:
        """One server: start, warm-up, every rate, end."""
        place = self.raw / f"block-{block}" / f"tp{tp}-{arm.replace('/', '-')}"
        place.mkdir(parents=True)
        trace = place / "trace"
        trace.mkdir()
        port = self.experiment.port or server.free_port()
        argv = server.command(self.experiment, self.model, arm, tp, port, self.kind)
        env = self._environment(arm, tp, trace)
        commands = [server.shell(argv, env)]
        measured = []
        label = f"vLLM's server for {arm} at TP={tp}"
        with server.Server(argv, env, port=port, log=place / "server.log", label=label) as running:
            ready_s = running.wait_until_ready(self.experiment.ready_timeout_s)
            client.wait_until_ready()
            say(f"  ready after {ready_s:.0f} s; warming up")
            rates = [(qps, block, f"qps-{qps:g}") for qps in self.experiment.qps]
            for qps, schedule, name in [(max(self.experiment.qps), None, "warmup"), *rates]:
                if schedule:
                    say(f"  {qps:g} requests/s for {duration(self.experiment.duration_s)}")
                arguments = load.bench_arguments(
                    self.experiment, self.model, running.url, qps, schedule, place / f"{name}.json",
                    {"arm": arm, "tp": tp, "block": block},
                )  # fmt: skip
                commands.append(load.shell(arguments))
                try:
                    client.bench(arguments, place / f"{name}.log", timeout_s=3 * self.experiment.duration_s + 300)
                finally:
                    running.check()  # a server that died says why better than the client does
                if schedule:
                    measured.append(Measurement(block, arm, tp, qps, place / f"{name}.json", trace))
                else:
                    load.store_greedy(running.url, self.model, place / "greedy.json")
        write_text(place / "commands.txt", "\n".join(commands) + "\n")
        return measured

    def _environment(self, arm: str, tp: int, trace: Path) -> dict:
        return server.environment(self.model, arm, tp, self.kind, trace=trace, routing_table=self.routing_table)


def _plugin_installed() -> bool:
    return any(point.name == "symmlib" for point in entry_points(group="vllm.general_plugins"))


def _concat(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
