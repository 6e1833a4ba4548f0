"""The task that lm-eval runs: gsm8k as lm-eval defines it, on gsm8k itself or on word problems of this project's own.

The definition (prompt, few-shot, stop strings, both filters, metric) is the file of the installed lm-eval; what is
changed is where the data come from. `accuracy` calls this.
"""

import importlib.util
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from symmlib.errors import SymmlibError, UsageError
from symmlib.progress import say
from symmlib.runs import write_text
from symmlib.serving import load, word_problems

GSM8K, WORD_PROBLEMS = "gsm8k", "word_problems"
TASKS = (GSM8K, WORD_PROBLEMS)
PROGRAM = Path(__file__).with_name("accuracy_program.py")
LOAD_S = 900  # to load the task, a download of some megabytes included


@dataclass(frozen=True)
class Task:
    """`name`: what lm-eval calls it; `place`: the directory of its YAML; `local`: its data need no hub."""

    name: str
    place: Path
    local: bool


def prepare(name: str, place: Path, *, items: int, data: str = "", seed: int = 0) -> Task:
    """Write the task `name` into the directory `place`, with the data of `word_problems` if it is that.

    `data`: for gsm8k, a directory with train.jsonl and test.jsonl in its format, where no hub can be reached.
    Raises `UsageError` for one that lacks them, `SymmlibError` where lm-eval is not installed.
    """
    definition = yaml.safe_load(_gsm8k().read_text(encoding="utf-8"))
    source = None
    if name == WORD_PROBLEMS:
        source = word_problems.write(place, items, seed)
    elif data:
        source = Path(data).expanduser().resolve()
    if source:
        files = {"train": source / word_problems.TRAIN, "test": source / word_problems.TEST}
        for path in files.values():
            if not path.is_file():
                raise UsageError(f"data {data!r:.200} holds no {path.name}. Give a directory with both of gsm8k's.")
        definition |= {"dataset_path": "json", "dataset_name": None}
        definition["dataset_kwargs"] = {"data_files": {split: str(path) for split, path in files.items()}}
    definition["task"] = name
    write_text(place / f"{name}.yaml", yaml.safe_dump(definition, sort_keys=False, allow_unicode=True))
    return Task(name, place, local=source is not None)


class Evaluator:
    """A process that runs lm-eval on servers when asked; it starts at once and imports in the background.

    Its data cache is the directory `scratch`. Leaving the context ends it.
    """

    def __init__(self, task: Task, log: Path, scratch: Path):
        self.task = task
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE") if task.local else ()
        env: dict[str, str | None] = {
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            **dict.fromkeys(offline, "1"),
        }
        if task.local:
            env["HF_DATASETS_CACHE"] = str(scratch)
        self._client = load.Client(log, PROGRAM, env)

    def load(self, log: Path) -> None:
        """Load the task alone; raises `SymmlibError` if that fails, such as for want of a hub."""
        job = {"task": self.task.name, "tasks": str(self.task.place)}
        self._client.do(job, log, LOAD_S, f"loading the task {self.task.name}")

    def evaluate(self, asked: dict, log: Path, timeout_s: float, on_progress) -> None:
        """Ask one server; `asked` holds what `accuracy_program.job` takes, but for the task."""
        job = {"task": self.task.name, "tasks": str(self.task.place), **asked}
        self._client.do(job, log, timeout_s, "lm-eval", on_progress)

    def wait_until_ready(self) -> None:
        """Wait until it has imported lm-eval."""
        self._client.wait_until_ready()

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *exception) -> None:
        self._client.end()


def reachable(task: Task, log: Path, scratch: Path) -> bool:
    """Whether lm-eval can load the task here; says why not."""
    try:
        with Evaluator(task, log.with_suffix(".client.log"), scratch) as evaluator:
            evaluator.load(log)
        return True
    except SymmlibError as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        say(f"the task {task.name} cannot be loaded here: {said[-1][:200]}")
        return False


def shell(task: Task, asked: dict) -> str:
    """One line for a shell that evaluates the same."""
    model = f"model={asked['model']},base_url={asked['url']}/v1/completions,num_concurrent={asked['concurrency']}"
    model += f",max_gen_toks={asked['max_new_tokens']},tokenized_requests=False,tokenizer_backend=None"
    argv = ["lm_eval", "run", "--model", "local-completions", "--model_args", model]
    argv += ["--include_path", os.path.relpath(task.place), "--tasks", task.name, "--num_fewshot", str(asked["shots"])]
    argv += ["--limit", str(asked["limit"]), "--log_samples", "--output_path", os.path.relpath(asked["output"])]
    offline = "HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 " if task.local else ""
    return f"env {offline}OPENAI_API_KEY=none {shlex.join(argv)}"


def _gsm8k() -> Path:
    """lm-eval's own definition, found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    for place in spec.submodule_search_locations if spec else []:
        if (path := Path(place) / "tasks" / "gsm8k" / "gsm8k.yaml").is_file():
            return path
    raise SymmlibError(
        "lm-eval is not installed here, or has no task gsm8k: run `make setup`, or install lm-eval[api]."
    )
