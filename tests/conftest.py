"""What is too slow to be made for one test: the whole suite, run once on its smallest profile, and a JupyterLab."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S, RUN_S

SYMMLIB = Path(sys.executable).with_name("symmlib")


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
        deadline = time.monotonic() + PATIENCE_S
        while not (found := list((home / "runtime").glob("jpserver-*.json"))):
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        yield json.loads(found[0].read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
