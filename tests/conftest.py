"""What is too slow to be made for one test: the whole suite, run once on its smallest profile, and a JupyterLab."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symmlib import deadline, progress
from tests.waiting import PATIENCE_S, RUN_S, until

SYMMLIB = Path(sys.executable).with_name("symmlib")


@pytest.fixture(autouse=True)
def the_environment_of_no_run(monkeypatch):
    """What a run that a test executes in this process sets for its children must not reach the next test's."""
    for name in (progress.CLOCK, progress.STEP, deadline.DEADLINE):
        monkeypatch.setenv(name, "")  # noted, so that it is as it was afterwards
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """The directory of one real `symmlib run smoke`: real ranks, real vLLM servers at TP=2, every notebook."""
    reports = tmp_path_factory.mktemp("reports")
    command = [str(SYMMLIB), "run", "smoke", "--reports-dir", str(reports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return next((reports / "runs").iterdir())


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory) -> Iterator[dict]:
    """A real `symmlib lab` with reports of its own, as it describes itself: `url`, `token`, `root_dir` and others.

    Its user has a configuration that opens doors, which symmlib keeps closed.
    """
    home = tmp_path_factory.mktemp("lab")
    careless = {"ServerApp": {"ip": "0.0.0.0", "allow_origin": "*"}, "LabApp": {"news_url": "https://news.invalid/"}}
    (home / "config").mkdir()
    (home / "config" / "jupyter_server_config.json").write_text(json.dumps(careless))
    own = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [SYMMLIB, "lab", "--reports-dir", home / "reports", "--", "--no-browser", "--ServerApp.port=0"]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own, start_new_session=True)
    try:

        def described() -> dict | None:
            assert process.poll() is None, (home / "log").read_text()
            for path in (home / "runtime").glob("jpserver-*.json"):
                with contextlib.suppress(ValueError):  # it is being written
                    return json.loads(path.read_text())
            return None

        yield until(described, "JupyterLab")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
