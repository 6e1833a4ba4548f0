"""The load: `vllm bench serve` on a seeded open-loop schedule.

All arms of a block meet the same prompts, lengths and arrival times, because these depend on the seed alone.
"""

import contextlib
import json
import os
import re
import select
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from symmlib import patience
from symmlib.errors import SymmlibError
from symmlib.processes import ProcessGroup
from symmlib.serving import access
from symmlib.serving.experiment import WARMUP_SEED, ServingExperiment
from symmlib.serving.model import Model
from symmlib.serving.workload import dataset_arguments

WARMUP_S = 1.5  # of requests at the highest rate, before anything counts; a tenth of `duration_s` where that is more
SCHEDULE = ".schedule.json"  # ends the name of what the client notes beside a result: see `client`
STEP_S = 0.5  # between two looks at how many requests have finished
# The benchmark counts finished requests by a tqdm bar. With these, it draws none and at most once a second, when a
# request has just ended, writes a few bytes into its log: 0.2 ms then and 0.3 us a request else, measured on two slow
# cores. A token that arrives then is noted that much later, in every arm alike.
COUNT: dict[str, str | None] = {
    "TQDM_BAR_FORMAT": "{n_fmt}/{total_fmt} requests",
    "TQDM_MININTERVAL": "1",
    "TQDM_MINITERS": "1",
    "TQDM_DISABLE": None,
}
TAIL_BYTES = 16 << 10  # more than the tables that follow the last count
START_S = 300  # vLLM's import on a busy machine with a cold disk


class Client:
    """A process that runs `vllm bench serve` when asked; it starts at once and imports vLLM in the background.

    `program`: a Python file whose function `job` it runs in place of that (see `client`). `env`: changes to this
    process's environment.
    """

    def __init__(self, log: Path, program: Path | None = None, env: dict[str, str | None] | None = None):
        self._directory = tempfile.TemporaryDirectory(prefix="symmlib-")
        address = Path(self._directory.name) / "client"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(1)
        self._lines = None
        argv = [sys.executable, "-P", str(Path(__file__).with_name("client.py")), str(address)]
        argv += [str(program)] if program else []
        ours = {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false", **COUNT}
        ours |= {access.CLIENT: access.KEY, **access.past_proxies()}
        self._group = ProcessGroup(argv, log=log, env={**ours, **(env or {})})

    def wait_until_ready(self) -> None:
        """Wait until it has imported vLLM; raises `SymmlibError`, with the end of its log, if it ends instead."""
        if self._lines is None:
            self._lines = self._accept().makefile("rw")
            self._answer(patience.seconds(START_S))

    def bench(
        self, arguments: list[str], place: Path, timeout_s: float, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Run `vllm bench serve` with `arguments`; raises `SymmlibError` if it fails.

        Its output goes to `place`.log, what is sent when to `place`.schedule.json. `on_progress` is called about twice
        a second with the number of requests that have finished, and at the end.
        """
        log, schedule = (place.resolve().with_name(f"{place.name}{end}") for end in (".log", SCHEDULE))
        self.do({"arguments": arguments, "schedule": str(schedule)}, log, timeout_s, "`vllm bench serve`", on_progress)

    def do(
        self, job: dict, log: Path, timeout_s: float, what: str, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Run one `job` with its output in the file `log`; raises `SymmlibError`, which calls it `what`, if it fails.

        `on_progress`: as `bench` has it.
        """
        self.wait_until_ready()
        log = log.resolve()
        log.unlink(missing_ok=True)  # an earlier one would be read until the new one is there
        job = {**job, "log": str(log)}
        try:
            self._lines.write(json.dumps(job) + "\n")
            self._lines.flush()
        except OSError as error:
            raise SymmlibError(f"the load generator has ended ({error}). {self._log_end()}") from None
        report = (lambda: on_progress(finished_requests(log))) if on_progress else (lambda: None)
        if (status := self._answer(timeout_s, report)) != "0":
            end = _last_lines(log)
            raise SymmlibError(f"{what} failed with status {status}. The end of its log {log}:\n{end}")

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
        for _ in range(round(2 * patience.seconds(START_S))):
            with contextlib.suppress(TimeoutError):
                self._connection = self._listener.accept()[0]
                return self._connection
            if self._group.poll() is not None:
                break
        raise SymmlibError(f"the load generator did not start. {self._log_end()}")

    def _answer(self, timeout_s: float, meanwhile: Callable[[], None] = lambda: None) -> str:
        """The process's next line. `meanwhile` is called every STEP_S seconds until then, and once it is there."""
        deadline = time.monotonic() + timeout_s
        answered = False
        while not answered and (left_s := deadline - time.monotonic()) > 0:
            answered = bool(select.select([self._connection], [], [], min(STEP_S, left_s))[0])
            meanwhile()
        # A line comes as a whole, so this does not wait; it is empty if the process has ended.
        if answered and (answer := self._lines.readline().strip()):
            return answer
        if answered:
            raise SymmlibError(f"the load generator has ended. {self._log_end()}")
        halted = self._group.dump_stacks()
        bound = f"within {timeout_s:g} s{halted} ({patience.PATIENCE} stretches how long to wait)"
        raise SymmlibError(f"the load generator gave no answer {bound}. {self._log_end()}")

    def _log_end(self) -> str:
        return f"The end of its log {self._group.log}:\n{self._group.tail()}"


def bench_arguments(
    experiment: ServingExperiment, model: Model, url: str, qps: float, block: int | None, result: Path, metadata: dict
) -> list[str]:
    """Arguments of `vllm bench serve` for one rate: the schedule of `block`, or a short warm-up where that is None."""
    warmup = block is None
    count = max(2, round(qps * warmup_s(experiment))) if warmup else experiment.requests(qps)
    return [
        "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
        "--model", model.name,
        *dataset_arguments(experiment),
        "--num-prompts", str(count),
        "--request-rate", f"{qps:g}",
        "--seed", str(WARMUP_SEED if warmup else experiment.block_seed(block)),
        "--ignore-eos", "--temperature", "0",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99",
        "--save-result", "--save-detailed",
        "--result-dir", str(result.parent), "--result-filename", result.name,
        "--metadata", *(f"{key}={value}" for key, value in metadata.items()),
    ]  # fmt: skip


def finished_requests(log: Path) -> int:
    """How many requests have finished, by the end of the log that `vllm bench serve` writes under `COUNT`; at first 0.

    Up to a second old; older where no request has finished since.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            counts = re.findall(rb"(\d+)/\d+ requests", file.read())
    except OSError:  # not there yet
        return 0
    return int(counts[-1]) if counts else 0


def warmup_s(experiment: ServingExperiment) -> float:
    """How long a server is warmed up, at the highest rate."""
    return max(WARMUP_S, experiment.duration_s / 10)


def requests_of(arguments: list[str]) -> int:
    """How many requests the arguments of `vllm bench serve` ask for."""
    return int(arguments[arguments.index("--num-prompts") + 1])


def shell(arguments: list[str]) -> str:
    """One line for a shell that makes the same measurement."""
    return shlex.join(["vllm", "bench", "serve", *arguments])


def _last_lines(log: Path, lines: int = 20) -> str:
    """The last lines of `log` as a terminal shows them: of a count that was written over itself, only the last."""
    text = log.read_bytes().decode(errors="replace") if log.is_file() else ""
    return "\n".join(line.rpartition("\r")[2] for line in text.rstrip().split("\n")[-lines:])
