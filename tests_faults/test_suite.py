"""Signals to a run and to what executes its notebooks: what is left ends, and the run can be gone on with."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from tests.waiting import RUN_S

STEP = {"world_size": 2, "backends": ["gloo", "host/one_shot"], "sizes": "512B,1MiB", "launches": 1}
PROFILE = {"name": "mine", "parameters": {"02_allreduce": STEP}}
SUITE = "a whole run"
pytestmark = pytest.mark.timeout(2400)


@pytest.fixture
def run(fault, tmp_path):
    """A run whose ranks have started to measure: its process and its directory."""
    profile = tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))
    process = fault.start("run", profile, "--reports-dir", tmp_path / "reports")
    started = "runs/*/raw/allreduce/launch-1.progress"
    progress = fault.until(lambda: next((tmp_path / "reports").glob(started), None), "ranks to start", process)
    return process, progress.parents[2]


def steps(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "manifest.json").read_text())
    return {name: record["status"] for name, record in manifest["steps"].items()}


def kept(run: Path) -> str:
    page = ", its page" if (run / "index.html").is_file() else ""
    return f"steps {', '.join(f'{name}: {status}' for name, status in steps(run).items())}{page}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.fault("the suite gets {number}", SUITE)
def test_a_run_that_is_ended_leaves_nothing_running_and_is_gone_on_with(fault, run, tmp_path, number):
    process, directory = run
    process.send_signal(number)
    status = process.wait(600)
    said = fault.said()
    assert "Traceback" not in said
    fault.until(lambda: not fault.alive(), "everything to end")
    before = kept(directory)
    if number != signal.SIGKILL:
        assert status == 128 + number and "symmlib: interrupted" in said
        assert steps(directory)["02_allreduce"] == "failed"
    again = fault.start("run", "--resume", directory)
    assert again.wait(RUN_S) == 0, fault.said()
    assert set(steps(directory).values()) == {"ok"}
    message = said.strip().splitlines()[-1] if number != signal.SIGKILL else "none"
    fault.saw(message, status, f"{before}; a resumption ends well")


@pytest.mark.parametrize(
    ("victim", "part"), [("the notebook's kernel", "ipykernel_launcher"), ("papermill", "-m papermill")],
    ids=["kernel", "papermill"],
)  # fmt: skip
@pytest.mark.fault("{victim} gets SIGKILL", SUITE)
def test_a_step_whose_machinery_is_killed_fails_and_the_run_tells_so(fault, run, victim, part):
    process, directory = run
    found = fault.alive(part)
    assert found
    for one in found:
        one.send_signal(signal.SIGKILL)
    assert process.wait(RUN_S) == 1, fault.said()
    assert steps(directory) == {"02_allreduce": "failed"}
    reason = json.loads((directory / "02_allreduce.failure.json").read_text())["reason"]
    fault.saw(reason, 1, kept(directory))
    assert (directory / "index.html").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.fault("the notebook's kernel gets {number}", SUITE)
def test_a_kernel_that_is_interrupted_ends_its_step_only(fault, run, number):
    process, directory = run
    for one in fault.alive("ipykernel_launcher"):
        one.send_signal(number)
    assert process.wait(RUN_S) == 1, fault.said()
    assert steps(directory) == {"02_allreduce": "failed"}
    reason = json.loads((directory / "02_allreduce.failure.json").read_text())["reason"]
    fault.saw(reason, 1, kept(directory))


@pytest.mark.fault("two runs at once", SUITE)
def test_a_run_that_is_being_executed_is_not_executed_twice(fault, run, tmp_path):
    process, directory = run
    second = fault.start("run", "--resume", directory, log=tmp_path / "second")
    assert second.wait(600) == 2
    said = (tmp_path / "second").read_text()
    assert "is still being executed" in said and process.poll() is None
    process.terminate()
    process.wait(600)
    fault.saw(said, 2, "the first one goes on")
