"""Real ranks for tests: processes that meet over gloo and run one scenario of `scenarios.py`."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

SCENARIOS = Path(__file__).parent / "scenarios.py"


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """`ranks(scenario, world_size)`: what each rank returned, or None for one that did not live to say.

    A scenario runs once for all tests that ask for it.
    """

    @functools.cache
    def run(scenario: str, world_size: int = 2) -> list:
        directory = tmp_path_factory.mktemp(f"{scenario}-{world_size}")
        started = subprocess.Popen(
            [sys.executable, SCENARIOS, scenario, str(world_size), directory],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
            start_new_session=True,
        )
        try:
            _, errors = started.communicate(timeout=PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
        assert "Traceback" not in errors, errors
        answers = [directory / f"{rank}.json" for rank in range(world_size)]
        return [json.loads(answer.read_text()) if answer.exists() else None for answer in answers]

    return run
