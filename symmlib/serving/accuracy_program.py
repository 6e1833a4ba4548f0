"""What lm-eval is asked for one server, and how: `client` runs `job` in a fork of a process that has imported lm-eval.

The same as the command in the job's `command`, which a person can repeat, but for two things that cost seconds on every
server: the index of lm-eval's thousands of tasks is not made, and pip is not asked again what is installed.
"""

from pathlib import Path

import lm_eval
import lm_eval.evaluator
import lm_eval.models.openai_completions  # for the import alone
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

TOKEN_LIMIT = 1 << 20  # lm-eval cuts prompts longer than this on the left; ours are checked by the server instead


def job(given: dict) -> None:
    """Load the task, which may download it; then, with an `url`, ask the server there and write results and samples.

    `given`: `tasks` (the directory of the task's YAML), `task`, and for a server `url`, `model`, `limit`, `shots`,
    `concurrency`, `max_new_tokens`, `output` (a directory).
    """
    lm_eval.evaluator.add_env_info = _versions
    manager = TaskManager(include_path=given["tasks"], include_defaults=False)
    if not given.get("url"):
        manager.load([given["task"]])
        return
    tracker = EvaluationTracker(output_path=given["output"])
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": given["model"],
            "base_url": f"{given['url']}/v1/completions",
            "num_concurrent": given["concurrency"],
            "max_gen_toks": given["max_new_tokens"],
            "max_length": TOKEN_LIMIT,
            "tokenized_requests": False,
            "tokenizer_backend": None,
        },
        tasks=[given["task"]],
        num_fewshot=given["shots"],
        limit=given["limit"],
        log_samples=True,
        evaluation_tracker=tracker,
        task_manager=manager,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    if not any(Path(given["output"]).rglob("samples_*.jsonl")):
        raise RuntimeError("lm-eval wrote no samples")  # it logs what goes wrong in writing, and goes on


def _versions(storage: dict) -> None:
    storage["lm_eval_version"] = lm_eval.__version__
