"""The soak test, for ten seconds instead of hours."""

import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.fault("backends are missing at random, on random ranks, for 10 s", "router")
def test_ten_seconds_of_random_sums_are_right_and_nothing_grows(fault):
    command = [sys.executable, str(SOAK), "--minutes", "0.17", "--ranks", "2"]
    running = fault.start_command(command)
    assert running.wait(PATIENCE_S) == 0, fault.said()
    *_, tenth, last = fault.said().strip().splitlines()
    assert last.startswith("every sum was right")
    fault.saw("none: where a backend is missing on one rank all use another", 0, f"{last}; {tenth}")
