"""The load: `vllm bench serve` on a seeded open-loop schedule, and a few greedy requests whose tokens are kept.

All arms of a block meet the same prompts, lengths and arrival times, because these depend on the seed alone.
"""

import contextlib
import importlib.util
import json
import shlex
import socket
import sys
import tempfile
import urllib.request
from pathlib import Path

from symmlib.errors import SymmlibError, UsageError
from symmlib.processes import ProcessGroup
from symmlib.runs import write_json
from symmlib.serving.experiment import WARMUP_SEED, ServingExperiment
from symmlib.serving.model import Model

WARMUP_S = 1.5  # of requests at the highest rate, before anything counts; a tenth of `duration_s` where that is more
SCHEDULE = ".schedule.json"  # ends the name of what the client notes beside a result: see `client`
START_S = 300  # vLLM's import on a busy machine with a cold disk
GREEDY_PROMPTS = (
    "The capital of France is",
    "One, two, three, four,",
    "def add(a, b):",
    "Once upon a time there was",
    "2 + 2 =",
    "The quick brown fox",
    "Dear Sir or Madam,",
    "To be, or not to be:",
)
GREEDY_TOKENS = 16


class Client:
    """A process that runs `vllm bench serve` when asked; it starts at once and imports vLLM in the background."""

    def __init__(self, log: Path):
        self._directory = tempfile.TemporaryDirectory(prefix="symmlib-")
        address = Path(self._directory.name) / "client"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(1)
        self._lines = None
        argv = [sys.executable, "-P", str(Path(__file__).with_name("client.py")), str(address)]
        env = {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._group = ProcessGroup(argv, log=log, env=env)

    def wait_until_ready(self) -> None:
        """Wait until it has imported vLLM; raises `SymmlibError`, with the end of its log, if it ends instead."""
        if self._lines is None:
            connection = self._accept()
            self._lines = connection.makefile("rw")
            connection.settimeout(START_S)
            self._answer()

    def bench(self, arguments: list[str], place: Path, timeout_s: float) -> None:
        """Run `vllm bench serve` with `arguments`; its output goes to `place`.log, what was sent when to
        `place`.schedule. Raises `SymmlibError` if it fails."""
        log = place.with_name(f"{place.name}.log")
        self.wait_until_ready()
        self._connection.settimeout(timeout_s)
        schedule = place.resolve().with_name(f"{place.name}{SCHEDULE}")
        job = {"arguments": arguments, "log": str(log.resolve()), "schedule": str(schedule)}
        self._lines.write(json.dumps(job) + "\n")
        self._lines.flush()
        if (status := self._answer()) != "0":
            end = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.is_file() else ""
            raise SymmlibError(f"`vllm bench serve` failed with status {status}. The end of its log {log}:\n{end}")

    def members(self) -> list[int]:
        """The process ids of the client and of a measurement that is running."""
        return self._group.members()

    def end(self) -> None:
        """End the process, a measurement that is running included. Safe to call again."""
        self._group.end(grace_s=2)
        self._listener.close()
        with contextlib.suppress(AttributeError):
            self._connection.close()
        self._directory.cleanup()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.end()

    def _accept(self) -> socket.socket:
        self._listener.settimeout(0.5)
        for _ in range(2 * START_S):
            with contextlib.suppress(TimeoutError):
                self._connection = self._listener.accept()[0]
                return self._connection
            if self._group.poll() is not None:
                break
        raise SymmlibError(f"the load generator did not start. {self._log_end()}")

    def _answer(self) -> str:
        try:
            answer = self._lines.readline().strip()
        except TimeoutError:
            answer = ""
        if not answer:
            raise SymmlibError(f"the load generator gave no answer in time. {self._log_end()}")
        return answer

    def _log_end(self) -> str:
        return f"The end of its log {self._group.log}:\n{self._group.tail()}"


def bench_arguments(
    experiment: ServingExperiment, model: Model, url: str, qps: float, block: int | None, result: Path, metadata: dict
) -> list[str]:
    """Arguments of `vllm bench serve` for one rate: the schedule of `block`, or a short warm-up where that is None."""
    warmup = block is None
    warmup_s = max(WARMUP_S, experiment.duration_s / 10)
    count = max(2, round(qps * warmup_s)) if warmup else experiment.requests(qps)
    return [
        "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
        "--model", model.name,
        *dataset_arguments(experiment),
        "--num-prompts", str(count),
        "--request-rate", f"{qps:g}",
        "--seed", str(WARMUP_SEED if warmup else experiment.block_seed(block)),
        "--ignore-eos", "--temperature", "0",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99",
        "--disable-tqdm",
        "--save-result", "--save-detailed",
        "--result-dir", str(result.parent), "--result-filename", result.name,
        "--metadata", *(f"{key}={value}" for key, value in metadata.items()),
    ]  # fmt: skip


def dataset_arguments(experiment: ServingExperiment) -> list[str]:
    """What to ask: lines of sonnets where there are such, else random tokens of the same lengths and shared prefix."""
    lengths = experiment.input_len, experiment.output_len, experiment.prefix_len
    if experiment.sonnet_path and knows_sonnet():
        path = Path(experiment.sonnet_path).expanduser()
        if not path.is_file():
            raise UsageError(
                f"sonnet_path {experiment.sonnet_path!r:.200} is no file. Leave it empty for random tokens."
            )
        given = ["--dataset-name", "sonnet", "--dataset-path", str(path.resolve())]
        return given + _lengths("sonnet", *lengths)
    # Of random prompts vLLM counts the shared prefix on top of the input length.
    return ["--dataset-name", "random", *_lengths("random", lengths[0] - lengths[2], *lengths[1:])]


def _lengths(dataset: str, input_len: int, output_len: int, prefix_len: int) -> list[str]:
    lengths = {"input": input_len, "output": output_len, "prefix": prefix_len}
    return [text for name, value in lengths.items() for text in (f"--{dataset}-{name}-len", str(value))]


def knows_sonnet() -> bool:
    """Whether the installed vLLM can still read sonnets; it could until 0.31. Found in its source, without import."""
    spec = importlib.util.find_spec("vllm")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    files = [file for place in places for file in Path(place, "benchmarks").rglob("*.py") if "dataset" in str(file)]
    return any("class SonnetDataset" in file.read_text(encoding="utf-8", errors="replace") for file in files)


def workload(experiment: ServingExperiment) -> str:
    """The requests in a phrase, for the report: of what, how long, and why not of sonnets."""
    shared = f", the first {experiment.prefix_len} the same for all" if experiment.prefix_len else ""
    lengths = f"{experiment.input_len} tokens in{shared}, {experiment.output_len} out"
    if experiment.sonnet_path and knows_sonnet():
        return f"lines of {Path(experiment.sonnet_path).name}, {lengths}"
    why = "the installed vLLM has no sonnet dataset" if experiment.sonnet_path else "no sonnet_path was given"
    return f"random tokens, {lengths} ({why})"


def shell(arguments: list[str]) -> str:
    """One line for a shell that makes the same measurement."""
    return shlex.join(["vllm", "bench", "serve", *arguments])


def store_greedy(url: str, model: Model, path: Path) -> None:
    """Ask the server for the greedy continuation of a few fixed prompts, one at a time, and keep the tokens in `path`.

    One at a time, so that no batch depends on timing: arms that sum alike must then answer alike.
    """
    answers = []
    for prompt in GREEDY_PROMPTS:
        body = {"model": model.name, "prompt": prompt, "max_tokens": GREEDY_TOKENS, "temperature": 0}
        body |= {"ignore_eos": True, "return_token_ids": True, "seed": 0}
        choice = _post(f"{url}/v1/completions", body)["choices"][0]
        answers.append({"prompt": prompt, "token_ids": choice["token_ids"], "text": choice["text"]})
    write_json(path, answers)


def _post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)
    except OSError as error:
        raise SymmlibError(f"the server at {url} did not answer a single request: {error}.") from None
