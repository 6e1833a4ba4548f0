"""A run's directory must tell the truth: about what ran, what it left, and what broke."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from symmlib import suite
from symmlib.errors import SymmlibError, UsageError
from symmlib.profiles import Profile
from symmlib.provenance import provenance
from symmlib.runs import PROJECT, Run, latest_run, published_example, write_csv, write_json, write_text

PROFILE = Profile("tiny", "for tests", {"01_environment": {}})


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(PROFILE, reports_dir=tmp_path)


def test_what_ended_a_step_is_told_even_where_nothing_can_be_written_any_more(run, capsys):
    with pytest.raises(SymmlibError, match="the server died"), run.step("04_serving", {}):
        shutil.rmtree(run.path)
        raise SymmlibError("the server died")
    assert "that 04_serving failed could not be recorded" in capsys.readouterr().out


def test_ctrl_c_ends_a_run_even_where_nothing_can_be_written_any_more(tmp_path, monkeypatch, capsys):
    def execute(run, name, parameters):
        shutil.rmtree(run.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.notebooks, "execute", execute)
    with pytest.raises(KeyboardInterrupt):
        suite.run_profile(PROFILE, reports_dir=tmp_path)
    assert "could not be recorded" in capsys.readouterr().out


def test_writing_makes_directories_and_leaves_nothing_beside_the_file(tmp_path):
    write_text(tmp_path / "a" / "b" / "text", "first")
    write_text(tmp_path / "a" / "b" / "text", "second")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["text"]
    assert (tmp_path / "a" / "b" / "text").read_text() == "second"


def test_a_table_is_written_without_its_index(tmp_path):
    write_csv(tmp_path / "t.csv", pd.DataFrame({"bytes": [1024], "time_us": [1.5]}))
    assert (tmp_path / "t.csv").read_text() == "bytes,time_us\n1024,1.5\n"


def test_json_refuses_nan_which_no_other_reader_would_take(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "t.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["{tmp}/file/below", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "file").write_text("")
    place = Path(place.format(tmp=tmp_path))
    with pytest.raises(UsageError, match=f"cannot write {place}/results.csv"):
        write_text(place / "results.csv", "")
    with pytest.raises(UsageError, match=f"cannot make {place}.*Choose a reports directory"):
        Run.create(PROFILE, reports_dir=place)


def test_a_new_run_has_the_designed_directory_and_manifest(run, tmp_path):
    assert run.path.parent == tmp_path / "runs"
    date, profile, digest = run.id.split("-")
    assert (len(date), date[8], date[-1], profile, digest) == (16, "T", "Z", "tiny", PROFILE.hash[:8])
    assert {path.name for path in run.path.iterdir()} == {
        *("manifest.json", "params.yaml", "raw", "results", "notebooks"),
    }
    assert run.manifest["status"] == "running"
    wanted = (
        "status run_id profile profile_hash argv started ended git versions hardware topology environment gates files"
    )
    assert not {*wanted.split(), "files"} - set(run.manifest)
    assert (run.path / "params.yaml").read_text() == PROFILE.dumps()


def test_two_runs_started_in_one_second_get_directories_of_their_own(tmp_path):
    runs = [Run.create(PROFILE, reports_dir=tmp_path) for _ in range(3)]
    assert len({run.path for run in runs}) == 3


def test_a_step_records_the_files_it_wrote_and_is_done_only_with_them_and_with_its_parameters(run):
    write_csv(run.results / "earlier.csv", pd.DataFrame())
    with run.step("02_allreduce", {"world_size": 2}):
        write_csv(run.results / "allreduce.csv", pd.DataFrame({"bytes": [1]}))
    assert run.manifest["steps"]["02_allreduce"]["outputs"] == ["results/allreduce.csv"]
    assert run.is_done("02_allreduce", {"world_size": 2})
    assert not run.is_done("02_allreduce", {"world_size": 4})
    assert not run.is_done("03_routing", {})
    (run.results / "allreduce.csv").unlink()
    assert not run.is_done("02_allreduce", {"world_size": 2})
    assert run.finish() == "ok"


def test_a_failed_step_leaves_its_reason_and_can_be_tried_again(run):
    with pytest.raises(SymmlibError), run.step("04_serving", {"tp": [2]}):
        raise SymmlibError("port 8000 is taken")
    left = json.loads((run.path / "04_serving.failure.json").read_text())
    assert (left["step"], left["reason"], left["parameters"]) == ("04_serving", "port 8000 is taken", {"tp": [2]})
    assert not run.is_done("04_serving", {"tp": [2]})
    assert run.finish() == "failed"
    with run.step("04_serving", {"tp": [2]}):
        pass
    assert not (run.path / "04_serving.failure.json").exists()
    assert run.finish() == "ok"


def test_a_gate_that_says_invalid_makes_the_run_invalid(run):
    gates = pd.DataFrame({"gate": ["trace", "rate"], "cell": ["tp2-qps4"] * 2, "status": ["valid", "invalid"]})
    write_csv(run.results / "gates.csv", gates.assign(reason=["", "3 % off"]))
    assert run.finish() == "invalid"
    assert run.manifest["reason"] == "rate (tp2-qps4): 3 % off"
    assert run.manifest["files"]["results/gates.csv"] > 0


def test_processes_that_change_the_manifest_at_once_lose_no_change(run):
    code = "import sys; from symmlib.runs import Run; run = Run.open(sys.argv[1])\n"
    code += "for i in range(30): run.update(**{f'{sys.argv[2]}{i}': i})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(run.path), name], env=environment) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert {f"{name}{i}" for name in "ab" for i in range(30)} <= set(run.manifest)


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UsageError, match="is no run's directory"):
        Run.open(tmp_path)


def test_the_latest_run_is_the_newest_that_has_the_result(tmp_path):
    assert latest_run(tmp_path) is None
    first, second, third = (Run.create(PROFILE, reports_dir=tmp_path) for _ in range(3))
    for run in (first, second):
        write_csv(run.results / "allreduce_summary.csv", pd.DataFrame())
    assert latest_run(tmp_path).id == second.id
    assert latest_run(tmp_path, needing="serving.csv") is None


def test_a_published_run_is_shown_until_there_is_one_of_ones_own(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SYMMLIB_REPORTS", str(tmp_path))
    newest = max((PROJECT / "reports" / "published").glob("*/results/comparison.csv")).parents[1]
    assert published_example("comparison.csv") == newest
    write_text(run.results / "comparison.csv", "tp\n")
    assert published_example("comparison.csv") is None


def test_a_copy_without_its_checkout_takes_its_revision_from_the_environment(monkeypatch, tmp_path):
    checkout = provenance()["git"]
    monkeypatch.setenv("SYMMLIB_REVISION", "a" * 40)
    if checkout["revision"]:  # a checkout knows better
        assert provenance()["git"] == checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert provenance()["git"] == {"revision": "a" * 40, "dirty": None}
    monkeypatch.delenv("SYMMLIB_REVISION")
    assert provenance()["git"] == {"revision": None, "dirty": None}


def test_provenance_keeps_what_matters_and_no_secret(monkeypatch):
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    for name in ("VLLM_API_KEY", "HF_TOKEN", "SYMMLIB_PASSWORD"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("NCCL_MIRROR", "proto://user:hidden@host")
    found = provenance()
    assert found["environment"]["NCCL_ALGO"] == "Ring"
    assert "hidden" not in json.dumps(found)
    assert found["hardware"]["cpu"]["cores"] >= 1
    assert found["versions"]["torch"].startswith("2.")


@pytest.mark.parametrize("manifest", ["[]", "5", '{"steps": null}', '{"steps": {"02_allreduce": 5}}', "{}"])
def test_a_manifest_that_is_none_is_an_error_and_costs_other_runs_nothing(run, tmp_path, manifest):
    write_text(run.path / "manifest.json", manifest)
    with pytest.raises(SymmlibError, match="is damaged"):
        Run.open(run.path)
    assert suite._durations(PROFILE, tmp_path) == {}


@pytest.mark.parametrize("text", ["", "\n", "a,b\n1,2\n", "gate,cell,status\nrate,x,valid\n"])
def test_gates_that_cannot_be_read_make_the_run_invalid(run, text):
    write_text(run.results / "gates.csv", text)
    assert run.finish() == "invalid"
    assert "gates.csv" in run.manifest["reason"]


def test_a_run_that_is_being_executed_is_not_resumed(run):
    with run.executing(), pytest.raises(UsageError, match="is still being executed"):
        suite.run_profile(PROFILE, resume=Run.open(run.path))
    with run.executing():
        pass


def test_what_a_killed_process_had_half_written_is_removed_when_the_run_is_gone_on_with(run):
    dead, alive = run.results / ".gates.csv.999999999", run.results / f".gates.csv.{os.getpid()}"
    for half in (dead, alive):
        half.write_text("gate,ce")
    with run.executing():
        assert not dead.exists() and alive.exists()


def test_an_index_is_made_only_beside_runs(run, tmp_path):
    stranger = write_text(tmp_path / "mine" / "index.html", "a page of somebody else")
    copy = shutil.copytree(run.path, tmp_path / "mine" / "copies" / "run")
    suite.report(Run.open(copy))
    assert stranger.read_text() == "a page of somebody else"
    suite.report(run)
    assert (tmp_path / "index.html").is_file()


def test_a_value_that_looks_like_a_secret_is_left_out_whatever_its_name(monkeypatch):
    for name, value in {"VLLM_X": "hf_abc", "NCCL_X": "me@host", "VLLM_CRED": "x", "TORCH_PWD": "y"}.items():
        monkeypatch.setenv(name, value)
    assert not {"VLLM_X", "NCCL_X", "VLLM_CRED", "TORCH_PWD"} & provenance()["environment"].keys()
