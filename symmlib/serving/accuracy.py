"""Are the answers still right? Every arm's server is asked the same items by lm-eval, and the same greedy prompts.

`run_accuracy` starts one server for each arm, and the baseline's once more: what that differs from the first by is
noise. Beside results/ it leaves, untouched, under raw/accuracy/:

    experiment.json  task/<task>.yaml [train.jsonl test.jsonl]
    tp2-gloo/  server.log  commands.txt  trace/  agreement.json  lm_eval.log  lm_eval/<model>/{results,samples}_*
               turn.json
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from symmlib import deadline, patience
from symmlib.errors import SymmlibError, UsageError, unknown
from symmlib.live import Status, live
from symmlib.progress import duration, say
from symmlib.provenance import git, versions
from symmlib.runs import digest, timestamp, write_text
from symmlib.serving import accuracy_task, agreement, claim
from symmlib.serving.accuracy_results import write_results
from symmlib.serving.accuracy_task import Evaluator, Task
from symmlib.serving.arithmetic_model import SHOTS
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment, place_of
from symmlib.serving.model import describe
from symmlib.serving.server import Server, require_free
from symmlib.serving.session import OUT_OF_TIME, Session
from symmlib.serving.turns import WHOLE, Turn, take_up

AGAIN = "again"  # ends the name of the baseline that is served a second time
ITEM_S = 60  # the longest that an item may take, on average


@dataclass(frozen=True)
class AccuracyExperiment:
    """What is asked of which arms. Its fields are the parameters of the notebook 05_accuracy.

    `model`, `tp`, `arms`, `baseline`, `treatment`, `max_model_len`, `server_args`, `port`, `ready_timeout_s`: as
    `ServingExperiment` has them; `model` may be `arithmetic`, a small one that is trained here.
    `task`: gsm8k, or word_problems of this project's own, which also takes its place where gsm8k cannot be loaded.
    `data`: a directory with gsm8k's train.jsonl and test.jsonl, where there is no hub. `limit`: items;
    `num_fewshot`: worked examples before each; `concurrency`: items asked at a time; `max_new_tokens`: of an answer.
    `agreement_prompts`: of how many prompts the greedy answers are compared, each of `agreement_tokens` tokens.
    `seed`: of the word problems. Raises `UsageError` for anything it cannot mean.
    """

    model: str = "arithmetic"
    tp: tuple[int, ...] = (2,)
    arms: tuple[Arm, ...] = ("gloo", "router")
    baseline: str = "gloo"
    treatment: str = "router"
    task: str = accuracy_task.WORD_PROBLEMS
    data: str = ""
    limit: int = 100
    num_fewshot: int = SHOTS
    concurrency: int = 4
    max_new_tokens: int = 256
    agreement_prompts: int = 16
    agreement_tokens: int = 32
    max_model_len: int = 2048
    server_args: tuple[str, ...] = ()
    port: int = 0
    ready_timeout_s: float = 300
    seed: int = 0

    def __post_init__(self):
        if self.task not in accuracy_task.TASKS:
            raise unknown("task", str(self.task), accuracy_task.TASKS)
        if self.data and self.task != accuracy_task.GSM8K:
            raise UsageError(f"data is for the task {accuracy_task.GSM8K}; {self.task} makes its own.")
        least = {"limit": 2, "num_fewshot": 0, "concurrency": 2, "max_new_tokens": 1}
        for name, lowest in (least | {"agreement_prompts": 1, "agreement_tokens": 1}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise UsageError(f"{name} {value!r} is not a whole number of at least {lowest}.")
        object.__setattr__(self, "tp", self.serving.tp)
        object.__setattr__(self, "arms", self.serving.arms)
        object.__setattr__(self, "server_args", self.serving.server_args)

    @classmethod
    def of(cls, parameters: Mapping) -> "AccuracyExperiment":
        """From a mapping that holds its fields among others, such as a notebook's `globals()`."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in parameters.items() if name in names})

    @property
    def serving(self) -> ServingExperiment:
        """The same servers as a serving experiment starts them; it also checks what the two have in common."""
        common = {field.name for field in dataclasses.fields(ServingExperiment)}
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in common}
        least = {"blocks": 1, "tier": "smoke", "qps": (2,), "duration_s": 1, "input_len": 1, "output_len": 2}
        return ServingExperiment(**given, **least)

    @property
    def floor(self) -> tuple[str, str]:
        """The baseline, and what it is called where it is served again."""
        return self.baseline, f"{self.baseline[:50]} {AGAIN}"


def run_accuracy(experiment: AccuracyExperiment, out: Path, routing_table: Path | None = None) -> pd.DataFrame:
    """Run `experiment` and return its comparison (columns: `analysis.accuracy.COMPARISON_COLUMNS`).

    Writes `out/raw/accuracy/` and, in `out/results/` after every server, accuracy.csv, accuracy_items.csv,
    accuracy_comparison.csv, agreement.csv, agreement_summary.csv and this step's rows of gates.csv. Called again with
    the same experiment it goes on after the last server that ran to its end. `routing_table` and errors: as
    `run.run_experiment` has them.
    """
    raw, results = Path(out) / "raw" / "accuracy", Path(out) / "results"
    session = _Session(experiment, raw, routing_table)
    with claim.alone(session.devices, raw, holder=Path(out).resolve().name):
        claim.end_orphans(raw)
        turns = session.turns()
        left = take_up(turns, session.asked, raw, session.note())
        session.keep_table()
        done = [turn for turn in turns if turn not in left]
        with tempfile.TemporaryDirectory(prefix="symmlib-") as scratch:
            task = _find_task(experiment, raw, Path(scratch))
            comparison = write_results(session.asked, done, results)
            if left:
                with Evaluator(task, raw / "lm_eval.log", Path(scratch)) as evaluator, live() as status:
                    for turn in session.evaluate(left, task, evaluator, status):
                        done.append(turn)
                        comparison = write_results(session.asked, done, results)
    if len(done) < len(turns):
        raise SymmlibError(session.what_is_missing(len(done), len(turns)))
    return comparison


@dataclass(frozen=True)
class AccuracyTurn(Turn):
    """One server to ask."""

    @property
    def answers(self) -> Path:
        return self.place / "agreement.json"

    @property
    def output(self) -> Path:
        """Where lm-eval's results and samples are, below a directory that it names after the model."""
        return self.place / "lm_eval"

    def is_whole(self, experiment: AccuracyExperiment) -> bool:
        try:
            said = json.loads((self.place / WHOLE).read_text(encoding="utf-8"))
            there = any(self.output.rglob("samples_*.jsonl")) and self.answers.is_file()
            return there and (said["tp"], said["arm"]) == (self.tp, self.arm.name)
        except (OSError, ValueError, KeyError, TypeError):
            return False


class _Session(Session):
    """A serving session whose load is lm-eval. `asked`: the experiment with those of its arms that can run here."""

    def __init__(self, experiment: AccuracyExperiment, raw: Path, routing_table: Path | None):
        super().__init__(experiment.serving, raw, routing_table)
        self.asked = dataclasses.replace(experiment, arms=self.experiment.arms)

    def turns(self) -> list[AccuracyTurn]:
        """The baseline first, the others, and the baseline again."""
        arms = {arm.name: arm for arm in self.asked.arms}
        first = arms.pop(self.asked.baseline)
        again = dataclasses.replace(first, name=self.asked.floor[1])
        return [
            AccuracyTurn(1, tp, arm, self.raw / f"tp{tp}-{place_of(arm.name)}")
            for tp in self.asked.tp
            for arm in (first, *arms.values(), again)
        ]

    def note(self) -> dict:
        """The experiment as raw/accuracy/experiment.json keeps it; `hash` is of all that makes its answers."""
        said = dataclasses.asdict(self.asked) | {"arms": [arm.as_dict() for arm in self.asked.arms]}
        loose = ("baseline", "treatment", "ready_timeout_s", "port")
        kept = [{name: value for name, value in said.items() if name not in loose}, versions(), git()["revision"]]
        kept += [self.model_id, self.table.digest, metadata.version("lm_eval")]
        lm_eval = metadata.version("lm_eval")
        return {**said, "lm_eval": lm_eval, "hash": digest(kept), "left_out": self.left_out, "at": timestamp()}

    def evaluate(self, turns: list[AccuracyTurn], task: Task, evaluator: Evaluator, status: Status):
        """Ask server after server; yields each turn when it is whole. The next server imports meanwhile.

        The first one starts whatever time is left: nothing is known of how long one takes.
        """
        say(f"{describe(self.model)}; {self.asked.limit} items of {task.name}; {len(turns)} servers to start")
        if self.asked.port:
            require_free(self.asked.port)
        began = time.monotonic()
        with ExitStack() as stack:
            standby = stack.enter_context(self.prepare(turns[0]))
            for number, turn in enumerate(turns):
                server_s = (time.monotonic() - began) / max(number, 1)
                if deadline.left_s() < (server_s if number else 0):
                    say(f"no server more: {duration(server_s)} are not left")
                    self.stopped = OUT_OF_TIME
                    return
                left_s = server_s * (len(turns) - number) if number else None
                rest = f" (about {duration(left_s)} left)" if left_s else ""
                place = f"server {number + 1} of {len(turns)}, {turn.arm.name}, TP={turn.tp}"
                say(f"{place}{rest}")
                status.update(f"{place}: it starts", left_s)
                with standby as running:
                    running.wait_until_imported(self.asked.ready_timeout_s)
                    commands = [self.start(running, turn)]
                    if number + 1 < len(turns):
                        standby = stack.enter_context(self.prepare(turns[number + 1]))
                    ready_s = running.wait_until_ready(self.asked.ready_timeout_s)
                    evaluator.wait_until_ready()
                    commands.append(
                        self._ask(running, turn, task, evaluator, lambda text, p=place: status.update(f"{p}: {text}"))
                    )
                write_text(turn.place / "commands.txt", "\n".join(commands) + "\n")
                turn.finish(ready_s=round(ready_s, 1), task=task.name)
                yield turn

    def _ask(self, running: Server, turn: AccuracyTurn, task: Task, evaluator: Evaluator, show) -> str:
        """Keep greedy answers and lm-eval's samples of a server; returns the latter as a command for a shell."""
        asked = {
            "url": running.url,
            "model": self.model.name,
            "limit": self.asked.limit,
            "shots": self.asked.num_fewshot,
            "concurrency": self.asked.concurrency,
            "max_new_tokens": self.asked.max_new_tokens,
            "output": str(turn.output.resolve()),
        }
        try:
            show("greedy answers")
            agreement.ask(
                running.url, self.model, self.asked.agreement_prompts, self.asked.agreement_tokens, turn.answers
            )
            timeout_s = patience.seconds(600 + ITEM_S * self.asked.limit)
            evaluator.evaluate(
                asked, turn.place / "lm_eval.log", timeout_s, lambda count: show(f"{count} of {self.asked.limit} items")
            )
        finally:
            running.check()  # a server that died says why, better than its client does
        return accuracy_task.shell(task, asked)


def _find_task(experiment: AccuracyExperiment, raw: Path, scratch: Path) -> Task:
    """The task, or word problems in its place where it cannot be loaded, and for servers that follow in this run."""
    place = raw / "task"
    instead = (place / f"{accuracy_task.WORD_PROBLEMS}.yaml").is_file()
    task = accuracy_task.prepare(
        experiment.task, place, items=experiment.limit, data=experiment.data, seed=experiment.seed
    )
    if task.local or not instead and accuracy_task.reachable(task, place / "load.log", scratch):
        return task
    say(f"{accuracy_task.WORD_PROBLEMS} of this project's own take the place of {task.name}")
    return accuracy_task.prepare(accuracy_task.WORD_PROBLEMS, place, items=experiment.limit, seed=experiment.seed)
