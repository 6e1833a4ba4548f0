"""The experiment, from the first server to the comparison: blocks, arms, rates.

In a block every arm runs once, in a random order that is balanced over blocks, each on a fresh server that serves all
rates. What a tool wrote stays as it is under raw/serving/:

    experiment.json
    block-1/tp2-gloo/   server.log  commands.txt  greedy.json  trace/rank-<r>.json  turn.json
                        warmup.json  qps-4.json  qps-4.schedule.json  qps-4.log  ...
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd

from symmlib import deadline, patience
from symmlib.errors import SymmlibError, UsageError
from symmlib.live import Status, live
from symmlib.mps import mps
from symmlib.progress import duration, say
from symmlib.runs import timestamp, write_json, write_text
from symmlib.serving import agreement, claim, estimate, floor, load, server
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.gates import THROTTLED
from symmlib.serving.model import describe
from symmlib.serving.parts import ALL, Part
from symmlib.serving.prediction import predict
from symmlib.serving.results import write_agreement, write_results
from symmlib.serving.session import OUT_OF_TIME, Session
from symmlib.serving.shown import Shown, Slowed
from symmlib.serving.turns import (
    Turn,
    all_turns,
    is_same,
    rate_name,
    require_all_blocks,
    require_same_environment,
    take_up,
)

GREEDY_PROMPTS, GREEDY_TOKENS = 32, 16  # asked in block 1, so that answers can be compared from arm to arm
ANSWERS_S = 300  # for the answers to a rate, beyond three times what it takes to send it


def run_experiment(
    experiment: ServingExperiment, out: Path, routing_table: Path | None = None, part: Part = ALL
) -> pd.DataFrame:
    """Run `experiment`, or `part` of it, and return its comparison (columns: `analysis.serving.COMPARISON_COLUMNS`).

    `routing_table`: the file that the router follows; None means the run's own `out/routing.toml`, where there is one,
    else what it followed here before, else the built-in tables. Writes `out/raw/serving/` and, in `out/results/`,
    serving.csv, serving_summary.csv, comparison.csv, gates.csv, prediction.csv and, if an A/A experiment of this load
    is there, noise_floor.csv: after every server, so that an error or an interruption, which end the server, cost no
    more than what was running. Called again with the same experiment, or more blocks of it, it goes on after the last
    server that ran to its end. An arm that this machine lacks is left out, with its reason in
    raw/serving/experiment.json.

    Raises `UsageError` for what cannot run here, for fewer blocks or other environment variables than it has run with,
    and while another experiment holds these GPUs; `SymmlibError` for a baseline, a treatment or (where ranks share a
    GPU) a vLLM that this machine lacks, and for a server or a load generator that fails: in the end, when the other
    arms have run, and are in the results. The arm that failed is a gate's failure there; called again with the same
    experiment, it gets another try. `SymmlibError` also where `deadline` left no time for all servers of the part.
    """
    raw, results = Path(out) / "raw" / "serving", Path(out) / "results"
    if (raw / "imported").exists():
        raise UsageError(f"{out} holds what was imported. Choose another directory to measure into.")
    session = _Session(experiment, raw, routing_table)
    with claim.alone(session.devices, raw, holder=Path(out).resolve().name):
        claim.end_orphans(raw)
        experiment, turns, note = session.experiment, all_turns(session.experiment, raw), session.note()
        ours = part.turns(turns)
        if is_same(raw, note):
            require_all_blocks(experiment, raw)
            require_same_environment(raw, note)
        missing = take_up(turns, experiment, raw, note)
        session.keep_table()
        done = [turn for turn in turns if turn not in missing]
        left = [turn for turn in ours if turn in missing]
        if len(left) < len(ours):
            say(f"{len(ours) - len(left)} of {len(ours)} servers have run already: going on with the rest")
        # What judges others is not judged by itself, nor by an older one of its kind.
        noise = None if experiment.is_a_a else floor.find(experiment, session.kind, raw)
        measured = [one for turn in done for one in turn.measurements(experiment)]

        def write() -> pd.DataFrame:
            write_agreement(experiment, done, results)
            comparison = write_results(experiment, measured, results, noise, session.failed)
            predict(out)
            return comparison

        comparison = write()
        if left:
            session.knows(done)
            try:
                with live() as status:
                    for turn in session.run(left, status):
                        done.append(turn)
                        measured += turn.measurements(experiment)
                        comparison = write()
            except BaseException:
                with suppress(SymmlibError):  # what ended it is told
                    write()
                raise
            if session.failed:
                write()
            if any(turn not in done for turn in ours):
                raise SymmlibError(session.what_is_missing(sum(turn in done for turn in ours), len(ours)))
        if experiment.is_a_a and len(done) == len(turns):
            floor.measured(comparison, f"A/A of {experiment.baseline} in {Path(out).resolve().name}", results)
    return comparison


class _Session(Session):
    """A session whose load is requests at every rate."""

    def __init__(self, experiment: ServingExperiment, raw: Path, routing_table: Path | None):
        super().__init__(experiment, raw, routing_table)
        self._estimate = estimate.Estimate(self.experiment, self.kind)
        self._helpers = ExitStack()
        self._client: load.Client | None = None
        self._standby: tuple[Turn, server.Server] | None = None

    def knows(self, done: list[Turn]) -> None:
        """Estimate by what earlier servers of this experiment took."""
        for turn in done:
            self._estimate.took(turn, turn.ready_s + estimate.load_s(self.experiment))

    def run(self, turns: list[Turn], status: Status) -> Iterator[Turn]:
        """Run server after server; yields each turn when it is whole.

        The process of the next server does its imports while this one starts, and then waits. An arm whose server fails
        (`failed`) is not tried again in later blocks: a server that cannot start would cost its time-out each time.
        """
        rates = " and ".join(f"{qps:g}" for qps in self.experiment.qps)
        say(f"{describe(self.model)}; {len(turns)} servers to start, {rates} requests/s on each")
        if self.experiment.port:
            server.require_free(self.experiment.port)  # now, and not after the first server's imports
        left, number = list(turns), 0
        with ExitStack() as stack:
            stack.callback(self._end_helpers)
            self._start_helpers()
            while left:
                if deadline.left_s() < (server_s := self._estimate.of(left[0])):
                    say(f"no server more: {duration(server_s)} are not left")
                    self.stopped = OUT_OF_TIME
                    return
                left_s = self._estimate.of(*left) if self._estimate.is_measured else None
                turn, *left = left
                number += 1
                place = f"block {turn.block} of {self.experiment.blocks}, server {number} of {number + len(left)}"
                say(f"{place}: {turn.arm.name}" + (f" (about {duration(left_s)} left)" if left_s else ""))
                place += f", {turn.arm.name}, TP={turn.tp}"
                status.update(f"{place}: its server starts", left_s)
                try:
                    self._serve(turn, left, Shown(status, place))
                except UsageError:  # such as a full disk, which the next arm would meet as well
                    raise
                except SymmlibError as error:
                    say(f"{turn.arm.name} failed: {error}")
                    self.failed[turn] = error
                    left = [one for one in left if (one.tp, one.arm) != (turn.tp, turn.arm)]
                    self._end_helpers()
                    try:
                        if left:
                            self._start_helpers()
                    except SymmlibError as none_left:
                        self.stopped = f"the rest could not: {none_left}"
                        return
                else:
                    yield turn

    def _start_helpers(self) -> None:
        """What servers share: the MPS, where their ranks share a GPU, and the load generator."""
        if self.experiment.one_gpu:
            number = sum(1 for _ in self.raw.glob("mps-*")) + 1
            self.of_all_servers = self._helpers.enter_context(mps(self.raw / f"mps-{number}"))
        self._client = self._helpers.enter_context(load.Client(self.raw / "client.log"))

    def _end_helpers(self) -> None:
        """End them, and first any server that is left: after a failure the client may still be sending, and a rank that
        died may have left the MPS in no usable state."""
        self._standby = None
        self._helpers.close()

    def _serve(self, turn: Turn, following: list[Turn], shown: Shown) -> None:
        """Start the server of `turn`, send it all rates, end it; that of the next turn imports meanwhile."""
        began, began_at = time.monotonic(), timestamp()
        patience_s, standby = self.experiment.ready_timeout_s, self._standby
        self._standby = None
        is_ready = standby is not None and standby[0] == turn
        with standby[1] if is_ready else self._helpers.enter_context(self.prepare(turn)) as running:
            running.wait_until_imported(patience_s)
            commands = [self.start(running, turn)]
            if following:
                self._standby = following[0], self._helpers.enter_context(self.prepare(following[0]))
            ready_s = running.wait_until_ready(patience_s)
            self._client.wait_until_ready()
            if self._standby:
                with suppress(SymmlibError):  # its own turn tells of it
                    self._standby[1].wait_until_imported(patience_s)
            say(f"  ready after {ready_s:.0f} s")
            shown.ends = time.monotonic() + estimate.load_s(self.experiment) + self._estimate.of(*following)
            commands += self._load(running, turn, shown)
        self._estimate.took(turn, time.monotonic() - began)
        turn.require_whole(self.experiment)
        write_text(turn.place / "commands.txt", "\n".join(commands) + "\n")
        turn.finish(
            ready_s=round(ready_s, 1), seed=self.experiment.block_seed(turn.block), began=began_at, devices=self.devices
        )

    def _load(self, running: server.Server, turn: Turn, shown: Shown) -> list[str]:
        """Warm up, keep greedy answers, and send every rate's schedule; returns the same as commands for a shell."""
        commands = []
        warmup = (max(self.experiment.qps), None, "warmup")
        for qps, block, name in [warmup, *((qps, turn.block, rate_name(qps)) for qps in self.experiment.qps)]:
            if block:
                say(f"  {qps:g} requests/s for {duration(self.experiment.duration_s)}")
            arguments = load.bench_arguments(
                self.experiment, self.model, running.url, qps, block, turn.place / f"{name}.json",
                {"arm": turn.arm.name, "tp": turn.tp, "block": turn.block},
            )  # fmt: skip
            commands.append(load.shell(arguments))
            cell = f"QPS {qps:g}" if block else "warm-up"
            timeout_s = 3 * self.experiment.duration_s + patience.seconds(ANSWERS_S)
            slowed = Slowed(self.devices) if self.kind == "cuda" else None
            count = shown.counting(cell, load.requests_of(arguments), slowed)
            try:
                self._client.bench(arguments, turn.place / name, timeout_s, count)
            except SymmlibError as error:
                running.check()  # a server that died says why, better than the client does
                raise SymmlibError(f"{running.label}, {cell}: {error}{running.dump_stacks()}") from None
            running.check()
            if not block:
                if turn.block == 1:
                    agreement.ask(running.url, self.model, GREEDY_PROMPTS, GREEDY_TOKENS, turn.greedy)
            elif slowed and slowed.was_asked:
                write_json(turn.place / f"{name}{THROTTLED}", sorted(slowed.reasons))
        return commands
