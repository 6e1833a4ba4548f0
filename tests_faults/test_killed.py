"""A run that is killed at random moments; `scripts/kill_and_resume.py` does it as often as one likes."""

import sys
from pathlib import Path

import pytest

KILL_AND_RESUME = Path(__file__).parents[1] / "scripts" / "kill_and_resume.py"


@pytest.mark.timeout(2400)
@pytest.mark.fault("killed at five random moments (SIGKILL)", "a whole run")
def test_a_run_killed_at_random_moments_ends_with_the_rows_of_an_undisturbed_one(fault, tmp_path):
    running = fault.start_command([sys.executable, str(KILL_AND_RESUME), "5", "--keep", str(tmp_path / "runs")])
    assert running.wait(2300) == 0, fault.said()
    fault.saw("none", -9, fault.said().strip().splitlines()[-1])
