"""Faults of servers under load and of what they need: each takes starts of vLLM, so `make test` leaves them out."""

import os
import shlex
import signal

import pytest
import yaml

from symmlib.errors import SymmlibError
from symmlib.serving import ServingExperiment, load, run_experiment
from tests.waiting import PATIENCE_S

SMALL = {"qps": (4,), "duration_s": 8, "input_len": 16, "output_len": 8, "blocks": 1, "tier": "smoke"}
SMALL |= {"arms": ("gloo", "router"), "ready_timeout_s": 1200}  # on a crowded machine, too
WHERE = "serving"
pytestmark = pytest.mark.timeout(2400)


def under_load(out):
    """The first arm's directory, once its schedule is being sent."""
    return lambda: next((path.parent for path in out.rglob(f"qps-4{load.SCHEDULE}")), None)


def to(fault, part: str, number: int):
    return lambda _: [os.kill(process.pid, number) for process in fault.alive(part)]


def other_arm_is_whole(out) -> str:
    """The arm that ran to its end all the same, as it stands in the results."""
    (whole,) = out.glob("raw/serving/block-1/*/turn.json")
    summary = (out / "results" / "serving_summary.csv").read_text()
    arm = whole.parent.name.removeprefix("tp2-")
    assert f",{arm}," in summary
    assert "server ran to its end" in (out / "results" / "gates.csv").read_text()
    return "the other arm, which went on; a gate names the one that failed"


@pytest.mark.parametrize(
    ("victim", "part"), [("a rank", "Worker_TP1"), ("the engine", "EngineCore")], ids=["rank", "engine"]
)
@pytest.mark.fault("{victim} is killed (SIGKILL) under load", WHERE)
def test_a_server_that_dies_under_load_costs_its_arm_only(fault, tmp_path, victim, part):
    fault.meanwhile(under_load(tmp_path), to(fault, part, signal.SIGKILL))
    with pytest.raises(SymmlibError, match="1 of the servers failed") as caught:
        run_experiment(ServingExperiment(**SMALL), tmp_path)
    fault.saw(str(caught.value).partition("\n")[2], caught.value.exit_status, other_arm_is_whole(tmp_path))


@pytest.mark.fault("a rank is stopped (SIGSTOP) for longer than the time-out", WHERE)
def test_a_rank_that_is_stopped_under_load_is_named_and_costs_its_arm_only(fault, tmp_path, monkeypatch):
    monkeypatch.setattr("symmlib.serving.run.ANSWERS_S", 20)
    fault.meanwhile(under_load(tmp_path), to(fault, "Worker_TP1", signal.SIGSTOP))
    with pytest.raises(SymmlibError, match="(?s)gave no answer within 44 s.*stopped by a signal: process") as caught:
        run_experiment(ServingExperiment(**SMALL), tmp_path)
    fault.saw(str(caught.value).partition("\n")[2], caught.value.exit_status, other_arm_is_whole(tmp_path))


@pytest.mark.fault("the server is out of memory", WHERE)
def test_a_server_that_asks_for_more_memory_than_there_is_says_so(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    with pytest.raises(SymmlibError, match="2 of the servers failed") as caught:
        run_experiment(ServingExperiment(**SMALL), tmp_path)
    assert "memory" in str(caught.value).lower() or "alloc" in str(caught.value)
    fault.saw(str(caught.value).partition("\n")[2], caught.value.exit_status, "a gate names the arms that failed")


@pytest.mark.fault("/dev/shm is full", WHERE)
def test_a_server_without_shared_memory_fails_and_says_so(fault, tmp_path):
    parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "parameters": {"04_serving": parameters}}))
    mount = "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"
    running = fault.with_mount(mount, "serve", "--profile", "mine.yaml", "--out", tmp_path / "out")
    assert running.wait(PATIENCE_S) == 1, fault.said()
    said = fault.said()
    last = said[said.rindex("symmlib: ") :]
    assert "servers failed" in last, shlex.quote(last)
    fault.saw(last, 1, "a gate names the arms that failed")
