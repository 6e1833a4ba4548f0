"""The load generator's count of finished requests, and what it says meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symmlib.errors import SymmlibError
from symmlib.serving import ServingExperiment, load
from symmlib.serving.model import Model
from tests.waiting import PATIENCE_S

# What `vllm bench serve` does with its bar. The last argument: whether the run ends, or is cut off in its middle.
BAR = """
import os, sys
from tqdm.asyncio import tqdm
print("Maximum request concurrency: None", flush=True)
bar = tqdm(total=28)
for _ in range(12):
    bar.update(1)
if sys.argv[1] == "cut off":
    os._exit(0)
bar.close()
print("Failed requests: 0\\n" * 100, flush=True)
"""


def asked(experiment: ServingExperiment, qps: float, block: int | None, arm: str, port: int) -> list[str]:
    """What `vllm bench serve` is asked for `arm`'s server, without where that is and how its result is called."""
    model, url, result = Model("tiny", dummy=True, local=True), f"http://127.0.0.1:{port}", Path(arm, "qps.json")
    arguments = load.bench_arguments(experiment, model, url, qps, block, result, {"arm": arm})
    for option in ("--base-url", "--result-dir"):
        at = arguments.index(option)
        del arguments[at : at + 2]
    return arguments[: arguments.index("--metadata")]


def test_arms_of_a_block_are_asked_the_same_and_each_block_and_the_warm_up_of_another_seed():
    experiment = ServingExperiment(qps=(4, 8), blocks=6, tier="standard", seed=7)
    seeds = []
    for block in (None, 1, 2, 3, 4, 5, 6):
        for qps in experiment.qps:
            one, other = asked(experiment, qps, block, "gloo", 8000), asked(experiment, qps, block, "router", 8001)
            assert one == other and f"{qps}" == one[one.index("--request-rate") + 1]
            assert "--ignore-eos" in one and "--max-concurrency" not in one
            seeds.append(one[one.index("--seed") + 1])
    assert len(set(seeds)) == 7, "rates of one block share its seed, blocks do not"
    assert load.warmup_s(ServingExperiment(duration_s=60)) == 6


def write_log(path, *argument, interval="1"):
    environment = {name: value for name, value in os.environ.items() if name not in load.COUNT}
    environment |= {name: value for name, value in load.COUNT.items() if value is not None}
    environment["TQDM_MININTERVAL"] = interval
    with path.open("w") as log:
        subprocess.run(
            [sys.executable, "-c", BAR, *argument],
            stdout=log,
            stderr=log,
            env=environment,
            check=True,
            timeout=PATIENCE_S,
        )
    return path


def test_finished_requests_are_read_from_the_end_of_a_log_that_tqdm_wrote(tmp_path):
    assert load.finished_requests(tmp_path / "not there") == 0
    (tmp_path / "begins").write_text("Namespace(seed=1)\n")
    assert load.finished_requests(tmp_path / "begins") == 0
    assert load.finished_requests(write_log(tmp_path / "log", "ends")) == 12
    assert load.finished_requests(write_log(tmp_path / "cut", "cut off", interval="0")) == 12


def test_a_count_that_was_written_over_itself_is_one_line_of_the_log(tmp_path):
    log = write_log(tmp_path / "log", "cut off", interval="0")
    assert log.read_bytes().count(b"\r") > 10
    assert load._last_lines(log).splitlines() == ["Maximum request concurrency: None", "12/28 requests"]


def test_the_client_tells_how_many_have_finished_until_the_benchmark_ends(tmp_path):
    told = []
    with load.Client(tmp_path / "client.log") as client:
        client.bench(["--help"], tmp_path / "help.log", PATIENCE_S, told.append)
        assert told and set(told) == {0}
        with pytest.raises(SymmlibError, match="failed with status 2") as caught:
            client.bench(["--num-prompts", "many"], tmp_path / "bad.log", PATIENCE_S, told.append)
        assert "invalid int value: 'many'" in str(caught.value)


def test_in_a_real_run_every_request_was_counted(smoke_run):
    logs = list((smoke_run / "raw" / "serving").glob("block-*/*/qps-*.log"))
    assert logs
    for log in logs:
        assert load.finished_requests(log) == json.loads(log.with_suffix(".json").read_text())["completed"]
