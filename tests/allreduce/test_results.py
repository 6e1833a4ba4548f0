"""Measurements read back, and where a notebook finds its own."""

import gzip

import pandas as pd
import pytest

from symmlib.allreduce import AllReducePlan, read_results, results_for
from symmlib.errors import SymmlibError, UsageError
from symmlib.profiles import Profile
from symmlib.runs import Run, write_csv, write_text

POINT = {"backend": "gloo", "world_size": 2, "dtype": "bfloat16", "mode": "eager", "bytes": 1024}


def new_run(reports, median_us: float | None = None) -> Run:
    run = Run.create(Profile("interactive", "a test", {"03_routing": {}}), reports)
    if median_us:
        write_results(run.path, median_us)
    return run


def write_results(path, median_us: float, launches: int = 2) -> None:
    row = {**POINT, "median_us": median_us, "wrong": 0, "status": "ok", "device": "cpu", "multicast": False}
    write_csv(path / "results" / "allreduce_summary.csv", pd.DataFrame([row]))
    samples = [{**POINT, "launch": launch, "time_us": median_us} for launch in range(1, launches + 1)]
    write_csv(path / "results" / "allreduce.csv", pd.DataFrame(samples))


def test_a_run_reads_its_own_measurements_before_newer_ones(tmp_path):
    mine = new_run(tmp_path, median_us=1.0)
    new_run(tmp_path, median_us=2.0)
    assert results_for(mine).summary["median_us"].iloc[0] == 1.0
    assert results_for(mine).source == f"run {mine.id}"


def test_a_run_without_measurements_reads_the_newest_and_names_it(tmp_path, capsys):
    other = new_run(tmp_path, median_us=2.0)
    found = results_for(new_run(tmp_path))
    assert found.summary["median_us"].iloc[0] == 2.0
    assert found.source == f"run {other.id}"
    assert other.id in capsys.readouterr().out


def test_a_run_whose_own_measuring_failed_never_takes_another_runs_numbers(tmp_path):
    new_run(tmp_path, median_us=2.0)
    mine = new_run(tmp_path)
    with pytest.raises(RuntimeError), mine.step("02_allreduce", {}):
        raise RuntimeError("ranks fell over")
    with pytest.raises(SymmlibError, match="02_allreduce left no allreduce_summary.csv"):
        results_for(mine)


def test_measurements_are_beside_a_model_if_all_their_plans_say_so(tmp_path):
    plan = AllReducePlan(2, "triton/one_shot", "1KiB", one_gpu=True, beside_a_model=True)
    for name, text in (("a", plan.dumps()), ("b", plan.dumps()), ("damaged", "[1]"), ("none", None)):
        write_results(tmp_path / name, 1.0)
        if text:
            write_text(tmp_path / name / "raw" / "allreduce" / "plan.json", text)
    assert read_results([tmp_path / "a", tmp_path / "b"]).beside_a_model
    assert not read_results([tmp_path / "none", tmp_path / "damaged"]).beside_a_model
    with pytest.raises(UsageError, match="only some were measured with beside_a_model"):
        read_results([tmp_path / "a", tmp_path / "none"])


def test_several_directories_are_read_as_one_with_their_launches_told_apart(tmp_path):
    write_results(tmp_path / "a", 1.0, launches=2)
    write_results(tmp_path / "b", 2.0, launches=3)
    found = read_results([tmp_path / "a", tmp_path / "b"])
    assert found.timed.groupby("launch")["time_us"].first().tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert "symmlib allreduce --out" in found.source


def test_what_holds_no_results_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="allreduce_summary.csv"):
        read_results([tmp_path])
    write_results(tmp_path, 1.0)
    (tmp_path / "results" / "allreduce_summary.csv").write_text("not,what\n1,2\n")
    with pytest.raises(UsageError, match="not what `symmlib allreduce` writes"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("allreduce.csv", {"time_us": 0}, "not every time_us is above 0"),
        ("allreduce.csv", {"world_size": 2.5}, "not every world_size is a whole number"),
        ("allreduce_summary.csv", {"world_size": 2.5}, "not every world_size is a whole number"),
        ("allreduce_summary.csv", {"device": None}, "not every row has a device"),
        ("allreduce_summary.csv", {"multicast": "maybe"}, "not every multicast is True or False"),
    ],
)
def test_a_value_that_no_route_can_be_derived_from_is_refused_by_name(tmp_path, name, change, message):
    write_results(tmp_path, 1.0)
    path = tmp_path / "results" / name
    write_csv(path, pd.read_csv(path).assign(**change))
    with pytest.raises(UsageError, match=f"results/{name} is not what `symmlib allreduce` writes: {message}"):
        read_results([tmp_path])


@pytest.mark.parametrize("name", ["allreduce_summary.csv", "allreduce.csv"])
@pytest.mark.parametrize("damage", ["empty", "ragged", "no columns", "no key", "negative time"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, damage):
    write_results(tmp_path, 1.0)
    path = tmp_path / "results" / name
    table = pd.read_csv(path)
    text = {
        "empty": "",
        "ragged": path.read_text() + "a,b,c,d,e,f,g,h,i,j,k,l,m,n\n",
        "no columns": "\n\n",
        "no key": table.assign(bytes=float("nan")).to_csv(index=False),
        "negative time": table.assign(**{table.filter(like="_us").columns[0]: -1}).to_csv(index=False),
    }
    path.write_text(text[damage])
    with pytest.raises(UsageError, match=f"results/{name} is not what"):
        read_results([tmp_path])


@pytest.mark.parametrize("damage", ["cut short", "a header alone", "other bytes inside"])
def test_compressed_samples_that_are_damaged_are_named(tmp_path, damage):
    """Found by fuzzing: reading the end of a gzip file that has none raises EOFError, and its inside zlib.error."""
    write_results(tmp_path, 1.0)
    samples = tmp_path / "results" / "allreduce.csv"
    packed = gzip.compress(samples.read_bytes())
    samples.unlink()
    damaged = {
        "cut short": packed[:-12],
        "a header alone": b"\x1f\x8b",
        "other bytes inside": packed[:10] + b"\xff" * 40,
    }
    samples.with_name("allreduce.csv.gz").write_bytes(damaged[damage])
    with pytest.raises(UsageError, match="allreduce.csv.gz is not what"):
        read_results([tmp_path])
