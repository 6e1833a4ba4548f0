"""One number stretches every bound on waiting, and a number that is none is refused in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

from symmlib import patience
from symmlib.errors import UsageError
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("said", "seconds"), [(None, 60), ("1", 60), ("3", 180), ("0.5", 30)])
def test_bounds_are_stretched_by_what_the_environment_says(monkeypatch, said, seconds):
    monkeypatch.delenv(patience.PATIENCE, raising=False)
    if said:
        monkeypatch.setenv(patience.PATIENCE, said)
    assert patience.seconds(60) == seconds


@pytest.mark.parametrize("said", ["", "x", "0", "-1", "inf", "nan"])
def test_a_patience_that_is_no_positive_number_is_refused(monkeypatch, said):
    monkeypatch.setenv(patience.PATIENCE, said)
    with pytest.raises(UsageError, match="is not a positive number"):
        patience.seconds(60)


def test_the_command_line_refuses_it_without_a_traceback(monkeypatch):
    monkeypatch.setenv(patience.PATIENCE, "x")
    command = [Path(sys.executable).with_name("symmlib"), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and done.stderr.startswith("symmlib: SYMMLIB_PATIENCE='x'"), done.stderr


def test_every_wait_that_the_page_lists_is_in_the_code():
    """docs/faults.md names constants: each must be where it says."""
    rows = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| `symmlib/")]
    assert len(rows) > 10
    for row in rows:
        path, name = (cell.strip(" `") for cell in row.split("|")[1:3])
        assert name in (ROOT / path).read_text(), row
