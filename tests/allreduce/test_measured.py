"""Where a notebook finds its measurements."""

import pandas as pd
import pytest

from symmlib.allreduce import measured
from symmlib.errors import SymmlibError
from symmlib.profiles import Profile
from symmlib.runs import Run, write_csv


def new_run(reports, **median_us) -> Run:
    run = Run.create(Profile("interactive", "a test", {"03_routing": {}}), reports)
    if median_us:
        write_csv(run.results / "allreduce_summary.csv", pd.DataFrame([median_us]))
    return run


def test_a_run_reads_its_own_measurements_before_newer_ones(tmp_path):
    mine = new_run(tmp_path, median_us=1.0)
    new_run(tmp_path, median_us=2.0)
    assert measured(mine).summary["median_us"].iloc[0] == 1.0
    assert measured(mine).source == f"run {mine.id}"


def test_a_run_without_measurements_reads_the_newest_and_names_it(tmp_path, capsys):
    other = new_run(tmp_path, median_us=2.0)
    found = measured(new_run(tmp_path))
    assert found.summary["median_us"].iloc[0] == 2.0
    assert found.source == f"run {other.id}"
    assert other.id in capsys.readouterr().out


def test_a_run_whose_own_measuring_failed_never_takes_another_runs_numbers(tmp_path):
    new_run(tmp_path, median_us=2.0)
    mine = new_run(tmp_path)
    with pytest.raises(RuntimeError), mine.step("02_allreduce", {}):
        raise RuntimeError("ranks fell over")
    with pytest.raises(SymmlibError, match="02_allreduce left no allreduce_summary.csv"):
        measured(mine)
