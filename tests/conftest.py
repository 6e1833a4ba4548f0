"""The whole suite, run once on its smallest profile for all tests that look at what it leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """The directory of one real `symmlib run smoke`: real ranks, real vLLM servers at TP=2, every notebook."""
    reports = tmp_path_factory.mktemp("reports")
    command = [str(Path(sys.executable).with_name("symmlib")), "run", "smoke", "--reports-dir", str(reports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return next((reports / "runs").iterdir())
